"""Attention from a decoder to its source: exact, in pieces of bounded memory."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reformer.layers.caches.cross import CrossCache
from reformer.layers.projections import HeadProjections
from reformer.ops.exact_attention import exact_attention
from reformer.ops.exchange import Parts

SCORES = 1 << 24
"""Scores of all heads that are worked on at a time, about: 64 MiB in fp32."""


class CrossAttention(HeadProjections):
    """Each query sees all real tokens of its source, through `scaled_dot_product_attention` (Vaswani et al. 2017).

    `source_size` is the width of the source's hidden states. A row whose source is all padding gets zeros.
    """

    query: nn.Linear

    def __init__(
        self,
        hidden_size: int,
        source_size: int,
        num_heads: int,
        head_dim: int | None = None,
        *,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, ("query",))
        self.key = nn.Linear(source_size, self.num_heads * self.head_dim, bias=False)
        self.value = nn.Linear(source_size, self.num_heads * self.head_dim, bias=False)
        self.dropout = dropout

    def forward(
        self,
        x: Float[Tensor, "b l hidden"],
        source: Float[Tensor, "b s width"],
        source_mask: Bool[Tensor, "b s"] | None = None,
        cache: CrossCache | None = None,
        parts: Parts | None = None,
        source_parts: Parts | None = None,
    ) -> Float[Tensor, "b l hidden"]:
        """Attend; `cache` keeps the source's keys and values from the first call on, once for rows of one source.

        With `parts` and `source_parts`, x and `source` are this process's of them, and the mask is whole.
        """
        q = self._heads(self.query, x)
        if parts is not None and source_parts is not None:
            k, v = (source_parts.to_heads(self._heads(each, source)) for each in (self.key, self.value))
            return self._merge(parts.to_parts(self._attend(parts.to_heads(q), k, v, source_mask)))
        if cache is None:
            k, v = self._heads(self.key, source), self._heads(self.value, source)
            return self._merge(self._attend(q, k, v, source_mask))
        if cache.keys is None or cache.values is None:
            distinct = cache.distinct(source, source_mask)
            cache.keys, cache.values = self._heads(self.key, distinct), self._heads(self.value, distinct)
        out = self._attend(cache.fold(q), cache.keys.to(q.dtype), cache.values.to(q.dtype), cache.mask)
        return self._merge(cache.unfold(out))

    def _attend(
        self,
        q: Float[Tensor, "b h l d"],
        k: Float[Tensor, "b h s d"],
        v: Float[Tensor, "b h s d"],
        mask: Bool[Tensor, "b s"] | None,
    ) -> Float[Tensor, "b h l d"]:
        dropout = self.dropout if self.training else 0.0
        allowed = empty = None
        if mask is not None:
            empty = ~mask.any(1)[:, None, None, None]
            allowed = mask[:, None, None, :] | empty  # softmax over nothing is NaN

        def attend(part: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
            return exact_attention(part, k, v, allowed, dropout_p=dropout)

        rows = max(SCORES // max(k[..., 0].numel(), 1), 1)
        if q.shape[2] <= rows:
            out = attend(q, k, v, allowed)
        else:
            parts = q.split(rows, dim=2)
            if torch.is_grad_enabled():  # where dropout or a mask keeps the scores, those of one piece
                done = [checkpoint(attend, part, k, v, allowed, use_reentrant=False) for part in parts]
            else:
                done = [attend(part, k, v, allowed) for part in parts]
            out = torch.cat(done, dim=2)
        return out if empty is None else out.masked_fill(empty, 0.0)

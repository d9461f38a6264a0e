"""Attention layers with their projections: by content (LSH), by place (local), and exact (full)."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reformer.layers.caches.full import FullCache
from reformer.layers.caches.local import LocalCache
from reformer.layers.caches.lsh import LSHCache
from reformer.layers.caches.step import Step
from reformer.layers.projections import Attention
from reformer.ops.attention import Duplicates, LocalRule, Rule, local_attention, lsh_attention
from reformer.ops.checks import check_choice, check_flag, check_integer
from reformer.ops.hashing import derive_seed, draw_seed
from reformer.ops.ranks import compute_ranks
from reformer.ops.shift import shift
from reformer.ops.softmax_attention import softmax_attention, visible_pairs

FULL_PIECE = 1024  # queries at a time where exact attention needs a mask


class LSHAttention(Attention):
    """LSH attention with shared queries and keys; options are those of `reformer.lsh_attention`.

    In front of `query_key`, and not of `value`, stands a `ShortConvolution` of `conv_size` tokens (0: none), so that a
    token is matched by some of its past.

    In training the rotations come from `seed`, or from one integer of torch's generator; in evaluation from
    `hash_seed`, unless `seed` is given. `hash_rotations="transformers"` draws them as transformers' Reformer
    does under its own `hash_seed`, from torch's generator seeded with it (`rule="chunk"`). `rotary` turns what is
    compared, not what is hashed, by `position_ids`, which are the ranks unless given (`rule="chunk"`). `bias` is that
    of the output, here and in the other kinds of attention.
    """

    query_key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int | None = None,
        *,
        num_hashes: int = 4,
        num_hashes_eval: int | None = None,
        num_buckets: int | list[int] | None = None,
        rule: Rule = "bucket",
        window: int = 32,
        bucket_size: int | None = None,
        factor_from: int = 256,
        chunk_length: int = 64,
        chunks_before: int = 1,
        chunks_after: int = 0,
        length_multiple: int = 1,
        causal: bool = True,
        scale: float = 1.0,
        duplicates: Duplicates = "count",
        dropout: float = 0.0,
        successor_values: bool | None = None,
        conv_size: int = 8,
        hash_seed: int = 0,
        share_rotations: bool = False,
        hash_rotations: str = "own",
        rotary: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, ("query_key", "value"))
        check_choice("hash_rotations", hash_rotations, ("own", "transformers"))
        if hash_rotations == "transformers" and (rule != "chunk" or num_buckets is None):
            raise ValueError("hash_rotations='transformers' needs rule='chunk' and num_buckets; give both")
        if rotary and rule != "chunk":
            raise ValueError("rotary=True in an LSH layer needs rule='chunk'; rule='bucket' sees content only")
        check_flag("successor_values", successor_values)
        self._convolve(hidden_size, conv_size, causal)
        self.num_hashes, self.num_hashes_eval, self.rotary = num_hashes, num_hashes_eval, rotary
        self.dropout, self.hash_seed, self.hash_rotations = dropout, hash_seed, hash_rotations
        self.options: dict[str, Any] = {
            "num_buckets": num_buckets,
            "rule": rule,
            "window": window,
            "bucket_size": bucket_size,
            "factor_from": factor_from,
            "chunk_length": chunk_length,
            "chunks_before": chunks_before,
            "chunks_after": chunks_after,
            "length_multiple": length_multiple,
            "causal": causal,
            "scale": scale,
            "duplicates": duplicates,
            "successor_values": causal if successor_values is None else successor_values,
            "share_rotations": share_rotations,
        }

    def forward(
        self,
        x: Float[Tensor, "b l hidden"],
        *,
        key_padding_mask: Bool[Tensor, "b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        position_ids: Int[Tensor, "b l"] | None = None,
        seed: int | None = None,
        cache: LSHCache | None = None,
        step: Step | None = None,
    ) -> Float[Tensor, "b l hidden"]:
        """Attend; without `rotary`, `position_ids` are taken and not used, since LSH layers see content.

        `cache` holds the tokens in front of x, which `step` describes.
        """
        q = self._heads(self.query_key, self._context(x, key_padding_mask, segment_ids, cache, step))
        v = self._heads(self.value, x)
        if cache is not None and step is not None and not step.first:
            return self._merge(cache.attend(q, v, step))
        rounds = self.num_hashes if self.training else self.num_hashes_eval or self.num_hashes
        if seed is None:
            seed = draw_seed() if self.training else derive_seed(self.hash_seed, 0)
        transformers = self.hash_rotations == "transformers"
        if cache is not None and step is not None:
            cache.extend(q, v, step)
        compared = q
        if self.rotary:
            (compared,) = self._rotated((q,), x, key_padding_mask, segment_ids, position_ids, step)
        out = lsh_attention(
            compared,
            v,
            hashed=q if self.rotary else None,
            num_hashes=rounds,
            key_padding_mask=key_padding_mask,
            segment_ids=segment_ids,
            dropout_p=self.dropout if self.training else 0.0,
            rotations=self._transformers_rotations(rounds, q) if transformers else None,
            seed=None if transformers else seed,
            **self.options,
        )
        return self._merge(out)

    def _transformers_rotations(self, rounds: int, like: Tensor) -> Tensor:
        """As transformers draws them on a CPU under `hash_seed`: [h, d, r, columns] in the type of the vectors."""
        buckets = self.options["num_buckets"]
        columns = (buckets if isinstance(buckets, int) else sum(buckets)) // 2
        generator = torch.Generator().manual_seed(self.hash_seed)
        heads = 1 if self.options["share_rotations"] else self.num_heads
        drawn = torch.randn(heads, self.head_dim, rounds, columns, generator=generator, dtype=like.dtype)
        return drawn.transpose(1, 2).expand(self.num_heads, -1, -1, -1)


class LocalAttention(Attention):
    """Attention to near tokens; options are those of `reformer.ops.attention.local_attention`.

    `rotary` turns queries and keys by `position_ids`, which are the ranks unless given.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int | None = None,
        *,
        rule: LocalRule = "window",
        window: int = 64,
        chunk_length: int = 64,
        chunks_before: int = 1,
        chunks_after: int = 0,
        length_multiple: int = 1,
        causal: bool = True,
        dropout: float = 0.0,
        rotary: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, ("query", "key", "value"))
        self.dropout, self.rotary = dropout, rotary
        self.options: dict[str, Any] = {
            "rule": rule,
            "window": window,
            "chunk_length": chunk_length,
            "chunks_before": chunks_before,
            "chunks_after": chunks_after,
            "length_multiple": length_multiple,
            "causal": causal,
        }

    def forward(
        self,
        x: Float[Tensor, "b l hidden"],
        *,
        key_padding_mask: Bool[Tensor, "b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        position_ids: Int[Tensor, "b l"] | None = None,
        seed: int | None = None,
        cache: LocalCache | None = None,
        step: Step | None = None,
    ) -> Float[Tensor, "b l hidden"]:
        """Attend; `seed` is taken and not used, since nothing is hashed; `cache` and `step` as in `LSHAttention`."""
        q, k = self._heads(self.query, x), self._heads(self.key, x)
        if self.rotary:
            q, k = self._rotated((q, k), x, key_padding_mask, segment_ids, position_ids, step)
        v = self._heads(self.value, x)
        if cache is not None and step is not None:
            if not step.first:
                return self._merge(cache.attend(q, k, v, step))
            cache.extend(k, v, step)
        out = local_attention(
            q,
            k,
            v,
            key_padding_mask=key_padding_mask,
            segment_ids=segment_ids,
            dropout_p=self.dropout if self.training else 0.0,
            **self.options,
        )
        return self._merge(out)


class FullAttention(Attention):
    """Exact attention through `scaled_dot_product_attention`, the baseline; cost grows with the square of l.

    `shifted_keys`: with a token's value, itself included, stands the key of the token before it in its document, zeros
    with the first; so a query matches what came before a value (Olsson et al. 2022, "smeared keys"; Xu et al. 2024,
    arXiv 2411.19574). With it a `ShortConvolution` of `conv_size` tokens stands in front of query and key.

    Raises ValueError for shifted keys without `causal`.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int | None = None,
        *,
        causal: bool = True,
        dropout: float = 0.0,
        shifted_keys: bool = False,
        conv_size: int = 8,
        rotary: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, ("query", "key", "value"))
        check_integer("conv_size", conv_size, 0)
        if shifted_keys:
            if not causal:
                raise ValueError("shifted_keys=True needs causal=True: a key would stand with a value that came later")
            self._convolve(hidden_size, conv_size, causal)
        self.causal, self.dropout, self.shifted_keys, self.rotary = causal, dropout, shifted_keys, rotary

    def forward(
        self,
        x: Float[Tensor, "b l hidden"],
        *,
        key_padding_mask: Bool[Tensor, "b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        position_ids: Int[Tensor, "b l"] | None = None,
        seed: int | None = None,
        cache: FullCache | None = None,
        step: Step | None = None,
    ) -> Float[Tensor, "b l hidden"]:
        """Attend; `seed` is taken and not used, since nothing is hashed; `cache` and `step` as in `LSHAttention`."""
        context = self._context(x, key_padding_mask, segment_ids, cache, step)
        q, k, v = self._heads(self.query, context), self._heads(self.key, context), self._heads(self.value, x)
        if self.shifted_keys and cache is not None and step is not None:
            k = cache.recent["keys"].follow(k, key_padding_mask, step, lambda keys, real: shift(keys, -1, real))
        elif self.shifted_keys:
            k = shift(k, -1, key_padding_mask, segment_ids)
        if self.rotary:
            q, k = self._rotated((q, k), x, key_padding_mask, segment_ids, position_ids, step)
        if cache is not None and step is not None:
            if not step.first:
                return self._merge(cache.attend(q, k, v, step))
            cache.extend(k, v, step)
        dropout = self.dropout if self.training else 0.0
        if key_padding_mask is None and segment_ids is None:
            return self._merge(softmax_attention(q, k, v, dropout_p=dropout, causal=self.causal))
        ranks = compute_ranks(x.shape[0], x.shape[1], key_padding_mask, segment_ids, x.device)
        padding = ~ranks.real[:, None, :, None]
        k, v = k.masked_fill(padding, 0.0), v.masked_fill(padding, 0.0)  # 0 * NaN is NaN
        pieces = [
            softmax_attention(q[:, :, rows], k, v, visible_pairs(ranks, self.causal, rows), dropout_p=dropout)
            for rows in (slice(start, start + FULL_PIECE) for start in range(0, x.shape[1], FULL_PIECE))
        ]
        return self._merge(torch.cat(pieces, dim=2).masked_fill(padding, 0.0))

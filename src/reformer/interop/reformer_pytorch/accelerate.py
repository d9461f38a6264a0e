"""Live models of reformer-pytorch, made faster in place: their modules stay, their forwards become ours."""

from typing import Any

import reformer_pytorch.reformer_pytorch as theirs
import torch
from reformer_pytorch import reversible
from torch import Tensor, nn

from reformer.errors import InputError
from reformer.interop.swap import Model, swap_classes
from reformer.layers.reversible import ReversibleSequence
from reformer.ops.attention import lsh_attention
from reformer.ops.replay import remembered


def accelerate(model: Model) -> Model:
    """Swap the LSH attention and the reversible sequence of every Reformer of reformer-pytorch in `model` for ours.

    In place; returns the model, whose weights and their names stay. Outputs have the same distribution (rotations are
    drawn anew in each call, as there), gradients are those of ordinary autograd, and autocast and dropout are the
    same in the backward as in the forward. Padding (`input_mask`) takes no room in chunks any more, and with it all
    heads share their rotations. What ours does not compute goes on as it was: `input_attn_mask`, memory keys, `keys`,
    attention within buckets only, `return_attn`.
    Raises InputError for a model without any such part.
    """
    return swap_classes(model, FASTER, "Reformer of reformer-pytorch")


class _LSHAttention(theirs.LSHAttention):
    def forward(
        self,
        qk: Tensor,
        v: Tensor,
        query_len: int | None = None,
        input_mask: Tensor | None = None,
        input_attn_mask: Tensor | None = None,
        pos_emb: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        length = qk.shape[1]
        ours = query_len in (None, length) and input_attn_mask is None and self._attend_across_buckets
        if not ours or self._return_attn or not self._rehash_each_round or self.dropout_for_hash.p:
            return super().forward(qk, v, query_len, input_mask, input_attn_mask, pos_emb, **kwargs)
        if length % (2 * self.bucket_size):
            raise InputError(f"{length} tokens are no multiple of two buckets, {2 * self.bucket_size}; pad them")
        compared = qk if pos_emb is None else theirs.apply_rotary_pos_emb(qk, pos_emb)
        heads = 0 if input_mask is None else 1  # all (batch, head) are heads here, unless each has a mask
        out = lsh_attention(
            compared.unsqueeze(heads),
            v.unsqueeze(heads),
            hashed=qk.unsqueeze(heads),
            num_hashes=self.n_hashes,
            num_buckets=length // self.bucket_size,
            rule="chunk",
            chunk_length=self.bucket_size,
            causal=self.causal,
            key_padding_mask=input_mask,
            scale=qk.shape[-1] ** -0.5,
            duplicates="count" if self._allow_duplicate_attention else "once",
            dropout_p=self.dropout.p if self.training else 0.0,
            successor_values=False,
            share_rotations=not self._random_rotations_per_head,
        )
        nothing = torch.empty(0, device=qk.device)
        return out.squeeze(heads), nothing, nothing

    def hash_vectors(self, *arguments: Any, **options: Any) -> Tensor:
        buckets: Tensor = super().hash_vectors(*arguments, **options)  # again in the second run too: it draws
        return remembered(lambda: buckets)


class _Branch(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        out: Tensor = self.net(x.to(next(self.net.parameters()).dtype), **kwargs)
        return out


class _Sequence(reversible.ReversibleSequence):
    def forward(self, x: Tensor, arg_route: tuple[bool, bool] = (True, False), **kwargs: Any) -> Tensor:
        blocks = list(self.blocks)
        if self.training and self.layer_dropout > 0:
            kept = torch.rand(len(blocks)) >= self.layer_dropout
            blocks = [block for block, keep in zip(blocks, kept, strict=True) if keep] or blocks[:1]
        f_kwargs, g_kwargs = (kwargs if route else {} for route in arg_route)
        stack = ReversibleSequence((_Branch(block.f.net), _Branch(block.g.net)) for block in blocks)
        streams = stack(*x.chunk(2, dim=-1), f_kwargs, g_kwargs)
        return torch.cat(streams, dim=-1).to(x.dtype)


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    theirs.LSHAttention: _LSHAttention,
    reversible.ReversibleSequence: _Sequence,
}

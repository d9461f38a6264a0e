"""Short sequences, of which every token sees every other: one softmax over all of them, whatever their hashes are.

A sequence no longer than the window has one bucket, and all rounds offer the same keys, so the rounds cancel out.
For batches of sentences this costs a fifth to a tenth of what tiles and sorted rows do
(`benchmarks/short_sequences.py`).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.ops.arguments import Attending, Hashing
from reformer.ops.plain.backend import normalise_keys
from reformer.ops.ranks import compute_ranks
from reformer.ops.softmax_attention import softmax_attention, visible_pairs

LONGEST = 256
"""Tokens from which on exact attention is no bargain."""


def sees_all(at: Attending, length: int) -> bool:
    """Whether every token of a sequence sees every other that causality allows, and this is the fastest way."""
    if length > LONGEST or at.dropout_p:  # dropout falls on each round's numerators apart
        return False
    if at.rule == "local window":
        return at.window >= length
    return at.rule == "bucket" and at.window >= length - 1 and (at.log2_limit == 0 or length <= at.bucket_size)


def lsh(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    hashed: Float[Tensor, "b h l d"],
    key_padding_mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    hashing: Hashing,
    at: Attending,
) -> Float[Tensor, "b h l d"]:
    """A token sees itself only if it is offered nothing else."""
    seen = _seen(qk, key_padding_mask, segment_ids, at.causal)
    others = seen & ~torch.eye(qk.shape[2], dtype=torch.bool, device=qk.device)
    alone = seen & ~others.any(-1, keepdim=True)
    qk, v = (_without_padding(x, key_padding_mask) for x in (qk, v))
    return _attend(qk, normalise_keys(qk), v, others | alone, key_padding_mask, at.scale)


def local(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    key_padding_mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    at: Attending,
) -> Float[Tensor, "b h l d"]:
    """A token sees itself too."""
    q, k, v = (_without_padding(x, key_padding_mask) for x in (q, k, v))
    return _attend(q, k, v, _seen(q, key_padding_mask, segment_ids, at.causal), key_padding_mask, at.scale)


def _seen(
    q: Tensor, key_padding_mask: Tensor | None, segment_ids: Tensor | None, causal: bool
) -> Bool[Tensor, "b 1 l l"]:
    return visible_pairs(compute_ranks(q.shape[0], q.shape[2], key_padding_mask, segment_ids, q.device), causal)


def _without_padding(x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Zeros where padding is: 0 * NaN is NaN."""
    return x if key_padding_mask is None else x.masked_fill(~key_padding_mask.to(x.device)[:, None, :, None], 0.0)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, key_padding_mask: Tensor | None, scale: float
) -> Float[Tensor, "b h l d"]:
    return _without_padding(softmax_attention(q, k.to(q.dtype), v, seen, scale=scale), key_padding_mask)

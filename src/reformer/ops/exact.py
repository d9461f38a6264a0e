"""Short sequences, of which every token sees every other: one softmax over all of them, whatever their hashes are.

A sequence no longer than the window has one bucket, and all rounds offer the same keys, so the rounds cancel out.
For batches of sentences this costs a fifth to a tenth of what tiles and sorted rows do
(`benchmarks/short_sequences.py`).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.ops.hashing import Rotations
from reformer.ops.plain.backend import normalise_keys
from reformer.ops.ranks import compute_ranks
from reformer.ops.shift import shift
from reformer.ops.softmax_attention import softmax_attention, visible_pairs
from reformer.ops.spec import LSH, Band, Local, Octaves

LONGEST = 256
"""Tokens from which on exact attention is no bargain."""


def sees_all(spec: LSH | Local, length: int) -> bool:
    """Whether every token of a sequence sees every other that causality allows, and this is the fastest way."""
    if length > LONGEST or spec.dropout:  # dropout falls on each round's numerators apart
        return False
    rule = spec.rule
    if isinstance(rule, Band):
        return rule.window >= length
    return (
        isinstance(rule, Octaves)
        and rule.window >= length - 1
        and (rule.num_buckets == 1 or length <= rule.bucket_size)
    )


def lsh(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    hashed: Float[Tensor, "b h l d"],
    key_padding_mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    rotations: Rotations,
    spec: LSH,
    dropout_seed: int,
) -> Float[Tensor, "b h l d"]:
    """A token never sees itself; one that is offered nothing gets 0."""
    seen = _seen(qk, key_padding_mask, segment_ids, spec.causal)
    others = seen & ~torch.eye(qk.shape[2], dtype=torch.bool, device=qk.device)
    nothing = ~others.any(-1, keepdim=True)  # softmax over nothing is NaN
    qk = _without_padding(qk, key_padding_mask)
    v = shift(v, 1, key_padding_mask, segment_ids) if spec.successor_values else _without_padding(v, key_padding_mask)
    out = softmax_attention(qk, normalise_keys(qk).to(qk.dtype), v, others | (seen & nothing), scale=spec.scale)
    return _without_padding(out.masked_fill(nothing, 0.0), key_padding_mask)


def local(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    key_padding_mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    spec: Local,
    dropout_seed: int,
) -> Float[Tensor, "b h l d"]:
    """A token sees itself too."""
    q, k, v = (_without_padding(x, key_padding_mask) for x in (q, k, v))
    seen = _seen(q, key_padding_mask, segment_ids, spec.causal)
    return _without_padding(softmax_attention(q, k, v, seen, scale=spec.scale_at(q.shape[3])), key_padding_mask)


def _seen(
    q: Tensor, key_padding_mask: Tensor | None, segment_ids: Tensor | None, causal: bool
) -> Bool[Tensor, "b 1 l l"]:
    return visible_pairs(compute_ranks(q.shape[0], q.shape[2], key_padding_mask, segment_ids, q.device), causal)


def _without_padding(x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Zeros where padding is: 0 * NaN is NaN."""
    return x if key_padding_mask is None else x.masked_fill(~key_padding_mask.to(x.device)[:, None, :, None], 0.0)

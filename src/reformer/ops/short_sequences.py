"""Short sequences, of which every token sees every other: one softmax over all of them, whatever their hashes are.

A sequence no longer than the window has one bucket, and all rounds offer the same keys, so the rounds cancel out.
For batches of sentences this costs a fifth to a tenth of what tiles and sorted rows do
(`benchmarks/short_sequences.py`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from reformer.ops.exact_attention import exact_attention, visible_pairs
from reformer.ops.hashing import Rotations
from reformer.ops.plain.backend import normalise_keys
from reformer.ops.sequences import Sequences
from reformer.ops.shift import shift
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
    sequences: Sequences,
    rotations: Rotations,
    spec: LSH,
    dropout_seed: int,
) -> Float[Tensor, "b h l d"]:
    """A token never sees itself; one that is offered nothing gets 0."""
    seen = visible_pairs(sequences.ranks, spec.causal)
    others = seen & ~torch.eye(qk.shape[2], dtype=torch.bool, device=qk.device)
    nothing = ~others.any(-1, keepdim=True)  # softmax over nothing is NaN
    qk = sequences.without_padding(qk)
    v = shift(v, 1, sequences) if spec.successor_values else sequences.without_padding(v)
    out = exact_attention(qk, normalise_keys(qk).to(qk.dtype), v, others | (seen & nothing), scale=spec.scale)
    return sequences.without_padding(out.masked_fill(nothing, 0.0))


def local(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    sequences: Sequences,
    spec: Local,
    dropout_seed: int,
) -> Float[Tensor, "b h l d"]:
    """A token sees itself too."""
    q, k, v = (sequences.without_padding(x) for x in (q, k, v))
    seen = visible_pairs(sequences.ranks, spec.causal)
    return sequences.without_padding(exact_attention(q, k, v, seen, scale=spec.scale_at(q.shape[3])))

"""`lsh` and `local` of the plain backend: hash, lay out and sort rows, attend."""

from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from reformer.ops.hashing import Rotations, columns_for, hash_factors, hash_octaves
from reformer.ops.neighbourhoods import (
    Pattern,
    SortedRows,
    bucket_pattern,
    chunk_pattern,
    local_chunk_rows,
    local_window_pattern,
    local_window_rows,
    octave_rows,
    row_buckets,
    sort_bucket_rows,
    sort_chunk_rows,
)
from reformer.ops.plain.core import CoreOptions, Pairs, attended_pairs, neighbour_attention
from reformer.ops.ranks import Ranks
from reformer.ops.replay import remembered
from reformer.ops.sequences import Sequences
from reformer.ops.shift import shift
from reformer.ops.spec import KEY_EPS, LSH, Band, Chunks, Local, Octaves


def lsh(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    hashed: Float[Tensor, "b h l d"],
    sequences: Sequences,
    rotations: Rotations,
    spec: LSH,
    dropout_seed: int,
) -> Float[Tensor, "b h l d"]:
    """LSH attention."""
    spec = spec.fitted(qk.shape[2])
    rows, pattern = hashed_rows(hashed, sequences, rotations, spec)
    qk = sequences.without_padding(qk)
    v = shift(v, 1, sequences) if spec.successor_values else sequences.without_padding(v)
    out, nothing_offered = _attend(qk, normalise_keys(qk), v, rows, pattern, spec, dropout_seed)
    if not spec.keeps_own:
        return out
    return torch.where((nothing_offered & sequences.ranks.real[:, None]).unsqueeze(-1), v.to(out.dtype), out)


def hashed_rows(
    hashed: Float[Tensor, "b h l d"], sequences: Sequences, rotations: Rotations, spec: LSH
) -> tuple[SortedRows, Pattern]:
    """The rows of an attention that is fitted to its sequences, and which of them see each other."""
    hashed, ranks = sequences.without_padding(hashed), sequences.ranks
    if isinstance(spec.rule, Octaves):
        rows = _bucket_rows(hashed, ranks, rotations, spec, spec.rule)
        return rows, bucket_pattern(spec.rule.window, spec.causal)
    rows = _chunk_rows(hashed, ranks, rotations, spec, spec.rule)
    return rows, chunk_pattern(spec.rule, spec.causal, include_self=False)


def local(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    sequences: Sequences,
    spec: Local,
    dropout_seed: int,
) -> Float[Tensor, "b h l d"]:
    """Attention to near tokens, self included."""
    spec = spec.fitted(q.shape[2])
    q, k, v = (sequences.without_padding(x) for x in (q, k, v))
    return _attend(q, k, v, *near_rows(sequences, spec), spec, dropout_seed)[0]


def near_rows(sequences: Sequences, spec: Local) -> tuple[SortedRows, Pattern]:
    """As `hashed_rows`, of local attention."""
    ranks = sequences.ranks
    if isinstance(spec.rule, Band):
        return local_window_rows(ranks), local_window_pattern(spec.rule.window, spec.causal)
    return local_chunk_rows(ranks, spec.rule.length), chunk_pattern(spec.rule, spec.causal, include_self=True)


def pairs(
    q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h l d"], rows: SortedRows, pattern: Pattern, spec: LSH | Local
) -> tuple[Float[Tensor, "queries"], Pairs]:
    """`attended_pairs` of an attention that is fitted to its sequences."""
    return attended_pairs(q, k, rows, _options(spec, pattern, q, 0))


def normalise_keys(q: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Return k = q * rsqrt(mean(q^2) + 1e-6) / sqrt(d), in fp32 or wider."""
    wide = q if q.dtype == torch.float64 else q.float()
    return F.rms_norm(wide, (q.shape[-1],), eps=KEY_EPS) * q.shape[-1] ** -0.5


def _bucket_rows(x: Tensor, ranks: Ranks, rotations: Rotations, spec: LSH, rule: Octaves) -> SortedRows:
    layout = octave_rows(ranks, rule, spec.causal)
    octaves = list(range(int(layout.octave.max()) + 1 if layout.octave.numel() else 1))

    def buckets() -> Tensor:
        matrix = _columns(rotations, columns_for(octaves, rule.factor_from), x, spec)
        hashed = hash_octaves(x, matrix, octaves, rule.factor_from)
        return row_buckets(hashed, layout).to(bucket_type(1 << octaves[-1]))

    return sort_bucket_rows(remembered(buckets), layout, name_rows=spec.once)


def _chunk_rows(x: Tensor, ranks: Ranks, rotations: Rotations, spec: LSH, rule: Chunks) -> SortedRows:
    factors = rule.factors or ()

    def buckets() -> Tensor:
        matrix = _columns(rotations, sum(factors) // 2, x, spec)
        return hash_factors(x, matrix, factors).to(bucket_type(prod(factors)))

    return sort_chunk_rows(remembered(buckets), ranks, rule.length, name_rows=spec.once)


def _columns(rotations: Rotations, count: int, x: Tensor, spec: LSH) -> Tensor:
    return rotations.columns(count, x.shape[1], x.shape[3], spec)


def bucket_type(count: int) -> torch.dtype:
    """The narrowest type for so many buckets: they are what a reversible layer keeps, and that grows with depth."""
    return torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32


def _attend(
    q: Tensor, k: Tensor, v: Tensor, rows: SortedRows, pattern: Pattern, spec: LSH | Local, dropout_seed: int
) -> tuple[Tensor, Tensor]:
    """Outputs, and where nothing was offered."""
    options = _options(spec, pattern, q, dropout_seed)
    with torch.autocast(q.device.type, enabled=False):
        out, logsumexp = neighbour_attention(q, k, v, rows, options)
    return out, logsumexp == -torch.inf


def _options(spec: LSH | Local, pattern: Pattern, q: Tensor, dropout_seed: int) -> CoreOptions:
    bounded = isinstance(spec, LSH)
    return CoreOptions(pattern, spec.scale_at(q.shape[3]), spec.once, spec.dropout, dropout_seed, bounded, spec.number)

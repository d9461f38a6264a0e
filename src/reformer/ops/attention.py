"""The attention operations and the choice of their backend: `lsh_attention`, `local_attention`."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.ops.bucket_counts import automatic_buckets, check_bucket_limit, check_chunks, check_factors
from reformer.ops.checks import check_choice, check_integer, check_probability
from reformer.ops.hashing import columns_for, draw_rotations, draw_seed, hash_factors, hash_octaves
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
from reformer.ops.plain import CoreOptions, neighbour_attention
from reformer.ops.ranks import Ranks, compute_ranks
from reformer.ops.replay import remembered

Rule = Literal["bucket", "chunk"]
Duplicates = Literal["count", "once"]
Backend = Literal["auto", "plain"]
LocalRule = Literal["window", "chunk"]

KEY_EPS = 1e-6


def lsh_attention(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    *,
    num_hashes: int = 4,
    num_buckets: int | Sequence[int] | None = None,
    rule: Rule = "bucket",
    window: int = 64,
    bucket_size: int | None = None,
    factor_from: int = 256,
    chunk_length: int = 64,
    chunks_before: int = 1,
    chunks_after: int = 0,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
    scale: float = 1.0,
    duplicates: Duplicates = "count",
    dropout_p: float = 0.0,
    rotations: Float[Tensor, "h r d columns"] | None = None,
    seed: int | None = None,
    share_rotations: bool = False,
    backend: Backend = "auto",
) -> Float[Tensor, "b h l d"]:
    """Attend to the tokens that fall into the query's hash buckets (Kitaev et al. 2020, section 2).

    Args:
        qk: shared queries and keys; keys are normalised inside.
        v: values.
        num_hashes: hash rounds `r`; all of them form one softmax.
        num_buckets: `rule="bucket"`: the most buckets, a power of two, or None for no limit. `rule="chunk"`: the
            number of buckets, even, or a list of even factors, or None for the largest power of two
            <= 2 * floor(l / chunk_length).
        rule: "bucket": the last `window` tokens of the query's bucket, strictly causal, the number of buckets
            growing with the position. "chunk": equal chunks of the sorted tokens, as in trax, Hugging Face and
            reformer-pytorch; there, which earlier tokens a query sees depends on later ones.
        window: the most neighbours on a side, tokens (`rule="bucket"`).
        bucket_size: mean tokens of a bucket at its fullest; `window` unless given (`rule="bucket"`).
        factor_from: buckets above which two hashes combine into one (`rule="bucket"`).
        chunk_length: tokens of a chunk (`rule="chunk"`).
        chunks_before: chunks seen in front of the own one (`rule="chunk"`).
        chunks_after: chunks seen behind it (`rule="chunk"`).
        causal: see no later tokens.
        key_padding_mask: True for a real token; padding is seen by nobody and its output is 0.
        segment_ids: tokens see their own document only, a run of equal ids; ids must not decrease.
        scale: factor of the logits.
        duplicates: "count": a key found in two rounds counts twice; "once": each distinct key counts once.
        dropout_p: dropout of numerators, per round and slot, or per pair with "once"; drawn anew in each call.
        rotations: Gaussian rotations; more columns than needed are ignored.
        seed: draws the rotations from this integer; with neither, from one integer of torch's generator.
        share_rotations: draw one set of rotations for all heads.
        backend: "plain" (PyTorch operations, every device) or "auto".

    Returns:
        Outputs in the type of `v`; a token that is offered nothing takes its own value.

    Raises:
        ValueError: shapes that do not fit, settings out of range, rotations with too few columns.
    """
    _check_tensors(qk, v)
    check_choice("rule", rule, ("bucket", "chunk"))
    check_choice("duplicates", duplicates, ("count", "once"))
    check_choice("backend", backend, ("auto", "plain"))
    check_integer("num_hashes", num_hashes, 1)
    check_probability("dropout_p", dropout_p)
    ranks = compute_ranks(qk.shape[0], qk.shape[2], key_padding_mask, segment_ids, qk.device)
    if not qk.numel():
        return qk * v
    qk, v = _without_padding(qk, key_padding_mask), _without_padding(v, key_padding_mask)
    once = duplicates == "once"
    draw = _Rotations(rotations, seed, share_rotations, (qk.shape[1], num_hashes, qk.shape[3]))
    if rule == "bucket":
        check_integer("window", window, 1)
        check_integer("bucket_size", bucket_size := window if bucket_size is None else bucket_size, 1)
        limit = check_bucket_limit(num_buckets)
        rows = _bucket_rows(qk, ranks, bucket_size, limit, factor_from, causal, draw, once)
        pattern = bucket_pattern(window, causal)
    else:
        check_chunks(chunk_length, chunks_before, chunks_after)
        factors = check_factors(automatic_buckets(qk.shape[2], chunk_length) if num_buckets is None else num_buckets)
        rows = _chunk_rows(qk, ranks, chunk_length, factors, draw, once)
        pattern = chunk_pattern(chunk_length, chunks_before, chunks_after, causal, include_self=False)
    out, nothing_offered = _attend(qk, normalise_keys(qk), v, rows, pattern, scale, once, dropout_p, bounded=True)
    out = torch.where((nothing_offered & ranks.real[:, None]).unsqueeze(-1), v.to(out.dtype), out)
    return out.to(v.dtype)


def local_attention(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    *,
    rule: LocalRule = "window",
    window: int = 64,
    chunk_length: int = 64,
    chunks_before: int = 1,
    chunks_after: int = 0,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Float[Tensor, "b h l d"]:
    """Attend to near tokens, self included.

    `rule="window"`: the last `window` tokens; without `causal` `window - 1` on each side. `rule="chunk"`: the own
    chunk of `chunk_length` slots and `chunks_before` / `chunks_after` around it, on a ring (Hugging Face's local
    layers). `scale` is 1/sqrt(d) unless given; the other arguments are those of `lsh_attention`.

    Raises ValueError for shapes that do not fit and settings out of range.
    """
    _check_tensors(q, v)
    _check_tensors(k, v)
    check_choice("rule", rule, ("window", "chunk"))
    check_probability("dropout_p", dropout_p)
    ranks = compute_ranks(q.shape[0], q.shape[2], key_padding_mask, segment_ids, q.device)
    if not q.numel():
        return q * k * v
    q, k, v = (_without_padding(x, key_padding_mask) for x in (q, k, v))
    if rule == "window":
        check_integer("window", window, 1)
        rows, pattern = local_window_rows(ranks), local_window_pattern(window, causal)
    else:
        check_chunks(chunk_length, chunks_before, chunks_after)
        rows = local_chunk_rows(ranks, chunk_length)
        pattern = chunk_pattern(chunk_length, chunks_before, chunks_after, causal, include_self=True)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _attend(q, k, v, rows, pattern, scale, False, dropout_p, bounded=False)[0].to(v.dtype)


def normalise_keys(q: Float[Tensor, "b h l d"]) -> Float[Tensor, "b h l d"]:
    """Return k = q * rsqrt(mean(q^2) + 1e-6) / sqrt(d), in fp32 or wider."""
    wide = q if q.dtype == torch.float64 else q.float()
    return F.rms_norm(wide, (q.shape[-1],), eps=KEY_EPS) * q.shape[-1] ** -0.5


class _Rotations:
    """Rotations that are given, or drawn when the number of columns is known."""

    def __init__(self, given: Tensor | None, seed: int | None, share: bool, shape: tuple[int, int, int]) -> None:
        self.given, self.seed, self.share, self.shape = given, seed, share, shape
        if given is not None and seed is not None:
            raise ValueError("rotations and seed are both given; give one of them")
        if given is not None and (given.dim() != 4 or given.shape[:3] != shape):
            raise ValueError(
                f"rotations have shape {list(given.shape)}; they must be [h, r, d, columns] = "
                f"{[*shape, 'any']}, with r = num_hashes"
            )

    def __call__(self, columns: int) -> Tensor:
        if self.given is None:
            return draw_rotations(draw_seed() if self.seed is None else self.seed, *self.shape, columns, self.share)
        if self.given.shape[3] < columns:
            raise ValueError(
                f"rotations have {self.given.shape[3]} columns; the largest number of buckets here needs {columns}"
            )
        return self.given


def _bucket_rows(
    qk: Tensor,
    ranks: Ranks,
    bucket_size: int,
    num_buckets: int | None,
    factor_from: int,
    causal: bool,
    draw: _Rotations,
    name_rows: bool,
) -> SortedRows:
    layout = octave_rows(ranks, bucket_size, num_buckets, causal)
    octaves = list(range(int(layout.octave.max()) + 1 if layout.octave.numel() else 1))

    def buckets() -> Tensor:
        hashed = hash_octaves(qk, draw(columns_for(octaves, factor_from)), octaves, factor_from)
        return _narrow(row_buckets(hashed, layout), 1 << octaves[-1])

    return sort_bucket_rows(remembered(buckets), layout, name_rows)


def _chunk_rows(
    qk: Tensor, ranks: Ranks, chunk_length: int, factors: list[int], draw: _Rotations, name_rows: bool
) -> SortedRows:
    def buckets() -> Tensor:
        return _narrow(hash_factors(qk, draw(sum(factors) // 2), factors), prod(factors))

    return sort_chunk_rows(remembered(buckets), ranks, chunk_length, name_rows)


def _narrow(buckets: Tensor, count: int) -> Tensor:
    """Buckets in the narrowest type: they are what a reversible layer keeps, and that grows with depth."""
    return buckets.to(torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: SortedRows,
    pattern: Pattern,
    scale: float,
    once: bool,
    dropout_p: float,
    bounded: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs, and where nothing was offered."""
    dropout_seed = draw_seed() if dropout_p else 0
    options = CoreOptions(pattern, scale, once, dropout_p, dropout_seed, keys_bounded=bounded)
    with torch.autocast(q.device.type, enabled=False):
        out, logsumexp = neighbour_attention(q, k, v, rows, options)
    return out, logsumexp == -torch.inf


def _without_padding(x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Zeros in place of padding, whatever stands there."""
    if key_padding_mask is None:
        return x
    return x.masked_fill(~key_padding_mask.to(device=x.device, dtype=torch.bool)[:, None, :, None], 0.0)


def _check_tensors(q: Tensor, v: Tensor) -> None:
    if q.dim() != 4 or v.dim() != 4 or q.shape != v.shape:
        raise ValueError(
            f"queries have shape {list(q.shape)} and values {list(v.shape)}; both must be [b, h, l, d] alike"
        )
    if not q.is_floating_point() or q.dtype != v.dtype:
        raise ValueError(f"queries are {q.dtype} and values {v.dtype}; both must be of one floating-point type")

"""The attention operations and the choice of their backend: `lsh_attention`, `local_attention`."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.ops import exact
from reformer.ops.arguments import NO_LIMIT, Attending, make_hashing
from reformer.ops.backends import BACKENDS, choose_backend
from reformer.ops.bucket_counts import automatic_buckets, check_bucket_limit, check_chunks, check_factors
from reformer.ops.checks import check_choice, check_flag, check_integer, check_probability
from reformer.ops.exact import sees_all
from reformer.ops.hashing import draw_seed
from reformer.ops.ranks import check_masks

Rule = Literal["bucket", "chunk"]
Duplicates = Literal["count", "once"]
Backend = Literal["auto", "plain", "numba", "triton"]
LocalRule = Literal["window", "chunk"]


def lsh_attention(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    *,
    num_hashes: int = 4,
    num_buckets: int | Sequence[int] | None = None,
    rule: Rule = "bucket",
    window: int = 32,
    bucket_size: int | None = None,
    factor_from: int = 256,
    chunk_length: int = 64,
    chunks_before: int = 1,
    chunks_after: int = 0,
    length_multiple: int = 1,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
    scale: float = 1.0,
    duplicates: Duplicates = "count",
    dropout_p: float = 0.0,
    successor_values: bool | None = None,
    hashed: Float[Tensor, "b h l d"] | None = None,
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
        length_multiple: lengthen the ring by padding until its slots are a multiple of this (`rule="chunk"`); it is
            a multiple of the chunk anyway.
        causal: see no later tokens.
        key_padding_mask: True for a real token; padding is seen by nobody and its output is 0.
        segment_ids: tokens see their own document only, a run of equal ids; ids must not decrease.
        scale: factor of the logits.
        duplicates: "count": a key found in two rounds counts twice; "once": each distinct key counts once.
        dropout_p: dropout of numerators, per round and slot, or per pair with "once"; drawn anew in each call.
        successor_values: a pair delivers the value of the token that follows its key in the key's document, not the
            key's own: what followed the same context before. None: as `causal`.
        hashed: vectors to hash in place of `qk`, for instance the same without their positions.
        rotations: Gaussian rotations; more columns than needed are ignored.
        seed: draws the rotations from this integer; with neither, from one integer of torch's generator.
        share_rotations: draw one set of rotations for all heads.
        backend: "numba" (compiled kernels, on a CPU), "triton" (fused kernels, on a GPU), "plain" (PyTorch
            operations, every device) or "auto", which takes exact attention where a sequence is so short that this
            is the same.

    Returns:
        Outputs in the type of `v`; a token that is offered nothing gets 0, or, by chunks with own values, as the older
        implementations have it, its own value.

    Raises:
        ValueError: shapes that do not fit, settings out of range, rotations with too few columns.
    """
    _check_tensors(qk, v)
    if hashed is not None:
        _check_tensors(hashed, v)
    check_choice("rule", rule, ("bucket", "chunk"))
    check_choice("duplicates", duplicates, ("count", "once"))
    check_choice("backend", backend, BACKENDS)
    check_integer("num_hashes", num_hashes, 1)
    check_integer("factor_from", factor_from, 1)
    check_probability("dropout_p", dropout_p)
    check_flag("successor_values", successor_values)
    check_masks(qk.shape[0], qk.shape[2], key_padding_mask, segment_ids)
    limit: int | None = None
    factors: list[int] = []
    if rule == "bucket":
        check_integer("window", window, 1)
        check_integer("bucket_size", bucket_size := window if bucket_size is None else bucket_size, 1)
        limit = check_bucket_limit(num_buckets)
    else:
        check_chunks(chunk_length, chunks_before, chunks_after)
        check_integer("length_multiple", length_multiple, 1)
        factors = check_factors(automatic_buckets(qk.shape[2], chunk_length) if num_buckets is None else num_buckets)
    shape = (qk.shape[1], num_hashes, qk.shape[3])
    hashing = make_hashing(rotations, seed, share_rotations, factor_from, tuple(factors), shape)
    at = Attending(
        rule=rule,
        window=min(window, max(qk.shape[2], 1)),
        bucket_size=bucket_size or 1,
        log2_limit=NO_LIMIT if limit is None else limit.bit_length() - 1,
        chunk_length=chunk_length,
        chunks_before=chunks_before,
        chunks_after=chunks_after,
        causal=causal,
        once=duplicates == "once",
        successors=causal if successor_values is None else successor_values,
        scale=float(scale),
        dropout_p=float(dropout_p),
        dropout_seed=draw_seed() if dropout_p else 0,
    )
    if not qk.numel():
        return qk * v
    length = qk.shape[2]
    missing = -length % length_multiple if rule == "chunk" else 0
    (qk, v, hashed), masks = _lengthen(
        missing, (qk, v, qk if hashed is None else hashed), key_padding_mask, segment_ids
    )
    chosen = exact if backend == "auto" and sees_all(at, length) else choose_backend(backend, qk, at)
    out = chosen.lsh(qk, v, hashed, *masks, hashing, at).to(v.dtype)
    return out[:, :, :length] if missing else out


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
    length_multiple: int = 1,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: Backend = "auto",
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
    check_choice("backend", backend, BACKENDS)
    check_probability("dropout_p", dropout_p)
    check_masks(q.shape[0], q.shape[2], key_padding_mask, segment_ids)
    if rule == "window":
        check_integer("window", window, 1)
    else:
        check_chunks(chunk_length, chunks_before, chunks_after)
        check_integer("length_multiple", length_multiple, 1)
    at = Attending(
        rule=f"local {rule}",
        window=min(window, max(q.shape[2], 1)),
        bucket_size=1,
        log2_limit=0,
        chunk_length=chunk_length,
        chunks_before=chunks_before,
        chunks_after=chunks_after,
        causal=causal,
        once=False,
        successors=False,
        scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        dropout_p=float(dropout_p),
        dropout_seed=draw_seed() if dropout_p else 0,
    )
    if not q.numel():
        return q * k * v
    length = q.shape[2]
    missing = -length % length_multiple if rule == "chunk" else 0
    (q, k, v), masks = _lengthen(missing, (q, k, v), key_padding_mask, segment_ids)
    chosen = exact if backend == "auto" and sees_all(at, length) else choose_backend(backend, q, at)
    out = chosen.local(q, k, v, *masks, at).to(v.dtype)
    return out[:, :, :length] if missing else out


def _lengthen(
    missing: int, tensors: tuple[Tensor, ...], mask: Tensor | None, segment_ids: Tensor | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, Tensor | None]]:
    """So many slots of padding behind the last."""
    if not missing:
        return tensors, (mask, segment_ids)
    b, _, length, _ = tensors[0].shape
    if mask is None:
        mask = torch.ones(b, length, dtype=torch.bool, device=tensors[0].device)
    if segment_ids is not None:
        segment_ids = F.pad(segment_ids, (0, missing))
    return tuple(F.pad(x, (0, 0, 0, missing)) for x in tensors), (F.pad(mask, (0, missing)), segment_ids)


def _check_tensors(q: Tensor, v: Tensor) -> None:
    if q.dim() != 4 or v.dim() != 4 or q.shape != v.shape:
        raise ValueError(
            f"queries have shape {list(q.shape)} and values {list(v.shape)}; both must be [b, h, l, d] alike"
        )
    if not q.is_floating_point() or q.dtype != v.dtype:
        raise ValueError(f"queries are {q.dtype} and values {v.dtype}; both must be of one floating-point type")

"""The attention operations and the choice of their backend: `lsh_attention`, `local_attention`."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.errors import InputError
from reformer.ops import short_sequences
from reformer.ops.backends import choose_backend
from reformer.ops.checks import check_choice
from reformer.ops.environment import BACKENDS
from reformer.ops.hashing import as_int64, draw_seed, make_rotations
from reformer.ops.questions import without_values
from reformer.ops.sequences import Sequences
from reformer.ops.short_sequences import sees_all
from reformer.ops.spec import LSH, Chunks, Local, make_local, make_lsh
from reformer.ops.transforms import refuse_transforms

Rule = Literal["bucket", "chunk"]
Duplicates = Literal["count", "once"]
Backend = Literal["auto", "plain", "numba", "triton"]
Attention = TypeVar("Attention", LSH, Local)
LocalRule = Literal["window", "chunk"]


def lsh_attention(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    *,
    num_hashes: int | None = None,
    num_buckets: int | Sequence[int] | None = None,
    rule: Rule = "bucket",
    window: int | None = None,
    bucket_size: int | None = None,
    factor_from: int | None = None,
    chunk_length: int | None = None,
    chunks_before: int | None = None,
    chunks_after: int | None = None,
    length_multiple: int | None = None,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
    scale: float = 1.0,
    duplicates: Duplicates = "count",
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
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
        num_hashes: hash rounds `r`, 4 unless given; all of them form one softmax.
        num_buckets: `rule="bucket"`: the most buckets, a power of two, or None for no limit. `rule="chunk"`: the
            number of buckets, even, or a list of even factors, or None for the largest power of two
            <= 2 * floor(l / chunk_length).
        rule: "bucket": the last `window` tokens of the query's bucket, strictly causal, the number of buckets
            growing with the position. "chunk": equal chunks of the sorted tokens, as in trax, Hugging Face and
            reformer-pytorch; there, which earlier tokens a query sees depends on later ones.
        window: the most neighbours on a side, tokens, 32 unless given; the query itself is none of them, where local
            attention counts it (`rule="bucket"`).
        bucket_size: mean tokens of a bucket at its fullest; `window` unless given (`rule="bucket"`).
        factor_from: buckets above which two hashes combine into one, 256 unless given (`rule="bucket"`).
        chunk_length: tokens of a chunk, 64 unless given (`rule="chunk"`).
        chunks_before: chunks seen in front of the own one, 1 unless given (`rule="chunk"`).
        chunks_after: chunks seen behind it, none unless given (`rule="chunk"`).
        length_multiple: lengthen the ring by padding until its slots are a multiple of this (`rule="chunk"`); it is
            a multiple of the chunk anyway.
        causal: see no later tokens.
        key_padding_mask: True for a real token; padding is seen by nobody and its output is 0.
        segment_ids: tokens see their own document only, a run of equal ids; ids must not decrease.
        scale: factor of the logits.
        duplicates: "count": a key found in two rounds counts twice; "once": each distinct key counts once.
        dropout_p: dropout of numerators, per round and slot, or per pair with "once".
        dropout_seed: draws what is dropped from this integer; None: anew in each call, from torch's generator.
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
        InputError: shapes that do not fit, settings out of range, options of the other rule, rotations with too few
            columns.
    """
    spec = make_lsh(
        rule=rule, window=window, bucket_size=bucket_size, num_buckets=num_buckets, factor_from=factor_from,
        chunk_length=chunk_length, chunks_before=chunks_before, chunks_after=chunks_after,
        length_multiple=length_multiple, causal=causal, num_hashes=num_hashes, share_rotations=share_rotations,
        scale=scale, duplicates=duplicates, successor_values=successor_values, dropout=dropout_p,
    )  # fmt: skip
    for each in (qk, v if hashed is None else hashed):
        _check_tensors(each, v)
    sequences = Sequences.of(qk, key_padding_mask, segment_ids)
    return attend_by_content(
        qk, v, spec, sequences, hashed=hashed, rotations=rotations, seed=seed, dropout_seed=dropout_seed,
        backend=backend,
    )  # fmt: skip


def local_attention(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    *,
    rule: LocalRule = "window",
    window: int | None = None,
    chunk_length: int | None = None,
    chunks_before: int | None = None,
    chunks_after: int | None = None,
    length_multiple: int | None = None,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "b h l d"]:
    """Attend to near tokens, self included.

    `rule="window"`: the last `window` tokens, 64 unless given, the query itself counted (LSH attention does not);
    without `causal` `window - 1` on each side. `rule="chunk"`: the own chunk of `chunk_length` slots and
    `chunks_before` / `chunks_after` around it, on a ring (Hugging Face's local layers). `scale` is 1/sqrt(d) unless
    given; the other arguments are those of `lsh_attention`.

    Raises InputError for shapes that do not fit, settings out of range and options of the other rule.
    """
    spec = make_local(
        rule=rule, window=window, chunk_length=chunk_length, chunks_before=chunks_before, chunks_after=chunks_after,
        length_multiple=length_multiple, causal=causal, scale=scale, dropout=dropout_p,
    )  # fmt: skip
    for each in (q, k):
        _check_tensors(each, v)
    sequences = Sequences.of(q, key_padding_mask, segment_ids)
    return attend_nearby(q, k, v, spec, sequences, dropout_seed=dropout_seed, backend=backend)


def attend_by_content(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    spec: LSH,
    sequences: Sequences,
    *,
    hashed: Float[Tensor, "b h l d"] | None = None,
    rotations: Float[Tensor, "h r d columns"] | None = None,
    seed: int | None = None,
    dropout_seed: int | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "b h l d"]:
    """`lsh_attention` as a spec says."""
    check_choice("backend", backend, BACKENDS)
    refuse_transforms("attention by buckets and windows")
    drawn = make_rotations(rotations, seed, (qk.shape[1], spec.rounds, qk.shape[3]))
    dropout_seed = as_int64(_dropout_seed(spec, dropout_seed))
    if not qk.numel() or _shapes_only(qk, backend):
        return qk * v
    length, spec, missing = _on_a_ring(spec, qk.shape[2])
    qk, v, hashed = _lengthen(missing, qk, v, qk if hashed is None else hashed)
    sequences = sequences.lengthened(missing)
    chosen = short_sequences if backend == "auto" and sees_all(spec, length) else choose_backend(backend, qk, spec)
    out = chosen.lsh(qk, v, hashed, sequences, drawn, spec, dropout_seed).to(v.dtype)
    return out[:, :, :length] if missing else out


def attend_nearby(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    spec: Local,
    sequences: Sequences,
    *,
    dropout_seed: int | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "b h l d"]:
    """`local_attention` as a spec says."""
    check_choice("backend", backend, BACKENDS)
    refuse_transforms("attention by buckets and windows")
    dropout_seed = as_int64(_dropout_seed(spec, dropout_seed))
    if not q.numel() or _shapes_only(q, backend):
        return q * k * v
    length, spec, missing = _on_a_ring(spec, q.shape[2])
    q, k, v = _lengthen(missing, q, k, v)
    sequences = sequences.lengthened(missing)
    chosen = short_sequences if backend == "auto" and sees_all(spec, length) else choose_backend(backend, q, spec)
    out = chosen.local(q, k, v, sequences, spec, dropout_seed).to(v.dtype)
    return out[:, :, :length] if missing else out


def _dropout_seed(spec: LSH | Local, given: int | None) -> int:
    if not spec.dropout:
        return 0
    return draw_seed() if given is None else given


def _shapes_only(q: Tensor, backend: Backend) -> bool:
    """Whether a summary or a counter asks for shapes and the graph: no kernel has anything to compute."""
    return backend == "auto" and without_values(q) and not torch.compiler.is_compiling()


def _on_a_ring(spec: Attention, length: int) -> tuple[int, Attention, int]:
    """The length, the spec, and the slots that the ring of a chunk rule lacks there; other rules are fitted later."""
    if not isinstance(spec.rule, Chunks):
        return length, spec, 0
    return length, spec.fitted(length), -length % spec.rule.multiple


def _lengthen(missing: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """So many slots of padding behind the last."""
    return tuple(F.pad(x, (0, 0, 0, missing)) for x in tensors) if missing else tensors


def _check_tensors(q: Tensor, v: Tensor) -> None:
    if q.dim() != 4 or v.dim() != 4 or q.shape != v.shape:
        raise InputError(
            f"queries have shape {list(q.shape)} and values {list(v.shape)}; both must be [b, h, l, d] alike"
        )
    if not q.is_floating_point() or q.dtype != v.dtype:
        raise InputError(f"queries are {q.dtype} and values {v.dtype}; both must be of one floating-point type")

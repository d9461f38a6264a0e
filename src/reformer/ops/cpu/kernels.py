"""From tensors to kernels: one task a (batch, head), on up to as many threads as torch uses.

Kernels do not hold the interpreter's lock. Each (batch, head) is one task from its sort to its last gradient, so the
results are the same at any number of threads.
"""

from collections.abc import Callable
from itertools import count
from math import prod
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reformer.ops.cpu import hashing as hash_kernels
from reformer.ops.cpu import order
from reformer.ops.cpu.backward import differentiate_head
from reformer.ops.cpu.forward import attend_head
from reformer.ops.cpu.jit import say_if_not_compiled
from reformer.ops.cpu.products import ROWS
from reformer.ops.cpu.rows import Head, Options, Rows
from reformer.ops.dropout import batch_head_stream, drop_threshold
from reformer.ops.hashing import Rotations, columns_for, split_buckets
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Band, Chunks, Local, Octaves

say_if_not_compiled(attend_head)


def run_tasks(tasks: int, run: Callable[[int], None]) -> None:
    """Call `run` with 0 .. tasks - 1 on up to torch's number of threads; the first exception is raised here."""
    numbers = count()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not failures and (number := next(numbers)) < tasks:
                run(number)
        except BaseException as failure:  # Ctrl-C too: the other threads stop behind the task in hand
            failures.append(failure)

    threads = [Thread(target=work, daemon=True) for _ in range(min(torch.get_num_threads(), tasks) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class Heads:
    """A tensor [b, h, l, d] as flat memory, from which kernels take one (batch, head) at a time."""

    def __init__(self, x: Tensor) -> None:
        x = x.detach()
        x = x.view(torch.uint16) if x.dtype == torch.bfloat16 else x  # numpy has no bf16
        self.strides = x.stride()
        span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, self.strides, strict=True))
        self.data = x.as_strided((span,), (1,)).numpy()

    def head(self, batch: int, head: int) -> Any:
        """The [l, d] of one (batch, head)."""
        return Head(self.data, batch * self.strides[0] + head * self.strides[1], self.strides[2])


def prepare(sequences: Sequences, spec: LSH | Local) -> tuple[list[Tensor], list[int]]:
    """The document of every token, [b, l] or [1, l], -1 for padding."""
    return [sequences.document], []


def describe(q: Tensor, facts: list[Tensor], sizes: list[int], spec: LSH | Local) -> Tensor:
    """Inside an operator, the document of every token of `q`, from what `prepare` gave."""
    (document,) = facts
    return document


def in_kernel_type(x: Tensor) -> Tensor:
    """fp64, fp32 and bf16 as they are and anything else in fp32, the numbers of a token side by side."""
    x = x if x.dtype in (torch.float64, torch.float32, torch.bfloat16) else x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def compute_type(x: Tensor) -> torch.dtype:
    """The type of sums and results."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def kind_of(x: Tensor) -> Any:
    """An empty array of that type: it tells kernels which one."""
    return np.empty(0, np.float64 if x.dtype == torch.float64 else np.float32)


def empty_heads(like: Tensor) -> Tensor:
    """Fresh memory [b, h, l, d] in which the heads of a token lie side by side, as the projections want them."""
    b, h, length, d = like.shape
    return like.new_empty(b, length, h, d, dtype=compute_type(like)).transpose(1, 2)


def most_rows(sequences: list[Any], rule: Octaves, causal: bool) -> int:
    """Rows of the batch row that has most of them, and one at least."""
    size = rule.bucket_size, rule.last_octave, causal
    return max(1, *(order.count_rows(starts, *size) for _, starts in sequences))


def hash_rows(q: Tensor, document: Tensor, rotations: Rotations, spec: LSH) -> Tensor:
    """The bucket of every row of `order`'s layout, or, by chunks, of every token: [b, h, r, bytes].

    In bytes, so that the type does not depend on the length.
    """
    b, h, length, width = q.shape
    sequences = [order.documents_of(row) for row in document.numpy()]
    factors, levels, rule = np.empty(0, np.int64), np.empty((0, 3), np.int64), spec.rule
    if isinstance(rule, Octaves):
        last = rule.octave_of(max(int(np.diff(starts).max(initial=1)) for _, starts in sequences) - 1)
        rows, most = most_rows(sequences, rule, spec.causal), 1 << last
        columns, levels = columns_for(range(last + 1), rule.factor_from), levels_of(last, rule.factor_from)
    else:
        factors = np.array(rule.factors)
        rows, columns, most = length, int(factors.sum()) // 2, prod(rule.factors or ())
    drawn = rotations.columns(columns, h, spec.rounds, width, spec.share_rotations)
    matrix = rotations_by_column(drawn, columns, compute_type(q))
    kept = np.uint8 if most <= 1 << 8 else np.uint16 if most <= 1 << 16 else np.int32  # it grows with depth
    buckets = np.zeros((b, h, spec.rounds, rows), kept)
    flat, heads = matrix.flatten().numpy(), Heads(q)
    kind = kind_of(q)

    def run(task: int) -> None:
        batch, head = divmod(task, h)
        place = (flat, head * matrix.stride(0), matrix.shape[2], buckets[batch, head])
        if isinstance(rule, Octaves):
            size = rule.bucket_size, rule.last_octave, spec.causal, levels, width, kind
            hash_kernels.hash_octaves(heads.head(batch, head), *sequences[batch % len(sequences)], *place, *size)
        else:
            hash_kernels.hash_factors(heads.head(batch, head), length, *place, factors, width, kind)

    run_tasks(b * h, run)
    return torch.from_numpy(buckets.view(np.uint8))


def levels_of(last: int, factor_from: int) -> Any:
    """For each octave the log2 of the first and the second hash's buckets, and the columns that they take."""
    return np.array([(*split_buckets(k, factor_from), columns_for([k], factor_from)) for k in range(last + 1)])


def rotations_by_column(rotations: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """[h, r, columns, d] with columns up to a multiple of what a kernel takes at once."""
    h, r, width, _ = rotations.shape
    padded = -(-max(columns, 1) // ROWS) * ROWS
    matrix = torch.zeros(h, r, padded, width, dtype=dtype)
    matrix[:, :, :columns] = rotations[..., :columns].transpose(2, 3)
    return matrix


def sorted_rows(hashed: list[Tensor], document: Tensor, spec: LSH | Local) -> Callable[[int, int], Any]:
    """A function from (batch, head) to the rows of that head, without a hash the same for all heads."""
    documents, rule = document.numpy(), spec.rule
    own = np.empty(0, np.int32)
    successors = [order.successors_of(row) if spec.successor_values else own for row in documents]
    nothing = np.empty(0, np.int32), np.empty((1, 0), np.int32), np.empty((1, 0), np.int32)
    if not hashed:
        local = [
            order.window_rows(row, rule.window - 1, spec.causal)
            if isinstance(rule, Band)
            else order.local_chunk_rows(row, *chunk_sizes(rule))
            for row in documents
        ]
        return lambda batch, _: Rows(*local[batch % len(local)], documents[batch % len(local)], own, *nothing)  # type: ignore[call-arg]
    sequences = [order.documents_of(row) for row in documents]
    count = document.shape[1]
    if isinstance(rule, Octaves):
        count = most_rows(sequences, rule, spec.causal)
    (numbers,) = hashed
    buckets = numbers.numpy().view({1: np.uint8, 2: np.uint16, 4: np.int32}[numbers.shape[3] // count])

    def rows(batch: int, head: int) -> Any:
        one = batch % documents.shape[0]
        row, behind = documents[one], successors[one]
        if isinstance(rule, Octaves):
            size = rule.bucket_size, rule.last_octave, spec.causal, rule.window, spec.once
            tokens, names, runs, place, group = order.sort_buckets(buckets[batch, head], *sequences[one], *size)
            return Rows(tokens, runs, row, behind, names, place, group)
        tokens, names, runs, place = order.sort_chunks(buckets[batch, head], row, *chunk_sizes(rule), spec.once)
        return Rows(tokens, runs, row, behind, names, place, place)  # chunks ask for no group

    return rows


def chunk_sizes(rule: Any) -> tuple[int, int, int]:
    """Tokens of a chunk, and of those in front of it and behind it that are seen."""
    return (rule.length, rule.before * rule.length, rule.after * rule.length) if isinstance(rule, Chunks) else (1, 0, 0)


def options_of(spec: LSH | Local, dropout_seed: int, q: Tensor, shared: bool, task: int) -> Any:
    """What kernels need to know besides arrays."""
    local, rule = isinstance(spec, Local), spec.rule
    chunk, before, after = chunk_sizes(rule)
    return Options(
        width=q.shape[3],
        length=q.shape[2],
        scale=spec.scale_at(q.shape[3]),
        window=-1 if isinstance(rule, Chunks) else rule.window - local,
        causal=spec.causal,
        include_self=int(local),
        once=spec.once,
        chunk=chunk,
        before=before,
        after=after,
        rounds=spec.rounds,
        keep=1.0 - spec.dropout,
        threshold=drop_threshold(spec.dropout),
        stream=batch_head_stream(dropout_seed, task),
        shared=shared,
        keeps_own=spec.keeps_own,
    )


def attend(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    rows: list[Tensor],
    document: Tensor,
    spec: LSH | Local,
    dropout_seed: int,
) -> tuple[Tensor, Tensor]:
    """Outputs [b, h, l, d] and log-sum-exps [b, h, l]; without `k`, keys are the normalised queries."""
    out, logsumexp = empty_heads(v), torch.empty(v.shape[:3], dtype=compute_type(v))
    heads_q, heads_k, heads_v, heads_out = (Heads(x) for x in (q, q if k is None else k, v, out))
    rows_of, z, kind = sorted_rows(rows, document, spec), logsumexp.numpy(), kind_of(q)

    def run(task: int) -> None:
        place = divmod(task, q.shape[1])
        attend_head(
            *(heads.head(*place) for heads in (heads_q, heads_k, heads_v, heads_out)),
            z[place],
            rows_of(*place),
            options_of(spec, dropout_seed, q, k is None, task),
            kind,
        )

    run_tasks(q.shape[0] * q.shape[1], run)
    return out, logsumexp


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    rows: list[Tensor],
    document: Tensor,
    spec: LSH | Local,
    dropout_seed: int,
) -> list[Tensor]:
    """Gradients of queries, of values, and of keys that are not the queries."""
    dq, dv = empty_heads(q), empty_heads(v)
    dk = None if k is None else empty_heads(k)
    inputs = [Heads(x) for x in (q, q if k is None else k, v, out)]
    heads_grad, heads_dq, heads_dv = (Heads(x) for x in (grad, dq, dv))
    heads_dk = None if dk is None else Heads(dk)
    rows_of, z, kind = sorted_rows(rows, document, spec), logsumexp.numpy(), kind_of(q)

    def run(task: int) -> None:
        place = divmod(task, q.shape[1])
        scratch = Head(np.empty(q.shape[2] * q.shape[3] if dk is None else 0, kind.dtype), 0, q.shape[3])
        differentiate_head(
            *(heads.head(*place) for heads in inputs),
            z[place],
            heads_grad.head(*place),
            heads_dq.head(*place),
            scratch if heads_dk is None else heads_dk.head(*place),
            heads_dv.head(*place),
            rows_of(*place),
            options_of(spec, dropout_seed, q, k is None, task),
            kind,
        )

    run_tasks(q.shape[0] * q.shape[1], run)
    return [dq, dv] if dk is None else [dq, dv, dk]

"""From tensors to kernels, a (batch, head) at a time."""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reformer.ops.cpu import hashing as hash_kernels
from reformer.ops.cpu import order
from reformer.ops.cpu.backward import begin_backward, differentiate_runs, finish_backward
from reformer.ops.cpu.forward import attend_runs, begin_forward, finish_forward
from reformer.ops.cpu.jit import prepare_kernels
from reformer.ops.cpu.products import ROWS
from reformer.ops.cpu.rows import Head, Options, Rows
from reformer.ops.cpu.schedule import schedule_runs
from reformer.ops.cpu.tasks import FEW_RUNS, RUNS, Phase, pieces_of, rounds_of, run_heads, run_tasks, whole_heads
from reformer.ops.dropout import batch_head_stream, drop_threshold
from reformer.ops.hashing import Rotations, columns_for, split_buckets
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Band, Chunks, Local, Octaves

prepare_kernels(attend_runs)


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
    drawn = rotations.columns(columns, h, width, spec)
    matrix = rotations_by_column(drawn, columns, compute_type(q))
    kept = np.uint8 if most <= 1 << 8 else np.uint16 if most <= 1 << 16 else np.int32  # it grows with depth
    buckets = np.zeros((b, h, spec.rounds, rows), kept)
    flat, heads = matrix.flatten().numpy(), Heads(q)
    kind = kind_of(q)

    def hash_rounds(task: int, first: int, last: int) -> None:
        batch, head = divmod(task, h)
        at = head * matrix.stride(0) + first * matrix.stride(1)
        place = (flat, at, matrix.shape[2], buckets[batch, head, first:last])
        if isinstance(rule, Octaves):
            size = rule.bucket_size, rule.last_octave, spec.causal, levels, width, kind
            hash_kernels.hash_octaves(heads.head(batch, head), *sequences[batch % len(sequences)], *place, *size)
        else:
            hash_kernels.hash_factors(heads.head(batch, head), length, *place, factors, width, kind)

    whole = whole_heads(b * h, length)
    run_tasks(whole, lambda task: hash_rounds(task, 0, spec.rounds))
    parts = (b * h - whole) * spec.rounds
    run_tasks(parts, lambda i: hash_rounds(whole + i // spec.rounds, i % spec.rounds, i % spec.rounds + 1))
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
        stream=batch_head_stream(dropout_seed, spec.number(task, q.shape[1])),
        shared=shared,
        keeps_own=spec.keeps_own,
    )


class _Forward:
    """`HeadWork`: the forward of one (batch, head)."""

    def __init__(self, inputs: tuple[Any, ...], out: Any, logsumexp: Any, rows: Any, options: Any) -> None:
        self.inputs, self.out, self.logsumexp, self.rows, self.options = inputs, out, logsumexp, rows, options
        length, kind = options.length, logsumexp.dtype
        self.most, self.denominator, self.factors = (
            np.empty(size, kind) for size in (length, length, length * options.shared)
        )

    def begin(self, first: int, last: int) -> None:
        arrays = self.out, self.factors, self.most, self.denominator, self.rows.document
        begin_forward(self.inputs[0], *arrays, self.options, first, last)

    def work(self) -> None:
        self._attend(0, len(self.rows.runs))

    def _attend(self, first: int, last: int) -> None:
        arrays = self.out, self.factors, self.most, self.denominator, self.rows
        attend_runs(*self.inputs, *arrays, self.options, self.options.once or None, first, last)

    def phases(self, threads: int) -> list[Phase]:
        # within a round no two runs have a query in common
        rounds = list(rounds_of(self.rows.runs))
        sizes = [max(RUNS, -(-(last - first) // (4 * threads))) for first, last in rounds]
        return [pieces_of(*ends, size, self._attend) for ends, size in zip(rounds, sizes, strict=True)]

    def finish(self, first: int, last: int) -> None:
        arrays = self.out, self.logsumexp, self.most, self.denominator, self.rows.document
        finish_forward(self.inputs[2], *arrays, self.options, first, last)


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
    heads = [Heads(x) for x in (q, q if k is None else k, v, out)]
    rows_of, z = sorted_rows(rows, document, spec), logsumexp.numpy()

    def head_of(task: int) -> _Forward:
        place = divmod(task, q.shape[1])
        *inputs, result = (tensor.head(*place) for tensor in heads)
        options = options_of(spec, dropout_seed, q, k is None, task)
        return _Forward(tuple(inputs), result, z[place], rows_of(*place), options)

    run_heads(q.shape[0] * q.shape[1], q.shape[2], head_of)
    return out, logsumexp


class _Backward:
    """`HeadWork`: the backward of one (batch, head)."""

    def __init__(
        self, inputs: tuple[Any, ...], out: Any, logsumexp: Any, grad: Any, gradients: list[Any], rows: Any,
        options: Any,
    ) -> None:  # fmt: skip
        self.inputs, self.out, self.logsumexp, self.grad = inputs, out, logsumexp, grad
        self.rows, self.options, self.kind = rows, options, logsumexp.dtype
        self.pieces, self.phase_ends = schedule_runs(rows.runs, options)
        scratch = np.empty(options.length * options.width if options.shared else 0, self.kind)
        self.gradients = gradients if not options.shared else [
            gradients[0], Head(scratch, 0, options.width), gradients[1]
        ]  # fmt: skip
        self.factors, self.delta = (
            np.empty(options.length * options.shared, self.kind),
            np.empty(options.length, self.kind),
        )

    def begin(self, first: int, last: int) -> None:
        arrays = *self.gradients, self.factors, self.delta, self.rows.document
        begin_backward(self.inputs[0], self.out, self.logsumexp, self.grad, *arrays, self.options, first, last)

    def work(self) -> None:
        self._differentiate(0, len(self.pieces))

    def phases(self, threads: int) -> list[Phase]:
        found, tasks, alone = list[Phase](), 4 * threads, 0
        for first, last in pairwise([0, *np.unique(self.phase_ends).tolist()]):
            if np.diff(self.pieces[first:last]).sum() >= FEW_RUNS:
                one = pieces_of(alone, first, max(first - alone, 1), self._differentiate)
                found += [one, pieces_of(first, last, -(-(last - first) // tasks), self._differentiate)]
                alone = last
        end = len(self.pieces)
        return [*found, pieces_of(alone, end, max(end - alone, 1), self._differentiate)]

    def _differentiate(self, first: int, last: int) -> None:
        arrays = self.logsumexp, self.grad, *self.gradients, self.factors, self.delta, self.rows, self.options
        differentiate_runs(*self.inputs, *arrays, self.options.once or None, self.pieces, first, last)

    def finish(self, first: int, last: int) -> None:
        if self.options.shared:
            dq, dk, _ = self.gradients
            finish_backward(self.inputs[0], self.factors, dk, dq, self.options, first, last)


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
    found = [empty_heads(x) for x in (q, v)] if k is None else [empty_heads(x) for x in (q, k, v)]
    heads = [Heads(x) for x in (q, q if k is None else k, v, out, grad)]
    gradients = [Heads(x) for x in found]
    rows_of, z = sorted_rows(rows, document, spec), logsumexp.numpy()

    def head_of(task: int) -> _Backward:
        place = divmod(task, q.shape[1])
        *inputs, output, slope = (tensor.head(*place) for tensor in heads)
        options = options_of(spec, dropout_seed, q, k is None, task)
        into = [tensor.head(*place) for tensor in gradients]
        return _Backward(tuple(inputs), output, z[place], slope, into, rows_of(*place), options)

    run_heads(q.shape[0] * q.shape[1], q.shape[2], head_of)
    return found if k is None else [found[0], found[2], found[1]]

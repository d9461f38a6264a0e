"""`fill`, `forget` and `decode` of the CPU backend: kernels over the tensors of `Rings`.

To `torch.compile` a `decode` is one node. Short steps run in one call, long pieces in one task a (batch, head).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.ops.cpu import decoding
from reformer.ops.cpu.kernels import compute_type, kind_of, levels_of, rotations_by_column
from reformer.ops.cpu.tasks import run_tasks
from reformer.ops.hashing import split_buckets
from reformer.ops.rings import Rings, RingSet

OTHER = -1
"""In place of the octave of a batch row whose rings are in the other set."""

ONE_CALL = 256
"""Tokens times heads up to which threads cost more than they bring."""


def fill(rings: Rings, batch: Sequence[int], octave: int, start: int, end: int) -> None:
    """Put the slots from `start` to `end` of some batch rows, which follow those that are there, into their rings."""
    _enter(rings, batch, octave, start, end, forget=False)


def forget(rings: Rings, batch: Sequence[int], octave: int, start: int, end: int) -> None:
    """Take the last tokens of some batch rows, those in slots from `start` to `end`, out of their rings."""
    _enter(rings, batch, octave, start, end, forget=True)


def _enter(rings: Rings, batch: Sequence[int], octave: int, start: int, end: int, forget: bool) -> None:
    h, chosen = rings.rows.shape[1], rings.of(octave)
    if rings.by_column is None:
        rings.by_column = rotations_by_column(rings.drawn, rings.columns, compute_type(rings.rows))
    matrix, levels = rings.by_column, levels_of(octave, rings.rule.factor_from)
    shape = _shape(rings, chosen, matrix.shape[2])
    rows, ring, count, flat = (_flat(x) for x in (rings.rows, chosen.ring, chosen.count, matrix))
    kind, places = kind_of(rings.rows), [row * h + head for row in batch for head in range(h)]

    def run(number: int) -> None:
        task = places[number]
        decoding.enter_head(
            rows, task, start, end, ring, count, flat, task % h * matrix.stride(0), levels, octave, shape, forget, kind
        )

    if (end - start) * len(places) <= ONE_CALL:
        for number in range(len(places)):
            run(number)
    else:
        run_tasks(len(places), run)


def decode(
    rings: Rings,
    q: Float[Tensor, "b h k d"],
    v: Float[Tensor, "b h k d"],
    slot: Int[Tensor, "b k"],
    octaves: Sequence[int],
) -> Float[Tensor, "b h k d"]:
    """Attend from new tokens to those of their buckets; `octaves` has log2 of the buckets of each batch row."""
    spec, outs = rings.spec, {}
    run = _decode_op if torch.compiler.is_compiling() else _decode  # the operator costs more than the step's arithmetic
    for turn in sorted({octave & 1 for octave in octaves}):
        chosen, own = rings.sets[turn], [octave if octave & 1 == turn else OTHER for octave in octaves]
        outs[turn] = run(
            rings.rows, chosen.ring, chosen.count, rings.rotations, q, v, slot, own, rings.rule.factor_from,
            rings.rule.window, spec.scale, spec.once, spec.successor_values,
        ).to(v.dtype)  # fmt: skip
    if len(outs) == 1:
        return outs.popitem()[1]
    return torch.stack([outs[octave & 1][row] for row, octave in enumerate(octaves)])


def _decode(
    rows: Tensor,
    ring: Tensor,
    count: Tensor,
    rotations: Tensor,
    q: Tensor,
    v: Tensor,
    slot: Tensor,
    octaves: list[int],
    factor_from: int,
    window: int,
    scale: float,
    once: bool,
    successors: bool,
) -> Tensor:
    b, h, new, width = q.shape
    q, v = (x.detach().to(rows.dtype).contiguous() for x in (q, v))
    out = torch.empty(b, h, new, width, dtype=compute_type(rows))
    shape = decoding.Shape(
        h, ring.shape[2], width, rows.shape[2], *ring.shape[3:], rotations.shape[3], new, window, scale, once,
        int(successors),
    )  # type: ignore[call-arg]  # fmt: skip
    splits = np.array([(OTHER, 0) if octave == OTHER else split_buckets(octave, factor_from) for octave in octaves])
    arrays = [_flat(x) for x in (rows, ring, count, rotations, q, v, slot.contiguous())]
    arrays += [splits, shape, _flat(out)]
    if new * b * h <= ONE_CALL:
        decoding.decode_heads(0, b * h, *arrays)
    else:
        run_tasks(b * h, lambda task: decoding.decode_heads(task, task + 1, *arrays))
    return out


_decode_op = torch.library.custom_op(
    "reformer::decode",
    _decode,
    mutates_args=("rows", "ring", "count"),
    device_types="cpu",
    schema=(
        "(Tensor(a!) rows, Tensor(b!) ring, Tensor(c!) count, Tensor rotations, Tensor q, Tensor v, Tensor slot, "
        "int[] octaves, int factor_from, int window, float scale, bool once, bool successors) -> Tensor"
    ),
)


@_decode_op.register_fake
def _(rows: Tensor, ring: Tensor, count: Tensor, rotations: Tensor, q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape, dtype=compute_type(rows))


def _flat(x: Tensor) -> Any:
    """A contiguous tensor as a numpy array of one axis; bf16 as its bits."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).view(-1).numpy()


def _shape(rings: Rings, chosen: RingSet, columns: int) -> Any:
    _, h, slots, _, width = rings.rows.shape
    rounds, buckets, size = chosen.ring.shape[2:]
    spec, window = rings.spec, rings.rule.window
    return decoding.Shape(h, rounds, width, slots, buckets, size, columns, 0, window, spec.scale, spec.once, 0)

"""Compile the kernels of a first training step in fp32, by their types alone: `reformer.ops.cpu.ahead` runs this."""

import gc
import sys
from typing import Any

import numpy as np
from numba import typeof

from reformer.ops.cpu.ahead import GROUPS
from reformer.ops.cpu.backward import begin_backward, differentiate_runs, finish_backward
from reformer.ops.cpu.convolution_kernels import differentiate_block
from reformer.ops.cpu.forward import attend_runs, begin_forward, finish_forward
from reformer.ops.cpu.rows import Head, Options, Rows
from reformer.ops.cpu.schedule import schedule_runs


def first_kernels() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Kernels with arguments of the types that `kernels` and `convolution` call them with."""
    row, table = np.empty(0, np.int32), np.empty((1, 0), np.int32)
    head, numbers, runs = Head(np.empty(0, np.float32), 0, 0), np.empty(0, np.float32), np.empty((0, 6), np.int32)
    options = Options(
        width=0, length=0, scale=1.0, window=0, causal=True, include_self=0, once=False, chunk=0, before=0, after=0,
        rounds=0, keep=1.0, threshold=0, stream=0, shared=True, keeps_own=False,
    )  # fmt: skip
    rows = Rows(row, runs, row, row, row, table, table)
    four = head, head, head, head
    found = [
        (attend_runs, (*four, numbers, numbers, numbers, rows, options, None, 0, 0)),
        (begin_forward, (head, head, numbers, numbers, numbers, row, options, 0, 0)),
        (finish_forward, (head, head, numbers, numbers, numbers, row, options, 0, 0)),
        (differentiate_runs, (*four[:3], numbers, *four, numbers, numbers, rows, options, None, table, 0, 0)),
        (begin_backward, (head, head, numbers, *four, numbers, numbers, row, options, 0, 0)),
        (finish_backward, (head, numbers, head, head, options, 0, 0)),
        (schedule_runs, (runs, options)),
        (
            differentiate_block,
            (numbers, numbers, numbers, 0, numbers, numbers, np.empty(0, np.int64), row, row, 0, 0, 0, numbers),
        ),
    ]
    return {kernel.py_func.__name__: (kernel, arguments) for kernel, arguments in found}


def main(group: str) -> None:
    """Compile a group, and leave it where numba keeps kernels."""
    gc.disable()  # a tenth of the time
    kernels = first_kernels()
    for name in GROUPS[group]:
        kernel, arguments = kernels[name]
        kernel.compile(tuple(typeof(argument) for argument in arguments))


if __name__ == "__main__":
    main(sys.argv[1])

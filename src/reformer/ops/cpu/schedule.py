"""The order in which runs add to gradients: phases of pieces, no two of which add to the same token.

Runs of one pass are of one round and one octave, so their groups have no token in common; only runs of one group
share keys. A piece is some runs that follow each other. One that begins inside a group shares keys with the piece
before it, and belongs to the pass's other phase. So every token's sum has one order, however many threads there are.
"""

import numpy as np

from reformer.ops.cpu.jit import entry_kernel, kernel
from reformer.ops.cpu.rows import QUERIES

RUNS = 8
"""Least runs of a piece, but for the last of a pass."""

MOST = 16
"""Runs of a piece that ends inside a group, if those are enough."""


@kernel
def _least_runs(options):
    """Runs after which another one shares no keys with those before the first of them."""
    if options.window < 0:
        return max(RUNS, (options.before + options.after) // min(options.chunk, QUERIES) + 2)
    return max(RUNS, (options.window if options.causal else 2 * options.window) // QUERIES + 2)


@entry_kernel
def schedule_runs(runs, options):
    """Pieces [n, 2] (runs from and to) in the order of phases, and where among them each phase ends."""
    count, least, chunks = np.int64(0), _least_runs(options), options.window < 0
    pieces, phase = np.empty((runs.shape[0], 2), np.int32), np.empty(runs.shape[0], np.int32)
    for run in range(runs.shape[0]):
        same = run > 0 and runs[run, 5] == runs[run - 1, 5]
        inside = same and (chunks or runs[run, 2] < runs[run - 1, 1])
        size = run - np.int64(pieces[count - 1, 0]) if count else np.int64(0)
        ends = size >= max(least, MOST) if inside else size >= least
        if same and chunks and runs[run, 5] % 3 != 1:
            ends = False  # these see rows of another round too: one piece
        if not same or ends:
            pieces[count, 0] = run
            phase[count] = 2 * runs[run, 5] + (1 - phase[count - 1] % 2 if inside else 0)
            count += 1
        pieces[count - 1, 1] = run + 1
    return _sort(pieces, phase, count)


@kernel
def _sort(pieces, phase, count):
    most = np.int64(0)
    for i in range(count):
        most = max(most, np.int64(phase[i]))
    ends = np.zeros(most + 2, np.int64)
    for i in range(count):
        ends[phase[i] + 1] += 1
    for i in range(most + 1):
        ends[i + 1] += ends[i]
    ordered = np.empty((count, 2), np.int32)
    for i in range(count):
        at = ends[phase[i]]
        ordered[at, 0], ordered[at, 1] = pieces[i, 0], pieces[i, 1]
        ends[phase[i]] += 1
    return ordered, ends[: most + 1]

"""Products of a tile: a run's queries by a block of its keys.

Scores stand key by key with the queries in the lanes of vectors, so that what belongs to a query (maximum,
denominator, log-sum-exp) is a vector, and no sum runs across lanes.
"""

import numpy as np

from reformer.ops.cpu.jit import kernel
from reformer.ops.cpu.products import ROWS, multiply
from reformer.ops.cpu.rows import KEYS, QUERIES

LOW, HIGH, FIRST_QUERY, LAST_QUERY = 0, 1, 2, 3  # columns of the bounds of a block of keys
FIRST_KEY, LAST_KEY = 4, 5  # columns of the bounds of a block of queries


@kernel
def empty_bounds():
    """Fresh memory for `set_bounds`."""
    return np.empty((6, max(KEYS, QUERIES) // ROWS), np.int64)


@kernel
def set_bounds(rows, run, key, count, queries, options, bounds, unit):
    """Which queries each block of ROWS keys may meet, and which keys each block of ROWS queries.

    LOW, HIGH: queries in whole vectors and blocks, whose scores are computed; the other bounds lie inside and are
    exact for blocks, for the products behind the softmax. Without a window all meet all.
    """
    most = (queries + unit - 1) // unit * unit
    for block in range(bounds.shape[1]):
        bounds[LOW, block], bounds[HIGH, block] = 0, most
        bounds[FIRST_QUERY, block], bounds[LAST_QUERY, block] = 0, queries
        bounds[FIRST_KEY, block], bounds[LAST_KEY, block] = 0, count
    if options.window < 0:
        return
    behind = np.int64(rows.runs[run, 2]) + key - np.int64(rows.runs[run, 0])  # place of the first key, from the query's
    later = options.include_self - 1 if options.causal else options.window  # how far behind a query its last key stands
    for block in range((count + ROWS - 1) // ROWS):
        first = behind + block * ROWS
        last = behind + min(block * ROWS + ROWS, count) - 1
        bounds[FIRST_QUERY, block] = min(max(first - later, 0), queries)
        bounds[LAST_QUERY, block] = min(max(last + options.window + 1, bounds[FIRST_QUERY, block]), queries)
        bounds[LOW, block] = bounds[FIRST_QUERY, block] // unit * unit
        bounds[HIGH, block] = (bounds[LAST_QUERY, block] + unit - 1) // unit * unit
    for block in range((queries + ROWS - 1) // ROWS):
        first, last = block * ROWS - options.window - behind, block * ROWS + ROWS - 1 + later - behind
        bounds[FIRST_KEY, block] = min(max(first, 0), count)
        bounds[LAST_KEY, block] = min(max(last + 1, bounds[FIRST_KEY, block]), count)


@kernel
def keys_of_lanes(bounds, at, queries, lanes):
    """The keys [first, last) that some query of a vector meets, in whole blocks."""
    last = bounds[LAST_KEY, (min(at + lanes, queries) - 1) // ROWS]
    return bounds[FIRST_KEY, at // ROWS] // ROWS * ROWS, (last + ROWS - 1) // ROWS * ROWS


@kernel
def multiply_scores(a, b, stride, bounds, count, out):
    """out[j, i] = a[j] . b[:, i]."""
    j = 0
    while j < count:
        low, high, block = bounds[LOW, j // ROWS], bounds[HIGH, j // ROWS], j // ROWS + 1
        while block * ROWS < count and bounds[LOW, block] == low and bounds[HIGH, block] == high:
            block += 1
        multiply(
            a, j * stride, stride, 1, b, low, QUERIES, stride, out, j * QUERIES + low, QUERIES, block * ROWS - j,
            high - low, False,
        )  # fmt: skip
        j = block * ROWS


@kernel
def sum_over_keys(scores, values, stride, bounds, queries, out, add):
    """out[i] (+)= sum over j of scores[j, i] * values[j]."""
    for i in range(0, queries, ROWS):
        first, last = bounds[FIRST_KEY, i // ROWS], bounds[LAST_KEY, i // ROWS]
        multiply(
            scores, first * QUERIES + i, 1, QUERIES, values, first * stride, stride, last - first, out, i * stride,
            stride, ROWS, stride, add,
        )  # fmt: skip


@kernel
def sum_over_queries(scores, values, stride, bounds, count, out):
    """out[j] = sum over i of scores[j, i] * values[i]."""
    for j in range(0, count, ROWS):
        first, last = bounds[FIRST_QUERY, j // ROWS], bounds[LAST_QUERY, j // ROWS]
        multiply(
            scores, j * QUERIES + first, QUERIES, 1, values, first * stride, stride, last - first, out, j * stride,
            stride, ROWS, stride, False,
        )  # fmt: skip

"""A causal band in one pass, forward or backward, where a tile's queries see their own tile of keys and the last one.

A program walks along a run of tiles. Forward, the keys and values of a tile are loaded once and kept for the next one.
Backward, a tile meets as keys its own queries and those of the next tile, and with that the gradients of its keys are
complete; those of its queries are too, with what the tile before handed on. The tile in front of a run is read, or
computed, a second time, so that programs need nothing of each other.

A multiprocessor has room for two or three programs, too few to hide what memory takes to answer: rows are fetched a
tile ahead, and their tokens two. What is fetched waits in shared memory, and is loaded to registers where the code
says so: as late as it can be.
"""

import triton
import triton.language as tl

from reformer.ops.gpu.backward import pair_weights, read_sums
from reformer.ops.gpu.tiles import (
    LOG2E,
    NOBODY,
    as_keys,
    head_rows,
    load_rows,
    read_rows,
    slot_of,
    slots_beside,
    store_rows,
)
from reformer.ops.gpu.tuning import CHANGING, tuned

# of registers: three programs on a multiprocessor
FORWARD = [{"RUN": run, "STAGES": 5, "num_warps": 4, "maxnreg": 168} for run in (16, 8, 4)]


@triton.jit
def load_tile(x, batch, head, token, D: tl.constexpr, BD: tl.constexpr):
    """[rows, BD] of tokens as they are stored, zeros where nobody is."""
    return load_rows(x, batch, head, slot_of(token), token != NOBODY, D, BD)


@triton.jit
def load_delivered(
    v, successors, batch, head, token, length, D: tl.constexpr, BD: tl.constexpr, DELIVERS: tl.constexpr
):
    """[rows, BD] of the values that tokens deliver as keys."""
    slot = slots_beside(successors, batch, slot_of(token), token != NOBODY, length, 1, DELIVERS)
    return load_rows(v, batch, head, slot, slot >= 0, D, BD)


@tuned(FORWARD, ["BD", "M", "SHARED", "PRECISION", "size"])
@triton.jit(do_not_specialize=CHANGING)
def attend_runs(
    q, k, v, rows, successors, out, logsumexp, reach, scale, heads, length, tiles, size, first_round, rounds,
    D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, RUN: tl.constexpr, SELF: tl.constexpr, SHARED: tl.constexpr,
    DELIVERS: tl.constexpr, EPS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Outputs and log-sum-exps of a run of tiles, as `attend_tiles` gives them; 0 where nothing is offered."""
    runs = tl.cdiv(tiles, RUN)
    batch_head, run = tl.program_id(0) // runs, tl.program_id(0) % runs
    batch, head = batch_head // heads, batch_head % heads
    first = reach.first + run * RUN * M
    index = tl.arange(0, M)
    _, token, _ = read_rows(rows, batch, head, first - M + index, reach.end, False)
    keys_before, _ = as_keys(load_tile(k, batch, head, token, D, BD), D, SHARED, EPS)
    values_before = load_delivered(v, successors, batch, head, token, length, D, BD, DELIVERS)
    hash_round = first // rows.each
    for _ in tl.range(RUN, num_stages=STAGES, disable_licm=True):  # what it would hoist does not fit into registers
        position = first + index
        _, token, low = read_rows(rows, batch, head, position, reach.end, False)
        raw = load_tile(k, batch, head, token, D, BD)
        keys, _ = as_keys(raw, D, SHARED, EPS)
        queries = raw if SHARED else load_tile(q, batch, head, token, D, BD)
        own = index[None, :] < (index + SELF)[:, None]  # a query sees a column of its own tile, or of the one before
        own_scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        near_scores = tl.dot(queries, tl.trans(keys_before), input_precision=PRECISION)
        seen = tl.where(token >= 0, low - first, M)
        pairs = (own & (index[None, :] >= seen[:, None])) | (index[None, :] >= (seen + M)[:, None])
        scores = tl.where(pairs, tl.where(own, own_scores, near_scores), float("-inf"))
        top = tl.max(scores, 1)
        top = tl.where(top == float("-inf"), 0.0, top * (scale * LOG2E))  # the scale is positive here
        weights = tl.exp2(scores * (scale * LOG2E) - top[:, None])
        total = tl.sum(weights, 1)
        near_weights = tl.where(own, 0.0, weights).to(values_before.dtype)
        summed = tl.dot(near_weights, values_before, input_precision=PRECISION)
        own_weights = tl.where(own, weights, 0.0).to(values_before.dtype)
        values = load_delivered(v, successors, batch, head, token, length, D, BD, DELIVERS)
        summed = tl.dot(own_weights, values, summed, input_precision=PRECISION)
        nothing = total == 0
        total = tl.where(nothing, 1.0, total)
        part = round_of(position, hash_round, rows) - first_round
        at = (batch_head.to(tl.int64) * rounds + part) * length + token
        tl.store(logsumexp + at, tl.where(nothing, float("-inf"), (top + tl.log2(total)) / LOG2E), mask=token >= 0)
        result = summed * (1 / total)[:, None]
        store_rows(out, batch, head, part * length + token, token >= 0, result, D, BD)
        keys_before, values_before = keys, values
        first += M
        hash_round = round_of(first, hash_round, rows)


@triton.jit
def round_of(position, before, rows):
    """The round of rows that stand in round `before` or, less than a tile behind it, in the next."""
    return before + (position >= (before + 1) * rows.each).to(tl.int32)


@triton.jit
def read_tile(rows, logsumexp, deltas, batch_head, heads, length, first, M: tl.constexpr):
    """A tile's tokens as they are stored, the first rows that they see, and their sums."""
    position = first + tl.arange(0, M)
    _, token, low = read_rows(rows, batch_head // heads, batch_head % heads, position, 2147483647, False)
    z, delta = read_sums(logsumexp, deltas, batch_head, length, token, token >= 0)
    return token, low, z, delta


@triton.jit
def differentiate_scores(weights, grads, values, delta, PRECISION: tl.constexpr):
    """Gradients of the scaled products of queries and keys."""
    slopes = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
    return (weights * (slopes - delta[:, None])).to(grads.dtype)


BACKWARD = [{"RUN": run, "STAGES": 3, "num_warps": 4} for run in (8, 16, 32)]


@tuned(BACKWARD, ["BD", "M", "SHARED", "PRECISION", "size"])
@triton.jit(do_not_specialize=CHANGING)
def differentiate_tiles(
    q, k, v, grad, rows, successors, logsumexp, deltas, dq, dk, dv, reach, scale, heads, length, tiles, size,
    first_round, each,
    D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, RUN: tl.constexpr, SELF: tl.constexpr, SHARED: tl.constexpr,
    DELIVERS: tl.constexpr, EPS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of a run of tiles: of queries [b, h, rounds, l, d] and, at the rows' names, of keys and values."""
    runs = tl.cdiv(tiles, RUN)
    batch_head, run = tl.program_id(0) // runs, tl.program_id(0) % runs
    batch, head = batch_head // heads, batch_head % heads
    first = reach.first + (run * RUN - 1) * M
    index = tl.arange(0, M)
    token, low, z, delta = read_tile(rows, logsumexp, deltas, batch_head, heads, length, first, M)
    queries = load_tile(q, batch, head, token, D, BD)
    grads = load_tile(grad, batch, head, token, D, BD)
    handed_on = tl.zeros((M, BD), tl.float32)
    hash_round = first // rows.each
    for step in tl.range(RUN + 1, num_stages=STAGES, disable_licm=True):
        position = first + index
        raw = queries if SHARED else load_tile(k, batch, head, token, D, BD)
        keys, factors = as_keys(raw, D, SHARED, EPS)
        seen = tl.where(token >= 0, low - first, M)
        pairs = (index[None, :] < (index + SELF)[:, None]) & (index[None, :] >= seen[:, None])
        weights = pair_weights(queries, keys, z, pairs, scale, PRECISION)
        value_sum = tl.dot(tl.trans(weights.to(grads.dtype)), grads, input_precision=PRECISION)
        values = load_delivered(v, successors, batch, head, token, length, D, BD, DELIVERS)
        ds = differentiate_scores(weights, grads, values, delta, PRECISION)
        end = tl.where(step > 0, reach.end, 0)
        part = round_of(position, hash_round, rows) - first_round
        query_sum = tl.dot(ds, keys, handed_on, input_precision=PRECISION) * scale
        store_rows(dq, batch, head, part * length + token, (token >= 0) & (position < end), query_sum, D, BD)
        key_sum = tl.dot(tl.trans(ds), queries, input_precision=PRECISION)
        next_token, next_low, next_z, next_delta = read_tile(
            rows, logsumexp, deltas, batch_head, heads, length, first + M, M
        )
        next_queries = load_tile(q, batch, head, next_token, D, BD)
        next_grads = load_tile(grad, batch, head, next_token, D, BD)
        seen = tl.where(next_token >= 0, next_low - first, M)
        pairs = index[None, :] >= seen[:, None]  # its window leaves out the keys behind its own place
        weights = pair_weights(next_queries, keys, next_z, pairs, scale, PRECISION)
        value_sum = tl.dot(tl.trans(weights.to(grads.dtype)), next_grads, value_sum, input_precision=PRECISION)
        ds = differentiate_scores(weights, next_grads, values, next_delta, PRECISION)
        handed_on = tl.dot(ds, keys, input_precision=PRECISION)
        key_sum = tl.dot(tl.trans(ds), next_queries, key_sum, input_precision=PRECISION)
        names = rows.name + head_rows(rows, batch, head) + position
        name = tl.load(names, mask=(position >= 0) & (position < reach.end), other=0) + part * each
        mine = (token != NOBODY) & (position < end)
        store_rows(dk, batch, head, name, mine, key_sum * (factors * scale)[:, None], D, BD)
        store_rows(dv, batch, head, name, mine, value_sum, D, BD)
        token, low, z, delta, queries, grads = next_token, next_low, next_z, next_delta, next_queries, next_grads
        first += M
        hash_round = round_of(first, hash_round, rows)

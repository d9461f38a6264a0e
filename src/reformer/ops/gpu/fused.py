"""A causal band in one pass, forward or backward, where a tile's queries see their own tile of keys and the last one.

A program walks along a run of tiles. Forward, the keys and values of a tile are loaded once and kept for the next one.
Backward, a tile meets as keys its own queries and those of the next tile, and with that the gradients of its keys are
complete; those of its queries are too, with what the tile before handed on. The tile in front of a run is read, or
computed, a second time, so that programs need nothing of each other.
"""

import triton
import triton.language as tl

from reformer.ops.gpu.backward import differentiate_pairs, read_sums
from reformer.ops.gpu.tiles import LOG2E, NOBODY, as_keys, load_rows, read_keys, read_rows, store_rows
from reformer.ops.gpu.tuning import CHANGING, tuned

# of registers: three programs on a multiprocessor
FORWARD = [{"RUN": run, "num_warps": 4, "num_stages": 1, "maxnreg": 168} for run in (16, 8, 4)]


@tuned(FORWARD, ["BD", "M", "SHARED", "PRECISION", "size"])
@triton.jit(do_not_specialize=CHANGING)
def attend_runs(
    q, k, v, rows, out, logsumexp, reach, scale, heads, length, tiles, size, first_round, rounds,
    D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, RUN: tl.constexpr, SELF: tl.constexpr, SHARED: tl.constexpr,
    EPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs and log-sum-exps of a run of tiles, as `attend_tiles` gives them; 0 where nothing is offered."""
    runs = tl.cdiv(tiles, RUN)
    batch_head, run = tl.program_id(0) // runs, tl.program_id(0) % runs
    batch, head = batch_head // heads, batch_head % heads
    first = reach.first + run * RUN * M
    index = tl.arange(0, M)
    token, _, is_row = read_keys(rows, batch, head, first - M + index, reach.end, False)
    keys_before, _ = as_keys(load_rows(k, batch, head, token, is_row, D, BD), D, SHARED, EPS)
    values_before = load_rows(v, batch, head, token, is_row, D, BD)
    for _ in tl.range(RUN, disable_licm=True):  # what it would hoist does not fit into registers
        position = first + index
        _, token, low = read_rows(rows, batch, head, position, reach.end, False)
        is_query, is_row = token >= 0, token != NOBODY
        token = tl.where(is_query, token, -1 - token)
        raw = load_rows(k, batch, head, token, is_row, D, BD)
        keys, _ = as_keys(raw, D, SHARED, EPS)
        values = load_rows(v, batch, head, token, is_row, D, BD)
        queries = raw if SHARED else load_rows(q, batch, head, token, is_query, D, BD)
        low = tl.where(is_query, low - first, M)
        own = index[None, :] < (index + SELF)[:, None]  # a query sees a column of its own tile, or of the one before
        own_scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        near_scores = tl.dot(queries, tl.trans(keys_before), input_precision=PRECISION)
        scores = tl.where(own, own_scores, near_scores) * (scale * LOG2E)
        scores = tl.where(tl.where(own, index[None, :], (index - M)[None, :]) >= low[:, None], scores, float("-inf"))
        top = tl.max(scores, 1)
        top = tl.where(top == float("-inf"), 0.0, top)
        weights = tl.exp2(scores - top[:, None])
        total = tl.sum(weights, 1)
        own_weights = tl.where(own, weights, 0.0)
        summed = tl.dot(own_weights.to(values.dtype), values, input_precision=PRECISION)
        near_weights = (weights - own_weights).to(values.dtype)
        summed = tl.dot(near_weights, values_before, summed, input_precision=PRECISION)
        nothing = total == 0
        total = tl.where(nothing, 1.0, total)
        result = summed * (1 / total)[:, None]
        part = position // rows.each - first_round
        store_rows(out, batch, head, part * length + token, is_query, result, D, BD)
        at = (batch_head.to(tl.int64) * rounds + part) * length + token
        tl.store(logsumexp + at, tl.where(nothing, float("-inf"), (top + tl.log2(total)) / LOG2E), mask=is_query)
        keys_before, values_before = keys, values
        first += M


@triton.jit
def read_tile(rows, logsumexp, deltas, batch_head, heads, length, first, M: tl.constexpr):
    """A tile's rows as keys and as queries: tokens, the first column of the tile that they see, and their sums."""
    position = first + tl.arange(0, M)
    _, token, low = read_rows(rows, batch_head // heads, batch_head % heads, position, 2147483647, False)
    is_row, is_query = token != NOBODY, token >= 0
    token = tl.where(token < 0, -1 - token, token)
    z, delta = read_sums(logsumexp, deltas, batch_head, length, token, is_query)
    return token, tl.where(is_query, low - first, M), is_row, is_query, z, delta


BACKWARD = [{"RUN": run, "num_warps": 4, "num_stages": 1} for run in (8, 16, 32)]


@tuned(BACKWARD, ["BD", "M", "SHARED", "PRECISION", "size"])
@triton.jit(do_not_specialize=CHANGING)
def differentiate_tiles(
    q, k, v, grad, rows, logsumexp, deltas, dq, dk, dv, reach, scale, heads, length, tiles, size, first_round, each,
    D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, RUN: tl.constexpr, SELF: tl.constexpr, SHARED: tl.constexpr,
    EPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a run of tiles: of queries [b, h, rounds, l, d] and, at the rows' names, of keys and values."""
    runs = tl.cdiv(tiles, RUN)
    batch_head, run = tl.program_id(0) // runs, tl.program_id(0) % runs
    batch, head = batch_head // heads, batch_head % heads
    first = reach.first + (run * RUN - 1) * M
    index = tl.arange(0, M)
    token, low, is_row, is_query, z, delta = read_tile(rows, logsumexp, deltas, batch_head, heads, length, first, M)
    names = rows.name + batch.to(tl.int64) * rows.batch + head.to(tl.int64) * rows.head
    queries = load_rows(q, batch, head, token, is_row if SHARED else is_query, D, BD)
    grads = load_rows(grad, batch, head, token, is_query, D, BD)
    handed_on = tl.zeros((M, BD), tl.float32)
    for step in tl.range(RUN + 1, disable_licm=True):
        values = load_rows(v, batch, head, token, is_row, D, BD)
        raw = queries if SHARED else load_rows(k, batch, head, token, is_row, D, BD)
        next_token, next_low, next_is_row, next_is_query, next_z, next_delta = read_tile(
            rows, logsumexp, deltas, batch_head, heads, length, first + M, M
        )
        next_queries = load_rows(q, batch, head, next_token, next_is_row if SHARED else next_is_query, D, BD)
        next_grads = load_rows(grad, batch, head, next_token, next_is_query, D, BD)
        keys, factors = as_keys(raw, D, SHARED, EPS)
        pairs = (index[None, :] < (index + SELF)[:, None]) & (index[None, :] >= low[:, None])
        given, ds = differentiate_pairs(
            queries, keys, values, grads, z, delta, pairs, pairs, scale, 1.0, False, PRECISION
        )
        mine = is_row & (first + index < reach.end) & (step > 0)
        part = (first + index) // rows.each - first_round
        query_sum = tl.dot(ds, keys, handed_on, input_precision=PRECISION)
        store_rows(dq, batch, head, part * length + token, mine & is_query, query_sum * scale, D, BD)
        key_sum = tl.dot(tl.trans(ds), queries, input_precision=PRECISION)
        value_sum = tl.dot(tl.trans(given), grads, input_precision=PRECISION)
        pairs = index[None, :] >= (next_low + M)[:, None]  # its window leaves out the keys behind its own place
        given, ds = differentiate_pairs(
            next_queries, keys, values, next_grads, next_z, next_delta, pairs, pairs, scale, 1.0, False, PRECISION
        )
        handed_on = tl.dot(ds, keys, input_precision=PRECISION)
        key_sum = tl.dot(tl.trans(ds), next_queries, key_sum, input_precision=PRECISION)
        value_sum = tl.dot(tl.trans(given), next_grads, value_sum, input_precision=PRECISION)
        name = tl.load(names + first + index, mask=mine, other=0) + part * each
        store_rows(dk, batch, head, name, mine, key_sum * (factors * scale)[:, None], D, BD)
        store_rows(dv, batch, head, name, mine, value_sum, D, BD)
        token, low, is_row, is_query = next_token, next_low, next_is_row, next_is_query
        z, delta, queries, grads = next_z, next_delta, next_queries, next_grads
        first += M

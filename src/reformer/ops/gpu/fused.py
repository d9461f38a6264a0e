"""The backward of a causal band in one pass, where a tile's queries see their own tile of keys and the one before it.

A program walks along a run of tiles. As keys a tile meets its own queries and those of the next tile, and with that
the gradients of its keys are complete; those of its queries are too, with what the tile before handed on. The tile in
front of a run is computed a second time, so that programs need nothing of each other.
"""

import triton
import triton.language as tl

from reformer.ops.gpu.backward import differentiate_pairs, read_sums
from reformer.ops.gpu.tiles import NOBODY, as_keys, load_rows, read_rows, store_rows, visible
from reformer.ops.gpu.tuning import CHANGING, tuned


@triton.jit
def read_tile(rows, logsumexp, deltas, batch_head, heads, length, position):
    """What a tile's rows are, as keys and as queries: places, tokens, what they see, and their sums."""
    at, token, low = read_rows(rows, batch_head // heads, batch_head % heads, position, 2147483647, False)
    is_row, is_query = token != NOBODY, token >= 0
    token = tl.where(token < 0, -1 - token, token)
    z, delta = read_sums(logsumexp, deltas, batch_head, length, token, is_query)
    return at, token, tl.where(is_query, low, 2147483647), is_row, is_query, z, delta


RUNS = [{"RUN": run, "num_warps": 4, "num_stages": 1} for run in (8, 4, 16)]  # two stages would spill


@tuned(RUNS, ["BD", "M", "SHARED", "PRECISION", "size"])
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
    key = reach.first + (run * RUN - 1) * M + tl.arange(0, M)
    at, token, low, is_row, is_query, z, delta = read_tile(rows, logsumexp, deltas, batch_head, heads, length, key)
    handed_on = tl.zeros((M, BD), tl.float32)
    for step in tl.range(RUN + 1, disable_licm=True):  # what it would hoist does not fit into registers
        raw = load_rows(k, batch, head, token, is_row, D, BD)
        keys, factors = as_keys(raw, D, SHARED, EPS)
        values = load_rows(v, batch, head, token, is_row, D, BD)
        queries = raw if SHARED else load_rows(q, batch, head, token, is_query, D, BD)
        grads = load_rows(grad, batch, head, token, is_query, D, BD)
        pairs = visible(key, token, low, key + SELF, key, token, token, True, True, SELF)
        given, ds = differentiate_pairs(
            queries, keys, values, grads, z, delta, pairs, pairs, scale, 1.0, False, PRECISION
        )
        mine = is_row & (key < reach.end) & (step > 0)
        query_sum = tl.dot(ds, keys, handed_on, input_precision=PRECISION)
        part = key // rows.each - first_round
        store_rows(dq, batch, head, part * length + token, mine & is_query, query_sum, D, BD)
        key_sum = tl.dot(tl.trans(ds), queries, input_precision=PRECISION)
        value_sum = tl.dot(tl.trans(given), grads, input_precision=PRECISION)
        next_at, next_token, low, next_is_row, is_query, z, delta = read_tile(
            rows, logsumexp, deltas, batch_head, heads, length, key + M
        )
        queries = load_rows(q, batch, head, next_token, is_query, D, BD)
        grads = load_rows(grad, batch, head, next_token, is_query, D, BD)
        pairs = visible(key + M, next_token, low, key + M + SELF, key, token, token, True, True, SELF)
        given, ds = differentiate_pairs(
            queries, keys, values, grads, z, delta, pairs, pairs, scale, 1.0, False, PRECISION
        )
        handed_on = tl.dot(ds, keys, input_precision=PRECISION)
        key_sum += tl.dot(tl.trans(ds), queries, input_precision=PRECISION)
        value_sum += tl.dot(tl.trans(given), grads, input_precision=PRECISION)
        name = tl.load(rows.name + at, mask=mine, other=0) + part * each
        store_rows(dk, batch, head, name, mine, key_sum * factors[:, None], D, BD)
        store_rows(dv, batch, head, name, mine, value_sum, D, BD)
        at, token, is_row = next_at, next_token, next_is_row
        key += M

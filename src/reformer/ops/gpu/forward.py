"""The forward: each tile of queries attends to the keys around it, then the rounds of each token are merged.

A token is a query once in each round, so a round writes its own output and log-sum-exp and nothing is added
concurrently; rounds are merged in a fixed order.
"""

import triton
import triton.language as tl

from reformer.ops.gpu.tiles import (
    LOG2E,
    as_keys,
    kept_pairs,
    key_stream,
    load_rows,
    query_stream,
    read_keys,
    read_queries,
    row_index,
    slots_beside,
    store_rows,
    tile_span,
    visible,
)
from reformer.ops.gpu.tuning import CHANGING, MATTERS, stages, tuned


@tuned(stages(2, 3, 1), MATTERS)
@triton.jit(do_not_specialize=CHANGING)
def attend_tiles(
    q, k, v, rows, successors, out, logsumexp, reach, dropout, scale, heads, length, tiles, size, first_round, rounds,
    D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BAND: tl.constexpr, CAUSAL: tl.constexpr,
    SELF: tl.constexpr, SHARED: tl.constexpr, DROP: tl.constexpr, DELIVERS: tl.constexpr, EPS: tl.constexpr,
    PRECISION: tl.constexpr, KEEPS_OWN: tl.constexpr,
):  # fmt: skip
    """Outputs and log-sum-exps of a tile's queries in their rounds.

    `out` is [b, h, rounds, l, d] from `first_round` on. SHARED: keys are the queries, normalised. KEEPS_OWN: a token
    that is offered nothing takes its own value.
    """
    batch_head, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    batch, head = batch_head // heads, batch_head % heads
    first, end, start = tile_span(reach, tile, M)
    position = first + tl.arange(0, M)
    token, low, high, is_query = read_queries(rows, batch, head, position, end, BAND, CAUSAL, SELF)
    hash_round = row_index(rows, position, not BAND) // rows.each
    queries = load_rows(q, batch, head, token, is_query, D, BD)
    if DROP:
        stream = query_stream(dropout, batch, head, hash_round, token)
    top, total = tl.full((M,), float("-inf"), tl.float32), tl.zeros((M,), tl.float32)
    summed = tl.zeros((M, BD), tl.float32)
    from_key = start - reach.before
    to_key = tl.where(tl.max(is_query.to(tl.int32), 0) > 0, start + reach.chunk + reach.after, from_key)
    for at in range(from_key, to_key, N):
        key = at + tl.arange(0, N)
        key_token, document, is_key = read_keys(rows, batch, head, key, to_key, not BAND)
        keys, _ = as_keys(load_rows(k, batch, head, key_token, is_key, D, BD), D, SHARED, EPS)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * (scale * LOG2E)
        pairs = visible(position, token, low, high, key, key_token, document, BAND, CAUSAL, SELF)
        scores = tl.where(pairs, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        faded, weights = tl.exp2(top - shift), tl.exp2(scores - shift[:, None])
        total = total * faded + tl.sum(weights, 1)
        if DROP:
            slot = key * 0 if BAND else (key - from_key) // reach.chunk
            kept = kept_pairs(stream[:, None], key_stream(key_token, slot)[None, :], dropout)
            weights = tl.where(kept, weights, 0.0)
        slot = slots_beside(successors, batch, key_token, is_key, length, 1, DELIVERS)
        values = load_rows(v, batch, head, slot, slot >= 0, D, BD)
        summed = summed * faded[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        top = higher
    nothing = total == 0
    total = tl.where(nothing, 1.0, total)
    result = summed / (total * dropout.keep)[:, None]
    if KEEPS_OWN:
        result += load_rows(v, batch, head, token, is_query & nothing, D, BD).to(tl.float32)
    part = hash_round - first_round
    store_rows(out, batch, head, part * length + token, is_query, result, D, BD)
    at = (batch_head.to(tl.int64) * rounds + part) * length + token
    z = tl.where(nothing, float("-inf"), (top + tl.log2(total)) / LOG2E)
    tl.store(logsumexp + at, z, mask=is_query)


@triton.jit(do_not_specialize=CHANGING)
def merge_rounds(
    parts, part_z, v, real, before, out, logsumexp, heads, length, blocks, rounds, real_batch,
    D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, MASKED: tl.constexpr, MORE: tl.constexpr,
    KEEPS_OWN: tl.constexpr,
):  # fmt: skip
    """Add up rounds: one softmax over all of them.

    MORE: `before` and `logsumexp` hold what earlier rounds gave. KEEPS_OWN: a token that is offered nothing takes its
    value; else, as padding, 0.
    """
    batch_head, token = tl.program_id(0) // blocks, tl.program_id(0) % blocks * T + tl.arange(0, T)
    batch, head = batch_head // heads, batch_head % heads
    there = token < length
    if MASKED:
        there &= tl.load(real + batch * real_batch + token, mask=there, other=0) != 0
    line = batch_head.to(tl.int64) * length + token
    place = batch_head.to(tl.int64) * rounds * length + token
    top = tl.full((T,), float("-inf"), tl.float32)
    if MORE:
        top = tl.load(logsumexp + line, mask=there, other=float("-inf"))
    for i in range(rounds):
        top = tl.maximum(top, tl.load(part_z + place + i * length, mask=there, other=float("-inf")))
    shift = tl.where(top == float("-inf"), 0.0, top)
    total, summed = tl.zeros((T,), tl.float32), tl.zeros((T, BD), tl.float32)
    if MORE:
        total += tl.exp(tl.load(logsumexp + line, mask=there, other=float("-inf")) - shift)
        summed += load_rows(before, batch, head, token, there, D, BD).to(tl.float32) * total[:, None]
    for i in range(rounds):
        weight = tl.exp(tl.load(part_z + place + i * length, mask=there, other=float("-inf")) - shift)
        part = load_rows(parts, batch, head, i * length + token, there, D, BD).to(tl.float32)
        total += weight
        summed += part * weight[:, None]
    nothing = total == 0
    total = tl.where(nothing, 1.0, total)
    summed /= total[:, None]
    if KEEPS_OWN:
        summed += load_rows(v, batch, head, token, there & nothing, D, BD).to(tl.float32)
    if MORE:  # all of the program has read what it writes over
        tl.debug_barrier()
    store_rows(out, batch, head, token, token < length, summed, D, BD)
    z = tl.where(nothing, float("-inf"), shift + tl.log(total))
    tl.store(logsumexp + line, z, mask=token < length)

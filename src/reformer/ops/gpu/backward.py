"""The backward: gradients of queries by tiles of queries, those of keys and values by tiles of keys, then their sums.

No gradient passes through the merge of rounds (`docs/rule.md`, identity 2), so each round is differentiated from
the merged output and log-sum-exp. Every row of keys writes its own gradients; a token's rows, which recur in later
octaves and in every round, are summed in a fixed order.
"""

import triton
import triton.language as tl

from reformer.ops.gpu.tiles import (
    LOG2E,
    as_keys,
    head_rows,
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


@triton.jit(do_not_specialize=CHANGING)
def dot_rows(
    x, y, out, heads, length, blocks, D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr
):  # fmt: skip
    """[b, h, l]: x . y of each token."""
    batch_head, token = tl.program_id(0) // blocks, tl.program_id(0) % blocks * T + tl.arange(0, T)
    batch, head = batch_head // heads, batch_head % heads
    there = token < length
    product = load_rows(x, batch, head, token, there, D, BD).to(tl.float32)
    product *= load_rows(y, batch, head, token, there, D, BD).to(tl.float32)
    tl.store(out + batch_head.to(tl.int64) * length + token, tl.sum(product, 1), mask=there)


@triton.jit
def pair_weights(queries, keys, z, pairs, scale, PRECISION: tl.constexpr):
    """Probabilities of pairs [queries, keys]."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * (scale * LOG2E) - z[:, None]
    return tl.exp2(tl.where(pairs, scores, float("-inf")))


@triton.jit
def differentiate_pairs(
    queries, keys, values, grads, z, delta, pairs, kept, scale, keep, DROP: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Probabilities behind dropout and gradients of scaled products, of pairs [queries, keys]."""
    weights = pair_weights(queries, keys, z, pairs, scale, PRECISION)
    slopes = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
    given = weights
    if DROP:
        slopes = tl.where(kept, slopes / keep, 0.0)
        given = tl.where(kept, weights / keep, 0.0)
    return given.to(grads.dtype), (weights * (slopes - delta[:, None])).to(queries.dtype)


@triton.jit
def read_sums(logsumexp, deltas, batch_head, length, token, is_query):
    """The log-sum-exp, in powers of two, and the gradient's product with the output, of each query."""
    at = batch_head.to(tl.int64) * length + token
    z = tl.load(logsumexp + at, mask=is_query, other=0.0) * LOG2E
    return z, tl.load(deltas + at, mask=is_query, other=0.0)


@tuned(stages(2, 3, 1), MATTERS)
@triton.jit(do_not_specialize=CHANGING)
def differentiate_queries(
    q, k, v, grad, rows, successors, logsumexp, deltas, dq, reach, dropout, scale, heads, length, tiles, size,
    first_round,
    D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BAND: tl.constexpr, CAUSAL: tl.constexpr,
    SELF: tl.constexpr, SHARED: tl.constexpr, DROP: tl.constexpr, DELIVERS: tl.constexpr, EPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's queries, [b, h, rounds, l, d] from `first_round` on."""
    batch_head, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    batch, head = batch_head // heads, batch_head % heads
    first, end, start = tile_span(reach, tile, M)
    position = first + tl.arange(0, M)
    token, low, high, is_query = read_queries(rows, batch, head, position, end, BAND, CAUSAL, SELF)
    hash_round = row_index(rows, position, not BAND) // rows.each
    queries = load_rows(q, batch, head, token, is_query, D, BD)
    grads = load_rows(grad, batch, head, token, is_query, D, BD)
    z, delta = read_sums(logsumexp, deltas, batch_head, length, token, is_query)
    if DROP:
        stream = query_stream(dropout, batch, head, hash_round, token)
    summed = tl.zeros((M, BD), tl.float32)
    from_key = start - reach.before
    to_key = tl.where(tl.max(is_query.to(tl.int32), 0) > 0, start + reach.chunk + reach.after, from_key)
    for at in range(from_key, to_key, N):
        key = at + tl.arange(0, N)
        key_token, document, is_key = read_keys(rows, batch, head, key, to_key, not BAND)
        keys, _ = as_keys(load_rows(k, batch, head, key_token, is_key, D, BD), D, SHARED, EPS)
        slot = slots_beside(successors, batch, key_token, is_key, length, 1, DELIVERS)
        values = load_rows(v, batch, head, slot, slot >= 0, D, BD)
        pairs = visible(position, token, low, high, key, key_token, document, BAND, CAUSAL, SELF)
        kept = pairs
        if DROP:
            slot = key * 0 if BAND else (key - from_key) // reach.chunk
            kept = kept_pairs(stream[:, None], key_stream(key_token, slot)[None, :], dropout)
        _, ds = differentiate_pairs(
            queries, keys, values, grads, z, delta, pairs, kept, scale, dropout.keep, DROP, PRECISION
        )
        summed += tl.dot(ds, keys, input_precision=PRECISION)
    store_rows(dq, batch, head, (hash_round - first_round) * length + token, is_query, summed * scale, D, BD)


@tuned(stages(3, 1), MATTERS)
@triton.jit(do_not_specialize=CHANGING)
def differentiate_keys(
    q, k, v, grad, rows, successors, logsumexp, deltas, dk, dv, reach, dropout, scale, heads, length, tiles, size,
    first_round, each,
    D: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BAND: tl.constexpr, CAUSAL: tl.constexpr,
    SELF: tl.constexpr, SHARED: tl.constexpr, DROP: tl.constexpr, DELIVERS: tl.constexpr, EPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's keys, as if the factor that normalises each were a constant, and of what they deliver.

    Each row writes to its name, [b, h, rounds, each, d] from `first_round` on. What a key sees is the mirror image
    of what a query sees.
    """
    batch_head, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    batch, head = batch_head // heads, batch_head % heads
    first, end, start = tile_span(reach, tile, M)
    key = first + tl.arange(0, M)
    key_token, document, is_key = read_keys(rows, batch, head, key, end, not BAND)
    keys, factors = as_keys(load_rows(k, batch, head, key_token, is_key, D, BD), D, SHARED, EPS)
    slot = slots_beside(successors, batch, key_token, is_key, length, 1, DELIVERS)
    values = load_rows(v, batch, head, slot, slot >= 0, D, BD)
    at = row_index(rows, key, not BAND)
    name = tl.load(rows.name + head_rows(rows, batch, head) + at, mask=is_key)
    name += (at // rows.each - first_round) * each
    key_sum, value_sum = tl.zeros((M, BD), tl.float32), tl.zeros((M, BD), tl.float32)
    from_query = start - reach.after
    to_query = tl.where(tl.max(is_key.to(tl.int32), 0) > 0, start + reach.chunk + reach.before, from_query)
    for at in tl.range(from_query, to_query, N, disable_licm=True):  # what it would hoist does not fit into registers
        position = at + tl.arange(0, N)
        token, low, high, is_query = read_queries(rows, batch, head, position, to_query, BAND, CAUSAL, SELF)
        queries = load_rows(q, batch, head, token, is_query, D, BD)
        grads = load_rows(grad, batch, head, token, is_query, D, BD)
        z, delta = read_sums(logsumexp, deltas, batch_head, length, token, is_query)
        pairs = visible(position, token, low, high, key, key_token, document, BAND, CAUSAL, SELF)
        kept = pairs
        if DROP:
            hash_round = row_index(rows, position, not BAND) // rows.each
            stream = query_stream(dropout, batch, head, hash_round, token)
            slot = position * 0
            if not BAND:  # as the query counts the chunks around its own
                slot = (reach.before + reach.after) // reach.chunk - (position - from_query) // reach.chunk
            kept = kept_pairs(stream[:, None], key_stream(key_token[None, :], slot[:, None]), dropout)
        given, ds = differentiate_pairs(
            queries, keys, values, grads, z, delta, pairs, kept, scale, dropout.keep, DROP, PRECISION
        )
        value_sum += tl.dot(tl.trans(given), grads, input_precision=PRECISION)
        key_sum += tl.dot(tl.trans(ds), queries, input_precision=PRECISION)
    store_rows(dk, batch, head, name, is_key, key_sum * (factors * scale)[:, None], D, BD)
    store_rows(dv, batch, head, name, is_key, value_sum, D, BD)


@triton.jit(do_not_specialize=CHANGING)
def merge_gradients(
    dq_parts, dk_parts, dv_parts, q, grad, logsumexp, real, names, predecessors, dq_before, dv_before, dq, dv, heads,
    length, blocks, rounds, each, octaves,
    names_batch, real_batch, D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, MASKED: tl.constexpr,
    MORE: tl.constexpr, DELIVERS: tl.constexpr, KEEPS_OWN: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Sum what rounds and octaves give to each token as a query and as a key, through the key's norm.

    `names` [b, octaves, l] tells where the token's rows stand, -1 where it has none. A value's gradient stands with the
    rows of the one token that delivers it. MORE: add to `dq_before` and `dv_before`.
    """
    batch_head, token = tl.program_id(0) // blocks, tl.program_id(0) % blocks * T + tl.arange(0, T)
    batch, head = batch_head // heads, batch_head % heads
    there = token < length
    if MASKED:
        there &= tl.load(real + batch * real_batch + token, mask=there, other=0) != 0
    query_sum, value_sum = tl.zeros((T, BD), tl.float32), tl.zeros((T, BD), tl.float32)
    key_sum = tl.zeros((T, BD), tl.float32)
    if MORE:
        query_sum += load_rows(dq_before, batch, head, token, there, D, BD).to(tl.float32)
        value_sum += load_rows(dv_before, batch, head, token, there, D, BD).to(tl.float32)
    elif KEEPS_OWN:
        z = tl.load(logsumexp + batch_head.to(tl.int64) * length + token, mask=there, other=0.0)
        value_sum += load_rows(grad, batch, head, token, there & (z == float("-inf")), D, BD).to(tl.float32)
    for i in range(rounds):
        query_sum += load_rows(dq_parts, batch, head, i * length + token, there, D, BD).to(tl.float32)
    source = slots_beside(predecessors, batch, token, there, length, -1, DELIVERS)
    for octave in range(octaves):
        at = names + batch.to(tl.int64) * names_batch + octave * length
        name = tl.load(at + token, mask=there, other=-1)
        if tl.max(name, 0) >= 0:
            for i in range(rounds):
                key_sum += load_rows(dk_parts, batch, head, i * each + name, name >= 0, D, BD).to(tl.float32)
        name = tl.load(at + source, mask=source >= 0, other=-1)
        if tl.max(name, 0) >= 0:
            for i in range(rounds):
                value_sum += load_rows(dv_parts, batch, head, i * each + name, name >= 0, D, BD).to(tl.float32)
    x = load_rows(q, batch, head, token, there, D, BD).to(tl.float32)
    key_sum -= x * (tl.sum(key_sum * x, 1) / (tl.sum(x * x, 1) + D * EPS))[:, None]
    if MORE:  # all of the program has read what it writes over
        tl.debug_barrier()
    store_rows(dq, batch, head, token, token < length, query_sum + key_sum, D, BD)
    store_rows(dv, batch, head, token, token < length, value_sum, D, BD)

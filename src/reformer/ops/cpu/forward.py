"""The forward of one (batch, head): begin, attend run by run, finish.

Runs of all rounds add to each token's own row, round by round; the softmax is merged under a running maximum, which
is safe for any norm of the queries.
"""

import numpy as np

from reformer.ops.cpu.jit import entry_kernel, kernel
from reformer.ops.cpu.mask import drop_pairs, mask_pairs, share_of_offers
from reformer.ops.cpu.products import ROWS, transpose
from reformer.ops.cpu.rows import (
    KEYS,
    QUERIES,
    clear,
    is_padding,
    key_factors,
    pack,
    padded,
    run_tokens,
    scratch,
    three_scratches,
    value_tokens,
)
from reformer.ops.cpu.simd import (
    exp,
    lanes,
    load,
    maximum,
    number,
    plus,
    spread,
    store,
    subtract,
    times,
    times_plus,
)
from reformer.ops.cpu.tiles import empty_bounds, keys_of_lanes, multiply_scores, set_bounds, sum_over_keys


@kernel
def _soften(scores, bounds, queries, most, rescale, denominator):
    """From scores to their exponentials, in place, under the maximum of this block and those before it.

    `rescale` is what brings earlier sums under it; `denominator` is brought, and this block's sums are added.
    """
    least = spread(scores.dtype.type(-1e30))  # a query that was offered nothing yet: exp(-inf + 1e30) is 0
    n = lanes(scores)
    for i in range(0, queries, n):
        first, last = keys_of_lanes(bounds, i, queries, n)
        before = load(most, i)
        highest = before
        for j in range(first, last):
            highest = maximum(load(scores, j * QUERIES + i), highest)
        store(highest, most, i)
        shift = maximum(highest, least)
        factor = exp(subtract(before, shift))
        total = times(load(denominator, i), factor)
        store(factor, rescale, i)
        for j in range(first, last):
            p = exp(subtract(load(scores, j * QUERIES + i), shift))
            store(p, scores, j * QUERIES + i)
            total = plus(total, p)
        store(total, denominator, i)


@kernel
def _sum_scores(scores, bounds, queries, denominator):
    n = lanes(scores)
    for i in range(0, queries, n):
        first, last = keys_of_lanes(bounds, i, queries, n)
        total = load(denominator, i)
        for j in range(first, last):
            total = plus(total, load(scores, j * QUERIES + i))
        store(total, denominator, i)


@kernel
def _merge(sums, most, denominator, stride, tokens, queries, out, all_most, all_denominators, width):
    """Add a run's numerators and denominators to those of its tokens."""
    n = lanes(sums)
    whole = width // n * n
    for i in range(queries):
        t = np.int64(tokens[i])
        if t < 0 or denominator[i] <= 0:
            continue
        highest = max(all_most[t], most[i])
        old, new = exp(all_most[t] - highest), exp(most[i] - highest)
        all_most[t] = highest
        all_denominators[t] = all_denominators[t] * old + denominator[i] * new
        at, olds, news = out.first + t * out.row, spread(old), spread(new)
        for x in range(0, whole, n):
            more = times(load(sums, i * stride + x), news)
            store(times_plus(load(out.data, at + x), olds, more), out.data, at + x)
        for x in range(whole, width):
            out.data[at + x] = out.data[at + x] * old + sums[i * stride + x] * new


@entry_kernel
def begin_forward(q, out, factors, most, denominator, document, options, first, last):
    """Tokens [first, last) before any run: nothing offered yet, and the factor that makes a key of each."""
    if options.shared:
        key_factors(q, document, options, first, last, factors)
    clear(out, first, last, options.width)
    for t in range(first, last):
        most[t], denominator[t] = -np.inf, 0


@entry_kernel
def attend_runs(q, k, v, out, factors, most, denominator, rows, options, once, first, last):
    """Add what runs [first, last) deliver, under each token's maximum; in one round, no two share a query.

    `once` is None where a key counts as often as it is offered: then what counts offers is not compiled.
    """
    kind, width = most, options.width
    one, stride, unit = kind.dtype.type(1), padded(width, lanes(kind)), max(lanes(kind), ROWS)
    queries, columns, sums = three_scratches(QUERIES * stride, kind)
    keys, values, scores = (
        scratch(KEYS * stride, kind),
        scratch(KEYS * stride, kind),
        scratch(KEYS * QUERIES, kind),
    )
    run_most, rescale, run_denominator = three_scratches(QUERIES, kind)
    query_tokens, key_tokens, bounds = np.empty(QUERIES, np.int32), np.empty(KEYS, np.int32), empty_bounds()
    delivered, none, before = np.empty(KEYS, np.int32), scratch(0, kind), scratch(QUERIES, kind)

    for run in range(first, last):
        if is_padding(rows, run):
            continue
        n, total = np.int64(rows.runs[run, 1] - rows.runs[run, 0]), np.int64(rows.runs[run, 3] - rows.runs[run, 2])
        for i in range(QUERIES):
            run_most[i], run_denominator[i] = -np.inf, 0
        for key in range(0, total, KEYS):
            count = min(total - key, KEYS)
            run_tokens(rows, run, key, count, query_tokens, key_tokens)
            if key == 0:
                pack(q, query_tokens, n, width, kind.dtype.type(options.scale), none, queries, stride)
                transpose(queries, 0, stride, columns, 0, QUERIES, padded(n, unit), stride)
            pack(k, key_tokens, count, width, one, factors, keys, stride)
            value_tokens(rows, key_tokens, count, delivered)
            pack(v, delivered, count, width, one, none, values, stride)
            set_bounds(rows, run, key, count, n, options, bounds, unit)
            multiply_scores(keys, columns, stride, bounds, count, scores)
            mask_pairs(scores, rows, run, key, count, query_tokens, key_tokens, n, options, bounds)
            for i in range(QUERIES):
                before[i] = run_denominator[i]
            _soften(scores, bounds, n, run_most, rescale, run_denominator)
            if once is not None:
                share_of_offers(scores, rows, run, key, count, n, options)
                for i in range(QUERIES):
                    run_denominator[i] = before[i] * rescale[i]
                _sum_scores(scores, bounds, n, run_denominator)
            if options.keep < 1:
                drop_pairs(scores, rows, run, key, count, query_tokens, key_tokens, n, options, bounds)
            if key:
                for i in range(n):
                    for x in range(i * stride, (i + 1) * stride):
                        sums[x] *= rescale[i]
            sum_over_keys(scores, values, stride, bounds, n, sums, key > 0)
        _merge(sums, run_most, run_denominator, stride, query_tokens, n, out, most, denominator, width)


@entry_kernel
def finish_forward(v, out, logsumexp, most, denominator, document, options, first, last):
    """Divide by the denominators; a token that was offered nothing has 0, or takes its own value."""
    for t in range(first, last):
        logsumexp[t] = most[t] + np.log(denominator[t]) if denominator[t] != 0 else -np.inf
        at, source = out.first + t * out.row, v.first + t * v.row
        if denominator[t] != 0:
            factor = out.data.dtype.type(1 / (denominator[t] * options.keep))
            for x in range(options.width):
                out.data[at + x] *= factor
        elif options.keeps_own and document[t] >= 0:
            for x in range(options.width):
                out.data[at + x] = number(v.data, source + x)

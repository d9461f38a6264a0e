"""The backward of one (batch, head), from the merged output and log-sum-exp (`docs/rule.md`, identity 2).

Begin, differentiate piece by piece (`reformer.ops.cpu.schedule`), finish.
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
    scatter,
    scratch,
    three_scratches,
    value_tokens,
)
from reformer.ops.cpu.simd import dot, exp, lanes, load, number, store, subtract, times
from reformer.ops.cpu.tiles import (
    empty_bounds,
    keys_of_lanes,
    multiply_scores,
    set_bounds,
    sum_over_keys,
    sum_over_queries,
)


@kernel
def _probabilities(scores, bounds, queries, logsumexp):
    """From scores to probabilities, in place."""
    n = lanes(scores)
    for i in range(0, queries, n):
        first, last = keys_of_lanes(bounds, i, queries, n)
        shift = load(logsumexp, i)
        for j in range(first, last):
            store(exp(subtract(load(scores, j * QUERIES + i), shift)), scores, j * QUERIES + i)


@kernel
def _score_gradients(scores, slopes, bounds, queries, delta):
    """From gradients of probabilities (`slopes`) to those of scores, in place; `scores` are the probabilities."""
    n = lanes(scores)
    for i in range(0, queries, n):
        first, last = keys_of_lanes(bounds, i, queries, n)
        mean = load(delta, i)
        for j in range(first, last):
            at = j * QUERIES + i
            store(times(load(scores, at), subtract(load(slopes, at), mean)), slopes, at)


@entry_kernel
def begin_backward(q, out, logsumexp, grad, dq, dk, dv, factors, delta, document, options, first, last):
    """Tokens [first, last) before any run: `delta`, do . o of each, and the factor that makes a key of it.

    Gradients start at 0, or at do for a value that its own token took.
    """
    width = options.width
    if options.shared:
        key_factors(q, document, options, first, last, factors)
    for gradient in (dq, dk, dv):
        clear(gradient, first, last, width)
    for t in range(first, last):
        grad_at, dv_at = grad.first + t * grad.row, dv.first + t * dv.row
        delta[t] = dot(out.data, out.first + t * out.row, grad.data, grad_at, width)
        if options.keeps_own and logsumexp[t] == -np.inf and document[t] >= 0:
            for x in range(width):
                dv.data[dv_at + x] = number(grad.data, grad_at + x)


@kernel
def runs_of(pieces, first, last):
    """The numbers of the runs of pieces [first, last)."""
    count = np.int64(0)
    for piece in range(first, last):
        count += pieces[piece, 1] - pieces[piece, 0]
    runs, count = np.empty(count, np.int64), np.int64(0)
    for piece in range(first, last):
        for run in range(pieces[piece, 0], pieces[piece, 1]):
            runs[count] = run
            count += 1
    return runs


@entry_kernel
def differentiate_runs(q, k, v, logsumexp, grad, dq, dk, dv, factors, delta, rows, options, once, pieces, first, last):
    """Add the gradients of the runs of pieces [first, last) to those of their tokens; `once` as in the forward."""
    kind, width = delta, options.width
    one, stride, unit = kind.dtype.type(1), padded(width, lanes(kind)), max(lanes(kind), ROWS)
    queries, columns, query_sums = three_scratches(QUERIES * stride, kind)
    grads, grad_columns = scratch(QUERIES * stride, kind), scratch(QUERIES * stride, kind)
    keys, values, key_sums = three_scratches(KEYS * stride, kind)
    scores, slopes, none = scratch(KEYS * QUERIES, kind), scratch(KEYS * QUERIES, kind), scratch(0, kind)
    z, run_delta = scratch(QUERIES, kind), scratch(QUERIES, kind)
    query_tokens, key_tokens, bounds = np.empty(QUERIES, np.int32), np.empty(KEYS, np.int32), empty_bounds()
    delivered = np.empty(KEYS, np.int32)

    for run in runs_of(pieces, first, last):
        n, total = np.int64(rows.runs[run, 1] - rows.runs[run, 0]), np.int64(rows.runs[run, 3] - rows.runs[run, 2])
        if is_padding(rows, run):
            continue
        for key in range(0, total, KEYS):
            count = min(total - key, KEYS)
            run_tokens(rows, run, key, count, query_tokens, key_tokens)
            if key == 0:
                pack(q, query_tokens, n, width, kind.dtype.type(options.scale), none, queries, stride)
                pack(grad, query_tokens, n, width, kind.dtype.type(1 / options.keep), none, grads, stride)
                transpose(queries, 0, stride, columns, 0, QUERIES, padded(n, unit), stride)
                transpose(grads, 0, stride, grad_columns, 0, QUERIES, padded(n, unit), stride)
                for i in range(QUERIES):
                    t = query_tokens[i] if i < n else np.int32(-1)
                    offered = t >= 0 and logsumexp[t] != -np.inf
                    z[i], run_delta[i] = logsumexp[t] if offered else 0, delta[t] if offered else 0
            pack(k, key_tokens, count, width, one, factors, keys, stride)
            value_tokens(rows, key_tokens, count, delivered)
            pack(v, delivered, count, width, one, none, values, stride)
            set_bounds(rows, run, key, count, n, options, bounds, unit)
            multiply_scores(keys, columns, stride, bounds, count, scores)
            multiply_scores(values, grad_columns, stride, bounds, count, slopes)
            mask_pairs(scores, rows, run, key, count, query_tokens, key_tokens, n, options, bounds)
            _probabilities(scores, bounds, n, z)
            if once is not None:
                share_of_offers(scores, rows, run, key, count, n, options)
            if options.keep < 1:
                drop_pairs(slopes, rows, run, key, count, query_tokens, key_tokens, n, options, bounds)
            _score_gradients(scores, slopes, bounds, n, run_delta)
            if options.keep < 1:
                drop_pairs(scores, rows, run, key, count, query_tokens, key_tokens, n, options, bounds)
            sum_over_queries(scores, grads, stride, bounds, count, key_sums)
            scatter(key_sums, stride, delivered, count, one, dv, width)
            sum_over_queries(slopes, queries, stride, bounds, count, key_sums)
            scatter(key_sums, stride, key_tokens, count, one, dk, width)
            sum_over_keys(slopes, keys, stride, bounds, n, query_sums, key > 0)
        scatter(query_sums, stride, query_tokens, n, kind.dtype.type(options.scale), dq, width)


@entry_kernel
def finish_backward(q, factors, dk, dq, options, first, last):
    """Add to dq of tokens [first, last) what comes through k = q * factor(q), once per token."""
    for t in range(first, last):
        factor = factors[t]
        if factor == 0:
            continue
        at, q_at, k_at = dq.first + t * dq.row, q.first + t * q.row, dk.first + t * dk.row
        along = dot(q.data, q_at, dk.data, k_at, options.width) * factor * factor
        for x in range(options.width):
            dq.data[at + x] += factor * (dk.data[k_at + x] - along * number(q.data, q_at + x))

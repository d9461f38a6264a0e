"""What kernels work on: rows of tokens, runs of them, gathering and adding up."""

from collections import namedtuple

import numpy as np

from reformer.ops.cpu.jit import kernel
from reformer.ops.cpu.products import ROWS
from reformer.ops.cpu.simd import dot, lanes, load, number, spread, store, times, times_plus
from reformer.ops.spec import KEY_EPS

QUERIES = 64  # most query rows of a run: its scores against a block of keys stay in L1
KEYS = 128  # rows of a block of keys; a run may have several

Options = namedtuple(
    "Options",
    "width length scale window causal include_self once chunk before after rounds keep threshold stream shared "
    "keeps_own",
)
"""Numbers that a kernel needs: head width, tokens, factor of the logits; `window` in rows, or -1 for the chunk rules
(then `chunk`, `before`, `after`, in rows); `keep` = 1 - dropout, its threshold and random stream; `shared`: keys are
the queries, normalised; `keeps_own`: a token that is offered nothing takes its own value."""

Rows = namedtuple("Rows", "tokens runs document successors names place group")
"""Sorted rows of one (batch, head): tokens (-1: nobody), runs [n, 6] (queries from and to, keys from and to,
round, pass), the document of every token, the token whose value each delivers (-1: none; empty: its own), and for
`once` the name of each row, and for each round and name its place and group."""

Head = namedtuple("Head", "data first row")
"""The [l, d] of one (batch, head) in a flat array: the first number and the distance from token to token."""


@kernel
def padded(n, multiple):
    """The next multiple."""
    return (n + multiple - 1) // multiple * multiple


@kernel
def scratch(count, kind):
    """Fresh memory of numbers of the type of `kind`; a test puts NaN into it."""
    return np.empty(count, kind.dtype)


@kernel
def three_scratches(count, kind):
    """Fresh memory three times."""
    return scratch(count, kind), scratch(count, kind), scratch(count, kind)


@kernel
def pack(head, tokens, count, width, factor, by_token, target, stride):
    """Gather rows of tokens, times `factor` and, if given, a number of each token.

    Zeros fill a whole block, as far as `target` reaches.
    """
    n = lanes(target)
    whole = width // n * n
    for i in range(padded(count, max(n, ROWS))):
        at = i * stride
        if i >= count or tokens[i] < 0:
            for x in range(at, min(at + stride, target.size)):
                target[x] = 0
            continue
        t = np.int64(tokens[i])
        source = head.first + t * head.row
        f = factor * by_token[t] if by_token.size else factor
        factors = spread(f)
        for x in range(0, whole, n):
            store(times(load(head.data, source + x), factors), target, at + x)
        if whole < stride:
            for x in range(whole, width):
                target[at + x] = number(head.data, source + x) * f
            for x in range(at + width, at + stride):
                target[x] = 0


@kernel
def scatter(source, stride, tokens, count, factor, target, width):
    """Add rows, times `factor`, to those of their tokens."""
    n = lanes(source)
    whole, factors = width // n * n, spread(factor)
    for i in range(count):
        if tokens[i] < 0:
            continue
        row, at = i * stride, target.first + np.int64(tokens[i]) * target.row
        for x in range(0, whole, n):
            store(times_plus(load(source, row + x), factors, load(target.data, at + x)), target.data, at + x)
        for x in range(whole, width):
            target.data[at + x] += source[row + x] * factor


@kernel
def clear(head, first, last, width):
    """Zeros in some rows."""
    for t in range(first, last):
        at = head.first + t * head.row
        for x in range(at, at + width):
            head.data[x] = 0


@kernel
def run_tokens(rows, run, key, count, query_tokens, key_tokens):
    """Tokens of a run's queries and of a block of its keys; rows of the chunk rules lie on a ring."""
    for i in range(rows.runs[run, 1] - rows.runs[run, 0]):
        query_tokens[i] = rows.tokens[rows.runs[run, 0] + i]
    n = np.int64(rows.tokens.size)
    at = (np.int64(rows.runs[run, 2]) + key) % n
    for j in range(count):
        key_tokens[j] = rows.tokens[at]
        at = at + 1 if at + 1 < n else 0


@kernel
def value_tokens(rows, key_tokens, count, out):
    """The tokens whose values a block of keys delivers: -1 for none."""
    own = rows.successors.size == 0
    for j in range(count):
        token = key_tokens[j]
        out[j] = token if own or token < 0 else rows.successors[token]


@kernel
def is_padding(rows, run):
    """Whether a run's queries are nobody; chunk rules have such runs."""
    for row in range(rows.runs[run, 0], rows.runs[run, 1]):  # noqa: SIM110, `all` compiles for a second
        if rows.tokens[row] >= 0:
            return False
    return True


@kernel
def key_factors(q, document, options, first, last, out):
    """Write the factor that makes a key of each query (`docs/rule.md`, "Softmax"); 0 for padding."""
    width = options.width
    for t in range(first, last):
        at = q.first + t * q.row
        mean_square = np.float64(dot(q.data, at, q.data, at, width)) / width
        out[t] = 1 / np.sqrt(mean_square + KEY_EPS) / np.sqrt(np.float64(width)) if document[t] >= 0 else 0

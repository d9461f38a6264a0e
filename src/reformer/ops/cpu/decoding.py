"""Decoding of (batch, head)s: hash new tokens, enter them into rings, attend to what stood there before.

Arrays are flat; `Shape` says where things lie.
"""

from collections import namedtuple

import numpy as np

from reformer.ops.cpu.hashing import LEVELS, TOKENS, _hash_block, _multiply, _turn
from reformer.ops.cpu.jit import entry_kernel, kernel
from reformer.ops.cpu.products import ROWS, multiply, multiply_row
from reformer.ops.cpu.rows import Head, pack, padded, scratch
from reformer.ops.cpu.simd import dot, exp, lanes, load, number, spread, store, times_plus
from reformer.ops.spec import KEY_EPS

Shape = namedtuple("Shape", "heads rounds width slots buckets size columns new window scale once successors")
"""Of `Rings`: heads, rounds, head width, slots, buckets and size of a ring, columns of the rotations; new tokens;
the window, the factor of the logits, whether a key counts once, and how many slots before its own a value is delivered
from."""


@kernel
def _signed_argmax(products, at, step, half):
    """argmax([x ; -x]) over `half` columns from `at` on; ties to the lowest index."""
    high, low = -np.inf, -np.inf
    high_at, low_at = np.int64(0), np.int64(0)
    for column in range(half):
        x = products[at + column * step]
        if x > high:
            high, high_at = x, column
        if -x > low:
            low, low_at = -x, column
    return high_at if high >= low else low_at + half


@kernel
def _hash_few(packed, stride, some, rotations, head, first, second, shape, products, buckets):
    """Buckets [r, ROWS] of `some` tokens: rows of tokens by columns, summed in the order that all hashes have."""
    n = lanes(products)
    half, other = (1 << first) >> 1, (1 << second) >> 1
    wide = padded(max(half if not second else max(2 * half - 1, 2 * other), 1), n)
    for i in range(shape.rounds):
        at = (head * shape.rounds + i) * shape.width * shape.columns
        if some == 1:
            multiply_row(packed, 0, rotations, at, shape.columns, shape.width, products, 0, wide)
        else:
            multiply(
                packed, 0, stride, 1, rotations, at, shape.columns, shape.width, products, 0, wide, ROWS, wide, False
            )
        for t in range(some):
            if second:
                odd = _signed_argmax(products, t * wide + 1, 2, other)
                buckets[i, t] = _signed_argmax(products, t * wide, 2, half) + (odd << first)
            else:
                buckets[i, t] = _signed_argmax(products, t * wide, 1, half)


@kernel
def _enter(ring, count, place, slot, shape, before):
    """Put a slot into a ring; returns how many of the last slots before it were written to `before`."""
    size, seen = shape.size, np.int64(count[place])
    entered = min(seen, shape.window)
    turn = seen % size
    ring[place * size + turn] = slot
    count[place] = seen + 1
    for j in range(entered):
        turn = turn - 1 if turn else size - 1
        before[j] = ring[place * size + turn]
    return entered


@kernel
def _distinct(candidates, count):
    """Sort candidates and drop those that come again."""
    ordered = np.sort(candidates[:count])
    kept = np.int64(0)
    for j in range(count):
        if j == 0 or ordered[j] != ordered[j - 1]:
            candidates[kept] = ordered[j]
            kept += 1
    return kept


@kernel
def _attend(rows, first, q, q_at, candidates, count, shape, scores, norms, out, out_at):
    """Softmax over candidates of the key-normalised rows, which hold a query and a value each."""
    width, row, highest = shape.width, 2 * shape.width, -np.inf
    for j in range(count):
        at = first + np.int64(candidates[j]) * row
        scores[j] = dot(rows, at, q, q_at, width)
        norms[j] = dot(rows, at, rows, at, width)
    one = scores.dtype.type(1)
    factor = scores.dtype.type(shape.scale / np.sqrt(np.float64(width)))
    of_mean, eps = one / scores.dtype.type(width), scores.dtype.type(KEY_EPS)
    for j in range(count):
        scores[j] *= factor / np.sqrt(norms[j] * of_mean + eps)
    for j in range(count):
        highest = max(highest, np.float64(scores[j]))
    most, total = scores.dtype.type(highest), scores.dtype.type(0)
    n = lanes(out)
    whole = width // n * n
    out[out_at : out_at + width] = 0
    for j in range(count):
        p = exp(scores[j] - most)
        total += p
        weights, at = spread(p), first + np.int64(candidates[j]) * row + width
        for x in range(0, whole, n):
            store(times_plus(load(rows, at + x), weights, load(out, out_at + x)), out, out_at + x)
        for x in range(whole, width):
            out[out_at + x] += number(rows, at + x) * p
    for x in range(width):
        out[out_at + x] *= one / total


@kernel
def _write_rows(rows, first, q, v, new, slot, slot_at, shape):
    """Write the new tokens of a (batch, head) to their slots, and their values to those that deliver them."""
    width = shape.width
    for t in range(shape.new):
        where = np.int64(slot[slot_at + t])
        if where == shape.slots - 1:  # padding
            continue
        source, at = new + t * width, first + where * 2 * width
        value_at = at + width - shape.successors * 2 * width
        for x in range(width):
            rows[at + x] = q[source + x]
        if where >= shape.successors:
            for x in range(width):
                rows[value_at + x] = v[source + x]


@entry_kernel
def decode_heads(begin, end, rows, ring, count, rotations, q, v, slot, octaves, shape, out):
    """Write and decode the new tokens of tasks [begin, end) of b * h.

    `octaves` [b, 2] has log2 of the two hashes' buckets; below 0 for a batch row that is left alone.
    """
    stride = padded(shape.width, lanes(out))
    packed, products = scratch(ROWS * stride, out), scratch(ROWS * (shape.columns + lanes(out)), out)
    candidates = np.empty(shape.rounds * shape.window, np.int32)
    scores, norms = scratch(candidates.size, out), scratch(candidates.size, out)
    buckets, tokens = np.empty((shape.rounds, ROWS), np.int64), np.empty(ROWS, np.int32)
    one = out.dtype.type(1)
    for task in range(begin, end):
        batch, head = task // shape.heads, task % shape.heads
        if octaves[batch, 0] < 0:
            continue
        first = task * shape.slots * 2 * shape.width
        new = task * shape.new * shape.width
        _write_rows(rows, first, q, v, new, slot, batch * shape.new, shape)
        for start in range(0, shape.new, ROWS):
            some = min(ROWS, shape.new - start)
            for i in range(some):
                tokens[i] = start + i
            pack(Head(q, new, shape.width), tokens, some, shape.width, one, packed[:0], packed, stride)
            _hash_few(
                packed, stride, some, rotations, head, octaves[batch, 0], octaves[batch, 1], shape, products, buckets
            )
            for t in range(some):
                at, offered = new + (start + t) * shape.width, np.int64(0)
                where = slot[batch * shape.new + start + t]
                if where == shape.slots - 1:  # padding
                    out[at : at + shape.width] = 0
                    continue
                for i in range(shape.rounds):
                    place = (task * shape.rounds + i) * shape.buckets + buckets[i, t]
                    offered += _enter(ring, count, place, where, shape, candidates[offered:])
                if shape.once:
                    offered = _distinct(candidates, offered)
                if offered:
                    _attend(rows, first, packed, t * stride, candidates, offered, shape, scores, norms, out, at)
                else:
                    out[at : at + shape.width] = 0


@entry_kernel
def enter_head(rows, task, begin, end, ring, count, rotations, rotations_first, levels, octave, shape, forget, kind):
    """Enter the slots [begin, end) of one (batch, head) into its rings, or take them out of the count.

    `rotations` and `levels` as in `hash_octaves`; `shape.columns` is what stands in that matrix.
    """
    width, stride = shape.width, padded(shape.width, lanes(kind))
    packed, turned = scratch(TOKENS * stride, kind), scratch(stride * TOKENS, kind)
    products, tokens = scratch(shape.columns * TOKENS, kind), np.empty(TOKENS, np.int32)
    whole, even = np.empty((LEVELS, TOKENS), np.int32), np.empty((LEVELS, TOKENS), np.int32)
    odd = np.empty((LEVELS, TOKENS), np.int32)
    first, second = levels[octave, 0], levels[octave, 1]
    head = Head(rows, task * shape.slots * 2 * width, 2 * width)
    for block in range(begin, end, TOKENS):
        some = min(TOKENS, end - block)
        for j in range(some):
            tokens[j] = block + j
        _turn(head, tokens, some, width, packed, turned)
        for i in range(shape.rounds):
            _multiply(
                rotations, rotations_first + i * shape.columns * width, turned, width, levels[octave, 2], products
            )
            _hash_block(products, levels, octave, octave, whole, even, odd)
            for j in range(some):
                bucket = even[first, j] + (np.int64(odd[second, j]) << first) if second else np.int64(whole[first, j])
                place = (task * shape.rounds + i) * shape.buckets + bucket
                if forget:
                    count[place] -= 1
                else:
                    ring[place * shape.size + count[place] % shape.size] = block + j
                    count[place] += 1

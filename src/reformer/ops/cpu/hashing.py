"""Random-rotation hashing of one (batch, head): products of a block of tokens, and a running signed argmax over them.

Tokens stand in the lanes and columns in the rows, so the argmax of a column more is one step for all tokens; a
product's order of summation depends on nothing but the token and the column (strict causality, to the bit).
"""

import numpy as np

from reformer.ops.cpu.jit import entry_kernel, kernel
from reformer.ops.cpu.order import octave_of, octave_rows
from reformer.ops.cpu.products import ROWS, multiply, transpose
from reformer.ops.cpu.rows import QUERIES as TOKENS
from reformer.ops.cpu.rows import pack, padded, scratch
from reformer.ops.cpu.simd import lanes

LEVELS = 34


@kernel
def _signed_argmax(products, first, step, half, out):
    """out[k] = argmax([x ; -x]) over the first 2**k / 2 columns, for every k up to `half`; ties to the lowest index.

    What all `half` columns give stands in out's last row too.
    """
    high, low = np.empty(TOKENS, products.dtype), np.empty(TOKENS, products.dtype)
    high_at, low_at = np.empty(TOKENS, np.int32), np.empty(TOKENS, np.int32)
    level = np.int64(0)
    for i in range(TOKENS):
        high[i], low[i], high_at[i], low_at[i], out[0, i] = -np.inf, -np.inf, 0, 0, 0
    for column in range(half):
        at, index = (first + column * step) * TOKENS, np.int32(column)
        for i in range(TOKENS):
            x = products[at + i]
            high_at[i] = index if x > high[i] else high_at[i]
            high[i] = x if x > high[i] else high[i]
            low_at[i] = index if -x > low[i] else low_at[i]
            low[i] = -x if -x > low[i] else low[i]
        if (column + 1) & column == 0 or column + 1 == half:
            level += 1
            for i in range(TOKENS):
                out[level, i] = high_at[i] if high[i] >= low[i] else low_at[i] + index + 1
    for i in range(TOKENS):
        out[LEVELS - 1, i] = out[level, i]


@kernel
def _turn(q, tokens, count, width, packed, turned):
    """turned[:, i] = q[tokens[i]]: a block of tokens in the lanes, zeros behind the last."""
    stride, one = turned.size // TOKENS, turned.dtype.type(1)
    pack(q, tokens, count, width, one, turned[:0], packed, stride)
    for x in range(count * stride, packed.size):
        packed[x] = 0
    transpose(packed, 0, stride, turned, 0, TOKENS, TOKENS, stride)


@kernel
def _multiply(rotations, at, turned, width, columns, products):
    """products[column] = R[:, column] . q, for all tokens of a block; `columns` up to a multiple of ROWS."""
    multiply(
        rotations, at, width, 1, turned, 0, TOKENS, width, products, 0, TOKENS, (columns + ROWS - 1) // ROWS * ROWS,
        TOKENS, False,
    )  # fmt: skip


@kernel
def _hash_block(products, levels, lowest, last, whole, even, odd):
    """All levels that the octaves from `lowest` to `last` take: of one hash, and of the two that combine."""
    one, first, second = np.int64(0), np.int64(0), np.int64(0)
    zero, step, two = np.int64(0), np.int64(1), np.int64(2)  # of one type for all calls, which literal numbers are not
    for octave in range(lowest, last + 1):
        if levels[octave, 1]:
            first, second = levels[octave, 0], levels[octave, 1]
        else:
            one = levels[octave, 0]
    _signed_argmax(products, zero, step, (1 << one) >> 1, whole)
    if second:
        _signed_argmax(products, zero, two, (1 << first) >> 1, even)
        _signed_argmax(products, step, two, (1 << second) >> 1, odd)


@entry_kernel
def hash_octaves(
    q, slots, starts, rotations, rotations_first, columns, out, bucket_size, last_octave, causal, levels, width, kind
):
    """Buckets [r, rows] of every row (see `order`): a token's own octave and all later ones of its document.

    `rotations` is flat, [.., r, columns, width] from `rotations_first` on, with `columns` a multiple of ROWS.
    `levels` has for each octave the log2 of the first and the second hash's buckets, and the columns that they take.
    """
    stride = padded(width, lanes(kind))
    packed, turned, products = (
        scratch(TOKENS * stride, kind),
        scratch(stride * TOKENS, kind),
        scratch(columns * TOKENS, kind),
    )
    whole, even = np.empty((LEVELS, TOKENS), np.int32), np.empty((LEVELS, TOKENS), np.int32)
    odd, tokens, base = np.empty((LEVELS, TOKENS), np.int32), np.empty(TOKENS, np.int32), np.int64(0)
    for d in range(starts.size - 1):
        length = starts[d + 1] - starts[d]
        last = octave_of(length - 1, bucket_size, last_octave)
        row = base
        for block in range(0, length, TOKENS):
            count = min(TOKENS, length - block)
            for j in range(count):
                tokens[j] = slots[starts[d] + block + j]
            _turn(q, tokens, count, width, packed, turned)
            lowest = octave_of(block, bucket_size, last_octave) if causal else last
            needed = np.int64(0)
            for octave in range(lowest, last + 1):
                needed = max(needed, levels[octave, 2])
            for i in range(out.shape[0]):
                _multiply(rotations, rotations_first + i * columns * width, turned, width, needed, products)
                _hash_block(products, levels, lowest, last, whole, even, odd)
                row = base
                for octave in range(0 if causal else last, last + 1):
                    rows = octave_rows(octave, last, length, bucket_size)
                    first, second = levels[octave, 0], levels[octave, 1]
                    if octave >= lowest:
                        for j in range(min(count, rows - block)):
                            combined = even[first, j] + (odd[second, j] << first) if second else whole[first, j]
                            out[i, row + block + j] = combined
                    row += rows
        base = row


@entry_kernel
def hash_factors(q, length, rotations, rotations_first, columns, out, factors, width, kind):
    """Buckets [r, l] of the chunk rule: each even factor takes the next factor / 2 columns of the rotations."""
    stride = padded(width, lanes(kind))
    packed, turned, products = (
        scratch(TOKENS * stride, kind),
        scratch(stride * TOKENS, kind),
        scratch(columns * TOKENS, kind),
    )
    levels, tokens = np.empty((LEVELS, TOKENS), np.int32), np.empty(TOKENS, np.int32)
    for block in range(0, length, TOKENS):
        count = min(TOKENS, length - block)
        for j in range(count):
            tokens[j] = block + j
        _turn(q, tokens, count, width, packed, turned)
        for i in range(out.shape[0]):
            _multiply(rotations, rotations_first + i * columns * width, turned, width, columns, products)
            for j in range(count):
                out[i, block + j] = 0
            first, step, product = np.int64(0), np.int64(1), np.int64(1)
            for factor in factors:
                _signed_argmax(products, first, step, factor // 2, levels)
                for j in range(count):
                    out[i, block + j] += product * levels[LEVELS - 1, j]
                first, product = first + factor // 2, product * factor

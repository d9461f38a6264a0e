"""Random-rotation hashing of one (batch, head): products of a block of tokens, and a running signed argmax over them.

Tokens stand in the lanes and columns in the rows, so the argmax of a column more is one step for all tokens; a
product's order of summation depends on nothing but the token and the column (strict causality, to the bit).
"""

import numpy as np

from reformer.ops.cpu.jit import VECTOR_BYTES, entry_kernel, kernel
from reformer.ops.cpu.order import octave_of, octave_rows
from reformer.ops.cpu.products import ROWS, multiply, transpose
from reformer.ops.cpu.rows import QUERIES as TOKENS
from reformer.ops.cpu.rows import pack, scratch

LEVELS = 34


@kernel
def _signed_argmax(products, first, step, half, out):
    """out[k] = argmax([x ; -x]) over the first 2**k / 2 columns, for every k up to `half`; ties to the lowest index.

    A `half` that is no power of two stands behind them, in out's last row.
    """
    high, low = np.full(TOKENS, -np.inf, products.dtype), np.full(TOKENS, -np.inf, products.dtype)
    high_at, low_at = np.zeros(TOKENS, np.int32), np.zeros(TOKENS, np.int32)
    level = 0
    out[0, :] = 0
    for column in range(half):
        at, index = (first + column * step) * TOKENS, np.int32(column)
        for i in range(TOKENS):
            x = products[at + i]
            high_at[i] = index if x > high[i] else high_at[i]
            high[i] = x if x > high[i] else high[i]
            low_at[i] = index if -x > low[i] else low_at[i]
            low[i] = -x if -x > low[i] else low[i]
        if (column + 1) & column == 0 or column + 1 == half:
            level = level + 1 if (column + 1) & column == 0 else out.shape[0] - 1
            for i in range(TOKENS):
                out[level, i] = high_at[i] if high[i] >= low[i] else low_at[i] + index + 1


@kernel
def _split(octave, factor_from):
    """log2 of the two factors of 2**octave buckets."""
    if 1 << octave <= factor_from:
        return octave, np.int64(0)
    return (octave + 1) // 2, octave // 2


@kernel
def _columns(octave, factor_from):
    one, two = _split(octave, factor_from)
    if 1 << octave <= factor_from:
        return (1 << octave) >> 1
    return max((1 << one) - 1, 1 << two if two else 0)


@entry_kernel
def hash_octaves(
    q, slots, starts, rotations, rotations_first, columns, out, bucket_size, limit, causal, factor_from, width, kind
):
    """Buckets [r, rows] of every row (see `order`): a token's own octave and all later ones of its document.

    `rotations` is flat, [.., r, columns, width] from `rotations_first` on, with `columns` a multiple of ROWS.
    """
    lanes = np.int64(VECTOR_BYTES // kind.itemsize)
    stride = (width + lanes - 1) // lanes * lanes
    packed, turned = scratch(TOKENS * stride, kind), scratch(stride * TOKENS, kind)
    products = scratch(columns * TOKENS, kind)
    whole, even = np.empty((LEVELS, TOKENS), np.int32), np.empty((LEVELS, TOKENS), np.int32)
    odd = np.empty((LEVELS, TOKENS), np.int32)
    tokens, one = np.empty(TOKENS, np.int32), scratch(0, kind)
    base = np.int64(0)
    for d in range(starts.size - 1):
        length = starts[d + 1] - starts[d]
        last = octave_of(length - 1, bucket_size, limit)
        for block in range(0, length, TOKENS):
            count = min(TOKENS, length - block)
            for i in range(count):
                tokens[i] = slots[starts[d] + block + i]
            pack(q, tokens, count, width, kind.dtype.type(1), one, packed, stride)
            packed[count * stride :] = 0
            transpose(packed, 0, stride, turned, 0, TOKENS, TOKENS, stride)
            lowest = octave_of(block, bucket_size, limit) if causal else last
            needed = np.int64(0)
            for octave in range(lowest, last + 1):
                needed = max(needed, _columns(octave, factor_from))
            for i in range(out.shape[0]):
                multiply(
                    rotations, rotations_first + i * columns * width, width, 1, turned, 0, TOKENS, width, products, 0,
                    TOKENS, (needed + ROWS - 1) // ROWS * ROWS, TOKENS, False,
                )  # fmt: skip
                direct, first, second = np.int64(0), np.int64(0), np.int64(0)
                for octave in range(lowest, last + 1):
                    one_level, two_level = _split(octave, factor_from)
                    if 1 << octave <= factor_from:
                        direct = octave
                    else:
                        first, second = one_level, two_level
                _signed_argmax(products, 0, 1, (1 << direct) >> 1, whole)
                if first:
                    _signed_argmax(products, 0, 2, (1 << first) >> 1, even)
                    _signed_argmax(products, 1, 2, (1 << second) >> 1, odd)
                row = base
                for octave in range(0 if causal else last, last + 1):
                    rows = octave_rows(octave, last, length, bucket_size)
                    one_level, two_level = _split(octave, factor_from)
                    if octave >= lowest:
                        for j in range(min(count, rows - block)):
                            if 1 << octave <= factor_from:
                                out[i, row + block + j] = whole[octave, j]
                            else:
                                out[i, row + block + j] = even[one_level, j] + (odd[two_level, j] << one_level)
                    row += rows
        for octave in range(0 if causal else last, last + 1):
            base += octave_rows(octave, last, length, bucket_size)


@entry_kernel
def hash_factors(q, length, rotations, rotations_first, columns, out, factors, width, kind):
    """Buckets [r, l] of the chunk rule: each even factor takes the next factor / 2 columns of the rotations."""
    lanes = np.int64(VECTOR_BYTES // kind.itemsize)
    stride = (width + lanes - 1) // lanes * lanes
    packed, turned = scratch(TOKENS * stride, kind), scratch(stride * TOKENS, kind)
    products = scratch(columns * TOKENS, kind)
    levels = np.empty((LEVELS, TOKENS), np.int32)
    tokens, one = np.empty(TOKENS, np.int32), scratch(0, kind)
    for block in range(0, length, TOKENS):
        count = min(TOKENS, length - block)
        for i in range(count):
            tokens[i] = block + i
        pack(q, tokens, count, width, kind.dtype.type(1), one, packed, stride)
        packed[count * stride :] = 0
        transpose(packed, 0, stride, turned, 0, TOKENS, TOKENS, stride)
        for i in range(out.shape[0]):
            multiply(
                rotations, rotations_first + i * columns * width, width, 1, turned, 0, TOKENS, width, products, 0,
                TOKENS, columns, TOKENS, False,
            )  # fmt: skip
            for j in range(count):
                out[i, block + j] = 0
            first, product = np.int64(0), np.int64(1)
            for factor in factors:
                half = factor // 2
                _signed_argmax(products, first, 1, half, levels)
                level = LEVELS - 1
                if half & (half - 1) == 0:
                    level = 1
                    while 1 << level < factor:
                        level += 1
                for j in range(count):
                    out[i, block + j] += product * levels[level, j]
                first, product = first + half, product * factor

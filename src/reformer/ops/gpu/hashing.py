"""Random-rotation hashing: products of a block of tokens with some columns, and a running signed argmax over them.

Each product is computed once, for all octaves, and lives in registers only. It depends on nothing but the token and the
column.
"""

import triton
import triton.language as tl

from reformer.ops.gpu.tiles import load_rows
from reformer.ops.gpu.tuning import CHANGING


@triton.jit
def nothing_yet(T: tl.constexpr):
    """The largest product and the largest negative one, and their columns, before the first column."""
    worst, nowhere = tl.full((T,), float("-inf"), tl.float32), tl.zeros((T,), tl.int32)
    return worst, nowhere, worst, nowhere


@triton.jit
def project(x, matrix, first, end, row_step, column_step, D: tl.constexpr, BD: tl.constexpr, C: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """Products of tokens with C columns from `first` on, zeros from `end` on."""
    row, column = tl.arange(0, BD), first + tl.arange(0, C)
    there = (row[:, None] < D) & (column[None, :] < end)
    part = tl.load(matrix + row[:, None] * row_step + column[None, :] * column_step, mask=there, other=0.0)
    return tl.dot(x, part, input_precision=PRECISION)


@triton.jit
def advance(high, high_at, low, low_at, products, taken, first):
    """The running argmax of x and of -x, taken on over some columns of a block; ties go to the lowest column."""
    most, place = tl.max(tl.where(taken[None, :], products, float("-inf")), 1, return_indices=True)
    high_at, high = tl.where(most > high, place + first, high_at), tl.maximum(most, high)
    most, place = tl.max(tl.where(taken[None, :], -products, float("-inf")), 1, return_indices=True)
    low_at, low = tl.where(most > low, place + first, low_at), tl.maximum(most, low)
    return high, high_at, low, low_at


@triton.jit
def bucket_of(high, high_at, low, low_at, half, step):
    """argmax([x ; -x]) over `half` columns that stand `step` apart."""
    return tl.where(high >= low, high_at // step, low_at // step + half)


@triton.jit
def store_bucket(buckets, names, there, bucket):
    """Write the bucket of each token in an octave to its row, where it has one."""
    name = tl.load(names, mask=there, other=-1)
    tl.store(buckets + name, bucket.to(buckets.dtype.element_ty), mask=name >= 0)


@triton.jit(do_not_specialize=CHANGING)
def hash_octaves(
    q, matrix, names, buckets, heads, length, blocks, rounds, each, names_batch, head_step, round_step, row_step,
    column_step, D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, C: tl.constexpr, COLUMNS: tl.constexpr,
    OCTAVES: tl.constexpr, DIRECT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The bucket of every row of a block of tokens in one round, for all octaves in one pass, at the row's name.

    The first DIRECT octaves have one level of hashing, the others two, of even columns and of odd ones. Octave k needs
    a power of two of columns: those that C holds are found in the first block, the others where a block ends there.
    """
    block, line = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    batch_head, hash_round = line // rounds, line % rounds
    batch, head = batch_head // heads, batch_head % heads
    token = block * T + tl.arange(0, T)
    there = token < length
    x = load_rows(q, batch, head, token, there, D, BD).to(tl.float32)
    matrix += head * head_step + hash_round * round_step
    names += batch.to(tl.int64) * names_batch + token
    buckets += line.to(tl.int64) * each
    column = tl.arange(0, C)
    high, high_at, low, low_at = nothing_yet(T)
    even_high, even_high_at, even_low, even_low_at = nothing_yet(T)
    odd_high, odd_high_at, odd_low, odd_low_at = nothing_yet(T)
    odd_before = tl.zeros((T,), tl.int32)
    for first in tl.static_range(0, COLUMNS, C):
        products = project(x, matrix, first, COLUMNS, row_step, column_step, D, BD, C, PRECISION)
        for k in tl.static_range(OCTAVES):
            if first == 0 and k < DIRECT and (1 << k) // 2 < C:
                a, b, c, d = nothing_yet(T)
                a, b, c, d = advance(a, b, c, d, products, column < (1 << k) // 2, 0)
                store_bucket(buckets, names + k * length, there, bucket_of(a, b, c, d, (1 << k) // 2, 1))
            if first == 0 and k >= DIRECT and (1 << (k + 1) // 2) < C:
                a, b, c, d = nothing_yet(T)
                a, b, c, d = advance(a, b, c, d, products, (column % 2 == 0) & (column < (1 << (k + 1) // 2)), 0)
                bucket = bucket_of(a, b, c, d, (1 << (k + 1) // 2) // 2, 2)
                a, b, c, d = nothing_yet(T)
                a, b, c, d = advance(a, b, c, d, products, (column % 2 == 1) & (column < (1 << k // 2)), 0)
                bucket += bucket_of(a, b, c, d, (1 << k // 2) // 2, 2) << (k + 1) // 2
                store_bucket(buckets, names + k * length, there, bucket)
        high, high_at, low, low_at = advance(high, high_at, low, low_at, products, column >= 0, first)
        if OCTAVES > DIRECT:
            even_high, even_high_at, even_low, even_low_at = advance(
                even_high, even_high_at, even_low, even_low_at, products, column % 2 == 0, first
            )
            odd_high, odd_high_at, odd_low, odd_low_at = advance(
                odd_high, odd_high_at, odd_low, odd_low_at, products, column % 2 == 1, first
            )
        for k in tl.static_range(OCTAVES):
            if k < DIRECT and (1 << k) // 2 == first + C:
                bucket = bucket_of(high, high_at, low, low_at, first + C, 1)
                store_bucket(buckets, names + k * length, there, bucket)
            if k >= DIRECT and (1 << (k + 1) // 2) == first + C:
                bucket = bucket_of(even_high, even_high_at, even_low, even_low_at, (first + C) // 2, 2)
                if k % 2 == 0:
                    second = bucket_of(odd_high, odd_high_at, odd_low, odd_low_at, (first + C) // 2, 2)
                elif first == 0:
                    a, b, c, d = nothing_yet(T)
                    a, b, c, d = advance(a, b, c, d, products, (column % 2 == 1) & (column < C // 2), 0)
                    second = bucket_of(a, b, c, d, C // 4, 2)
                else:
                    second = odd_before
                bucket += second << (k + 1) // 2
                store_bucket(buckets, names + k * length, there, bucket)
        if (first + C) & (first + C - 1) == 0:  # half as many columns as the next that matters
            odd_before = bucket_of(odd_high, odd_high_at, odd_low, odd_low_at, (first + C) // 2, 2)


@triton.jit(do_not_specialize=CHANGING)
def hash_factors(
    q, matrix, buckets, heads, length, blocks, rounds, head_step, round_step, row_step, column_step,
    D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, C: tl.constexpr, FACTORS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Buckets of the chunk rule of a block of tokens in one round: each factor takes the next factor/2 columns."""
    block, line = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    batch_head, hash_round = line // rounds, line % rounds
    batch, head = batch_head // heads, batch_head % heads
    token = block * T + tl.arange(0, T)
    there = token < length
    x = load_rows(q, batch, head, token, there, D, BD).to(tl.float32)
    matrix += head * head_step + hash_round * round_step
    bucket = tl.zeros((T,), tl.int32)
    product = 1
    for i in tl.static_range(len(FACTORS)):
        high, high_at, low, low_at = nothing_yet(T)
        for first in range(0, FACTORS[i] // 2, C):
            products = project(x, matrix, first, FACTORS[i] // 2, row_step, column_step, D, BD, C, PRECISION)
            taken = first + tl.arange(0, C) < FACTORS[i] // 2
            high, high_at, low, low_at = advance(high, high_at, low, low_at, products, taken, first)
        bucket += product * bucket_of(high, high_at, low, low_at, FACTORS[i] // 2, 1)
        matrix += FACTORS[i] // 2 * column_step
        product *= FACTORS[i]
    at = buckets + line.to(tl.int64) * length + token
    tl.store(at, bucket.to(buckets.dtype.element_ty), mask=there)

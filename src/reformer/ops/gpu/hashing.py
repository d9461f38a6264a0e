"""Random-rotation hashing: products of a block of tokens with some columns, and a running signed argmax over them.

The products live in registers only. A token's products depend on nothing but the token and the column.
"""

import triton
import triton.language as tl

from reformer.ops.gpu.tiles import load_rows


@triton.jit
def advance(
    high, high_at, low, low_at, x, matrix, first, end, step_row, step, D: tl.constexpr, BD: tl.constexpr,
    C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The running argmax of x and of -x, taken on over columns [first, end); ties go to the lowest index."""
    row = tl.arange(0, BD)
    for at in range(first, end, C):
        column = at + tl.arange(0, C)
        here = column < end
        part = tl.load(
            matrix + row[:, None] * step_row + column[None, :] * step,
            mask=(row[:, None] < D) & here[None, :],
            other=0.0,
        )
        products = tl.dot(x, part, input_precision=PRECISION)
        most, place = tl.max(tl.where(here[None, :], products, float("-inf")), 1, return_indices=True)
        high_at, high = tl.where(most > high, place + at, high_at), tl.maximum(most, high)
        most, place = tl.max(tl.where(here[None, :], -products, float("-inf")), 1, return_indices=True)
        low_at, low = tl.where(most > low, place + at, low_at), tl.maximum(most, low)
    return high, high_at, low, low_at


@triton.jit
def nothing_yet(T: tl.constexpr):
    """The state of `advance` before the first column."""
    worst, nowhere = tl.full((T,), float("-inf"), tl.float32), tl.zeros((T,), tl.int32)
    return worst, nowhere, worst, nowhere


@triton.jit
def hash_octaves(
    q, matrix, names, buckets, heads, length, blocks, rounds, each, names_batch, head_step, round_step, row_step,
    column_step,
    D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, C: tl.constexpr, OCTAVES: tl.constexpr, DIRECT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The bucket of every row of a block of tokens in one round, for all octaves in one pass, at the row's name.

    The first DIRECT octaves have one level of hashing, the others two: even columns and odd ones.
    """
    block, line = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    batch_head, hash_round = line // rounds, line % rounds
    batch, head = batch_head // heads, batch_head % heads
    token = block * T + tl.arange(0, T)
    there = token < length
    x = load_rows(q, batch, head, token, there, D, BD).to(tl.float32)
    matrix += head * head_step + hash_round * round_step
    names += batch * names_batch + token
    buckets += line.to(tl.int64) * each
    high, high_at, low, low_at = nothing_yet(T)
    for k in tl.static_range(DIRECT):
        half = (1 << k) // 2
        high, high_at, low, low_at = advance(
            high, high_at, low, low_at, x, matrix, half // 2, half, row_step, column_step, D, BD, C, PRECISION
        )
        bucket = tl.where(high >= low, high_at, low_at + half)
        name = tl.load(names + k * length, mask=there, other=-1)
        tl.store(buckets + name, bucket.to(buckets.dtype.element_ty), mask=name >= 0)
    if OCTAVES > DIRECT:
        high, high_at, low, low_at = nothing_yet(T)
        odd_high, odd_high_at, odd_low, odd_low_at = nothing_yet(T)
        even_done, odd_done = 0, 0
        for k in tl.static_range(DIRECT, OCTAVES):
            first = (k + 1) // 2
            even = (1 << first) // 2
            odd = (1 << (k - first)) // 2
            high, high_at, low, low_at = advance(
                high, high_at, low, low_at, x, matrix, even_done, even, row_step, 2 * column_step, D, BD, C, PRECISION
            )
            odd_high, odd_high_at, odd_low, odd_low_at = advance(
                odd_high, odd_high_at, odd_low, odd_low_at, x, matrix + column_step, odd_done, odd, row_step,
                2 * column_step, D, BD, C, PRECISION,
            )  # fmt: skip
            even_done, odd_done = even, odd
            bucket = tl.where(high >= low, high_at, low_at + even)
            bucket += tl.where(odd_high >= odd_low, odd_high_at, odd_low_at + odd) << first
            name = tl.load(names + k * length, mask=there, other=-1)
            tl.store(buckets + name, bucket.to(buckets.dtype.element_ty), mask=name >= 0)


@triton.jit
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
        half = FACTORS[i] // 2
        high, high_at, low, low_at = nothing_yet(T)
        high, high_at, low, low_at = advance(
            high, high_at, low, low_at, x, matrix, 0, half, row_step, column_step, D, BD, C, PRECISION
        )
        bucket += product * tl.where(high >= low, high_at, low_at + half)
        matrix += half * column_step
        product *= FACTORS[i]
    at = buckets + line.to(tl.int64) * length + token
    tl.store(at, bucket.to(buckets.dtype.element_ty), mask=there)

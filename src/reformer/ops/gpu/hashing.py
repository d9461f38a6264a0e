"""Random-rotation hashing: products of a block of tokens with some columns, and a running signed argmax over them.

Each product is computed once, for all octaves, and lives in registers only. It depends on nothing but the token and the
column. The argmax of [x ; -x] is that of |x|, and a sign. What stands for a place in [x ; -x], its code, is the column,
plus NEGATIVE for a negative product; of equal products, the lowest code counts.
"""

from functools import lru_cache

import triton
import triton.language as tl

from reformer.ops.gpu.tiles import load_rows
from reformer.ops.gpu.tuning import CHANGING, tuned

NEGATIVE = tl.constexpr(1 << 29)
NOWHERE = tl.constexpr(1 << 30)


@triton.jit
def project(x, matrix, first, end, part_step, row_step, column_step, D: tl.constexpr, BD: tl.constexpr,
            C: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Products of tokens with C columns from `first` on, zeros from `end` on. A column is the sum of PARTS."""
    row, column = tl.arange(0, BD), first + tl.arange(0, C)
    there = (row[:, None] < D) & (column[None, :] < end)
    at = matrix + row[:, None] * row_step + column[None, :] * column_step
    products = tl.dot(x, tl.load(at, mask=there, other=0.0), input_precision=PRECISION)
    for part in tl.static_range(1, PARTS):
        products = tl.dot(x, tl.load(at + part * part_step, mask=there, other=0.0), products, input_precision=PRECISION)
    return products


@triton.jit
def nothing_yet(T: tl.constexpr):
    """The largest |product| and its code before the first column."""
    return tl.full((T,), -1.0, tl.float32), tl.zeros((T,), tl.int32)


@triton.jit
def advance(most, most_at, sizes, codes, taken):
    """The running argmax, taken on over some columns of a block."""
    here = tl.max(tl.where(taken[None, :], sizes, -1.0), 1)
    here_at = tl.min(tl.where(taken[None, :] & (sizes == here[:, None]), codes, NOWHERE), 1)
    return better(most, most_at, here, here_at)


@triton.jit
def better(most, most_at, here, here_at):
    """The larger of two products, and its code; a product that is no number is not."""
    code = tl.where(here == most, tl.minimum(most_at, here_at), most_at)
    return tl.maximum(most, here), tl.where(here > most, here_at, code)


@triton.jit
def bucket_of(code, half, step):
    """The place in [x ; -x] of `half` columns that stand `step` apart."""
    return tl.where(code >= NEGATIVE, (code - NEGATIVE) // step + half, code // step)


@triton.jit
def code_of(products, column):
    """The code of each product [tokens, columns]."""
    return tl.where(products < 0, NEGATIVE, 0) + column[None, :]


@lru_cache
def doublings(octaves: int, direct: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which octaves, as bits, need the argmax over 2**i columns, and which that over as many or more."""

    def of(columns: range) -> int:
        each = {k: {k - 1} if k < direct else {(k + 1) // 2, k // 2} for k in range(1, octaves)}
        return sum(1 << k for k, ends in each.items() if not ends.isdisjoint(columns))

    return tuple(of(range(i, i + 1)) for i in range(31)), tuple(of(range(i, 31)) for i in range(31))


@triton.jit
def store_bucket(buckets, names, there, bucket, wanted):
    """Write the bucket of each token in an octave to its row, where it has one."""
    if wanted:
        name = tl.load(names, mask=there, other=-1)
        tl.store(buckets + name, bucket.to(buckets.dtype.element_ty), mask=name >= 0)


PRODUCTS = [{"C": columns, "num_warps": warps, "num_stages": 1} for columns, warps in ((32, 4), (64, 8))]


@tuned(PRODUCTS, ["BD", "PARTS", "COLUMNS", "size"])
@triton.jit(do_not_specialize=CHANGING)
def hash_octaves(
    q, matrix, names, alive, buckets, heads, length, blocks, size, rounds, each, names_batch, alive_batch, head_step,
    round_step, part_step, row_step, column_step, D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr, OCTAVES: tl.constexpr, DIRECT: tl.constexpr, NEED: tl.constexpr,
    NEED_MORE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The bucket of every row of a block of tokens in one round, for all octaves in one pass, at the row's name.

    The first DIRECT octaves have one level of hashing, the others two, of even columns and of odd ones. An octave needs
    a power of two of columns, so it is stored where the columns have doubled up to there. Late tokens have rows in few
    octaves (`alive`, as bits, for each block), and what only others need is left out.
    """
    block, line = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    batch_head, hash_round = line // rounds, line % rounds
    batch, head = batch_head // heads, batch_head % heads
    token = block * T + tl.arange(0, T)
    there = token < length
    x = load_rows(q, batch, head, token, there, D, BD)
    matrix += head * head_step + hash_round * round_step
    names += batch.to(tl.int64) * names_batch + token
    wanted = tl.load(alive + batch * alive_batch + block)
    buckets += line.to(tl.int64) * each
    column = tl.arange(0, C)
    even, even_at = nothing_yet(T)
    odd, odd_at = nothing_yet(T)
    store_bucket(buckets, names, there, odd_at, wanted & 1)  # octave 0 has one bucket
    odd_before = odd_at
    products = project(x, matrix, 0, COLUMNS, part_step, row_step, column_step, D, BD, C, PARTS, PRECISION)
    sizes, codes = tl.abs(products), code_of(products, column)
    start = 0
    for i in tl.static_range(31):  # columns [2**i // 2, 2**i)
        if (1 << i) // 2 < COLUMNS:
            if 1 << i <= C:
                if wanted & (NEED[i] if 1 << i < C else NEED_MORE[i]):
                    taken = (column >= start) & (column < 1 << i)
                    even, even_at = advance(even, even_at, sizes, codes, taken & (column % 2 == 0))
                    odd, odd_at = advance(odd, odd_at, sizes, codes, taken & (column % 2 == 1))
                    start = 1 << i
            elif wanted & NEED_MORE[i]:
                for first in tl.static_range((1 << i) // 2, 1 << i, C):
                    products = project(
                        x, matrix, first, COLUMNS, part_step, row_step, column_step, D, BD, C, PARTS, PRECISION
                    )
                    sizes, codes = tl.abs(products), code_of(products, first + column)
                    even, even_at = advance(even, even_at, sizes, codes, column % 2 == 0)
                    odd, odd_at = advance(odd, odd_at, sizes, codes, column % 2 == 1)
            for k in tl.static_range(1, OCTAVES):
                if k < DIRECT and k == i + 1:
                    _, code = better(even, even_at, odd, odd_at)
                    store_bucket(buckets, names + k * length, there, bucket_of(code, 1 << i, 1), (wanted >> k) & 1)
                if k >= DIRECT and (k + 1) // 2 == i:
                    second = odd_before if k % 2 else bucket_of(odd_at, (1 << i) // 2, 2)
                    bucket = bucket_of(even_at, (1 << i) // 2, 2) + (second << i)
                    store_bucket(buckets, names + k * length, there, bucket, (wanted >> k) & 1)
            odd_before = bucket_of(odd_at, (1 << i) // 2, 2)


@triton.jit(do_not_specialize=CHANGING)
def hash_factors(
    q, matrix, buckets, heads, length, blocks, rounds, head_step, round_step, part_step, row_step, column_step,
    D: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, C: tl.constexpr, PARTS: tl.constexpr, FACTORS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Buckets of the chunk rule of a block of tokens in one round: each factor takes the next factor/2 columns."""
    block, line = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    batch_head, hash_round = line // rounds, line % rounds
    batch, head = batch_head // heads, batch_head % heads
    token = block * T + tl.arange(0, T)
    there = token < length
    x = load_rows(q, batch, head, token, there, D, BD)
    matrix += head * head_step + hash_round * round_step
    bucket = tl.zeros((T,), tl.int32)
    product = 1
    column = tl.arange(0, C)
    for i in tl.static_range(len(FACTORS)):
        most, most_at = nothing_yet(T)
        for first in range(0, FACTORS[i] // 2, C):
            products = project(
                x, matrix, first, FACTORS[i] // 2, part_step, row_step, column_step, D, BD, C, PARTS, PRECISION
            )
            codes = code_of(products, first + column)
            most, most_at = advance(most, most_at, tl.abs(products), codes, first + column < FACTORS[i] // 2)
        bucket += product * bucket_of(most_at, FACTORS[i] // 2, 1)
        matrix += FACTORS[i] // 2 * column_step
        product *= FACTORS[i]
    at = buckets + line.to(tl.int64) * length + token
    tl.store(at, bucket.to(buckets.dtype.element_ty), mask=there)

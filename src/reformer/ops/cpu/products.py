"""The matrix product that all tiles are made of, and a transpose, in registers.

A block of rows x vectors of sums stays in registers while the inner dimension runs: a number of one matrix, spread
over the lanes, times a row of the other.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reformer.ops.cpu.jit import VECTOR_BYTES, kernel
from reformer.ops.cpu.simd import INT, ArrayCode, lanes, lanes_of, llvm_call, spread_over

ROWS = 4  # of a block; buffers hold a multiple of it
VECTORS = 2 if VECTOR_BYTES == 32 else 4  # of a block: AVX2 has 16 registers, the others 32


def _block(rows: int, vectors: int) -> Any:
    """c[r, :] (+)= sum over k of a[r, k] * b[k, :] for `rows` rows and `vectors` vectors, held in registers."""

    @intrinsic
    def block(
        typing: Any, a: Any, a_at: Any, a_row: Any, a_k: Any, b: Any, b_at: Any, b_k: Any, k: Any, c: Any, c_at: Any,
        c_row: Any, add: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(a, a_at, a_row, a_k, b, b_at, b_k, k, c, c_at, c_row, add)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_at, a_row, a_k, b, b_at, b_k, k, c, c_at, c_row, add = args
            left, right, out = (
                ArrayCode(context, builder, signature.args[i], value) for i, value in ((0, a), (4, b), (8, c))
            )
            places = [(r, v) for r in range(rows) for v in range(vectors)]
            addresses = {
                (r, v): builder.add(builder.add(c_at, builder.mul(c_row, INT(r))), INT(v * out.width))
                for r, v in places
            }
            sums = {place: cgutils.alloca_once(builder, out.vector) for place in places}
            with builder.if_else(add) as (adding, fresh):
                with adding:
                    for place in places:
                        builder.store(out.load(addresses[place]), sums[place])
                with fresh:
                    for place in places:
                        builder.store(ir.Constant(out.vector, None), sums[place])
            with cgutils.for_range(builder, k) as loop:
                row = builder.add(b_at, builder.mul(loop.index, b_k))
                column = [right.load(builder.add(row, INT(v * out.width))) for v in range(vectors)]
                first = builder.add(a_at, builder.mul(loop.index, a_k))
                for r in range(rows):
                    factor = spread_over(
                        builder, left.number(builder.add(first, builder.mul(a_row, INT(r)))), out.width
                    )
                    for v in range(vectors):
                        total = llvm_call(builder, "fma", factor, column[v], builder.load(sums[r, v]))
                        builder.store(total, sums[r, v])
            for place in places:
                out.store(builder.load(sums[place]), addresses[place])
            return context.get_dummy_value()

        return signature, generate

    return block


_block_1, _block_2, _block_3, _block_4 = (_block(ROWS, vectors) for vectors in (1, 2, 3, 4))
_row_of_1, _row_of_4 = (_block(1, vectors) for vectors in (1, 4))
_tall_block_1, _tall_block_2 = (_block(2 * ROWS, vectors) for vectors in (1, 2))
_TALL = 2 if VECTOR_BYTES == 64 or VECTOR_BYTES == 16 else 1  # most vectors of a block of twice the rows


@kernel
def multiply(a, a_at, a_row, a_k, b, b_at, b_k, k, c, c_at, c_row, rows, width, add):
    """The product of a and b, written to c or added to it.

    `rows` (a multiple of ROWS) by `width` (a multiple of the lanes) sums of `k` terms.
    `*_at` are offsets of the first numbers, `*_row` and `*_k` distances from row to row and from term to term;
    b and c have their columns side by side.
    """
    n = lanes(c)
    column = np.int64(0)
    while column < width:
        vectors, r = min((width - column) // n, VECTORS), np.int64(0)
        while r < rows:
            a_first, b_first, c_first = a_at + r * a_row, b_at + column, c_at + r * c_row + column
            tall = vectors <= _TALL and r + 2 * ROWS <= rows
            if tall and vectors == 1:
                _tall_block_1(a, a_first, a_row, a_k, b, b_first, b_k, k, c, c_first, c_row, add)
            elif tall:
                _tall_block_2(a, a_first, a_row, a_k, b, b_first, b_k, k, c, c_first, c_row, add)
            elif vectors == 1:
                _block_1(a, a_first, a_row, a_k, b, b_first, b_k, k, c, c_first, c_row, add)
            elif vectors == 2:
                _block_2(a, a_first, a_row, a_k, b, b_first, b_k, k, c, c_first, c_row, add)
            elif vectors == 3:
                _block_3(a, a_first, a_row, a_k, b, b_first, b_k, k, c, c_first, c_row, add)
            else:
                _block_4(a, a_first, a_row, a_k, b, b_first, b_k, k, c, c_first, c_row, add)
            r += 2 * ROWS if tall else ROWS
        column += vectors * n


@kernel
def multiply_row(a, a_at, b, b_at, b_k, k, c, c_at, width):
    """C = the product of one row of a and b, summed in the order of `multiply`; arguments as there."""
    n, column = lanes(c), np.int64(0)
    while column + 4 * n <= width:
        _row_of_4(a, a_at, 0, 1, b, b_at + column, b_k, k, c, c_at + column, 0, False)
        column += 4 * n
    while column < width:
        _row_of_1(a, a_at, 0, 1, b, b_at + column, b_k, k, c, c_at + column, 0, False)
        column += n


@intrinsic
def _transpose_block(typing, source, source_at, source_row, target, target_at, target_row):
    """Transpose a square of vectors by log2(lanes) rounds of shuffles (butterfly)."""
    signature = types.void(source, source_at, source_row, target, target_at, target_row)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, source_at, source_row, target, target_at, target_row = args
        read, write = (ArrayCode(context, builder, signature.args[i], x) for i, x in ((0, source), (3, target)))
        n = read.width
        rows = [read.load(builder.add(source_at, builder.mul(source_row, INT(i)))) for i in range(n)]
        step = n // 2
        while step:
            low = lanes_of([i if not i & step else i - step + n for i in range(n)])
            high = lanes_of([i + step if not i & step else i + n for i in range(n)])
            for i in range(n):
                if not i & step:
                    one, two = rows[i], rows[i + step]
                    rows[i] = builder.shuffle_vector(one, two, low)
                    rows[i + step] = builder.shuffle_vector(one, two, high)
            step //= 2
        for i in range(n):
            write.store(rows[i], builder.add(target_at, builder.mul(target_row, INT(i))))
        return context.get_dummy_value()

    return signature, generate


@kernel
def transpose(source, source_at, source_row, target, target_at, target_row, rows, columns):
    """target[j, i] = source[i, j]; rows and columns are multiples of the lanes."""
    n = lanes(source)
    for i in range(0, rows, n):
        for j in range(0, columns, n):
            _transpose_block(
                source, source_at + i * source_row + j, source_row, target, target_at + j * target_row + i, target_row
            )

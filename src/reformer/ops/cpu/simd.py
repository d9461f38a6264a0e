"""Vector code that numba cannot be led to: a register-blocked matrix product, a transpose, exp.

Each intrinsic writes LLVM code for vectors of the host's width. A block of rows x vectors of accumulators stays in
registers while the inner dimension runs; everything else in this folder is ordinary numba.
"""

from collections.abc import Callable
from math import factorial
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from reformer.ops.cpu.jit import kernel

INT = ir.IntType(64)


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()
ROWS = 4  # of a block; buffers hold a multiple of it
VECTORS = 2 if VECTOR_BYTES == 32 else 4  # of a block: AVX2 has 16 registers, the others 32


def lanes(dtype: Any) -> int:
    """Numbers of a type in a vector."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


class _Array:
    """Loads and stores of numbers and vectors at an index of an array."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: ir.Value) -> None:
        self.builder, self.bytes = builder, kind.dtype.bitwidth // 8
        self.width = VECTOR_BYTES // self.bytes
        self.vector = _llvm_type(Vector(kind.dtype))
        self.data = context.make_array(kind)(context, builder, value).data

    def number(self, index: ir.Value) -> ir.Value:
        return self.builder.load(self.builder.gep(self.data, [index]))

    def load(self, index: ir.Value) -> ir.Value:
        loaded = self.builder.load(self._at(index))
        loaded.align = self.bytes
        return loaded

    def store(self, value: ir.Value, index: ir.Value) -> None:
        self.builder.store(value, self._at(index)).align = self.bytes

    def spread(self, number: ir.Value) -> ir.Value:
        """A number in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, undefined, _lanes_of([0] * self.width))

    def _at(self, index: ir.Value) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(self.data, [index]), self.vector.as_pointer())


def _lanes_of(indices: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), indices)


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
                _Array(context, builder, signature.args[i], value) for i, value in ((0, a), (4, b), (8, c))
            )
            places = [(r, v) for r in range(rows) for v in range(vectors)]
            at = {
                (r, v): builder.add(builder.add(c_at, builder.mul(c_row, INT(r))), INT(v * out.width))
                for r, v in places
            }
            sums = {place: cgutils.alloca_once(builder, out.vector) for place in places}
            with builder.if_else(add) as (adding, fresh):
                with adding:
                    for place in places:
                        builder.store(out.load(at[place]), sums[place])
                with fresh:
                    for place in places:
                        builder.store(ir.Constant(out.vector, None), sums[place])
            with cgutils.for_range(builder, k) as loop:
                row = builder.add(b_at, builder.mul(loop.index, b_k))
                column = [right.load(builder.add(row, INT(v * out.width))) for v in range(vectors)]
                first = builder.add(a_at, builder.mul(loop.index, a_k))
                for r in range(rows):
                    factor = left.spread(left.number(builder.add(first, builder.mul(a_row, INT(r)))))
                    for v in range(vectors):
                        total = _llvm_call(builder, "fma", factor, column[v], builder.load(sums[r, v]))
                        builder.store(total, sums[r, v])
            for place in places:
                out.store(builder.load(sums[place]), at[place])
            return context.get_dummy_value()

        return signature, generate

    return block


_block_1, _block_2, _block_3, _block_4 = (_block(ROWS, vectors) for vectors in (1, 2, 3, 4))
_tall_block_1, _tall_block_2 = (_block(2 * ROWS, vectors) for vectors in (1, 2))
_TALL = 2 if VECTOR_BYTES == 64 or VECTOR_BYTES == 16 else 1  # most vectors of a block of twice the rows


@kernel
def multiply(a, a_at, a_row, a_k, b, b_at, b_k, k, c, c_at, c_row, rows, width, add):
    """C (+)= a @ b: `rows` (a multiple of ROWS) by `width` (a multiple of the lanes), `k` terms.

    `*_at` are offsets of the first numbers, `*_row` and `*_k` distances from row to row and from term to term;
    b and c have their columns side by side.
    """
    n = np.int64(VECTOR_BYTES // c.itemsize)
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


@intrinsic
def _transpose_block(typing, source, source_at, source_row, target, target_at, target_row):
    """Transpose a square of vectors by log2(lanes) rounds of shuffles (butterfly)."""
    signature = types.void(source, source_at, source_row, target, target_at, target_row)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, source_at, source_row, target, target_at, target_row = args
        read, write = (_Array(context, builder, signature.args[i], x) for i, x in ((0, source), (3, target)))
        n = read.width
        rows = [read.load(builder.add(source_at, builder.mul(source_row, INT(i)))) for i in range(n)]
        step = n // 2
        while step:
            low = _lanes_of([i if not i & step else i - step + n for i in range(n)])
            high = _lanes_of([i + step if not i & step else i + n for i in range(n)])
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
    n = np.int64(VECTOR_BYTES // source.itemsize)
    for i in range(0, rows, n):
        for j in range(0, columns, n):
            _transpose_block(
                source, source_at + i * source_row + j, source_row, target, target_at + j * target_row + i, target_row
            )


class Vector(types.Type):
    """numba's type of a vector of floats as wide as the host's registers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _llvm_type(kind))


def _llvm_type(kind: Any) -> ir.Type:
    if isinstance(kind, Vector):
        scalar = _llvm_type(kind.dtype)
        return ir.VectorType(scalar, VECTOR_BYTES // (kind.dtype.bitwidth // 8))
    return ir.FloatType() if kind.bitwidth == 32 else ir.DoubleType()


def _constant(kind: ir.Type, value: float | int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _llvm_call(builder: ir.IRBuilder, name: str, *arguments: ir.Value) -> ir.Value:
    """An intrinsic of LLVM whose arguments and result are of one type."""
    kind = arguments[0].type
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    suffix = f"f{32 if isinstance(scalar, ir.FloatType) else 64}"
    suffix = f"v{kind.count}{suffix}" if isinstance(kind, ir.VectorType) else suffix
    signature = ir.FunctionType(kind, [kind] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), arguments)


@intrinsic
def load(typing, array, index):
    """The vector that starts at an index of an array."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _Array(context, builder, signature.args[0], args[0]).load(args[1])

    return Vector(array.dtype)(array, types.int64), generate


@intrinsic
def store(typing, vector, array, index):
    """Write a vector from an index of an array on."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        _Array(context, builder, signature.args[1], args[1]).store(args[0], args[2])
        return context.get_dummy_value()

    return types.void(vector, array, types.int64), generate


@intrinsic
def spread(typing, number):
    """A vector with a number in every lane."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = _llvm_type(signature.return_type)
        undefined = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.IntType(32)(0))
        return builder.shuffle_vector(first, undefined, _lanes_of([0] * kind.count))

    return Vector(number)(number), generate


def _lanewise(make: Callable[..., ir.Value]) -> Callable[..., Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return make(builder, *args)

    return generate


@intrinsic
def subtract(typing, a, b):
    """Vectors a - b."""
    return a(a, b), _lanewise(lambda builder, a, b: builder.fsub(a, b))


@intrinsic
def times(typing, a, b):
    """Vectors a * b."""
    return a(a, b), _lanewise(lambda builder, a, b: builder.fmul(a, b))


@intrinsic
def plus(typing, a, b):
    """Vectors a + b."""
    return a(a, b), _lanewise(lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def maximum(typing, a, b):
    """The larger of two vectors' numbers."""
    return a(a, b), _lanewise(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@intrinsic
def times_plus(typing, a, b, c):
    """Vectors a * b + c, rounded once."""
    return a(a, b, c), _lanewise(lambda builder, a, b, c: _llvm_call(builder, "fma", a, b, c))


@intrinsic
def sum_lanes(typing, vector):
    """The sum of a vector's numbers, by halves."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        x, step = args[0], args[0].type.count // 2
        undefined = ir.Constant(x.type, ir.Undefined)
        while step:
            x = builder.fadd(
                x, builder.shuffle_vector(x, undefined, _lanes_of([i ^ step for i in range(x.type.count)]))
            )
            step //= 2
        return builder.extract_element(x, ir.IntType(32)(0))

    return vector.dtype(vector), generate


@kernel
def dot(a, a_at, b, b_at, width):
    """The sum of products of two rows of `width` numbers."""
    n = np.int64(VECTOR_BYTES // a.itemsize)
    zero = a.dtype.type(0)
    sums, whole = spread(zero), width // n * n
    for x in range(0, whole, n):
        sums = times_plus(load(a, a_at + x), load(b, b_at + x), sums)
    total = sum_lanes(sums)
    for x in range(whole, width):
        total += a[a_at + x] * b[b_at + x]
    return total


@intrinsic
def exp(typing, x):
    """The exponential of a number or a vector, to an ulp, for x up to 80; 0 where that is no normal number.

    2**n * exp(r) with |r| <= ln(2)/2, and exp(r) by its series.
    """
    single = (x.dtype if isinstance(x, Vector) else x) == types.float32
    mantissa, bias, least, terms = (23, 127, -87.0, 7) if single else (52, 1023, -708.0, 13)
    ln2 = (0.693359375, -2.12194440e-4) if single else (0.693147180369123816490, 1.90821492927058770002e-10)

    def make(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
        kind = x.type
        whole: ir.Type = ir.IntType(32 if single else 64)
        if isinstance(kind, ir.VectorType):
            whole = ir.VectorType(whole, kind.count)
        lowest = _constant(kind, least)
        above = builder.fcmp_ordered(">", x, lowest)
        safe = builder.select(above, x, lowest)
        n = _llvm_call(builder, "rint", builder.fmul(safe, _constant(kind, 1.4426950408889634)))
        r = _llvm_call(builder, "fma", n, _constant(kind, -ln2[0]), safe)
        r = _llvm_call(builder, "fma", n, _constant(kind, -ln2[1]), r)
        series = _constant(kind, 1 / factorial(terms))
        for term in range(terms - 1, -1, -1):
            series = _llvm_call(builder, "fma", series, r, _constant(kind, 1 / factorial(term)))
        exponent = builder.add(builder.fptosi(n, whole), _constant(whole, bias))
        power = builder.bitcast(builder.shl(exponent, _constant(whole, mantissa)), kind)
        return builder.select(above, builder.fmul(series, power), _constant(kind, 0.0))

    return x(x), _lanewise(make)

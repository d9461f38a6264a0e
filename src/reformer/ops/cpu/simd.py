"""Vectors in numba: a type as wide as the host's registers, and what is done with it.

Each intrinsic writes LLVM code. bf16 is read from its bits (numpy has no such type) and computed with in fp32.
"""

from collections.abc import Callable
from math import factorial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from reformer.ops.cpu.jit import VECTOR_BYTES, kernel

INT = ir.IntType(64)


class ArrayCode:
    """Code that reads and writes numbers and vectors at an index of an array."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: ir.Value) -> None:
        self.builder, self.stored_as = builder, kind.dtype
        self.vector = _llvm_type(Vector(_float_type(kind.dtype)))
        self.width = self.vector.count
        self.data = context.make_array(kind)(context, builder, value).data

    def number(self, index: ir.Value) -> ir.Value:
        return self._widened(self.builder.load(self.builder.gep(self.data, [index])), self.vector.element)

    def load(self, index: ir.Value) -> ir.Value:
        stored = ir.VectorType(ir.IntType(16), self.width) if self.stored_as == types.uint16 else self.vector
        loaded = self.builder.load(self._at(index, stored))
        loaded.align = self.stored_as.bitwidth // 8
        return self._widened(loaded, self.vector)

    def store(self, value: ir.Value, index: ir.Value) -> None:
        self.builder.store(value, self._at(index, self.vector)).align = self.stored_as.bitwidth // 8

    def _at(self, index: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(self.data, [index]), kind.as_pointer())

    def _widened(self, value: ir.Value, kind: ir.Type) -> ir.Value:
        """fp32 from its upper half, where that is what the array holds."""
        if self.stored_as != types.uint16:
            return value
        whole = _like(kind, ir.IntType(32))
        return self.builder.bitcast(self.builder.shl(self.builder.zext(value, whole), _constant(whole, 16)), kind)


def spread_over(builder: ir.IRBuilder, number: ir.Value, count: int) -> ir.Value:
    """A number in every lane of a vector."""
    undefined = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, lanes_of([0] * count))


def lanes_of(indices: list[int]) -> ir.Constant:
    """A choice of lanes, for a shuffle."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), indices)


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


def _like(kind: ir.Type, scalar: ir.Type) -> ir.Type:
    """A scalar type, or a vector of as many as another has."""
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def _constant(kind: ir.Type, value: float | int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def llvm_call(builder: ir.IRBuilder, name: str, *arguments: ir.Value) -> ir.Value:
    """An intrinsic of LLVM whose arguments and result are of one type."""
    kind = arguments[0].type
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    suffix = f"f{32 if isinstance(scalar, ir.FloatType) else 64}"
    suffix = f"v{kind.count}{suffix}" if isinstance(kind, ir.VectorType) else suffix
    signature = ir.FunctionType(kind, [kind] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), arguments)


def _lanewise(make: Callable[..., ir.Value]) -> Callable[..., Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return make(builder, *args)

    return generate


def _float_type(dtype: Any) -> Any:
    """The type that numbers of an array are computed in: bf16 is kept as the upper halves of fp32, in uint16."""
    return types.float32 if dtype == types.uint16 else dtype


@intrinsic
def load(typing, array, index):
    """The vector that starts at an index of an array; of bf16 in fp32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return ArrayCode(context, builder, signature.args[0], args[0]).load(args[1])

    return Vector(_float_type(array.dtype))(array, types.int64), generate


@kernel
def lanes(array):
    """Numbers of a vector that is loaded from an array."""
    return np.int64(VECTOR_BYTES // max(array.itemsize, 4))


@intrinsic
def zeros(typing, array):
    """A vector of zeros, of the type that numbers of an array are computed in."""
    result = Vector(_float_type(array.dtype))
    return result(array), _lanewise(lambda builder, _: _constant(_llvm_type(result), 0.0))


@intrinsic
def number(typing, array, index):
    """The number at an index of an array; of bf16 in fp32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return ArrayCode(context, builder, signature.args[0], args[0]).number(args[1])

    return _float_type(array.dtype)(array, types.int64), generate


@intrinsic
def store(typing, vector, array, index):
    """Write a vector from an index of an array on."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        ArrayCode(context, builder, signature.args[1], args[1]).store(args[0], args[2])
        return context.get_dummy_value()

    return types.void(vector, array, types.int64), generate


@intrinsic
def spread(typing, number):
    """A vector with a number in every lane."""
    count = _llvm_type(Vector(number)).count
    return Vector(number)(number), _lanewise(lambda builder, x: spread_over(builder, x, count))


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
    return a(a, b, c), _lanewise(lambda builder, a, b, c: llvm_call(builder, "fma", a, b, c))


@intrinsic
def sum_lanes(typing, vector):
    """The sum of a vector's numbers, by halves."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        x, step = args[0], args[0].type.count // 2
        undefined = ir.Constant(x.type, ir.Undefined)
        while step:
            x = builder.fadd(x, builder.shuffle_vector(x, undefined, lanes_of([i ^ step for i in range(x.type.count)])))
            step //= 2
        return builder.extract_element(x, ir.IntType(32)(0))

    return vector.dtype(vector), generate


@kernel
def dot(a, a_at, b, b_at, width):
    """The sum of products of two rows of `width` numbers."""
    n = lanes(a)
    sums, whole = zeros(a), width // n * n
    for x in range(0, whole, n):
        sums = times_plus(load(a, a_at + x), load(b, b_at + x), sums)
    total = sum_lanes(sums)
    for x in range(whole, width):
        total += number(a, a_at + x) * number(b, b_at + x)
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
        whole = _like(kind, ir.IntType(32 if single else 64))
        lowest = _constant(kind, least)
        above = builder.fcmp_ordered(">", x, lowest)
        safe = builder.select(above, x, lowest)
        n = llvm_call(builder, "rint", builder.fmul(safe, _constant(kind, 1.4426950408889634)))
        r = llvm_call(builder, "fma", n, _constant(kind, -ln2[0]), safe)
        r = llvm_call(builder, "fma", n, _constant(kind, -ln2[1]), r)
        series = _constant(kind, 1 / factorial(terms))
        for term in range(terms - 1, -1, -1):
            series = llvm_call(builder, "fma", series, r, _constant(kind, 1 / factorial(term)))
        exponent = builder.add(builder.fptosi(n, whole), _constant(whole, bias))
        power = builder.bitcast(builder.shl(exponent, _constant(whole, mantissa)), kind)
        small = builder.select(builder.fcmp_unordered("uno", x, x), x, _constant(kind, 0.0))  # NaN stays NaN
        return builder.select(above, builder.fmul(series, power), small)

    return x(x), _lanewise(make)


def _mixed(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """A bijection of 32 bits with full avalanche; `_mix` of `reformer.ops.dropout`."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = builder.mul(builder.xor(x, builder.lshr(x, _constant(x.type, shift))), _constant(x.type, factor))
    return builder.xor(x, builder.lshr(x, _constant(x.type, 16)))


@intrinsic
def mix(typing, x):
    """A bijection of 32 bits with full avalanche."""
    return types.uint32(types.uint32), _lanewise(_mixed)


@intrinsic
def keep_by_mix(typing, vector, streams, index, stream, threshold):
    """A vector with zeros where the mix of its query's stream and the key's lies below the threshold."""
    signature = vector(vector, streams, types.int64, types.uint32, types.int32)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector, streams, index, stream, threshold = args
        count = vector.type.count
        data = context.make_array(signature.args[1])(context, builder, streams).data
        queries = builder.load(
            builder.bitcast(builder.gep(data, [index]), ir.VectorType(ir.IntType(32), count).as_pointer())
        )
        queries.align = 4
        mixed = _mixed(builder, builder.xor(queries, spread_over(builder, stream, count)))
        dropped = builder.icmp_signed("<", mixed, spread_over(builder, threshold, count))
        return builder.select(dropped, _constant(vector.type, 0.0), vector)

    return signature, generate

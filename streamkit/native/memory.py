"""Reading and writing memory at an address, within compiled loops: what numba has no words for."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_BYTE, _WORD, _HALF = ir.IntType(8), ir.IntType(64), ir.IntType(32)
_BLOCK = ir.VectorType(_BYTE, 32)


def _loader(kind: ir.IntType, result: types.Type) -> Any:
    def load(_context: Any, address: types.Type) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            value = builder.load(builder.inttoptr(arguments[0], kind.as_pointer()))
            value.align = 1
            return value

        return result(types.int64), generate

    return intrinsic(load)


byte_at = _loader(_BYTE, types.uint8)
"""The byte at an address."""
word_at = _loader(_WORD, types.uint64)
"""The eight bytes from an address on, the first the lowest."""
address_at = _loader(_WORD, types.int64)
"""The pointer, or the whole number of 64 bits, at an address."""
number_at = _loader(_HALF, types.int32)
"""The whole number of 32 bits at an address."""


@intrinsic
def copy(_context: Any, target: types.Type, source: types.Type, length: types.Type) -> Any:
    """`length` bytes from one address to another."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = _BYTE.as_pointer()
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, _WORD])
        to, from_ = (builder.inttoptr(a, pointer) for a in arguments[:2])
        builder.call(memcpy, [to, from_, arguments[2], ir.Constant(ir.IntType(1), 0)])
        return ir.Constant(_WORD, 0)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def swapped(_context: Any, word: types.Type) -> Any:
    """A word with its bytes the other way round."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def zeros_below(_context: Any, word: types.Type) -> Any:
    """How many zero bits a word has below its lowest one bit; undefined for 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def text_stops(_context: Any, address: types.Type) -> Any:
    """Of the 32 bytes from an address on, a bit each, the first the lowest: does plain text in JSON stop there?

    It does at a quote, an escape, a control character and at what is not ASCII.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        text = _block(builder, arguments[0])

        def all_of(value: int) -> Any:
            return ir.Constant(_BLOCK, [value] * 32)

        stops = builder.icmp_unsigned("==", text, all_of(0x22))
        stops = builder.or_(stops, builder.icmp_unsigned("==", text, all_of(0x5C)))
        stops = builder.or_(stops, builder.icmp_signed("<", text, all_of(0x20)))  # from 0x80 on they are negative
        return builder.zext(builder.bitcast(stops, ir.IntType(32)), _WORD)

    return types.uint64(types.int64), generate


@intrinsic
def differing(_context: Any, left: types.Type, right: types.Type) -> Any:
    """Of the 32 bytes from two addresses on, a bit each, the first the lowest: do they differ?"""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        left, right = (_block(builder, address) for address in arguments)
        return builder.zext(builder.bitcast(builder.icmp_unsigned("!=", left, right), ir.IntType(32)), _WORD)

    return types.uint64(types.int64, types.int64), generate


def _block(builder: Any, address: Any) -> Any:
    block = builder.load(builder.inttoptr(address, _BLOCK.as_pointer()))
    block.align = 1
    return block


def _caller(count: int) -> Any:
    """A C function at an address, with `count` arguments of 64 bits and such a result.

    By its address at run time: a function that is a constant of the loop could not be cached.
    """
    pointer = ir.FunctionType(_WORD, [_WORD] * count).as_pointer()

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.call(builder.inttoptr(arguments[0], pointer), arguments[1:])

    signature = types.int64(*[types.int64] * (count + 1))

    def call1(_context: Any, function: types.Type, a: types.Type) -> Any:
        return signature, generate

    def call2(_context: Any, function: types.Type, a: types.Type, b: types.Type) -> Any:
        return signature, generate

    return intrinsic(call1 if count == 1 else call2)


call1 = _caller(1)
"""Call the C function at an address with one argument."""
call2 = _caller(2)
"""Call the C function at an address with two arguments."""

"""How kernels are compiled, and the bit casts that numba lacks."""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Function = Callable[..., Any]


def jit(signature: str) -> Callable[[Function], Function]:
    """Compile at once for one signature, without the interpreter lock and without fused multiply-adds.

    The machine code is kept beside the source, or in the user's cache folder where that is read-only; where neither
    can be written it is compiled anew in each process. (numba looks at the kernel's own file only: after a change here,
    touch the kernels.)"""

    def compile_one(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError, EOFError):  # no folder to write to; disk full; a cache file cut short
            return numba.njit(signature, **options)(function)

    return compile_one


def _operation(argument: types.Type, result: types.Type) -> Callable[[Function], Function]:
    """Make a function `(llvm builder, value) -> value` callable from kernels."""

    def make(emit: Function) -> Function:
        @intrinsic
        def operation(typing_context: Any, value: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return emit(builder, arguments[0])

            return result(argument), generate

        return operation

    return make


WORD, SHORT, FLOAT, HALF = ir.IntType(32), ir.IntType(16), ir.FloatType(), ir.HalfType()


@_operation(types.float32, types.int32)
def magnitude(builder: Any, value: Any) -> Any:
    """The bits of a float32 without the sign.

    They order as absolute values do, NaN above all, and integer maxima become vector instructions where float maxima
    do not."""
    return builder.and_(builder.bitcast(value, WORD), WORD(0x7FFFFFFF))


@_operation(types.int32, types.float32)
def from_bits(builder: Any, bits: Any) -> Any:
    return builder.bitcast(bits, FLOAT)


@_operation(types.float32, types.int16)
def to_half(builder: Any, value: Any) -> Any:
    """The bits of the nearest float16, ties to even."""
    return builder.bitcast(builder.fptrunc(value, HALF), SHORT)


@_operation(types.int16, types.float32)
def from_half(builder: Any, bits: Any) -> Any:
    return builder.fpext(builder.bitcast(bits, HALF), FLOAT)


@_operation(types.float32, types.int16)
def to_bfloat(builder: Any, value: Any) -> Any:
    """The bits of the bfloat16 nearest to a finite value, ties to even."""
    bits = builder.bitcast(value, WORD)
    odd = builder.and_(builder.lshr(bits, WORD(16)), WORD(1))
    rounded = builder.add(builder.add(bits, WORD(0x7FFF)), odd)
    return builder.trunc(builder.lshr(rounded, WORD(16)), SHORT)


@_operation(types.int16, types.float32)
def from_bfloat(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(bits, WORD), WORD(16)), FLOAT)

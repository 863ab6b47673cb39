"""Numba functions that make a thread treat denormals as 0 while a kernel runs.

A denormal is a float32 below 1.2e-38 or a float64 below 2.2e-308. Processors compute with them in microcode: a step on
gradients and states of 1e-40 took 13 to 22 times as long (Sapphire Rapids; `benchmarks/denormals.py`). Running means
reach such numbers when their gradients stay 0, as those of unused embeddings do. Every thread has a mode of its own,
and a kernel restores the mode that it has found.
"""

import platform

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
_IS_ARM = platform.machine().lower() in ("aarch64", "arm64")
# Of MXCSR the bits 15 (results) and 6 (operands), of FPCR the bit 24 (both). Other processors keep their denormals.
_BITS = 0x8040 if _IS_X86 else 1 << 24


def _read(builder):
    """Emit code that returns the register that controls floating-point arithmetic, as an int64."""
    if _IS_ARM:
        return builder.call(_function(builder, _I64, [], "llvm.aarch64.get.fpcr"), [])
    if not _IS_X86:
        return ir.Constant(_I64, 0)
    place = cgutils.alloca_once(builder, _I32)
    store = _function(builder, ir.VoidType(), [_I8.as_pointer()], "llvm.x86.sse.stmxcsr")
    builder.call(store, [builder.bitcast(place, _I8.as_pointer())])
    return builder.zext(builder.load(place), _I64)


def _write(builder, mode):
    """Emit code that writes an int64 to the register that controls floating-point arithmetic."""
    if _IS_ARM:
        builder.call(_function(builder, ir.VoidType(), [_I64], "llvm.aarch64.set.fpcr"), [mode])
    elif _IS_X86:
        place = cgutils.alloca_once_value(builder, builder.trunc(mode, _I32))
        load = _function(builder, ir.VoidType(), [_I8.as_pointer()], "llvm.x86.sse.ldmxcsr")
        builder.call(load, [builder.bitcast(place, _I8.as_pointer())])


def _function(builder, result, arguments, name):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def flush_denormals(typingctx):
    """Make this thread treat denormals as 0, in operands and results; return the mode that `restore_mode` restores."""

    def codegen(context, builder, signature, args):
        mode = _read(builder)
        _write(builder, builder.or_(mode, ir.Constant(_I64, _BITS)))
        return mode

    return types.int64(), codegen


@intrinsic
def restore_mode(typingctx, mode):
    """Restore the mode of this thread that `flush_denormals` returned."""

    def codegen(context, builder, signature, args):
        _write(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen

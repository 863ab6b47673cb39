"""Numba functions that the generated kernels call: addresses, atomics, and operations on bits."""

import contextlib

from llvmlite import ir
from numba import carray, njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from fallline.rules.rule import BLOCK


def _array_at(element):
    """Return an intrinsic that converts an int64 address to a pointer to `element`."""

    @intrinsic
    def pointer(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(types.CPointer(element)))

        return types.CPointer(element)(address), codegen

    return pointer


float32_at = _array_at(types.float32)
float64_at = _array_at(types.float64)
int64_at = _array_at(types.int64)
uint16_at = _array_at(types.uint16)
uint8_at = _array_at(types.uint8)
int8_at = _array_at(types.int8)
int16_at = _array_at(types.int16)


# The argument of a kernel, see `openmp.Call`: a ticket, then address, rows and columns of each table.
entry = types.void(types.CPointer(types.int64))


@intrinsic
def take_ticket(typingctx, call):
    """Add 1 to the first int64 of a call atomically and return its old value."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", args[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), codegen


@njit
def table_of(call, number, array_at):
    """Return table `number` of a call; `array_at`, for example `int64_at`, sets the type of its elements."""
    return carray(array_at(call[1 + 3 * number]), (call[2 + 3 * number], call[3 + 3 * number]))


@intrinsic
def use_narrow_vectors(typingctx):
    """Compile the calling function to vectors of 16 bytes."""

    def codegen(context, builder, signature, args):
        with contextlib.suppress(AttributeError, TypeError):  # the add() of llvmlite rejects unknown attributes
            set.add(builder.function.attributes, '"prefer-vector-width"="128"')
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call(typingctx, function, argument):
    """Call the C function at an address, `int64 f(int64)`."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _stream_block(typingctx, target, source):
    """Copy 32 bytes with a store that bypasses the cache; the target address must be a multiple of 32."""

    def codegen(context, builder, signature, args):
        block = ir.VectorType(ir.IntType(8), 32).as_pointer()
        value = builder.load(builder.inttoptr(args[1], block), align=1)
        store = builder.store(value, builder.inttoptr(args[0], block), align=32)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _fence(typingctx):
    """Make stores that bypassed the cache visible to other threads before any later store."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def prefetch(typingctx, pointer, offset):
    """Load the cache line at a number of bytes after a pointer, which need not exist, in the background."""

    def codegen(context, builder, signature, args):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        place = builder.gep(builder.bitcast(args[0], byte), [args[1]])
        builder.call(function, [place, number(0), number(3), number(1)])  # for reading, into all caches, data
        return context.get_dummy_value()

    return types.void(pointer, types.int64), codegen


@njit
def copy_past_cache(target, source, size):
    """Copy `size` bytes between addresses, bypassing the cache, for a target that will not be read soon.

    An ordinary store first reads the memory that it writes, which doubles the traffic; these stores do not.
    """
    target_bytes, source_bytes = uint8_at(target), uint8_at(source)
    begin = min(-target % 32, size)
    end = size - (size - begin) % 32
    for i in range(begin):
        target_bytes[i] = source_bytes[i]
    for i in range(begin, end, 32):
        _stream_block(target + i, source + i)
    for i in range(end, size):
        target_bytes[i] = source_bytes[i]
    _fence()


@intrinsic
def as_float(typingctx, bits):
    """Reinterpret uint32 bits as a float32."""
    return types.float32(types.uint32), lambda c, b, s, a: b.bitcast(a[0], c.get_value_type(types.float32))


@intrinsic
def as_bits(typingctx, value):
    """Reinterpret a float32 as its uint32 bits."""
    return types.uint32(types.float32), lambda c, b, s, a: b.bitcast(a[0], c.get_value_type(types.uint32))


@njit
def maximum(x, y):
    """Return the larger value; NaN if either is NaN."""
    return x if x > y or x != x else y


@njit
def where(condition, x, y):
    """Return `x` if the condition is true, else `y`."""
    return x if condition else y


@intrinsic
def sign(typingctx, x):
    """Return the sign of a number, in the type of the number; 0 for NaN."""

    def codegen(context, builder, signature, args):
        zero, one = ir.Constant(args[0].type, 0.0), ir.Constant(args[0].type, 1.0)
        up = builder.select(builder.fcmp_ordered(">", args[0], zero), one, zero)
        down = builder.select(builder.fcmp_ordered("<", args[0], zero), one, zero)
        return builder.fsub(up, down)

    return x(x), codegen


@intrinsic
def block_buffer(typingctx):
    """Return a pointer to memory for the float32 numbers of a block, on the stack of the calling function."""

    def codegen(context, builder, signature, args):
        memory = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), BLOCK))
        memory.align = 64
        return builder.bitcast(memory, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(), codegen

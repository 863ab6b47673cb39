"""Numba functions that the generated kernels call: addresses, atomics and 16-bit floating point."""

import contextlib

import numpy as np
from llvmlite import ir
from numba import carray, njit
from numba.core import types
from numba.extending import intrinsic


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


@njit
def load_bfloat16(half):
    """Return the float32 value of bfloat16 bits (exact)."""
    return as_float(np.uint32(np.uint32(half) << np.uint32(16)))


@njit
def store_bfloat16(value):
    """Return the bfloat16 bits nearest to a float32, ties to even."""
    bits = as_bits(np.float32(value))
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.uint16(rounded if value == value else np.uint32(0x7FC0))


@njit
def join_split(half, remainder, bits):
    """Return the float32 value of a split weight, as `join` in `backends/split.py`."""
    half = np.uint32(half)
    magnitude = np.int32((half & np.uint32(0x7FFF)) << np.uint32(bits)) + np.int32(remainder)
    magnitude = np.uint32(max(magnitude, np.int32(0))) << np.uint32(16 - bits)
    return as_float(np.uint32(magnitude | ((half & np.uint32(0x8000)) << np.uint32(16))))


@njit
def _magnitude_of(value, bits):
    magnitude = np.uint32(as_bits(np.float32(value)) & np.uint32(0x7FFFFFFF))
    if bits == 8:
        odd = np.uint32((magnitude >> np.uint32(8)) & np.uint32(1))
        magnitude = np.uint32(np.uint32(magnitude + np.uint32(0x7F) + odd) >> np.uint32(8))
    return magnitude


@njit
def high_of_split(value, bits):
    """Return the bfloat16 bits of a split weight, as `split` in `backends/split.py`."""
    magnitude = _magnitude_of(value, bits)
    high = np.uint32(np.uint32(magnitude + np.uint32(1 << (bits - 1))) >> np.uint32(bits))
    high = high if value == value else np.uint32(0x7FC0)
    return np.uint16(high | np.uint32((as_bits(np.float32(value)) >> np.uint32(16)) & np.uint32(0x8000)))


@njit
def remainder_of_split(value, bits):
    """Return the bits of a split weight below those of `high_of_split`, as a signed number."""
    magnitude = _magnitude_of(value, bits)
    high = np.uint32(np.uint32(magnitude + np.uint32(1 << (bits - 1))) >> np.uint32(bits))
    remainder = np.int32(magnitude) - np.int32(np.uint32(high << np.uint32(bits)))
    return remainder if value == value else np.int32(0)


@njit
def draw_key(key, first, column):
    """Return two uint32 values from which `draw` computes the random bits of a chunk.

    Args:
        key: the key of the tensor.
        first: the position of the first element of the chunk.
        column: the index of the tensor among those that are rounded.
    """
    low = np.uint32(np.uint64(key) ^ (np.uint64(first) >> np.uint64(32)))
    begin = np.uint32(np.uint32(first) + np.uint32(column // 2) * np.uint32(0x9E3779B9))
    return np.uint32(low + begin), np.uint32(np.uint64(key) >> np.uint64(32))


@njit
def draw(low, high, i):
    """Return 32 random bits for element `i` of a chunk; `rounding.random_bits` computes the same bits.

    The index is added to the key. An exclusive or would be computed in 64 bits, and updates would take a third longer.
    """
    x = np.uint32(low + np.uint32(i))
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ high)
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@njit
def round_bfloat16(value, random, shift):
    """Return the bfloat16 bits of a float32, rounded up if its lower bits plus 16 of the random bits overflow."""
    bits = as_bits(np.float32(value))
    chance = np.uint32((random >> np.uint32(shift)) & np.uint32(0xFFFF))
    rounded = np.uint32(np.uint32(bits + chance) >> np.uint32(16))  # correct for Inf too, whose lower bits are 0
    return np.uint16(rounded if value == value else np.uint32(0x7FC0))


@njit
def load_float16(half):
    """Return the float32 value of float16 bits (exact)."""
    bits = np.uint32(half)
    magnitude = np.uint32(bits & np.uint32(0x7FFF))
    shifted = np.uint32(magnitude << np.uint32(13))
    # The exponent bias changes from 15 to 127; the exponent of Inf and NaN becomes 255.
    normal = np.uint32(shifted + np.uint32(0x38000000))
    special = np.uint32(shifted | np.uint32(0x70000000))
    # Subtracting 0.5 normalizes a subnormal. A multiplication would read a float32 denormal, which counts as 0 here.
    subnormal = as_bits(as_float(np.uint32(magnitude + np.uint32(0x3F000000))) - np.float32(0.5))
    value = subnormal if magnitude < np.uint32(0x0400) else normal
    value = special if magnitude >= np.uint32(0x7C00) else value
    return as_float(np.uint32(value | np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))))


@njit
def store_float16(value):
    """Return the float16 bits nearest to a float32, ties to even; overflow gives Inf."""
    bits = as_bits(np.float32(value))
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(magnitude + np.uint32(0xC8000FFF) + odd) >> np.uint32(13))
    # Adding 0.5 aligns the mantissa of a subnormal result with the low bits, and rounds it.
    subnormal = np.uint32(as_bits(as_float(magnitude) + np.float32(0.5)) - np.uint32(0x3F000000))
    large = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else np.uint32(0x7C00)
    result = subnormal if magnitude < np.uint32(0x38800000) else normal
    result = large if magnitude >= np.uint32(0x47800000) else result
    return np.uint16(result | sign)

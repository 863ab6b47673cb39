"""Numba functions that convert numbers between float32 and the formats of storage, for the generated kernels.

`backends/split.py`, `backends/rounding.py` and `backends/blocks.py` have the same arithmetic in PyTorch.
"""

import numpy as np
from numba import njit

from fallline.backends.blocks import INFINITE, LOWEST_SIGNED, LOWEST_UNSIGNED, MANTISSA, SMALLEST, bits_of
from fallline.backends.fused.intrinsics import as_bits, as_float

# Of blocks, see `backends/blocks.py`; Numba compiles them in.
_LOWEST = np.float32(LOWEST_SIGNED)
_SIGNED, _UNSIGNED = np.uint32(bits_of(LOWEST_SIGNED)), np.uint32(bits_of(LOWEST_UNSIGNED))
_MANTISSA, _BELOW, _EXPONENT = np.uint32(MANTISSA), np.uint32((1 << MANTISSA) - 1), np.uint32(0x7F800000)
_SMALLEST, _INFINITE = np.uint32(SMALLEST), np.uint32(INFINITE)


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
    low = np.int32(remainder)
    low = np.int32(0) if (half & np.uint32(0x7FFF)) == np.uint32(0) and low < np.int32(0) else low
    # Numba adds in 64 bits, which halves what a vector holds, unless the sum is cut at once.
    joined = np.uint32(np.uint32(half << np.uint32(bits)) + np.uint32(low))
    return as_float(np.uint32(joined << np.uint32(16 - bits)))


@njit
def _bits_of_weight(value, bits):
    """Return the upper 24 or all 32 bits of a float32, rounded to nearest, ties to even."""
    raw = as_bits(np.float32(value))
    if bits == 8:
        odd = np.uint32((raw >> np.uint32(8)) & np.uint32(1))
        raw = np.uint32(np.uint32(raw + np.uint32(0x7F) + odd) >> np.uint32(8))
    return raw


@njit
def high_of_split(value, bits):
    """Return the bfloat16 bits of a split weight, as `split` in `backends/split.py`."""
    raw = _bits_of_weight(value, bits)
    high = np.uint32(np.uint32(raw + np.uint32(1 << (bits - 1))) >> np.uint32(bits))
    return np.uint16(high if value == value else np.uint32(0x7FC0))


@njit
def remainder_of_split(value, bits):
    """Return the bits of a split weight below those of `high_of_split`; the upper bits of the result do not count."""
    return np.int32(_bits_of_weight(value, bits)) if value == value else np.int32(0)


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
def load_int8(code, scale):
    """Return the value of a signed code of a block, as `decode` in `backends/blocks.py`."""
    raw = np.int32(code)
    magnitude = np.uint32(raw if raw >= 0 else -raw)
    y = as_float(np.uint32((magnitude << _MANTISSA) + _SIGNED))
    low, high = y - _LOWEST, y * np.float32(0.5)
    x = as_bits(low if low < high else high)
    return as_float(np.uint32(x | (np.uint32(raw) & np.uint32(0x80000000)))) * scale


@njit
def load_uint8(code, scale):
    """Return the value of an unsigned code of a block."""
    return as_float(np.uint32((np.uint32(code) << _MANTISSA) + _UNSIGNED)) * scale


@njit
def larger_bits(top, value):
    """Return the larger one of `top` and the bits of the magnitude of a float32."""
    bits = np.uint32(as_bits(np.float32(value)) & np.uint32(0x7FFFFFFF))
    return bits if bits > top else top


@njit
def bits_of_scale(top):
    """Return the bits of the scale of a block, from the largest bits of its magnitudes; see `encode`."""
    return max(np.uint32(np.uint32(min(top, _INFINITE) + _BELOW) & _EXPONENT), _SMALLEST)


@njit
def scale_of(bits):
    """Return the scale with these bits; NaN if it counts as infinite."""
    return as_float(bits) if bits < _INFINITE else np.float32(np.nan)


@njit
def inverse_of(bits):
    """Return 1 / scale; 0 if it counts as infinite."""
    return as_float(np.uint32(_INFINITE - bits))


@njit
def _upper_bits(y, random, shift):
    """Return the upper 12 bits of a float32, rounded up if its lower bits plus 16 of the random bits overflow."""
    chance = np.uint32(np.uint32((random >> np.uint32(shift)) & np.uint32(0xFFFF)) << (_MANTISSA - np.uint32(16)))
    return np.int32(np.uint32(y + chance) >> _MANTISSA)


@njit
def round_int8(value, inverse, random, shift):
    """Return the signed code of a value in a block, rounded stochastically, as `encode` in `backends/blocks.py`."""
    raw = as_bits(np.float32(value))
    x = as_float(np.uint32(raw & np.uint32(0x7FFFFFFF))) * inverse
    low, high = x + _LOWEST, x + x
    code = _upper_bits(as_bits(low if low > high else high), random, shift) - np.int32(_SIGNED >> _MANTISSA)
    return np.int8(-code if raw >= np.uint32(0x80000000) else code)


@njit
def round_uint8(value, inverse, random, shift):
    """Return the unsigned code of a value in a block, rounded stochastically."""
    raw, lowest = np.int32(as_bits(np.float32(value) * inverse)), np.int32(_UNSIGNED)
    code = _upper_bits(np.uint32(raw if raw > lowest else lowest), random, shift) - np.int32(_UNSIGNED >> _MANTISSA)
    return np.uint8(code)


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

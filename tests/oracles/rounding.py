"""Stochastic rounding to bfloat16, element by element in Python's integers.

SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195) makes the key of a tensor and step; a 32-bit
finaliser with two multiplications (constants of C. Wellons' "lowbias32") spreads the position of the element.
"""

import struct

M32, M64 = 2**32 - 1, 2**64 - 1


def split_mix(x: int) -> int:
    """Return the output of SplitMix64 for a state."""
    x = (x + 0x9E3779B97F4A7C15) & M64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def random_bits(seed: int, param: int, step: int, element: int, column: int) -> int:
    """Return the 16 random bits of one element of one rounded tensor."""
    key = split_mix(split_mix(split_mix(seed) ^ param) ^ step)
    x = (element + ((element >> 32) ^ key) + (column // 2) * 0x9E3779B9) & M32
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & M32
    x ^= key >> 32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & M32
    x ^= x >> 16
    return (x >> 16) if column % 2 else x & 0xFFFF


def rounded(value: float, bits: int) -> float:
    """Return a finite float32 as bfloat16: the upper half of its bits, one more where the lower half carries over."""
    (raw,) = struct.unpack("<I", struct.pack("<f", value))
    return float(struct.unpack("<f", struct.pack("<I", (((raw + bits) & M32) >> 16) << 16))[0])

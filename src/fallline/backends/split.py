"""Split weights: a bfloat16 parameter holds the upper bits of a weight, and an integer in the state the bits below.

The magnitude of the weight, as the bits of a float32 without the sign, is (magnitude of the parameter << k) +
remainder, with k = 8 bits (weights of 24 bits) or 16 (float32). The remainder is signed, so that the parameter is the
weight rounded to nearest; a tie is rounded away from zero, which changes nothing in the weight. Weights of 24 bits are
float32 numbers rounded to nearest, ties to even. `fused/formats.py` has the same arithmetic.

A user may write to the parameter. The magnitude is then not below 0, so that a parameter of 0 stands for 0 whatever the
remainder is.
"""

import torch

DTYPES = {8: torch.int8, 16: torch.int16}  # of remainders, by their number of bits
_MAGNITUDE, _NAN = 0x7FFFFFFF, 0x7FC0


def join(param: torch.Tensor, remainder: torch.Tensor) -> torch.Tensor:
    """Return the weights as float32.

    Args:
        param: the upper bits, bfloat16.
        remainder: the bits below, int8 or int16, of the same shape.

    Example:
        >>> weights = torch.tensor([0.1, -3.0])
        >>> torch.equal(join(*split(weights, 16)), weights)
        True
    """
    bits = 8 * remainder.element_size()
    raw = param.view(torch.int16).to(torch.int32)
    magnitude = (((raw & 0x7FFF) << bits) + remainder).clamp(min=0) << (16 - bits)
    return (magnitude | (raw & ~_MAGNITUDE)).view(torch.float32)


def split(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the upper bits of float32 weights as bfloat16, and the 8 or 16 bits below as int8 or int16.

    Example:
        >>> split(torch.tensor([1.0, 1.001]), 8)
        (tensor([1., 1.], dtype=torch.bfloat16), tensor([ 0, 33], dtype=torch.int8))
    """
    weights = weights.float()  # 0-d tensors are float64 after operations with a norm
    raw = weights.view(torch.int32)
    magnitude = raw & _MAGNITUDE
    if bits == 8:
        magnitude = (magnitude + 0x7F + ((magnitude >> 8) & 1)) >> 8
    high = (magnitude + (1 << (bits - 1))) >> bits
    remainder = magnitude - (high << bits)
    nan = weights.isnan()
    high = torch.where(nan, _NAN, high | ((raw >> 31) << 15))
    return high.to(torch.int16).view(torch.bfloat16), torch.where(nan, 0, remainder).to(DTYPES[bits])

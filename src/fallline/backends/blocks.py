"""States in 8 bits: blocks of 256 elements, each element a code of 8 bits, each block a float32 scale.

The magnitude of an element is scale·x, where x is a small float of 3 mantissa bits and is at most 1.875.

- Signed codes have 4 exponent bits and denormals: x is 0, or from 2^-17 to 1.875. Let b = 2^-14, the smallest normal x,
  and y = max(x + b, 2x): below b, y is linear in x, and above, it has the mantissa of x. The code is the upper 12 bits
  of the float32 number y, as an integer, minus those of b. The inverse is x = min(y − b, y/2).
- Unsigned codes, of states that are never below 0, have 5 exponent bits: x is from 2^-31 to 1.875, and never 0, because
  steps divide by the square roots of such states. The code is the upper 12 bits of x minus those of 2^-31.

Both are a few operations that a processor applies to many elements at once. `fused/formats.py` has the same arithmetic.

The scale is the smallest power of two that keeps x within its range. Powers of two make the product exact, and a block
that is read and written again without a change keeps its values.

A block holds consecutive elements in the memory of the codes. A value that is not finite makes its whole block NaN.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from fallline.dtensor import local_part, on_parts
from fallline.rules.rule import BLOCK
from fallline.rules.update import codes_key, is_codes, scale_key

MANTISSA = 20  # bits of a float32 mantissa that a code lacks
LOWEST_SIGNED, LOWEST_UNSIGNED = 2.0**-14, 2.0**-31  # the smallest normal x
LOWEST = {torch.int8: LOWEST_SIGNED, torch.uint8: LOWEST_UNSIGNED}  # by dtype of the codes
SMALLEST, INFINITE = 34 << 23, 254 << 23  # bits of the smallest scale, 2^-93, and of the one that counts as infinite
SLICE = 1 << 20  # elements that are converted at a time, to need little memory; whole blocks


def blocks_of(elements: int) -> int:
    """Return the number of blocks of a tensor."""
    return -(-elements // BLOCK)


def decode(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of a state that is stored in blocks.

    Args:
        codes: int8 or uint8, dense in memory.
        scales: float32, one for each block.

    Example:
        >>> decode(*encode(torch.tensor([1.0, -0.5, 0.3, 0.0]), torch.int8))
        tensor([ 1.0000, -0.5000,  0.3125,  0.0000])
    """
    raw = _in_memory_order(codes, codes).to(torch.int32)
    lowest = LOWEST[codes.dtype]
    x = ((raw.abs() << MANTISSA) + bits_of(lowest)).view(torch.float32)
    if codes.dtype is torch.int8:
        x = torch.minimum(x - lowest, 0.5 * x)
        x = torch.where(raw < 0, -x, x)
    x = x * scales.repeat_interleave(BLOCK)[: len(x)]
    return _like(x, codes)


def encode(
    values: torch.Tensor, dtype: torch.dtype, bits: torch.Tensor | None = None, like: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of a state, with the shape of the values, and the scales of its blocks.

    Args:
        values: the values, of any real dtype.
        dtype: of the codes, torch.int8 or torch.uint8; for the latter, no value may be below 0.
        bits: 16 random bits for each element, with which it is rounded up or down; None rounds to nearest.
        like: a dense tensor whose memory layout the codes get; None: the values, which must be dense.
    """
    like = values if like is None else like
    flat = _in_memory_order(values, like).to(torch.float32)
    half = 1 << (MANTISSA - 1)
    up = half if bits is None else _in_memory_order(bits, like).to(torch.int32) << (MANTISSA - 16)
    padding = -len(flat) % BLOCK
    rows = torch.nn.functional.pad(flat, (0, padding)).view(-1, BLOCK)
    top = (rows.abs().view(torch.int32)).amax(1) if len(rows) else rows.new_zeros(0).view(torch.int32)
    raw = ((top.clamp(max=INFINITE) + ((1 << MANTISSA) - 1)) & (255 << 23)).clamp(min=SMALLEST)
    inverse = (INFINITE - raw.clamp(max=INFINITE)).view(torch.float32)
    x = (rows * inverse[:, None]).view(-1)[: len(flat)]
    signed, lowest = dtype is torch.int8, LOWEST[dtype]
    y = torch.maximum(x.abs() + lowest, 2 * x.abs()) if signed else x.clamp(min=lowest)
    code = ((y.view(torch.int32) + up) >> MANTISSA) - (bits_of(lowest) >> MANTISSA)
    code = torch.where(x < 0, -code, code) if signed else code
    scales = torch.where(raw >= INFINITE, torch.nan, raw.view(torch.float32))
    return _like(code.to(dtype), like), scales


def read(state: Mapping[str, Any], key: str) -> torch.Tensor:
    """Return a state of a parameter as numbers, whether it is stored in blocks or not."""
    codes = state.get(codes_key(key))
    if codes is None:
        found: torch.Tensor = state[key]
        return found
    numbers: torch.Tensor = on_parts(lambda part: decode(part, state[scale_key(key)]), codes)
    return numbers


def as_numbers(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter with numbers instead of codes and scales."""
    stored = [key.removesuffix(codes_key("")) for key in state if is_codes(key)]
    stored = [key for key in stored if scale_key(key) in state]
    found = {key: read(state, key) for key in stored}
    hidden = {store(key) for key in stored for store in (codes_key, scale_key)}
    return found | {key: value for key, value in state.items() if key not in hidden}


def put_into_blocks(state: dict[str, Any], key: str, dtype: torch.dtype) -> None:
    """Replace a state by codes of a dtype and scales, rounded to nearest; each process has blocks of its own."""
    scales: list[torch.Tensor] = []

    def codes(part: torch.Tensor) -> torch.Tensor:
        found = torch.empty_like(part, dtype=dtype)  # dense, whatever the part is
        values, target = _in_memory_order(part, found), found.as_strided((found.numel(),), (1,))
        scales.append(values.new_empty(blocks_of(len(values)), dtype=torch.float32))
        for start in range(0, len(values), SLICE):
            own = encode(values[start : start + SLICE], dtype)
            target[start : start + SLICE] = own[0]
            scales[0][start // BLOCK : start // BLOCK + len(own[1])] = own[1]
        return found

    state[codes_key(key)] = on_parts(codes, state.pop(key))
    state[scale_key(key)] = scales[0]


def new_blocks(state: dict[str, Any], key: str, param: torch.Tensor, dtype: torch.dtype) -> None:
    """Add a state of zeros in blocks; unsigned ones are 2^-124 instead."""
    like = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
    count = blocks_of(local_part(like).numel())
    state[codes_key(key)] = like
    state[scale_key(key)] = torch.full((count,), 2.0**-93, dtype=torch.float32, device=param.device)


def take_out_of_blocks(state: dict[str, Any], key: str, dtype: torch.dtype) -> None:
    """Replace the codes and scales of a state by numbers of a dtype."""
    state[key] = read(state, key).to(dtype)
    del state[codes_key(key)], state[scale_key(key)]


def are_blocks(codes: Any, scales: Any) -> bool:
    """Return whether codes (of any placement) and scales fit together, as kernels take for granted."""
    if not isinstance(codes, torch.Tensor) or codes.dtype not in LOWEST or type(scales) is not torch.Tensor:
        return False
    part = local_part(codes)
    fits = scales.shape == (blocks_of(part.numel()),) and scales.is_contiguous() and scales.device == part.device
    return fits and scales.dtype == torch.float32


def bits_of(power: float) -> int:
    """Return the bits of a power of two as a float32."""
    return (126 + math.frexp(power)[1]) << 23


def _order(tensor: torch.Tensor) -> list[int]:
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _in_memory_order(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor as a vector, in the order in which the memory of `like` has them."""
    return tensor.permute(_order(like)).reshape(-1)


def _like(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a vector in the shape and the memory layout of a dense tensor."""
    return vector.as_strided(like.shape, like.stride())

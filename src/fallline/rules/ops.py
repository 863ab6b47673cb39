"""The functions that an update rule may call besides + - * / ** and comparisons.

Each accepts the kinds of values on which rules run: Python floats, torch tensors, and the symbols from which the fused
backend generates its kernels.
"""

import math
import sys
from typing import Any

import torch


def sqrt(x: Any) -> Any:
    """Return the square root of every element."""
    return x.sqrt() if hasattr(x, "sqrt") else math.sqrt(x)


def exp(x: Any) -> Any:
    """Return the exponential of a number; not of tensors, for which the backends have no such function."""
    return x.exp() if hasattr(x, "exp") else math.exp(x)


def log(x: Any) -> Any:
    """Return the natural logarithm of a number > 0; not of tensors, for which the backends have no such function."""
    return x.log() if hasattr(x, "log") else math.log(x)


def sign(x: Any) -> Any:
    """Return the sign of every element, -1, 0 or 1; 0 for 0 and for NaN, as in PyTorch."""
    return x.sign() if hasattr(x, "sign") else float((x > 0) - (x < 0))


def maximum(x: Any, y: Any) -> Any:
    """Return the elementwise maximum of two values; NaN if either is NaN."""
    if isinstance(x, torch.Tensor):
        return x.maximum(y) if isinstance(y, torch.Tensor) else x.clamp(min=y)
    if hasattr(x, "maximum"):
        return x.maximum(y)
    return x if x > y or x != x else y


def minimum(x: Any, y: Any) -> Any:
    """Return the elementwise minimum of two values; NaN if either is NaN."""
    return -maximum(-x, -y)


def machine_epsilon(x: Any) -> Any:
    """Return the distance from 1 to the next larger number in the precision of the arithmetic with `x`."""
    if isinstance(x, torch.Tensor):
        return torch.finfo(x.dtype).eps
    return x.machine_epsilon() if hasattr(x, "machine_epsilon") else sys.float_info.epsilon


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return `x` where `condition` is true and `y` elsewhere."""
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, x, y)
    if hasattr(condition, "where"):
        return condition.where(x, y)
    return x if condition else y

"""The two formulas that the oracles share."""

from fractions import Fraction
from functools import cache

from oracles.problem import Array


def decayed(p: Array, g: Array, mode: str, wd: float, lr: float, lr0: float) -> tuple[Array, Array]:
    """Return parameter and gradient after weight decay, which happens before the update proper."""
    if mode == "l2":
        return p, g + wd * p
    if mode == "decoupled":
        return p * (1 - lr * wd), g
    if mode == "independent":
        return p * (1 - wd * (lr / lr0 if lr0 else 0.0)), g
    raise ValueError(f"weight_decay_mode: must be l2, decoupled or independent, got {mode!r}")


@cache
def bias_correction(beta: float, t: float) -> float:
    """Return 1 - beta^t, exact until its one rounding.

    In floating point the subtraction cancels: the last bit of a platform's `pow` would be 1e-13 of the result, and
    goldens would differ from machine to machine.
    """
    return float(1 - Fraction(beta) ** int(t))

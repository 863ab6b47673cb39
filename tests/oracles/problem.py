"""The fixed inputs every oracle and every implementation under test is run on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STEPS = 60
RECORDED = (1, 2, 3, 5, 10, 11, 20, 25, 50, 60)
SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "single": (1,),
    "bias": (5,),
    "matrix": (3, 4),
    "cube": (2, 3, 4),
    "kernel": (2, 3, 2, 2),
}
LATE = "matrix"  # the parameter without a gradient at LATE_STEPS in a case with late=True
LATE_STEPS = frozenset(range(1, 11)) | frozenset(range(20, 25))

_MASK = 2**64 - 1
_INITIAL, _SCALE, _GRAD = 1, 2, 3  # streams of numbers


@dataclass(frozen=True)
class Case:
    """Describe one run: an optimizer, its constructor keywords, and what is special about the run.

    Attributes:
        name: unique; the file name of the golden.
        optimizer: class name, `torch.optim`'s where torch has it.
        config: constructor keywords; what is missing keeps the class's default.
        lrs: learning rate of each step, set on the group before it; None leaves the constructor's.
        late: whether `LATE` has no gradient (None, not zero) at `LATE_STEPS`.
    """

    name: str
    optimizer: str
    config: Mapping[str, object] = field(default_factory=dict)
    lrs: tuple[float, ...] | None = None
    late: bool = False


def initial() -> dict[str, Array]:
    """Return the initial parameters, fresh float64 arrays whose values float32 holds exactly.

    `bias` starts at zero, as biases do; every other element has a magnitude in [1/8, 2).
    """
    return {name: _initial(name).copy() for name in SHAPES}


def gradients(step: int, late: bool = False) -> dict[str, Array | None]:
    """Return each parameter's gradient at `step` (1 to STEPS), fresh arrays whose values float32 holds exactly.

    They do not depend on the parameters, so that a rounding error stays one and does not steer the run. Magnitudes
    are in [2^-13, 16): an element keeps within four octaves of its own scale. One in twelve is exactly zero, the
    first element of `bias` (where p = 0) and of `matrix` (where p != 0) always is, all of `single` is at steps 1 to 3.
    """
    if not 1 <= step <= STEPS:
        raise ValueError(f"gradients: step must be in 1..{STEPS}, got {step}")
    missing = {LATE} if late and step in LATE_STEPS else set()
    return {name: None if name in missing else _gradient(name, step).copy() for name in SHAPES}


def zero_first(lr: float) -> tuple[float, ...]:
    """Return the schedule that is 0 at the first two steps and at step 31, and `lr` elsewhere."""
    return tuple(0.0 if step in (1, 2, 31) else lr for step in range(1, STEPS + 1))


def ramp(lr: float) -> tuple[float, ...]:
    """Return the schedule that rises linearly to `lr` at step 12, then falls linearly to 0 at step 60."""
    return tuple(lr * min(step / 12, (STEPS - step) / 48) for step in range(1, STEPS + 1))


@cache
def _initial(name: str) -> Array:
    key = _index(name)
    if name == "bias":
        return np.zeros(SHAPES[name])
    values = [_number(_bits(_INITIAL, key, i), exponent=-3 + i % 4) for i in range(math.prod(SHAPES[name]))]
    return np.array(values).reshape(SHAPES[name])


@cache
def _gradient(name: str, step: int) -> Array:
    values = [_gradient_element(name, step, i) for i in range(math.prod(SHAPES[name]))]
    return np.array(values).reshape(SHAPES[name])


def _gradient_element(name: str, step: int, i: int) -> float:
    bits = _bits(_GRAD, _index(name), step, i)
    silent = (name in ("bias", "matrix") and i == 0) or (name == "single" and step <= 3)
    if silent or bits % 12 == 0:
        return 0.0
    scale = -12 + _bits(_SCALE, _index(name), i) % 14
    return _number(bits, exponent=scale - 1 + (bits >> 8) % 4)


def _index(name: str) -> int:
    return list(SHAPES).index(name)


def _number(bits: int, exponent: int) -> float:
    """Return a number of 24 significant bits and random sign with magnitude in [2^exponent, 2^(exponent+1))."""
    mantissa = 2**23 | (bits >> 32) & (2**23 - 1)
    return math.ldexp(-mantissa if bits >> 63 else mantissa, exponent - 23)


def _bits(*key: int) -> int:
    """Return 64 bits that depend on every part of `key` (splitmix64: integers alone, so the same everywhere)."""
    z = 0
    for part in key:
        z = (z + part + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return z

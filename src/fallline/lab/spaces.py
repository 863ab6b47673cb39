"""What is tuned of each optimizer, over which range, and how a point of the unit cube becomes its options."""

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fallline.errors import ArgumentError
from fallline.optimizers import OPTIMIZERS

# One column of the Sobol sequence each: a dimension that comes in with a larger budget moves no point.
AXES = ("lr", "weight_decay", "momentum", "second_moment", "eps", "warmup", "rho")
# How many trials a dimension must have at least to be searched (LAB R1).
_FROM_TRIALS = {"lr": 1, "weight_decay": 9, "momentum": 25, "rho": 25, "second_moment": 64, "eps": 64, "warmup": 64}


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter's range, searched in log scale.

    Attributes:
        name: what the report calls it: `lr`, `weight_decay`, `momentum`, `beta1`, `beta2`, `alpha`, `eps`.
        axis: the column of the Sobol sequence, shared by all optimizers that have it.
        low, high: the range of the value, or of 1 − value when `complement`.
        complement: search 1 − value, as for the betas.
    """

    name: str
    axis: str
    low: float
    high: float
    complement: bool = False

    def value(self, unit: float) -> float:
        """Return the hyperparameter at a coordinate of the unit interval."""
        number = self.low * (self.high / self.low) ** unit
        return float(1 - number if self.complement else number)

    def unit(self, value: float) -> float:
        """Return the coordinate of a hyperparameter's value; outside [0, 1] when outside the range."""
        number = 1 - value if self.complement else value
        return math.log(number / self.low) / math.log(self.high / self.low) if number > 0 else -math.inf


@dataclass(frozen=True)
class Space:
    """An optimizer with the ranges that are searched and the options that are always the same.

    Attributes:
        optimizer: name in `fallline.create_optimizer`.
        dimensions: ranges, in the order in which they come in as the budget grows.
        defaults: the documented default of every dimension, by name: trial 0 of a search.
        constant: constructor options that belong to the arm (`nesterov=True`).
    """

    optimizer: str
    dimensions: tuple[Dimension, ...]
    defaults: Mapping[str, float]
    constant: Mapping[str, Any] = field(default_factory=dict)

    def searched(self, trials: int, fixed: Mapping[str, float]) -> tuple[Dimension, ...]:
        """Return the dimensions that a search of this many trials varies."""
        return tuple(d for d in self.dimensions if trials >= _FROM_TRIALS[d.axis] and d.name not in fixed)

    def options(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return constructor keywords for the values of all dimensions (`beta1` and `beta2` become `betas`)."""
        options: dict[str, Any] = {k: v for k, v in values.items() if k not in ("beta1", "beta2")}
        if "beta1" in values:
            options["betas"] = (values["beta1"], values["beta2"])
        return {**options, **self.constant}


def _lr(low: float, high: float) -> Dimension:
    return Dimension("lr", "lr", low, high)


_L2 = Dimension("weight_decay", "weight_decay", 1e-6, 1e-2)
_MOMENTUM = Dimension("momentum", "momentum", 5e-3, 0.3, complement=True)
_ADAM_TAIL = (
    Dimension("beta1", "momentum", 2e-2, 0.5, complement=True),
    Dimension("beta2", "second_moment", 1e-3, 0.1, complement=True),
    Dimension("eps", "eps", 1e-10, 1e-5),
)
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

SPACES: dict[str, Space] = {
    "sgd": Space("sgd", (_lr(1e-3, 3), _L2), {"lr": 1e-3, "weight_decay": 0.0}),
    "momentum": Space("sgd", (_lr(1e-3, 1), _L2, _MOMENTUM), {"lr": 1e-3, "weight_decay": 0.0, "momentum": 0.9}),
    "nesterov": Space(
        "sgd",
        (_lr(1e-3, 1), _L2, _MOMENTUM),
        {"lr": 1e-3, "weight_decay": 0.0, "momentum": 0.9},
        {"nesterov": True},
    ),
    "rmsprop": Space(
        "rmsprop",
        (_lr(1e-5, 1e-1), _L2, Dimension("alpha", "second_moment", 1e-3, 0.1, complement=True)),
        {"lr": 1e-2, "weight_decay": 0.0, "alpha": 0.99},
    ),
    "adam": Space("adam", (_lr(1e-4, 1e-1), _L2, *_ADAM_TAIL), {"lr": 1e-3, "weight_decay": 0.0, **_ADAM}),
    "adamw": Space(
        "adamw",
        (_lr(3e-5, 1e-1), Dimension("weight_decay", "weight_decay", 1e-3, 1.0), *_ADAM_TAIL),
        {"lr": 1e-3, "weight_decay": 1e-2, **_ADAM},
    ),
    "lamb": Space(
        "lamb",
        (
            _lr(1e-3, 1e-1),
            Dimension("weight_decay", "weight_decay", 1e-3, 1.0),
            Dimension("beta1", "momentum", 5e-2, 0.3, complement=True),
        ),
        {"lr": 1e-3, "weight_decay": 1e-2, "beta1": 0.9, "beta2": 0.999},
    ),
    "lion": Space(
        "lion",
        (_lr(1e-5, 1e-2), Dimension("weight_decay", "weight_decay", 3e-3, 10.0)),
        {"lr": 1e-4, "weight_decay": 0.0},
    ),
}


def _derived(name: str) -> Space:
    """Return a space for an optimizer that has none above: around its default lr, the rest as for its kind."""
    defaults = {k: p.default for k, p in inspect.signature(OPTIMIZERS[name]).parameters.items()}
    lr, decay = defaults["lr"], defaults.get("weight_decay", 0.0)
    dimensions = [_lr(lr / 30, lr * 30)]
    values = {"lr": lr}
    if "weight_decay" in defaults:
        decoupled = defaults["weight_decay_mode"] != "l2"
        dimensions.append(Dimension("weight_decay", "weight_decay", 1e-3, 1.0) if decoupled else _L2)
        values["weight_decay"] = decay
    if "betas" in defaults:
        dimensions += [d for d in _ADAM_TAIL if d.name != "eps" or "eps" in defaults]
        values |= {"beta1": defaults["betas"][0], "beta2": defaults["betas"][1]}
        values |= {"eps": defaults["eps"]} if "eps" in defaults else {}
    return Space(name, tuple(dimensions), values)


SPACES |= {name: _derived(name) for name in OPTIMIZERS if name not in SPACES}


def get_space(name: str) -> Space:
    """Return the space of the optimizer that an arm names.

    Raises:
        ArgumentError: there is none of that name.
    """
    if name not in SPACES:
        import difflib

        close = difflib.get_close_matches(name, SPACES, n=1)
        hint = f"did you mean {close[0]}?" if close else "see `fallline list`"
        raise ArgumentError(f"optimizers: must be among {', '.join(SPACES)}, got {name!r}; {hint}")
    return SPACES[name]


@functools.lru_cache(maxsize=32)
def sobol(seed: int, count: int) -> Sequence[Mapping[str, float]]:
    """Return the first `count` points of the scrambled Sobol sequence of this seed, by axis.

    The sequence always has all of AXES, and its first points do not depend on `count`.

    Example:
        >>> sobol(1, 4) == sobol(1, 8)[:4]
        True
    """
    engine = torch.quasirandom.SobolEngine(len(AXES), scramble=True, seed=seed)
    points = engine.draw(count, dtype=torch.float64).tolist()
    return [dict(zip(AXES, point, strict=True)) for point in points]

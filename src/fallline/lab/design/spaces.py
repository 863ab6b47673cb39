"""Search spaces: the tuned hyperparameters of each optimizer, their ranges, and values at points of the unit cube."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fallline.lab.design.schedules import WARMUP
from fallline.lab.isolation import derive

# Each axis is one column of the Sobol sequence, so that searching more dimensions with a larger budget moves no point.
AXES = ("lr", "weight_decay", "momentum", "second_moment", "eps", "warmup", "rho")
# Optimizers that are evaluated at an average of their iterates in place of a decay of the learning rate.
SCHEDULE_FREE = ("schedulefreeadamw", "schedulefreesgd")
BETAS = ("beta1", "beta2", "beta3")  # in a search; the constructor takes them together, as `betas`
# Smallest number of trials with which each axis is searched (docs/lab-protocol.md, section Search spaces).
_FROM_TRIALS = {"lr": 1, "weight_decay": 9, "momentum": 25, "rho": 25, "second_moment": 64, "eps": 64, "warmup": 64}
_FROM_TRIALS |= {"slow_mean": 25}  # the weight of AdEMAMix's second mean


@dataclass(frozen=True)
class Dimension:
    """The range of one hyperparameter, searched in log scale or evenly, or the values to choose from.

    Attributes:
        name: name in the report: `lr`, `weight_decay`, `momentum`, `beta1`, `beta2`, `beta3`, `alpha`, `eps`, `rho`.
        axis: the column of the Sobol sequence, shared by all optimizers that have this axis; the name of a
            hyperparameter that only the user's script knows.
        low, high: the range of the value, or of 1 − value if `complement` is True.
        complement: whether 1 − value is searched, as for the betas.
        choices: values to search instead of a range.
        linear: whether the range is searched evenly instead of in log scale.
    """

    name: str
    axis: str
    low: float = 0.0
    high: float = 1.0
    complement: bool = False
    choices: tuple[Any, ...] = ()
    linear: bool = False

    def value(self, unit: float) -> Any:
        """Return the value of the hyperparameter at a coordinate in the unit interval."""
        if self.choices:
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if self.linear:
            return self.low + (self.high - self.low) * unit
        number = self.low * (self.high / self.low) ** unit
        return float(1 - number if self.complement else number)

    def unit(self, value: Any) -> float:
        """Return the coordinate of a value of the hyperparameter; it is outside [0, 1] if the value is out of range."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices) if value in self.choices else -math.inf
        if self.linear:
            return (float(value) - self.low) / (self.high - self.low)
        number = 1 - value if self.complement else value
        return math.log(number / self.low) / math.log(self.high / self.low) if number > 0 else -math.inf

    def within(self, low: float, high: float) -> "Dimension":
        """Return the dimension with another range, which is that of the value also if `complement` is True."""
        if self.complement:
            low, high = 1 - high, 1 - low
        return replace(self, low=low, high=high, choices=())


@dataclass(frozen=True)
class Space:
    """An optimizer with its search ranges and its constant options.

    Attributes:
        optimizer: name of the optimizer for `build_optimizer`: "sgd", "sam(adamw)", "torch.optim:NAdam".
        dimensions: search ranges, in the order in which they are added as the budget grows.
        defaults: the documented default of every dimension, by name; these are trial 0 of a search.
        constant: constructor options that belong to the arm (`nesterov=True`).
        passes: backward passes per step, 2 for SAM.
        measured: whether a step may call its closure any number of times, as in L-BFGS, so that the number of passes
            has to be measured; `passes` is 1 then.
    """

    optimizer: str
    dimensions: tuple[Dimension, ...]
    defaults: Mapping[str, Any]
    constant: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 1
    measured: bool = False

    def __post_init__(self) -> None:
        if "warmup" not in self.defaults:  # the warm-up of the schedule is tuned too if the budget is large
            object.__setattr__(self, "dimensions", (*self.dimensions, _WARMUP))
            object.__setattr__(self, "defaults", {**self.defaults, "warmup": WARMUP})

    def dimensions_for(self, trials: int, fixed: Mapping[str, Any], ranges: Mapping[str, Any]) -> tuple[Dimension, ...]:
        """Return the dimensions that a search with this many trials varies, and those with a range of the user."""
        enough = (d for d in self.dimensions if trials >= _FROM_TRIALS.get(d.axis, 1) or d.name in ranges)
        return tuple(d for d in enough if d.name not in fixed)

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return constructor keywords for the values of all dimensions (`beta1` and so on become `betas`)."""
        options: dict[str, Any] = {k: v for k, v in values.items() if k != "warmup"}
        if "beta1" in values:  # otherwise a beta2 or beta3 is a name of the user's script
            options["betas"] = tuple(options.pop(name) for name in BETAS if name in values)
        return {**options, **self.constant}


def _lr(low: float, high: float) -> Dimension:
    return Dimension("lr", "lr", low, high)


_WARMUP = Dimension("warmup", "warmup", choices=(0.0, 0.02, 0.05, 0.1))
_L2 = Dimension("weight_decay", "weight_decay", 1e-6, 1e-2)
_DECOUPLED = Dimension("weight_decay", "weight_decay", 1e-3, 1.0)
_MOMENTUM = Dimension("momentum", "momentum", 5e-3, 0.3, complement=True)
_ALPHA = Dimension("alpha", "second_moment", 1e-3, 0.1, complement=True)
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
        (_lr(1e-5, 1e-1), _L2, _ALPHA),
        {"lr": 1e-2, "weight_decay": 0.0, "alpha": 0.99},
    ),
    # Schmidt et al. 2021, arXiv:2007.01547: lr from 1e-4 to 1.
    "adagrad": Space("adagrad", (_lr(1e-4, 1), _L2), {"lr": 1e-2, "weight_decay": 0.0}),
    # T5 is pre-trained at 1e-2 with a schedule and fine-tuned at 1e-3 (Raffel et al. 2020, arXiv:1910.10683);
    # the range is a factor of 10 beyond both. The schedule of the study replaces the relative step.
    "adafactor": Space(
        "adafactor", (_lr(1e-4, 1e-1), _DECOUPLED), {"lr": 1e-2, "weight_decay": 0.0}, {"relative_step": False}
    ),
    "adam": Space("adam", (_lr(1e-4, 1e-1), _L2, *_ADAM_TAIL), {"lr": 1e-3, "weight_decay": 0.0, **_ADAM}),
    # The range of Adam, whose steps have the same length.
    "adamax": Space("adamax", (_lr(1e-4, 1e-1), _L2, *_ADAM_TAIL), {"lr": 2e-3, "weight_decay": 0.0, **_ADAM}),
    # The range of Adam; it contains the grid of Liu et al. 2020, arXiv:1908.03265: 3e-3 to 0.1.
    "radam": Space("radam", (_lr(1e-4, 1e-1), _L2, *_ADAM_TAIL), {"lr": 1e-3, "weight_decay": 0.0, **_ADAM}),
    "adamw": Space(
        "adamw",
        (_lr(3e-5, 1e-1), _DECOUPLED, *_ADAM_TAIL),
        {"lr": 1e-3, "weight_decay": 1e-2, **_ADAM},
    ),
    # The ranges of AdamW, whose step it takes in other coordinates; they contain the authors' 3e-3 and (0.95, 0.95).
    "soap": Space(
        "soap",
        (_lr(3e-5, 1e-1), _DECOUPLED, *_ADAM_TAIL),
        {"lr": 3e-3, "weight_decay": 1e-2, "beta1": 0.95, "beta2": 0.95, "eps": 1e-8},
    ),
    # The ranges of Adam, whose step it takes after the first steps; the default is that of PyTorch.
    "nadam": Space("nadam", (_lr(1e-4, 1e-1), _L2, *_ADAM_TAIL), {"lr": 2e-3, "weight_decay": 0.0, **_ADAM}),
    # The README of the authors' package schedulefree 1.4.1: learning rates of 1 to 10 times those of AdamW and of 10 to
    # 50 times those of SGD, and beta of 0.9 to 0.98.
    "schedulefreeadamw": Space(
        "schedulefreeadamw",
        (
            _lr(1e-4, 3e-1),
            _DECOUPLED,
            Dimension("beta1", "momentum", 1e-2, 0.2, complement=True),
            *_ADAM_TAIL[1:],
        ),
        {"lr": 2.5e-3, "weight_decay": 0.0, **_ADAM},
    ),
    "schedulefreesgd": Space(
        "schedulefreesgd",
        (_lr(2e-2, 20), _L2, Dimension("momentum", "momentum", 1e-2, 0.2, complement=True)),
        {"lr": 1.0, "weight_decay": 0.0, "momentum": 0.9},
    ),
    # The README of the authors' package prodigyopt 1.1.2: lr stays 1, and d_coef of 0.5 to 2 works; the range is twice
    # as wide on both sides. safeguard_warmup because every arm may have a warm-up.
    "prodigy": Space(
        "prodigy",
        (Dimension("d_coef", "lr", 0.25, 4.0), _DECOUPLED, *_ADAM_TAIL[:2]),
        {"d_coef": 1.0, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999},
        {"safeguard_warmup": True},
    ),
    "muon": Space(  # Jordan et al. 2024 use 0.02 with AdamW at 3e-4, and 0.05 in their speed runs
        "muon",
        (_lr(1e-3, 0.3), Dimension("adamw_lr", "adamw_lr", 3e-5, 3e-2), _DECOUPLED, _MOMENTUM),
        {"lr": 1e-3, "adamw_lr": 3e-4, "weight_decay": 0.1, "momentum": 0.95},
    ),
    # The ranges of AdamW, which Pagliardini et al. 2024, arXiv:2409.03137, keep for lr and decay. The authors' code has
    # alpha=2 and beta3=0.9999 by default, and their README alpha=8; short runs need a shorter mean.
    "ademamix": Space(
        "ademamix",
        (
            _lr(3e-5, 1e-1),
            _DECOUPLED,
            Dimension("beta3", "momentum", 1e-4, 1e-2, complement=True),
            Dimension("alpha", "slow_mean", 1.0, 16.0),
            *_ADAM_TAIL[1:],
        ),
        {"lr": 1e-3, "weight_decay": 0.0, "alpha": 2.0, "beta3": 0.9999, **_ADAM},
    ),
    # The README of the authors' code (sail-sg/Adan): 5 to 10 times the learning rate of AdamW, and betas in the order
    # beta3 and beta1; the paper varies beta1 from 0.9 to 0.98 and beta3 from 0.9 to 0.999.
    "adan": Space(
        "adan",
        (
            _lr(1e-4, 3e-1),
            _DECOUPLED,
            Dimension("beta1", "momentum", 2e-2, 0.1, complement=True),
            Dimension("beta3", "second_moment", 1e-3, 0.1, complement=True),
            _ADAM_TAIL[2],
        ),
        {"lr": 1e-3, "weight_decay": 0.0, "beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "eps": 1e-8},
    ),
    "lamb": Space(
        "lamb",
        (
            _lr(1e-3, 1e-1),
            _DECOUPLED,
            Dimension("beta1", "momentum", 5e-2, 0.3, complement=True),
        ),
        {"lr": 1e-3, "weight_decay": 1e-2, "beta1": 0.9, "beta2": 0.999},
    ),
    "lion": Space(
        "lion",
        (
            _lr(1e-5, 1e-2),
            Dimension("weight_decay", "weight_decay", 3e-3, 10.0),
            Dimension("betas", "momentum", choices=((0.9, 0.99), (0.95, 0.98))),
        ),
        {"lr": 1e-4, "weight_decay": 0.0, "betas": (0.9, 0.99)},
    ),
}


def derived(name: str, signature: Mapping[str, Any], decoupled: bool) -> Space:
    """Derive a search space for an optimizer that has none in SPACES.

    The learning rate is searched within a factor of 30 of its default. The other hyperparameters have the ranges that
    the optimizers in SPACES use.

    Args:
        name: name of the optimizer for `build_optimizer`.
        signature: keywords of its constructor with their defaults.
        decoupled: whether its weight decay is decoupled by default.
    """
    lr = signature["lr"]
    dimensions, values = [_lr(lr / 30, lr * 30)], {"lr": lr}
    if "weight_decay" in signature:
        # A default above the range of L2 (Muon's 0.1) is not L2; the range must contain the value of trial 0.
        dimensions.append(_DECOUPLED if decoupled or (signature["weight_decay"] or 0) > _L2.high else _L2)
        values["weight_decay"] = signature["weight_decay"]
    if isinstance(betas := signature.get("betas"), tuple) and len(betas) == 2:
        dimensions += _ADAM_TAIL[:2]
        values |= {"beta1": betas[0], "beta2": betas[1]}
    for dimension in (_MOMENTUM, _ALPHA, _ADAM_TAIL[2]):
        default = signature.get(dimension.name)
        if isinstance(default, float) and default:  # with 0, the optimizer does not use this part by default
            dimensions.append(dimension)
            values[dimension.name] = default
    return Space(name, tuple(dimensions), values)


@functools.lru_cache(maxsize=32)
def sobol(seed: int, count: int, others: tuple[str, ...] = ()) -> Sequence[Mapping[str, float]]:
    """Return the first `count` points of the scrambled Sobol sequence with this seed, by axis.

    The sequence always has a column for each of AXES, and its first points do not depend on `count`.

    Args:
        seed: seed of the scrambling.
        count: number of points.
        others: further axes, for hyperparameters that only the user's script knows; a second sequence has them, so that
            they change no value on AXES.

    Example:
        >>> sobol(1, 4) == sobol(1, 8)[:4]
        True
    """
    engine = torch.quasirandom.SobolEngine(len(AXES), scramble=True, seed=seed)
    points = engine.draw(count, dtype=torch.float64).tolist()
    if not others:
        return [dict(zip(AXES, point, strict=True)) for point in points]
    second = torch.quasirandom.SobolEngine(len(others), scramble=True, seed=derive(seed, "others") % 2**31)
    more = second.draw(count, dtype=torch.float64).tolist()
    return [dict(zip((*AXES, *others), (*a, *b), strict=True)) for a, b in zip(points, more, strict=True)]

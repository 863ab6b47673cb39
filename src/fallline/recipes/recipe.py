"""The result of a recipe: an optimizer, a scheduler, and the source of each choice."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.optim import Optimizer

from fallline.arguments import check_integer, check_number
from fallline.errors import ArgumentError
from fallline.schedules import Scheduler
from fallline.schedules.base import check_warmup

RULES = ("linear", "sqrt")
YOURS = "your argument"


@dataclass(frozen=True)
class Choice:
    """One choice of a recipe: the name of a hyperparameter, its value, and the source of the value."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True, repr=False)
class Recipe:
    """An optimizer and its scheduler; it can be unpacked into both, and printing it explains each choice.

    Example:
        >>> import torch
        >>> from fallline.recipes import convnet
        >>> optimizer, scheduler = convnet(torch.nn.Conv2d(3, 8, 3), total_steps=1000)
        >>> scheduler.get_last_lr()
        [0.002, 0.002]
    """

    name: str
    optimizer: Optimizer
    scheduler: Scheduler
    choices: Sequence[Choice]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.optimizer, self.scheduler))

    def __repr__(self) -> str:
        return f"<recipe {self.name}: {type(self.optimizer).__name__} with {type(self.scheduler).__name__}>"

    def __str__(self) -> str:
        wide = max(len(choice.name) for choice in self.choices)
        values = [_text(choice.value) for choice in self.choices]
        column = max(map(len, values))
        lines = [f"{self.name}: {type(self.optimizer).__name__} with {type(self.scheduler).__name__}"]
        lines += [
            f"  {choice.name:<{wide}}  {value:<{column}}  {choice.source}"
            for choice, value in zip(self.choices, values, strict=True)
        ]
        for group in self.optimizer.param_groups:
            count = sum(p.numel() for p in group["params"])
            lines.append(
                f"  group {group['name']}: {len(group['params'])} tensors, {count:,} parameters, "
                f"lr {group['initial_lr']:.3g}, weight decay {group['weight_decay']:g}"
            )
        return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def choose(given: Any, default: Any, name: str, source: str) -> tuple[Any, Choice]:
    """Return the value of a hyperparameter (the user's if given, else the published one) and its `Choice`."""
    value = default if given is None else given
    return value, Choice(name, value, source if given is None else YOURS)


def in_steps(warmup: Choice, total_steps: int) -> Choice:
    """Return the choice of a warm-up with its value converted to steps."""
    return replace(warmup, value=check_warmup("recipes", warmup.value, total_steps))


def scale_lr(lr: float, batch_size: int, reference: int, rule: str) -> float:
    """Return a learning rate for another batch size.

    Args:
        lr: learning rate for the batch size `reference`.
        batch_size: the new batch size, in the units of `reference` (examples or tokens).
        reference: the batch size of `lr`.
        rule: "linear" (SGD: Goyal et al. 2017, arXiv:1706.02677) or "sqrt" (Adam: Malladi et al. 2022,
            arXiv:2205.10287).

    Raises:
        ArgumentTypeError, ArgumentError: an argument is invalid.

    Example:
        >>> from fallline.recipes import scale_lr
        >>> scale_lr(0.1, 1024, reference=256, rule="linear"), scale_lr(0.1, 1024, reference=256, rule="sqrt")
        (0.4, 0.2)
    """
    if rule not in RULES:
        raise ArgumentError(
            f"scale_lr: rule must be one of {', '.join(RULES)}, got {rule=}; linear for SGD, sqrt for Adam"
        )
    sizes = [check_integer("scale_lr", n, v, 1) for n, v in (("batch_size", batch_size), ("reference", reference))]
    ratio = sizes[0] / sizes[1]
    return check_number("scale_lr", "lr", lr) * (ratio if rule == "linear" else math.sqrt(ratio))


def scale_rate(
    lr: tuple[float, Choice], batch_size: int | None, reference: int, rule: str | None
) -> tuple[float, list[Choice]]:
    """Return the learning rate of a recipe, scaled if `rule` is given, and the choices that explain it."""
    value, choice = lr
    if rule is None:
        return value, [choice]
    if batch_size is None:
        raise ArgumentError(
            f"recipes: batch_size must be given with scale_lr={rule!r}, got batch_size=None; pass your batch size (the "
            f"published lr is for {reference})"
        )
    value = scale_lr(value, batch_size, reference, rule)
    return value, [choice, Choice("scaled lr", value, f"{rule} rule, from batch size {reference} to {batch_size}")]

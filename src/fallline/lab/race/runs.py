"""Descents on a surface: every optimizer at the best of the same learning rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fallline.arguments import check_integer, check_number
from fallline.errors import ArgumentError, suggest
from fallline.lab.design.arms import Arm, make_single
from fallline.lab.design.optimizers import build_optimizer, keywords
from fallline.lab.run.eval_mode import evaluation_weights, switch_to_training
from fallline.optimizers import OPTIMIZERS
from fallline.problems import PROBLEMS, Problem

ARMS = ("sgd", "momentum", "rmsprop", "adam", "lion")
LRS = tuple(10 ** (k / 8) for k in range(-32, 9))  # 1e-4 to 10, eight a decade: the same budget and range for all
STEPS = 200
GOAL = 1e-3  # of the height of the start above the minimum, to be reached and kept


@dataclass(frozen=True, eq=False)
class Run:
    """A descent.

    Attributes:
        arm: as the user named it.
        lr: the learning rate.
        tried: how many rates it is the best of; 1 if it was given.
        edge: whether it is the lowest or highest of them.
        points: (steps + 1, 2), from the start on; not finite where it diverged.
        values: (steps + 1,), of the surface there.
        reached: steps after which the goal is reached and kept to the end; None if it never is.
    """

    arm: str
    lr: float
    tried: int
    edge: bool
    points: np.ndarray
    values: np.ndarray
    reached: int | None


@dataclass(frozen=True, eq=False)
class Descents:
    """The descents of several optimizers on one surface.

    Attributes:
        problem: the surface.
        steps: of every descent.
        goal: the value to be reached and kept.
        runs: in the order of the arms.
    """

    problem: Problem
    steps: int
    goal: float
    runs: tuple[Run, ...]

    @property
    def ranking(self) -> list[Run]:
        """The runs, fewest steps to the goal first; those that miss it by their last value."""

        def key(run: Run) -> tuple[float, float]:
            last = float(run.values[-1])
            return (math.inf if run.reached is None else run.reached, last if math.isfinite(last) else math.inf)

        return sorted(self.runs, key=key)


def run_all(surface: str | Problem, optimizers: Sequence[str], steps: int, lr: float | None) -> Descents:
    """Return the descent of each optimizer at its best learning rate; the arguments are those of `race`.

    Raises:
        ArgumentError: there is no such surface or optimizer, or a number cannot be used.
    """
    if not isinstance(surface, Problem) and surface not in PROBLEMS:
        raise ArgumentError(
            f"surface: must be one of {', '.join(PROBLEMS)}, got {surface!r}; "
            + suggest(surface, PROBLEMS, "ravine is a good start")
        )
    problem = surface if isinstance(surface, Problem) else PROBLEMS[surface]
    check_integer("race", "steps", steps, 2, f"leave it out for {STEPS}")
    if lr is not None:
        check_number("race", "lr", lr, above_zero=True, remedy="leave it out to tune it for each")
    goal = GOAL * float(problem(torch.tensor(problem.start, dtype=torch.float64)))
    runs = tuple(_run(problem, arm, steps, goal, lr) for arm in make_single(optimizers))
    return Descents(problem, steps, goal, runs)


def _run(problem: Problem, arm: Arm, steps: int, goal: float, lr: float | None) -> Run:
    """Return the best run of an arm."""
    given = arm.fixed.get("lr", lr)
    lrs = LRS if given is None else (float(given),)
    options = arm.space.options({**arm.space.defaults, **_still(arm), **arm.fixed})
    tracks = descend(problem, arm.space.optimizer, {k: v for k, v in options.items() if k != "lr"}, lrs, steps)
    values = problem(torch.from_numpy(tracks)).numpy()  # (rates, steps + 1)
    reached = [_reached(row, goal) for row in values]
    height = np.minimum(np.nan_to_num(values, nan=math.inf), 1e300 / steps).mean(1)
    order = sorted(range(len(lrs)), key=lambda k: (math.inf if reached[k] is None else reached[k], height[k]))
    best = order[0]
    edge = len(lrs) > 1 and best in (0, len(lrs) - 1)
    return Run(arm.name, lrs[best], len(lrs), edge, tracks[best], values[best], reached[best])


def _still(arm: Arm) -> dict[str, float]:
    return {"weight_decay": 0.0} if "weight_decay" in arm.space.defaults else {}


def _reached(values: np.ndarray, goal: float) -> int | None:
    """Return after how many steps the values are below the goal for good."""
    above = np.flatnonzero(~(values <= goal))  # NaN is above
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(values) else None


def descend(problem: Problem, optimizer: str, options: dict[str, Any], lrs: Sequence[float], steps: int) -> np.ndarray:
    """Return the points of a descent at each learning rate, (rates, steps + 1, 2).

    Args:
        problem: the surface.
        optimizer: what `build_optimizer` takes.
        options: of its constructor, but for lr.
        lrs: the learning rates.
        steps: of each.
    """
    if "backend" in keywords(optimizer):
        options = {**options, "backend": "reference"}  # two numbers a tensor are not worth compiling for
    if optimizer in OPTIMIZERS:  # tensors do not know of each other, so all rates go in one optimizer
        return _descents(problem, optimizer, options, lrs, steps)
    return np.concatenate([_descents(problem, optimizer, options, [lr], steps) for lr in lrs])


def _descents(
    problem: Problem, optimizer: str, options: dict[str, Any], lrs: Sequence[float], steps: int
) -> np.ndarray:
    params = [torch.nn.Parameter(torch.tensor(problem.start, dtype=torch.float64)) for _ in lrs]
    groups = [{"params": [param], "lr": lr} for param, lr in zip(params, lrs, strict=True)]
    stepper: Any = build_optimizer(optimizer, groups, **options)

    def closure() -> torch.Tensor:
        stepper.zero_grad()
        value = problem(torch.stack(list(params))).sum()
        value.backward()
        return value

    track = [torch.stack(list(params)).detach()]
    switch_to_training(stepper)
    for _ in range(steps):
        stepper.step(closure)
        with evaluation_weights(stepper):
            track.append(torch.stack(list(params)).detach())
    return torch.stack(track, 1).numpy()

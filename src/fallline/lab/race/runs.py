"""Run optimizers on a surface, each at the best of the same set of learning rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fallline.arguments import check_integer, check_number
from fallline.errors import ArgumentError, find_name, suggest
from fallline.lab.design.arms import Arm, make_single
from fallline.lab.design.optimizers import build_optimizer, keywords
from fallline.lab.run.eval_mode import evaluation_weights, switch_to_training
from fallline.optimizers import OPTIMIZERS
from fallline.problems import PROBLEMS, Problem

ARMS = ("sgd", "momentum", "rmsprop", "adam", "lion")
LRS = tuple(10 ** (k / 8) for k in range(-32, 9))  # 1e-4 to 10, eight per decade; every optimizer tries all of them
STEPS = 200
GOAL = 1e-3  # the goal as a part of the value at the start; the built-in surfaces are 0 at their minima


@dataclass(frozen=True, eq=False)
class Run:
    """The run of one optimizer.

    Attributes:
        arm: the optimizer, as the user named it.
        lr: the learning rate.
        tried: number of learning rates that were tried; 1 if the rate was given.
        edge: whether `lr` is the lowest or the highest of several rates that were tried.
        points: the path (steps + 1, 2), beginning at the start; not finite after the run diverged.
        values: the values of the surface at these points (steps + 1,).
        reached: number of steps after which the value stays at or below the goal until the end; None if it does not.
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
    """The runs of several optimizers on one surface.

    Attributes:
        problem: the surface.
        steps: number of steps of every run.
        goal: the value that a run must reach and stay below until its last step.
        runs: the runs, in the order of the arms.
    """

    problem: Problem
    steps: int
    goal: float
    runs: tuple[Run, ...]

    @property
    def ranking(self) -> list[Run]:
        """The runs, sorted by the number of steps to the goal, then runs that miss it, sorted by their last value."""

        def key(run: Run) -> tuple[float, float]:
            last = float(run.values[-1])
            return (math.inf if run.reached is None else run.reached, last if math.isfinite(last) else math.inf)

        return sorted(self.runs, key=key)


def run_all(surface: str | Problem, optimizers: Sequence[str], steps: int, lr: float | None) -> Descents:
    """Return the run of each optimizer at its best learning rate; the arguments are those of `race`.

    Raises:
        ArgumentError: the surface or an optimizer is unknown, or a number is out of range.
    """
    name = find_name(surface, PROBLEMS) if isinstance(surface, str) else None
    if not isinstance(surface, Problem) and name is None:
        raise ArgumentError(
            f"surface: must be one of {', '.join(PROBLEMS)}, got {surface!r}; "
            + suggest(surface, PROBLEMS, "ravine is a good start")
        )
    problem = surface if isinstance(surface, Problem) else PROBLEMS[str(name)]
    check_integer("race", "steps", steps, 2, f"leave it out for {STEPS}")
    if lr is not None:
        check_number("race", "lr", lr, above_zero=True, remedy="leave it out to tune it for each optimizer")
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
    """Return the number of steps after which all values are at or below the goal; None if the last one is above."""
    above = np.flatnonzero(~(values <= goal))  # NaN counts as above
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(values) else None


def descend(problem: Problem, optimizer: str, options: dict[str, Any], lrs: Sequence[float], steps: int) -> np.ndarray:
    """Return the paths of an optimizer at several learning rates, of shape (rates, steps + 1, 2).

    Args:
        problem: the surface.
        optimizer: name of the optimizer, as for `build_optimizer`.
        options: arguments of its constructor, without lr.
        lrs: the learning rates.
        steps: number of steps at each rate.
    """
    if "backend" in keywords(optimizer):
        options = {**options, "backend": "reference"}  # compiling does not pay off for tensors of two numbers
    coupled = optimizer not in OPTIMIZERS or bool(OPTIMIZERS[optimizer].rule.sums) or "clip_grad_norm" in options
    if not coupled:  # updates of different tensors are independent, so one optimizer can run all rates
        return _descents(problem, optimizer, options, lrs, steps)
    return np.concatenate([_descents(problem, optimizer, options, [lr], steps) for lr in lrs])


def _descents(
    problem: Problem, optimizer: str, options: dict[str, Any], lrs: Sequence[float], steps: int
) -> np.ndarray:
    params = [torch.nn.Parameter(torch.tensor(problem.start, dtype=torch.float64)) for _ in lrs]
    own = {"algorithm": "muon"} if optimizer == "muon" else {}  # a point is a vector, which it would leave to AdamW
    groups = [{"params": [param], "lr": lr, **own} for param, lr in zip(params, lrs, strict=True)]
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

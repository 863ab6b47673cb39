"""Parts that the static picture and the animation of a race share: level lines, labels and sentences."""

import numpy as np
import torch

from fallline.lab.race.contours import level_lines
from fallline.lab.race.runs import GOAL, LRS, Descents, Run
from fallline.problems import Problem

LEVELS, GRID = 12, 97  # number of level lines, each at half the value of the next; points per side of the grid
CLOSED, FINE = 8, 257  # the same if the lines around the start are closed, because those of a ravine are long and thin
FAR = 100  # distance from the picture, in sizes of the picture, at which the drawing of a path stops

Row = tuple[str, str, str, str]
COLUMNS = ("optimizer", "lr", "steps to the goal", "value at the end")


def contours(problem: Problem) -> list[np.ndarray]:
    """Return the level lines of a surface over its domain, including those through its saddles.

    If the line through the start is closed within the domain, only closed lines are drawn.
    """
    x, y, values = _heights(problem, GRID)
    levels = [float(values.max()) / 2**k for k in range(1, LEVELS + 1)]
    rim = min(float(edge.min()) for edge in (values[0], values[-1], values[:, 0], values[:, -1]))
    if rim > float(problem(torch.tensor(problem.start, dtype=torch.float64))):
        x, y, values = _heights(problem, FINE)
        levels = [0.98 * rim / 2**k for k in range(CLOSED)]
    levels += [float(problem(torch.tensor(saddle, dtype=torch.float64))) for saddle in problem.saddles]
    return [line for level in levels for line in level_lines(x, y, values, level)]


def _heights(problem: Problem, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a grid over the domain of a surface, and the values on it."""
    x, y = (np.linspace(*limits, size) for limits in problem.domain)
    return x, y, problem(torch.from_numpy(np.stack(np.meshgrid(x, y), -1))).numpy()


def visible_points(run: Run, problem: Problem) -> np.ndarray:
    """Return the points of a run before the first one that is far outside the picture, of shape (at least 1, 2)."""
    low, high = np.array(problem.domain).T
    room = FAR * (high - low)
    inside = ((run.points > low - room) & (run.points < high + room)).all(1)  # False for NaN
    return run.points if inside.all() else run.points[: max(int((~inside).argmax()), 1)]


def label(run: Run) -> str:
    """Return the name of a run in legends."""
    return run.arm if "@lr=" in run.arm else f"{run.arm}, lr {run.lr:.2g}"


def table(race: Descents) -> list[Row]:
    """Return the rows of the table with the columns COLUMNS, fastest run first."""
    return [
        (run.arm, f"{run.lr:.3g}", "never" if run.reached is None else str(run.reached), _number(float(run.values[-1])))
        for run in race.ranking
    ]


def _number(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "diverged"


def method(race: Descents) -> str:
    """Return a description of how the race was run."""
    tried = {run.tried for run in race.runs}
    if tried == {1}:
        rates = "The learning rates were given."
    else:
        rates = (
            f"Each optimizer was run at the same {len(LRS)} learning rates from {LRS[0]:.0e} to {LRS[-1]:g}, eight per "
            "decade. It is shown at the rate that reaches the goal in the fewest steps or, if no rate reaches it, at "
            "the rate with the lowest value on average"
            + ("; some rates were given by the user. " if 1 in tried else ". ")
            + "All other hyperparameters have their default values."
        )
    return (
        f"Every run makes {race.steps} steps from the start (the ring). The goal is to reach a value of "
        f"{race.goal:.2g}, which is {GOAL:g} of the value at the start, and to stay at or below it. {rates} "
        "There is no weight decay and no noise: every gradient is exact."
    )


def warnings(race: Descents) -> list[str]:
    """Return a sentence for each run whose learning rate is at an end of the range tried."""
    return [
        f"{run.arm}: the best learning rate, {run.lr:.2g}, is at an end of the range tried; a better one may lie beyond"
        for run in race.runs
        if run.edge
    ]

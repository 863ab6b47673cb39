"""What the still picture and the animation of a race share: level lines, labels, sentences."""

import numpy as np
import torch

from fallline.lab.race.contours import level_lines
from fallline.lab.race.runs import GOAL, LRS, Descents, Run
from fallline.problems import Problem

LEVELS, GRID = 12, 97  # level lines, each at half the height of the next; points a side of the grid
CLOSED, FINE = 8, 257  # the same if the lines around the start are closed: in a ravine they are long and thin
FAR = 100  # sizes of the picture, beyond which a path is not drawn on

Row = tuple[str, str, str, str]
COLUMNS = ("optimizer", "lr", "steps to the goal", "value at the end")


def contours(problem: Problem) -> list[np.ndarray]:
    """Return the level lines of a surface over its domain, those through its saddles among them.

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
    """Return the points of a run up to the first that is absurdly far outside the picture, (at least 1, 2)."""
    low, high = np.array(problem.domain).T
    room = FAR * (high - low)
    inside = ((run.points > low - room) & (run.points < high + room)).all(1)  # NaN is not
    return run.points if inside.all() else run.points[: max(int((~inside).argmax()), 1)]


def label(run: Run) -> str:
    """Return what a run is called in legends."""
    return run.arm if "@lr=" in run.arm else f"{run.arm}, lr {run.lr:.2g}"


def table(race: Descents) -> list[Row]:
    """Return the rows of COLUMNS, the fastest first."""
    return [
        (run.arm, f"{run.lr:.3g}", "never" if run.reached is None else str(run.reached), _number(float(run.values[-1])))
        for run in race.ranking
    ]


def _number(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "diverged"


def method(race: Descents) -> str:
    """Return how the race was run, in sentences."""
    tried = {run.tried for run in race.runs}
    if tried == {1}:
        rates = "The learning rates were given."
    else:
        rates = (
            f"Each optimizer was run at the same {len(LRS)} learning rates from {LRS[0]:.0e} to {LRS[-1]:g}, eight a "
            "decade, and is shown at the one that reaches the goal in the fewest steps, or has the lowest value on "
            "average where none reaches it"
            + ("; some rates were given. " if 1 in tried else ". ")
            + "All else is at its default."
        )
    return (
        f"{race.steps} steps from the ring; the goal is to come down to {race.goal:.2g}, {GOAL:g} of the height of "
        f"the start, and to stay below. {rates} No weight decay, no noise: every gradient is exact."
    )


def warnings(race: Descents) -> list[str]:
    """Return a sentence for each run whose rate is at the edge of those tried."""
    return [
        f"{run.arm}: the best rate, {run.lr:.2g}, is at the edge of those tried; a better one may lie beyond"
        for run in race.runs
        if run.edge
    ]

"""Small surfaces with known minima, to see in two dimensions what happens in many.

Each is a function of points, a tensor of shape (..., 2), and returns their values, of shape (...), so that one call
gives the height at one point, with its gradient, or of a whole grid.

Example:
    >>> import torch
    >>> from fallline.problems import PROBLEMS
    >>> ravine = PROBLEMS["ravine"]
    >>> ravine(torch.tensor(ravine.minima[0])).item()
    0.0
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Point = tuple[float, float]
Domain = tuple[Point, Point]  # (lowest x, highest x), (lowest y, highest y)
CONDITION = 100.0  # of the ravine: its steepest curvature over its flattest


@dataclass(frozen=True, eq=False)
class Problem:
    """A surface, and what is known about it.

    Attributes:
        name: as `fallline race` takes it.
        function: points of shape (..., 2) to values of shape (...).
        start: where descent begins.
        minima: every local minimum; all of them are global.
        saddles: every saddle point.
        domain: the part of the plane that shows what is going on.
    """

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    start: Point
    minima: tuple[Point, ...]
    saddles: tuple[Point, ...]
    domain: Domain

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Return the values at points of shape (..., 2)."""
        return self.function(points)

    @property
    def summary(self) -> str:
        """What the surface is, in one sentence."""
        return (self.function.__doc__ or "").strip()


PROBLEMS: dict[str, Problem] = {}


def _problem(
    start: Point, domain: Domain, minima: tuple[Point, ...], saddles: tuple[Point, ...] = ()
) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Problem]:
    """Enter the decorated function into PROBLEMS."""

    def declare(function: Callable[[torch.Tensor], torch.Tensor]) -> Problem:
        problem = Problem(function.__name__, function, start, minima, saddles, domain)
        return PROBLEMS.setdefault(problem.name, problem)

    return declare


# The minimum is not at 0, where weight decay and LAMB's trust ratio would help; and the floor is not along an axis,
# where a step size per coordinate would make the ravine round. Momentum 0.9 needs a condition number of about 100 to be
# of use, and a start that is mostly along the floor, because the walls are no difficulty for SGD.
@_problem(start=(-1.9, 0.35), domain=((-2.7, 4.7), (-0.95, 2.35)), minima=((1.0, 1.0),))
def ravine(points: torch.Tensor) -> torch.Tensor:
    """A valley 100 times as steep across as along, turned by 16°: steps that suit one direction fail in the other."""
    x, y = (points - 1).unbind(-1)
    along, across = 0.96 * x + 0.28 * y, 0.96 * y - 0.28 * x
    return (along**2 + CONDITION * across**2) / 2


# Ten times as steep across as down: what the slope across allows as a step is little for the way out.
@_problem(start=(1.5, 0.01), domain=((-2.0, 2.0), (-1.6, 1.6)), minima=((0.0, 1.0), (0.0, -1.0)), saddles=((0.0, 0.0),))
def saddle(points: torch.Tensor) -> torch.Tensor:
    """A pass between two minima: descent from the ridge runs into the saddle, where the gradient vanishes."""
    x, y = points.unbind(-1)
    return 5 * x**2 - y**2 / 2 + y**4 / 4 + 0.25


# The gradient at the start is a thousandth of the steepest, so the rate that suits the hollow crawls on the plain.
@_problem(start=(-3.9, 1.35), domain=((-4.6, 2.6), (-2.4, 2.4)), minima=((0.0, 0.0),))
def plateau(points: torch.Tensor) -> torch.Tensor:
    """A hollow in a plain: the gradient all but vanishes far from the minimum."""
    return 1 - torch.exp(-points.square().sum(-1) / 2)


@_problem(start=(-1.5, 1.5), domain=((-2.0, 2.0), (-1.0, 3.0)), minima=((1.0, 1.0),))
def rosenbrock(points: torch.Tensor) -> torch.Tensor:
    """Rosenbrock's valley (1960), bent and nearly flat along its floor: the direction of descent keeps turning."""
    x, y = points.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2

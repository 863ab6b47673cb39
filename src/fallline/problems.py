"""Two-dimensional test functions with known minima, for showing how optimizers behave.

Each is a function of points, a tensor of shape (..., 2), and returns their values, of shape (...). One call evaluates
a single point, where autograd gives the gradient, or a whole grid.

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

from fallline.errors import ArgumentTypeError

Point = tuple[float, float]
Domain = tuple[Point, Point]  # (lowest x, highest x), (lowest y, highest y)
CONDITION = 100.0  # condition number of the ravine: largest over smallest curvature


@dataclass(frozen=True, eq=False)
class Problem:
    """A test function with its known properties.

    Attributes:
        name: the name that `fallline race` accepts.
        function: maps points of shape (..., 2) to values of shape (...).
        start: starting point of the optimizers.
        minima: all local minima; all of them are global.
        saddles: all saddle points.
        domain: the part of the plane to plot.
    """

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    start: Point
    minima: tuple[Point, ...]
    saddles: tuple[Point, ...]
    domain: Domain

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Return the values at points of shape (..., 2)."""
        values: object = self.function(points)
        if not isinstance(values, torch.Tensor) or values.shape != points.shape[:-1]:
            got = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else f"{values!r}"
            raise ArgumentTypeError(
                f"problem {self.name}: function must return the values of points of shape {tuple(points.shape)}, a "
                f"tensor of shape {tuple(points.shape[:-1])}, got {got}; return the tensor, without .item() or .sum()"
            )
        return values

    @property
    def summary(self) -> str:
        """One sentence that describes the function."""
        return (self.function.__doc__ or "").strip()


PROBLEMS: dict[str, Problem] = {}


def _problem(
    start: Point, domain: Domain, minima: tuple[Point, ...], saddles: tuple[Point, ...] = ()
) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Problem]:
    """Return a decorator that adds a function to PROBLEMS."""

    def declare(function: Callable[[torch.Tensor], torch.Tensor]) -> Problem:
        problem = Problem(function.__name__, function, start, minima, saddles, domain)
        return PROBLEMS.setdefault(problem.name, problem)

    return declare


# The minimum is not at 0, where weight decay and LAMB's trust ratio would help. The floor is not along an axis, where
# step sizes per coordinate would remove the ill-conditioning. A momentum of 0.9 helps only from a condition number of
# about 100 on, and if the start lies mostly along the floor, because SGD descends the walls quickly.
@_problem(start=(-1.9, 0.35), domain=((-2.7, 4.7), (-0.95, 2.35)), minima=((1.0, 1.0),))
def ravine(points: torch.Tensor) -> torch.Tensor:
    """A valley rotated by 16°, with 100 times more curvature across than along: no step size suits both directions."""
    x, y = (points - 1).unbind(-1)
    along, across = 0.96 * x + 0.28 * y, 0.96 * y - 0.28 * x
    return (along**2 + CONDITION * across**2) / 2


# The curvature across is ten times that along the way down, so a step that is stable across escapes slowly.
@_problem(start=(1.5, 0.01), domain=((-2.0, 2.0), (-1.6, 1.6)), minima=((0.0, 1.0), (0.0, -1.0)), saddles=((0.0, 0.0),))
def saddle(points: torch.Tensor) -> torch.Tensor:
    """A pass between two minima: descent from the ridge leads into the saddle point, where the gradient vanishes."""
    x, y = points.unbind(-1)
    return 5 * x**2 - y**2 / 2 + y**4 / 4 + 0.25


# The gradient at the start is a thousandth of the largest, so a rate that suits the hollow is very slow on the plain.
@_problem(start=(-3.9, 1.35), domain=((-4.6, 2.6), (-2.4, 2.4)), minima=((0.0, 0.0),))
def plateau(points: torch.Tensor) -> torch.Tensor:
    """A hollow in a plain: the gradient almost vanishes far from the minimum."""
    return 1 - torch.exp(-points.square().sum(-1) / 2)


@_problem(start=(-1.5, 1.5), domain=((-2.0, 2.0), (-1.0, 3.0)), minima=((1.0, 1.0),))
def rosenbrock(points: torch.Tensor) -> torch.Tensor:
    """Rosenbrock's valley (1960), curved and nearly flat along its floor: the direction of descent keeps changing."""
    x, y = points.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2

"""The path of a training, projected onto the plane in which it varies most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from fallline.errors import ArgumentError
from fallline.formatting import format_measurement
from fallline.landscape.loss.directions import Direction, as_direction, dot, norm, principal, select_parameters


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The points of a path, projected onto a plane through the model's weights.

    Attributes:
        points: (T, 2), coordinates along the two directions; the model's weights are at (0, 0).
        explained: share of the path's variance along each direction; the sum is at most 1. Interpret it with care: the
            first two principal directions of a random walk in many dimensions hold 0.76, and the projection of such a
            walk is a smooth curve.
        distance: (T,), distance of each point from the plane.
        directions: two directions, each a tensor for each parameter in the order of `names`; pass them to `surface`.
        names: names of the parameters.
    """

    points: np.ndarray = field(repr=False)
    explained: tuple[float, float]
    distance: np.ndarray = field(repr=False)
    directions: tuple[Direction, Direction] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @property
    def span(self) -> tuple[float, float]:
        """The `span` with which `surface` covers the path."""
        first, second = 1.1 * np.abs(self.points).max(0)
        return float(first) or 1.0, float(second) or 1.0

    def __str__(self) -> str:
        shares = " and ".join(f"{100 * share:.0f} %" for share in self.explained)
        off = format_measurement(float(self.distance.max()))
        return f"{len(self.points)} points, {shares} of their variance in the plane, distance to it at most {off}"

    def plot(self) -> Any:
        """Return an Altair chart of the path, for a notebook. Requires the extra `lab`."""
        from fallline.plotting import plot_trajectory

        return plot_trajectory(self)


def trajectory(
    model: nn.Module, path: Sequence[Any], directions: Any = "pca", *, params: Iterable[Any] | None = None
) -> Trajectory:
    """Return a path of weights, projected onto a plane through the model's current weights.

    Args:
        model: the model, whose current weights are the origin, for example those at the end of the path.
        path: sets of weights, oldest first: state dicts, or lists of all parameters. Pass copies of the tensors.
        directions: "pca", the first two principal directions of the path; or a pair, each a dict by name, a list of
            tensors or a flat tensor, which is made orthonormal by the Gram-Schmidt process.
        params: names or parameters to use; by default all that require a gradient.

    Raises:
        ArgumentError: the path has fewer than three points or does not match the model, or the directions are parallel.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> end = layer.weight.detach().clone()
        >>> path = [[end + k * torch.tensor([[3.0, 4.0]])] for k in (2, 1, 0)]
        >>> found = trajectory(layer, path)
        >>> abs(found.points[:, 0]).round(3).tolist(), round(found.explained[0], 3)
        ([10.0, 5.0, 0.0], 1.0)
    """
    found = select_parameters("trajectory", model, params)
    if not isinstance(path, Sequence) or len(path) < 3:
        got = len(path) if isinstance(path, Sequence) else type(path).__name__
        raise ArgumentError(f"trajectory: path must have at least 3 points, got {got}; record more of them in a list")
    points = [as_direction("trajectory", point, found) for point in path]
    if isinstance(directions, str) and directions != "pca":
        raise ArgumentError(
            f"trajectory: directions must be 'pca' or a pair of directions, got {directions!r}; omit it"
        )
    pair = principal(points)[0] if isinstance(directions, str) else _orthonormal(directions, found)
    away = [[p.double() - w.detach().double() for p, w in zip(point, found.values(), strict=True)] for point in points]
    coordinates = np.array([[dot(point, direction) for direction in pair] for point in away])
    distance = [
        norm([p - a * d - b * e for p, d, e in zip(point, *pair, strict=True)])
        for point, (a, b) in zip(away, coordinates, strict=True)
    ]
    total = sum(float(_variance(tensors)) for tensors in zip(*points, strict=True))
    held = coordinates.var(0) / total if total > 0 else np.zeros(2)
    return Trajectory(
        coordinates, (float(held[0]), float(held[1])), np.array(distance), (pair[0], pair[1]), tuple(found)
    )


def _variance(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.double() for tensor in tensors]).var(0, correction=0).sum()


def _orthonormal(directions: Any, params: dict[str, torch.Tensor]) -> list[Direction]:
    if not isinstance(directions, Sequence) or len(directions) != 2:
        raise ArgumentError(
            "trajectory: directions must be 'pca' or a pair of directions, got something else; pass (first, second)"
        )
    one, other = ([t.double() for t in as_direction("trajectory", d, params)] for d in directions)
    length, both = norm(one), norm(other)
    one = [t / (length or 1.0) for t in one]
    along = dot(one, other)
    other = [t - along * u for t, u in zip(other, one, strict=True)]
    rest = norm(other)
    if length == 0 or rest <= 1e-8 * both:
        raise ArgumentError(
            f"trajectory: directions must span a plane, got norms {length:g} and, orthogonal to the first, {rest:g}; "
            "pass two directions that are not parallel"
        )
    return [one, [t / rest for t in other]]

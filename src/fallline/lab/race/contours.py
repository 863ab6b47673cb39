"""Compute the level lines of a function on a grid with the marching squares algorithm."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

Edge = tuple[int, int, int]  # row and column of its lower left end; 0 if the edge runs along x, 1 if along y
# For each pattern of corners above the level (1 lower left, 2 lower right, 4 upper right, 8 upper left), the pair of
# sides of the cell (0 bottom, 1 right, 2 top, 3 left) that a segment of the level line connects.
_SIDES: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((3, 0),),
    2: ((0, 1),),
    3: ((3, 1),),
    4: ((1, 2),),
    6: ((0, 2),),
    7: ((3, 2),),
    8: ((2, 3),),
    9: ((2, 0),),
    11: ((2, 1),),
    12: ((1, 3),),
    13: ((1, 0),),
    14: ((0, 3),),
}
# The two possible connections if opposite corners are above the level; the value at the centre of the cell decides.
_APART, _JOINED = ((3, 0), (1, 2)), ((3, 2), (1, 0))


def level_lines(x: np.ndarray, y: np.ndarray, values: np.ndarray, level: float) -> list[np.ndarray]:
    """Return the lines on which a function equals `level`, each of shape (points, 2).

    The first and the last point of a closed line are equal.

    Args:
        x, y: coordinates of the grid, of shapes (n,) and (m,).
        values: values of the function on the grid, of shape (m, n).
        level: the value of the function on the lines.

    Example:
        >>> x = np.linspace(-2, 2, 41)
        >>> (circle,) = level_lines(x, x, x**2 + x[:, None] ** 2, 1.0)
        >>> bool(np.allclose(np.hypot(*circle.T), 1, atol=2e-3)), bool((circle[0] == circle[-1]).all())
        (True, True)
    """
    neighbours: dict[Edge, list[Edge]] = defaultdict(list)
    for one, other in _segments(values, level):
        neighbours[one].append(other)
        neighbours[other].append(one)
    ends = [edge for edge, others in neighbours.items() if len(others) == 1]
    lines = []
    for start in [*ends, *neighbours]:  # open lines start at one of their ends, then closed lines start at any edge
        if neighbours[start]:
            lines.append(np.array([_crossing(x, y, values, level, edge) for edge in _walk(start, neighbours)]))
    return lines


def _walk(edge: Edge, neighbours: dict[Edge, list[Edge]]) -> Iterator[Edge]:
    """Yield the edges of a line in order, starting at `edge`, and remove its segments from `neighbours`."""
    yield edge
    while neighbours[edge]:
        following = neighbours[edge].pop()
        neighbours[following].remove(edge)
        yield following
        edge = following


def _segments(values: np.ndarray, level: float) -> Iterator[tuple[Edge, Edge]]:
    above = (values > level).astype(int)
    patterns = above[:-1, :-1] + 2 * above[:-1, 1:] + 4 * above[1:, 1:] + 8 * above[1:, :-1]
    for row, column in np.argwhere((patterns > 0) & (patterns < 15)).tolist():
        pattern = int(patterns[row, column])
        pairs: tuple[tuple[int, int], ...]
        if pattern in (5, 10):  # a saddle: the value at the centre decides which sides are connected
            middle = values[row : row + 2, column : column + 2].mean() > level
            pairs = _JOINED if middle == (pattern == 5) else _APART
        else:
            pairs = _SIDES[pattern]
        edges = ((row, column, 0), (row, column + 1, 1), (row + 1, column, 0), (row, column, 1))
        for one, other in pairs:
            yield edges[one], edges[other]


def _crossing(x: np.ndarray, y: np.ndarray, values: np.ndarray, level: float, edge: Edge) -> tuple[float, float]:
    """Return the point on an edge at which the function reaches the level, by linear interpolation."""
    row, column, along_y = edge
    first = values[row, column]
    second = values[row + 1, column] if along_y else values[row, column + 1]
    part = (level - first) / (second - first)
    if along_y:
        return float(x[column]), float(y[row] + part * (y[row + 1] - y[row]))
    return float(x[column] + part * (x[column + 1] - x[column])), float(y[row])

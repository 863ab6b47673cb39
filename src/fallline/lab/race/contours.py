"""Level lines of a function on a grid, by marching squares."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

Edge = tuple[int, int, int]  # row and column of its lower left end, 0 for along x and 1 for along y
# For each pattern of corners above the level (1 lower left, 2 lower right, 4 upper right, 8 upper left), the sides of
# the cell (0 below, 1 right, 2 above, 3 left) that a line joins.
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
_APART, _JOINED = ((3, 0), (1, 2)), ((3, 2), (1, 0))  # the two ways through corners 1 and 4, by the middle's side


def level_lines(x: np.ndarray, y: np.ndarray, values: np.ndarray, level: float) -> list[np.ndarray]:
    """Return the lines on which a function has a value, each (points, 2); a closed one ends where it begins.

    Args:
        x, y: coordinates of the grid, (n,) and (m,).
        values: of the function, (m, n).
        level: the value.

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
    for start in [*ends, *neighbours]:  # open lines from an end, then the closed ones from anywhere
        if neighbours[start]:
            lines.append(np.array([_crossing(x, y, values, level, edge) for edge in _walk(start, neighbours)]))
    return lines


def _walk(edge: Edge, neighbours: dict[Edge, list[Edge]]) -> Iterator[Edge]:
    """Yield the edges of a line from one on, taking its segments away."""
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
        if pattern in (5, 10):  # a pass: the middle says on which side the line goes
            middle = values[row : row + 2, column : column + 2].mean() > level
            pairs = _JOINED if middle == (pattern == 5) else _APART
        else:
            pairs = _SIDES[pattern]
        edges = ((row, column, 0), (row, column + 1, 1), (row + 1, column, 0), (row, column, 1))
        for one, other in pairs:
            yield edges[one], edges[other]


def _crossing(x: np.ndarray, y: np.ndarray, values: np.ndarray, level: float, edge: Edge) -> tuple[float, float]:
    """Return where on an edge the level is, between its ends in proportion."""
    row, column, along_y = edge
    first = values[row, column]
    second = values[row + 1, column] if along_y else values[row, column + 1]
    part = (level - first) / (second - first)
    if along_y:
        return float(x[column]), float(y[row] + part * (y[row + 1] - y[row]))
    return float(x[column] + part * (x[column + 1] - x[column])), float(y[row])

"""Performance profiles: how often an arm is within a factor of the best, over several tasks."""

import math
from collections.abc import Mapping, Sequence


def ratios(values: Mapping[str, float | None], mode: str = "min") -> dict[str, float]:
    """Return for every arm how many times worse than the best it is, >= 1; infinity where it failed.

    For "max" it is best / own; for "min" own / best.

    Args:
        values: > 0, by arm; None where the arm failed.
        mode: "min" when lower is better, else "max".

    Example:
        >>> ratios({"a": 2.0, "b": 3.0, "c": None})
        {'a': 1.0, 'b': 1.5, 'c': inf}
    """
    good = [value for value in values.values() if value is not None]
    best = (min if mode == "min" else max)(good, default=math.nan)

    def ratio(value: float | None) -> float:
        if value is None:
            return math.inf
        if value == best:
            return 1.0
        own, other = (value, best) if mode == "min" else (best, value)
        return own / other if other > 0 else math.inf

    return {arm: ratio(value) for arm, value in values.items()}


def profile(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of an arm's profile: (τ, share of the tasks in which its ratio is at most τ).

    Dolan and Moré 2002. Infinite ratios never count, so the last share is below 1 when the arm failed on a task.

    Args:
        values: ratios to the best arm, one a task.

    Example:
        >>> profile([1.0, 2.0, float("inf"), 1.0])
        [(1.0, 0.5), (2.0, 0.75)]
    """
    finite = sorted({value for value in values if math.isfinite(value)})
    corners = [(tau, sum(value <= tau for value in values) / len(values)) for tau in finite]
    return corners if corners and corners[0][0] == 1.0 else [(1.0, 0.0), *corners]

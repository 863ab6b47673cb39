"""When a run reaches a target; never is infinity, so that a median over runs counts the misses."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence


def first_step(curve: Sequence[Mapping[str, float]], metric: str, target: float, mode: str) -> float:
    """Return the step of the first row at which a metric is at the target or beyond; infinity when there is none.

    Args:
        curve: rows with "step" and the metric.
        metric: key in the rows.
        target: value to reach.
        mode: "min" when lower is better, else "max".

    Example:
        >>> first_step([{"step": 10, "val_loss": 2.0}, {"step": 20, "val_loss": 1.0}], "val_loss", 1.5, "min")
        20
    """
    met = (row["step"] for row in curve if (row[metric] <= target if mode == "min" else row[metric] >= target))
    return next(met, math.inf)


def median(values: Iterable[float]) -> float:
    """Return the median, infinite when half of the values or more are; NaN when there are none."""
    found = list(values)
    return statistics.median(found) if found else math.nan


def grid(target: float, easiest: float, mode: str, ratios: bool) -> list[float]:
    """Return the target with easier ones up to `easiest`, hardest first.

    They are 10 %, 25 %, 50 %, 100 %, 200 % and 400 % above the target for losses, and a tenth of that, away from it,
    for metrics that are compared by differences.

    Example:
        >>> grid(1.0, 2.5, "min", ratios=True)
        [1.0, 1.1, 1.25, 1.5, 2.0]
    """
    away = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]
    sign, size = (1 if mode == "min" else -1), (1.0 if ratios else 0.1) * abs(target)
    targets = [target + sign * size * share for share in away]
    return [t for t in targets if t == target or sign * t <= sign * easiest]

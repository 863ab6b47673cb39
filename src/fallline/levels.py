"""Compares the level of a noisy loss with its level before, without trusting any single value."""

import math
import statistics
from collections.abc import Sequence

DEVIATIONS = 4.5  # standard errors by which levels must differ; tests/test_failing.py holds its error rates
SEPARATED = 3, 10  # earlier and later losses of which all the later being higher is no chance: 1 in 286
_MAD = 1.4826  # times the median absolute deviation of normal values is their standard deviation
_MEDIAN = 1.2533  # standard error of a median of normal values, times that of their mean


def level(losses: Sequence[float]) -> float:
    """Return the median, on which single values have no influence.

    Example:
        >>> level([2.0, 1.0, 1e9])
        2.0
    """
    return statistics.median(losses)


def is_above(
    later: Sequence[float],
    earlier: Sequence[float],
    *,
    ratios: bool,
    deviation: float | None = None,
    least: float = 0.0,
) -> bool:
    """Return whether later losses lie above earlier ones by more than their noise explains.

    Args:
        later, earlier: losses, at least one each.
        ratios: compare logarithms, as for losses above 0, whose noise is proportional to their size.
        deviation: standard deviation of what is compared; by default the larger one of both, estimated robustly.
        least: that it is at least, where there are too few losses to estimate it.

    Example:
        >>> is_above([3.0, 3.1, 2.9, 3.0], [1.0], ratios=True)
        True
        >>> is_above([3.0, 0.2, 30.0, 3.0], [1.0], ratios=True)
        False
    """
    if len(earlier) >= SEPARATED[0] and len(later) >= SEPARATED[1] and min(later) > max(earlier):
        return True  # also where a loss that diverges jumps by orders of magnitude, which would pass for noise
    new, old = (list(map(math.log, losses)) if ratios else losses for losses in (later, earlier))
    if deviation is None:
        deviation = max(spread(new), spread(old))
    noise = max(deviation, least) * _MEDIAN * math.sqrt(1 / len(new) + 1 / len(old))
    limit = DEVIATIONS * (1 + 1 / len(old))  # few losses have longer tails than their median has for many
    return level(new) - level(old) > limit * noise


def spread(values: Sequence[float]) -> float:
    """Return a standard deviation that outliers do not change.

    Example:
        >>> round(spread([1.0, 2.0, 3.0, 4.0, 1e9]), 2)
        1.48
    """
    middle = level(values)
    return _MAD * level([abs(value - middle) for value in values])

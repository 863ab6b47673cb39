"""Confidence intervals of a mean from few values."""

import math
import statistics
from collections.abc import Sequence


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution with an integer number of degrees of freedom.

    It is found by bisection of the distribution function in closed form, Abramowitz and Stegun 26.7.3 and 26.7.4.

    Example:
        >>> round(t_quantile(0.975, 10), 4)
        2.2281
    """
    if degrees < 1:
        return math.inf
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, math.pi / 2  # the angle whose tangent is t/√degrees
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 + _within(middle, degrees) / 2 < probability else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """Return P(|t| < √degrees·tan(angle))."""
    cosine, odd = math.cos(angle), degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for i in range(2 if odd else 1, degrees - 1, 2):
        term *= cosine * cosine * i / (i + 1)
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def mean_interval(values: Sequence[float], offset: float = 0.0) -> tuple[float, float, tuple[float, float]]:
    """Return mean, standard error and 95 % t-interval of values, shifted by an offset.

    Example:
        >>> mean_interval([1.0, 2.0, 3.0])[0]
        2.0
    """
    mean = offset + statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf, (-math.inf, math.inf)
    stderr = statistics.stdev(values) / math.sqrt(len(values))
    margin = t_quantile(0.975, len(values) - 1) * stderr
    return mean, stderr, (mean - margin, mean + margin)

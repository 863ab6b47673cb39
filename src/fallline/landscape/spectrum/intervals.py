"""Confidence intervals of a mean from few values, and of a share from random projections."""

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


def share_interval(low: float, high: float, probes: int, n: int) -> tuple[float, float]:
    """Return a 95 % interval of the share m/n of m dimensions, from the squared projections of random unit vectors.

    The squared projection of a random unit vector onto m of n dimensions has the distribution Beta(m/2, (n − m)/2). The
    mean over the probes is approximated by the beta distribution of the same mean and variance. The interval contains
    the m for which neither tail beyond the measured mean is below 2.5 %.

    Args:
        low, high: bounds of the mean of the measured projections.
        probes: number of random vectors.
        n: number of dimensions.

    Example:
        >>> low, high = share_interval(0.25, 0.25, probes=4, n=100)
        >>> round(low, 2), round(high, 2)
        (0.2, 0.31)
    """
    size = probes * (n + 2) / 2 - 1

    def below(share: float, measured: float) -> float:
        """Return the probability of a mean of at most `measured`."""
        if share <= 0 or share >= 1:
            return 1.0 if share <= 0 else float(measured >= 1)
        return beta_distribution(measured, size * share, size * (1 - share))

    ends = []
    for measured, tail in ((low, 0.975), (high, 0.025)):
        left, right = 0.0, 1.0  # `below` decreases with the share
        for _ in range(60):
            middle = (left + right) / 2
            left, right = (middle, right) if below(middle, measured) > tail else (left, middle)
        ends.append(left)
    slack = 1e-9 * n  # of the bisection
    first, last = math.ceil(ends[0] * n - slack), math.floor(ends[1] * n + slack)
    first, last = min(first, last), max(first, last)  # if no m is between the ends: the one on each side
    return max(0.0, first / n), min(1.0, last / n)


def beta_distribution(x: float, a: float, b: float) -> float:
    """Return P(X <= x) for a beta-distributed X, by the continued fraction of the incomplete beta function.

    Example:
        >>> round(beta_distribution(0.3, 2.0, 3.0), 4)
        0.3483
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - beta_distribution(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    total = d
    for k in range(1, 100_000):
        for term in (
            k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)),
            -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1)),
        ):
            d, c = 1 / (1 + term * d or tiny), 1 + term / c or tiny
            total *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return min(1.0, math.exp(front) * total / a)

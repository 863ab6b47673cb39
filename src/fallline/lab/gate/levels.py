"""Nominal levels of the looks at a series of pairs, so that all looks together keep one significance level."""

import math
from functools import lru_cache

import numpy as np
from scipy.special import betainc, stdtrit

STEP = 4  # pairs between two looks
_SPENDING = 2  # the share (n / most)^2 of the level is spent after n of the most pairs
_NODES = 64
_REACH = 8.0  # standard deviations of an angle that are integrated; beyond, its probability is below 1e-14
_BISECTIONS = 16  # to within 0.01 %, from below; scipy.optimize would take seconds to import


@lru_cache(maxsize=1024)
def nominal_levels(level: float, most: int, paired: bool) -> tuple[float, ...]:
    """Return the nominal one-sided level of the t-test at each look, after 4, 8, …, `most` pairs.

    The look after n pairs spends level · (n² − (n − 4)²) / most² of the significance level. If a bound is crossed for
    the first time at a look, it was not crossed at the look before. So each nominal level is chosen such that this
    event has exactly the probability that the look spends, and all looks together do not exceed the level.
    benchmarks/gate.py measures their total.

    Args:
        level: significance level over all looks.
        most: largest number of pairs, a multiple of 4.
        paired: whether the test is on the differences of the pairs, with n − 1 degrees of freedom, or on two
            independent samples, with 2 (n − 1).

    Example:
        >>> [round(nominal, 4) for nominal in nominal_levels(0.025, 16, paired=False)]
        [0.0016, 0.005, 0.01, 0.0167]
    """
    nominal = [level * (STEP / most) ** _SPENDING]
    for n in range(2 * STEP, most + 1, STEP):
        spent = level * (n**_SPENDING - (n - STEP) ** _SPENDING) / most**_SPENDING
        low, high = spent, level  # the nominal level is at least what is spent
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            if _crossing(n, paired, nominal[-1], middle) > spent:
                high = middle
            else:
                low = middle
        nominal.append(low)
    return tuple(nominal)


def _dimensions(n: int, paired: bool) -> int:
    """Return the number of normal contrasts after n pairs: the sum of the differences, and what estimates the noise."""
    return n if paired else 2 * n - 1


def _bound(n: int, paired: bool, nominal: float) -> float:
    """Return the angle of the t-value with this one-sided p."""
    freedom = _dimensions(n, paired) - 1
    return math.atan(-float(stdtrit(freedom, nominal)) / math.sqrt(freedom))


@lru_cache(maxsize=256)
def _angles(dimensions: int, end: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights for the angle between a random direction and a plane, up to `end`."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    widest = min(math.pi / 2, _REACH / math.sqrt(dimensions))
    top = widest if end is None else min(end, widest)
    half = (top + widest) / 2
    angles = half * (nodes + 1) - widest
    constant = math.exp(math.lgamma(dimensions / 2) - math.lgamma((dimensions - 1) / 2)) / math.sqrt(math.pi)
    return angles, constant * half * weights * np.cos(angles) ** (dimensions - 2)


def _crossing(n: int, paired: bool, before: float, nominal: float) -> float:
    """Return the probability that p is below `nominal` after n pairs, but not below `before` after n − 4.

    Without a difference the contrasts are independent standard normals up to their scale. With S the sum of the
    differences (scaled to variance n) and R² the sum of squares of all contrasts, a = S / (√n R) is the sine of an
    angle, which determines t. R is independent of a, and after 4 more pairs

        √n' a' = √n a √((1 − e²) b) + √4 e,

    where e, the share of the new differences, is the sine of such an angle, and b ~ Beta(d / 2, (d' − d − 1) / 2) for
    d contrasts before and d' after them.
    """
    old = n - STEP
    few, many = _dimensions(old, paired), _dimensions(n, paired)
    angles, weights = _angles(few, _bound(old, paired, before))
    shares, densities = _angles(many)
    a, e = np.sin(angles)[:, None], np.sin(shares)[None, :]
    bound = math.sin(_bound(n, paired, nominal))
    needed = (bound * math.sqrt(n) - math.sqrt(STEP) * e) / (math.sqrt(old) * np.cos(shares)[None, :])
    below = betainc(few / 2, (many - few - 1) / 2, np.minimum(1.0, (needed / a) ** 2))
    crossing = np.where(a > 0, np.where(needed <= 0, 1.0, 1 - below), np.where(needed >= 0, 0.0, below))
    return float(weights @ crossing @ densities)

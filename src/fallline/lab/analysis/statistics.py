"""Paired comparisons of two arms: intervals, exact and corrected p-values, and the smallest detectable difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit  # scipy.stats calls these functions, but its import takes a second

from fallline.errors import ArgumentError
from fallline.lab.analysis.variance import Design, SeedsOnly, Variance
from fallline.lab.design.group_sequential import nominal_level

CONFIDENCE = 0.95
POWER = 0.8
_LARGEST_PERCENT = 1000.0  # from here on a change is reported as a factor
_EXACT_FROM, _EXACT_TO = 8, 20  # below, p takes few values; above, 2^n sums do not fit in memory


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n − 1 in the denominator) and t interval over seeds; the last two are NaN for n = 1."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The comparison of an arm with a baseline, paired by seed.

    Differences are log(arm / baseline) if `log_ratio`, else arm − baseline.

    Attributes:
        n: number of pairs.
        difference, low, high: mean difference and its t interval. In a sequential study this is the repeated
            confidence interval, which has its coverage over all looks together.
        p: two-sided p-value of the t-test; 0 if the differences do not vary and are not 0.
        sign_flip_p: two-sided exact p-value of the sign-flip test on the mean, over the seeds alone; None for n < 8
            and n > 20.
        superiority: share of pairs in which the arm is better; ties count half.
        detectable: the smallest difference that a test with this n and variance detects with 80 % probability, at the
            significance level of one of the corrected comparisons.
        identical: whether every difference is exactly 0.
        log_ratio: whether differences are log ratios; `percent` converts a log ratio to a change in %.
        variance: variance of the mean difference, split by what would reduce it.
        design: the sources of randomness.
        baseline_mean: mean of the baseline's values; a margin is relative to it.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float
    sign_flip_p: float | None
    superiority: float
    detectable: float
    identical: bool
    log_ratio: bool
    variance: Variance
    design: Design = field(compare=False, repr=False)
    baseline_mean: float

    @property
    def limit(self) -> float:
        """Half the width of the 95 % interval that infinitely many seeds would leave."""
        return float(ndtri(0.5 + CONFIDENCE / 2)) * math.sqrt(self.variance.examples)

    @staticmethod
    def percent(log_ratio: float) -> float:
        """Return a log ratio as a change in percent; infinity if the change is too large for a float.

        Example:
            >>> round(Comparison.percent(math.log(1.1)), 6), Comparison.percent(750.0)
            (10.0, inf)
        """
        try:
            return 100 * math.expm1(log_ratio)
        except OverflowError:
            return math.inf

    @staticmethod
    def format_change(log_ratio: float, sign: str = "") -> str:
        """Return a log ratio as text: a change in percent, or a factor if it is 11 or more.

        The text has enough digits that only an exact 0 is shown as 0 (up to six decimals).

        Example:
            >>> Comparison.format_change(0.00021, "+"), Comparison.format_change(-0.1), Comparison.format_change(0.0)
            ('+0.02 %', '−9.5 %', '0.0 %')
            >>> Comparison.format_change(math.log(116.61), "+"), Comparison.format_change(750.0)
            ('×117', '×5.3e+325')
        """
        percent = Comparison.percent(log_ratio)
        if percent >= _LARGEST_PERCENT:
            power = log_ratio / math.log(10)
            factor = f"{math.exp(log_ratio):.3g}" if power < 6 else f"{10 ** (power % 1):.1f}e+{math.floor(power)}"
            return f"×{factor}"
        digits = 1 if abs(percent) >= 0.05 or percent == 0 else min(6, -math.floor(math.log10(abs(percent))))
        return f"{percent:{sign}.{digits}f} %".replace("-", "−")


def summarize(values: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Return the mean, standard deviation and t interval of finite values.

    Example:
        >>> s = summarize([1.0, 2.0, 3.0])
        >>> s.mean, s.sd, round(s.low, 3), round(s.high, 3)
        (2.0, 1.0, -0.484, 4.484)
    """
    array = _finite("summarize", "values", values)
    n, mean = len(array), float(array.mean())
    if n == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    sd = float(array.std(ddof=1))
    half = _t(n, confidence) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def compare(
    arm: Sequence[float],
    baseline: Sequence[float],
    *,
    log_ratio: bool,
    mode: str = "min",
    confidence: float = CONFIDENCE,
    comparisons: int = 1,
    design: Design | None = None,
    looks: Sequence[int] = (),
) -> Comparison:
    """Compare paired values: element i of both comes from the same seed.

    Args:
        arm, baseline: at least two values each.
        log_ratio: compare ratios (for losses, > 0) instead of differences.
        mode: "min" if smaller is better, else "max".
        confidence: confidence level of the interval, which is not corrected for the number of comparisons.
        comparisons: number of comparisons that share the significance level; affects `detectable`.
        design: the sources of randomness; by default only the seeds.
        looks: numbers of seeds after which a sequential study is analysed, including the current one.

    Raises:
        ArgumentError: lengths differ, fewer than two pairs, a value is not finite, or is <= 0 with `log_ratio`.

    Example:
        >>> c = compare([1.1, 2.3, 3.2], [1.0, 2.0, 3.0], log_ratio=False)
        >>> round(c.difference, 3), round(c.p, 4), c.superiority
        (0.2, 0.0742, 0.0)
    """
    d = paired_differences(arm, baseline, log_ratio)
    n, mean = len(d), float(d.mean())
    design = SeedsOnly() if design is None else design
    variance = design.variance(d, log_ratio)
    error = math.sqrt(variance.total)
    p = float(2 * stdtr(n - 1, -abs(mean) / error)) if error > 0 else float(mean == 0)
    level = 1 - confidence
    wide, left = (nominal_level(part, n, looks or (n,)) for part in (level, level / comparisons))
    half = _t(n, 1 - wide) * error
    wins = d < 0 if mode == "min" else d > 0
    return Comparison(
        n=n,
        difference=mean,
        low=mean - half,
        high=mean + half,
        p=p,
        sign_flip_p=_sign_flip_p(d) if _EXACT_FROM <= n <= _EXACT_TO else None,
        superiority=float((wins + 0.5 * (d == 0)).mean()),
        detectable=(_t(n, 1 - left) + float(stdtrit(n - 1, POWER))) * error,
        identical=bool((d == 0).all()),
        log_ratio=log_ratio,
        variance=variance,
        design=design,
        baseline_mean=float(np.mean(baseline)),
    )


def paired_differences(arm: Sequence[float], baseline: Sequence[float], log_ratio: bool) -> np.ndarray:
    """Return log(arm / baseline), or arm − baseline, by seed.

    Raises:
        ArgumentError: as for `compare`.
    """
    x, y = _finite("compare", "arm", arm), _finite("compare", "baseline", baseline)
    if len(x) != len(y) or len(x) < 2:
        raise ArgumentError(
            f"statistics.compare: arm and baseline must be pairs, at least two, got {len(x)} and {len(y)} values; "
            "give both the same seeds"
        )
    if log_ratio and min(x.min(), y.min()) <= 0:
        raise ArgumentError(
            f"statistics.compare: values must be > 0 for ratios, got {min(x.min(), y.min()):g}; pass log_ratio=False"
        )
    return np.asarray(np.log(x / y) if log_ratio else x - y)


def holm(p_values: Sequence[float], looks: Sequence[int] = (), seeds: int = 0) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Holm 1979).

    In a sequential study they are also corrected for the number of looks: a corrected p below 5 % is significant over
    all comparisons and looks together.

    Args:
        p_values: the p-values of all comparisons.
        looks: numbers of seeds after which the study is analysed; empty for a fixed number of seeds.
        seeds: number of seeds at this look.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
        >>> [round(p, 3) for p in holm([0.006, 0.013], (4, 8, 12, 16), 4)]
        [0.048, 0.052]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest, level = 0.0, 1 - CONFIDENCE
    for rank, i in enumerate(order):
        remaining = len(order) - rank
        factor = float(remaining)
        if len(looks) > 1:
            factor = level / nominal_level(level / remaining, seeds, looks)
        largest = max(largest, min(1.0, factor * p_values[i]))
        adjusted[i] = largest
    return adjusted


def p_equation(p: float) -> str:
    """Return a p-value as an equation for use in a sentence.

    Example:
        >>> p_equation(0.0123), p_equation(0.00002)
        ('p = 0.012', 'p < 0.001')
    """
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def p_text(p: float) -> str:
    """Return a p-value with three decimals, or with four if three would not show on which side of 5 % it is.

    Example:
        >>> p_text(0.0123), p_text(0.0499), p_text(0.00002)
        ('0.012', '0.0499', '< 0.001')
    """
    if p < 0.001:
        return "< 0.001"
    return f"{p:.4f}" if f"{p:.3f}" == f"{1 - CONFIDENCE:.3f}" else f"{p:.3f}"


def _sign_flip_p(d: np.ndarray) -> float:
    """Return the share of all 2^n sign patterns whose sum is at least as far from 0 as the observed sum."""
    sums = np.zeros(1)
    for magnitude in np.abs(d):
        sums = np.concatenate([sums + magnitude, sums - magnitude])
    return float(np.mean(np.abs(sums) >= abs(d.sum()) * (1 - 1e-12)))  # the tolerance counts ties despite rounding


def _t(n: int, confidence: float) -> float:
    return float(stdtrit(n - 1, 0.5 + confidence / 2))


def _finite(function: str, name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ArgumentError(
            f"statistics.{function}: {name} must be finite numbers, at least one, got {list(values)!r}; "
            "pass None for failed seeds to compare_all"
        )
    return array

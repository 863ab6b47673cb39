"""The rule that stops a series of pairs: a one-sided test of an improvement that exceeds a margin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from fallline.lab.gate.levels import STEP, nominal_levels

POWER = 0.8
_HOPELESS_EARLY, _HOPELESS = 0.8, 0.5  # p from which a series stops, before and from a quarter of its pairs on
_SHARED = 0.01  # two-sided p of the correlation of earlier pairs below which later pairs are tested as pairs
_FEWEST = 7  # degrees of freedom of a correlation that is tested


@dataclass(frozen=True)
class TTest:
    """The t-test of a series of pairs; all fields are arrays for a stack of series.

    Attributes:
        gain: mean loss of the baseline minus that of the candidate.
        error: standard error of the gain.
        freedom: degrees of freedom of the error.
        p: one-sided p-value of the hypothesis that the expected gain is at most the margin.
    """

    gain: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    p: np.ndarray


def run_test(baseline: np.ndarray, candidate: np.ndarray, margin: float, paired: bool) -> TTest:
    """Test whether the candidate's losses are lower than the baseline's by more than the margin.

    Args:
        baseline, candidate: losses (..., n); smaller is better, and element i of both has the same seed.
        margin: improvement that the expected gain must exceed, in the unit of the losses.
        paired: test the differences of the pairs, and not two independent samples (Welch 1947).

    Example:
        >>> test = run_test(np.array([2.0, 2.2, 1.9, 2.1]), np.array([1.0, 1.3, 1.1, 0.9]), 0.5, paired=False)
        >>> round(float(test.gain), 3), round(float(test.freedom), 2), round(float(test.p), 4)
        (0.975, 5.58, 0.0026)
    """
    n = baseline.shape[-1]
    gain = np.asarray((baseline - candidate).mean(-1))
    if paired:
        error = np.asarray((baseline - candidate).std(-1, ddof=1) / math.sqrt(n))
        freedom = np.full_like(error, n - 1)
    else:
        first, second = np.asarray(baseline.var(-1, ddof=1)), np.asarray(candidate.var(-1, ddof=1))
        error = np.sqrt((first + second) / n)
        squares = first**2 + second**2
        # At least n − 1, and 2 (n − 1) if the variances are equal, for which the nominal levels are derived.
        freedom = (n - 1) * np.divide((first + second) ** 2, squares, out=np.ones_like(squares), where=squares > 0)
    excess = gain - margin
    t = np.divide(excess, error, out=np.where(excess > 0, np.inf, -np.inf), where=error > 0)
    return TTest(gain, error, freedom, stdtr(freedom, -t))


def measure_correlation(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, int]:
    """Return the correlation of the two arms within proposals, and its degrees of freedom.

    Args:
        pairs: values of baseline and candidate by seed, one entry per proposal. A proposal whose two arms are equal in
            every pair is left out, because its change had no effect on the metric.
    """
    products, squares, freedom = 0.0, [0.0, 0.0], 0
    for values in pairs:
        if len(values[0]) > 1 and list(values[0]) != list(values[1]):
            x, y = (np.asarray(arm) - np.mean(arm) for arm in values)
            products += float(x @ y)
            squares = [squares[0] + float(x @ x), squares[1] + float(y @ y)]
            freedom += len(x) - 1
    scale = math.sqrt(squares[0] * squares[1])
    return (products / scale if scale > 0 else 0.0), freedom - 1


def is_shared(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> bool:
    """Return whether earlier pairs show that the two arms share noise, so that later ones are tested as pairs.

    The later pairs have other seeds, so this choice does not depend on them: the test on the differences is valid for
    every correlation, and that on two samples for every correlation that is not negative.
    """
    r, freedom = measure_correlation(pairs)
    if freedom < _FEWEST:
        return False
    t = abs(r) * math.sqrt(freedom / max(1 - r * r, 1e-12))
    return bool(2 * stdtr(freedom, -t) < _SHARED)


@dataclass(frozen=True)
class Look:
    """What the rule concludes after some pairs.

    Attributes:
        pairs: number of pairs.
        gain: estimated improvement.
        low, high: repeated confidence interval, which has the confidence 1 − 2 level over all looks together.
        p: one-sided p-value, to be compared with `nominal`.
        nominal: level of this look.
        detectable: improvement that this rule finds with 80 % power, given the noise seen so far.
        stop: "success", "futility", "identical" (both arms gave the same values) or "end" (all pairs are used); "" if
            the series continues.
    """

    pairs: int
    gain: float
    low: float
    high: float
    p: float
    nominal: float
    detectable: float
    stop: str


@dataclass(frozen=True)
class Rule:
    """A sequential test at looks after every fourth pair.

    Attributes:
        level: one-sided significance level over all looks.
        most: largest number of pairs.
        margin: improvement that must be exceeded.
        paired: whether the differences of the pairs are tested, see `run_test`.
    """

    level: float
    most: int
    margin: float = 0.0
    paired: bool = False

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of pairs after which the rule looks at the results."""
        return tuple(range(STEP, self.most + 1, STEP))

    @property
    def nominal(self) -> tuple[float, ...]:
        """Nominal levels of the looks."""
        return nominal_levels(self.level, self.most, self.paired)

    def hopeless(self, pairs: int) -> float:
        """Return the p-value from which the series stops for futility."""
        return _HOPELESS_EARLY if 4 * pairs < self.most else _HOPELESS

    def look(self, baseline: Sequence[float], candidate: Sequence[float]) -> Look:
        """Return the conclusion after a number of pairs, which must be one of `looks`.

        Args:
            baseline, candidate: finite losses by seed; smaller is better.
        """
        n = len(baseline)
        test = run_test(np.asarray(baseline, float), np.asarray(candidate, float), self.margin, self.paired)
        gain, error, freedom, p = (float(x) for x in (test.gain, test.error, test.freedom, test.p))
        nominal = self.nominal[self.looks.index(n)]
        stop = "end" if n == self.most else ""
        if p < nominal:
            stop = "success"
        elif list(baseline) == list(candidate):
            stop = "identical"
        elif p >= self.hopeless(n) and not stop:
            stop = "futility"
        half = -float(stdtrit(freedom, nominal)) * error
        return Look(n, gain, gain - half, gain + half, p, nominal, self.detect(n, error, freedom), stop)

    def detect(self, pairs: int, error: float, freedom: float) -> float:
        """Return the improvement that the last look finds with 80 % power if the noise stays as it is.

        Args:
            pairs: number of pairs so far.
            error, freedom: standard error of the gain after them, and its degrees of freedom.
        """
        later = freedom * (self.most - 1) / (pairs - 1)
        quantiles = -float(stdtrit(later, self.nominal[-1])) + float(stdtrit(later, POWER))
        return self.margin + quantiles * error * math.sqrt(pairs / self.most)

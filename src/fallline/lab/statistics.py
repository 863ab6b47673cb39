"""Paired comparisons of arms over seeds: intervals, corrected p-values, and a verdict in plain words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy import stats

from fallline.errors import ArgumentError

CONFIDENCE = 0.95
POWER = 0.8
_EXACT_FROM, _EXACT_TO = 8, 20  # below, the sign-flip p cannot reach .05; above, 2^n sums no longer fit in memory


class Verdict(Enum):
    """What a comparison comes to."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    NOT_DISTINGUISHABLE = "not distinguishable"
    IDENTICAL = "identical"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Summary:
    """Values over seeds: `sd` (n − 1 in the denominator) and the t interval are NaN for n = 1."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """An arm against a baseline, seed by seed.

    Differences are log(arm / baseline) when `log_ratio`, else arm − baseline.

    Attributes:
        n: pairs.
        difference, low, high: mean difference and its t interval.
        p: two-sided, of the paired t-test; 0 when all differences are the same but not 0.
        sign_flip_p: two-sided, exact, of the mean under flips of the signs; None for n < 8 and n > 20.
        superiority: share of pairs that the arm wins, ties counting half.
        detectable: the smallest difference that a test of this n and spread finds with 80 % probability.
        identical: every difference is exactly 0.
        log_ratio: whether differences are log ratios; `percent` turns one into a change in %.
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

    @staticmethod
    def percent(log_ratio: float) -> float:
        """Return a log ratio as a change in percent.

        Example:
            >>> round(Comparison.percent(math.log(1.1)), 6)
            10.0
        """
        return 100 * math.expm1(log_ratio)


@dataclass(frozen=True)
class Result:
    """An arm against the baseline, judged.

    Attributes:
        verdict: what the comparison comes to.
        sentence: the verdict with its numbers, for people.
        comparison: the numbers, or None when seeds failed.
        p: Holm-corrected over all comparisons with the baseline; NaN when seeds failed.
        failed, baseline_failed: how many seeds failed.
    """

    arm: str
    baseline: str
    verdict: Verdict
    sentence: str
    comparison: Comparison | None
    p: float
    failed: int
    baseline_failed: int


def summarize(values: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Return mean, standard deviation and t interval of finite values.

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
) -> Comparison:
    """Compare paired values: element i of both comes from the same seed.

    Args:
        arm, baseline: at least two values each.
        log_ratio: compare ratios (for losses, > 0) instead of differences.
        mode: "min" when smaller is better, else "max".
        confidence: of the interval.

    Raises:
        ArgumentError: lengths differ, fewer than two pairs, a value is not finite, or is <= 0 with `log_ratio`.

    Example:
        >>> c = compare([1.1, 2.3, 3.2], [1.0, 2.0, 3.0], log_ratio=False)
        >>> round(c.difference, 3), round(c.p, 4), c.superiority
        (0.2, 0.0742, 0.0)
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
    d = np.log(x / y) if log_ratio else x - y
    n, mean = len(d), float(d.mean())
    constant = bool((d == d[0]).all())  # then the spread is 0, whatever rounding makes of the mean
    error = 0.0 if constant else float(d.std(ddof=1)) / math.sqrt(n)
    if error > 0:
        p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    else:
        p = 1.0 if d[0] == 0 else 0.0
    half = _t(n, confidence) * error
    wins = d < 0 if mode == "min" else d > 0
    return Comparison(
        n=n,
        difference=mean,
        low=mean - half,
        high=mean + half,
        p=p,
        sign_flip_p=_sign_flip_p(d) if _EXACT_FROM <= n <= _EXACT_TO else None,
        superiority=float((wins + 0.5 * (d == 0)).mean()),
        detectable=(_t(n, confidence) + float(stats.t.ppf(POWER, n - 1))) * error,
        identical=bool((d == 0).all()),
        log_ratio=log_ratio,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Holm 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def compare_all(
    values: Mapping[str, Sequence[float | None]],
    baseline: str,
    *,
    log_ratio: bool,
    mode: str = "min",
    margin: float | None = None,
    confidence: float = CONFIDENCE,
    metric: str = "loss",
) -> dict[str, Result]:
    """Compare every arm with the baseline and correct for their number.

    An interval inside the margin is "equivalent" even if the difference is significant: the user has called such
    differences irrelevant. Where a seed failed, in the arm or in the baseline, failures are counted, not averaged.

    Args:
        values: by arm, one value a seed in the same order; None where the run failed.
        baseline: the arm to compare with.
        log_ratio, mode, confidence: as for `compare`.
        margin: relative difference (0.02 is 2 %; absolute without `log_ratio`) that does not matter, or None.
        metric: what the values are, for the sentences.

    Example:
        >>> r = compare_all({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.3, 1.9]}, "a", log_ratio=True)
        >>> str(r["b"].verdict), r["b"].sentence[:17]
        ('worse', 'b is worse than a')
    """
    if baseline not in values:
        raise ArgumentError(f"baseline: must be one of {', '.join(values)}, got {baseline!r}")
    others = [name for name in values if name != baseline]
    failed = {name: sum(v is None for v in values[name]) for name in values}
    reference = [v for v in values[baseline] if v is not None]
    pairs: dict[str, Comparison] = {}
    for name in others:
        if not failed[name] and not failed[baseline]:
            own = [v for v in values[name] if v is not None]
            pairs[name] = compare(own, reference, log_ratio=log_ratio, mode=mode, confidence=confidence)
    corrected = dict(zip(pairs, holm([c.p for c in pairs.values()]), strict=True))
    results = {}
    for name in others:
        comparison, p = pairs.get(name), corrected.get(name, math.nan)
        verdict = _judge(comparison, p, mode, margin, confidence)
        counts = (failed[name], failed[baseline], len(values[name]))
        sentence = _sentence(name, baseline, verdict, comparison, p, counts, metric, margin)
        results[name] = Result(name, baseline, verdict, sentence, comparison, p, failed[name], failed[baseline])
    return results


def ranks(values: Mapping[str, Sequence[float | None]], *, log_ratio: bool, mode: str = "min") -> dict[str, int]:
    """Return the rank of every arm: 1 unless it is worse than the best arm; arms with failed seeds come last.

    Example:
        >>> ranks({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.3, 1.9], "c": [1.0, 1.1, 0.91]}, log_ratio=True)
        {'a': 1, 'b': 3, 'c': 1}
    """
    means = {name: float(np.mean(v)) for name, v in values.items() if None not in v}  # type: ignore[arg-type]
    order = sorted(means, key=lambda name: means[name] if mode == "min" else -means[name])
    if not order:
        return dict.fromkeys(values, 1)
    results = compare_all({name: values[name] for name in order}, order[0], log_ratio=log_ratio, mode=mode)
    position = {name: place for place, name in enumerate(order, start=1)}
    worse = {name for name, result in results.items() if result.verdict is Verdict.WORSE}
    return {name: position[name] if name in worse else 1 if name in means else len(order) + 1 for name in values}


def _judge(c: Comparison | None, p: float, mode: str, margin: float | None, confidence: float) -> Verdict:
    if c is None:
        return Verdict.FAILED
    if c.identical:
        return Verdict.IDENTICAL
    if margin is not None:
        low, high = (math.log1p(-margin), math.log1p(margin)) if c.log_ratio else (-margin, margin)
        if low < c.low and c.high < high:
            return Verdict.EQUIVALENT
    if p < 1 - confidence:
        return Verdict.BETTER if (c.difference < 0) == (mode == "min") else Verdict.WORSE
    return Verdict.NOT_DISTINGUISHABLE


def _sentence(
    arm: str,
    baseline: str,
    verdict: Verdict,
    c: Comparison | None,
    p: float,
    counts: tuple[int, int, int],
    metric: str,
    margin: float | None,
) -> str:
    if c is None:
        parts = [
            f"{name} failed on {k} of {counts[2]} seeds" for name, k in ((arm, counts[0]), (baseline, counts[1])) if k
        ]
        return f"{' and '.join(parts)}, so {arm} and {baseline} are compared by failures, not by {metric}"
    if verdict is Verdict.IDENTICAL:
        return f"{arm} and {baseline} gave identical numbers on all {c.n} seeds"
    size, low, high = (_amount(c, x) for x in (c.difference, c.low, c.high))
    p_text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    numbers = f"{metric} {size} [{low} to {high}], corrected {p_text}, n = {c.n}"
    if verdict in (Verdict.BETTER, Verdict.WORSE):
        return f"{arm} is {verdict} than {baseline}: {numbers}"
    detectable = _amount(c, c.detectable)
    if verdict is Verdict.EQUIVALENT:
        limit = f"{100 * margin:g} %" if c.log_ratio and margin is not None else f"{margin:g}"
        return f"{arm} is equivalent to {baseline} within {limit}: {numbers}"
    return (
        f"{arm} is not distinguishable from {baseline} at this budget: {numbers}; "
        f"a difference of {detectable} would have been found four times in five"
    )


def _amount(c: Comparison, value: float) -> str:
    return f"{Comparison.percent(value):+.1f} %" if c.log_ratio else f"{value:+.4g}"


def _sign_flip_p(d: np.ndarray) -> float:
    """Return the share of all 2^n sign patterns whose sum is at least as far from 0 as the one observed."""
    sums = np.zeros(1)
    for magnitude in np.abs(d):
        sums = np.concatenate([sums + magnitude, sums - magnitude])
    return float(np.mean(np.abs(sums) >= abs(d.sum()) * (1 - 1e-12)))  # a tie must count in spite of rounding


def _t(n: int, confidence: float) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, n - 1))


def _finite(function: str, name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise ArgumentError(
            f"statistics.{function}: {name} must be finite numbers, at least one, got {list(values)!r}; "
            "pass None for failed seeds to compare_all"
        )
    return array

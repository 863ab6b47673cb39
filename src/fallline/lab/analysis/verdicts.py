"""The verdict of a comparison of arms: one word, and one sentence with its numbers and its scope."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fallline.errors import ArgumentError
from fallline.lab.analysis.statistics import CONFIDENCE, Comparison, compare, holm, p_equation
from fallline.lab.analysis.variance import Design

Values = Mapping[str, Sequence[float | None]]
DesignOf = Callable[[str, str], Design | None]  # arguments: an arm and the baseline


class Verdict(Enum):
    """The result of a comparison in one word."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    NOT_DISTINGUISHABLE = "not distinguishable"
    IDENTICAL = "identical"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Result:
    """The result of comparing an arm with the baseline.

    Attributes:
        arm: name of the arm.
        baseline: name of the baseline.
        verdict: the result in one word.
        sentence: the verdict with its numbers and the conditions for which it holds.
        comparison: the numbers, or None if seeds failed.
        p: p-value, corrected for all comparisons with the baseline and for the looks; NaN if seeds failed.
        failed, baseline_failed: number of failed seeds of the arm and of the baseline.
    """

    arm: str
    baseline: str
    verdict: Verdict
    sentence: str
    comparison: Comparison | None
    p: float
    failed: int
    baseline_failed: int

    def __str__(self) -> str:
        return self.sentence

    def is_decided(self, margin: float | None = None) -> bool:
        """Return whether more seeds are not needed: there is a verdict, or no number of seeds could give one.

        The latter is the case if the difference is smaller than half the width of the interval that infinitely many
        seeds would leave, and that interval is not within the margin.
        """
        if self.verdict is not Verdict.NOT_DISTINGUISHABLE or self.comparison is None:
            return True
        c = self.comparison
        if abs(c.difference) >= c.limit:
            return False
        return margin is None or not _is_within(c.difference - c.limit, c.difference + c.limit, c, margin)


def compare_all(
    values: Values,
    baseline: str,
    *,
    log_ratio: bool,
    mode: str = "min",
    margin: float | None = None,
    confidence: float = CONFIDENCE,
    metric: str = "loss",
    design: DesignOf | None = None,
    looks: Sequence[int] = (),
) -> dict[str, Result]:
    """Compare every arm with the baseline and correct the p-values for the number of comparisons.

    An arm whose interval lies inside the margin is "equivalent" even if the difference is significant, because the user
    considers such differences irrelevant. If a seed of the arm or of the baseline failed, the verdict depends on the
    failures instead of the means: the arm is better if only the baseline has failures, and "failed" otherwise.

    Args:
        values: by arm, one value per seed in the same order; None where the run failed.
        baseline: the arm to compare with.
        log_ratio, mode, confidence: as for `compare`.
        margin: largest irrelevant difference, relative to the baseline's mean (0.02 is 2 %), or None.
        metric: name of the metric, for the sentences.
        design: returns the sources of randomness for an arm and the baseline; by default only the seeds.
        looks: numbers of seeds after which a sequential study is analysed; empty for a fixed number of seeds.

    Raises:
        ArgumentError: the baseline is not among the arms.

    Example:
        >>> r = compare_all({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.3, 1.9]}, "a", log_ratio=True)
        >>> str(r["b"].verdict), r["b"].sentence[:34]
        ('worse', 'b is worse than a on this test set')
    """
    if baseline not in values:
        raise ArgumentError(f"baseline: must be one of {', '.join(values)}, got {baseline!r}")
    others = [name for name in values if name != baseline]
    failed = {name: sum(v is None for v in values[name]) for name in values}
    reference = [v for v in values[baseline] if v is not None]
    pairs: dict[str, Comparison] = {}
    for name in others:
        if not failed[name] and not failed[baseline]:
            pairs[name] = compare(
                [v for v in values[name] if v is not None],
                reference,
                log_ratio=log_ratio,
                mode=mode,
                confidence=confidence,
                comparisons=len(others),
                design=design(name, baseline) if design is not None else None,
                looks=looks,
            )
    seeds = len(values[baseline])
    corrected = dict(zip(pairs, holm([c.p for c in pairs.values()], looks, seeds), strict=True))
    results = {}
    for name in others:
        comparison, p = pairs.get(name), corrected.get(name, math.nan)
        counts = (failed[name], failed[baseline], seeds)
        verdict = _judge(comparison, p, mode, margin, confidence) if comparison else _judge_failures(*counts[:2])
        sentence = _sentence(name, baseline, verdict, comparison, p, counts, metric, margin)
        results[name] = Result(name, baseline, verdict, sentence, comparison, p, failed[name], failed[baseline])
    return results


def ranks(
    values: Values,
    *,
    log_ratio: bool,
    mode: str = "min",
    margin: float | None = None,
    design: DesignOf | None = None,
    looks: Sequence[int] = (),
) -> dict[str, int]:
    """Return the rank of every arm: 1 unless the arm is worse than the best arm; arms with failed seeds come last.

    An arm that is equivalent to the best arm within the margin does not count as worse.

    Example:
        >>> ranks({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.3, 1.9], "c": [1.0, 1.1, 0.91]}, log_ratio=True)
        {'a': 1, 'b': 3, 'c': 1}
    """
    means = {
        name: math.fsum(v for v in row if v is not None) / len(row) for name, row in values.items() if None not in row
    }
    order = sorted(means, key=lambda name: means[name] if mode == "min" else -means[name])
    if not order:
        return dict.fromkeys(values, 1)
    results = compare_all(
        {name: values[name] for name in order},
        order[0],
        log_ratio=log_ratio,
        mode=mode,
        margin=margin,
        design=design,
        looks=looks,
    )
    position = {name: place for place, name in enumerate(order, start=1)}
    worse = {name for name, result in results.items() if result.verdict is Verdict.WORSE}
    return {name: position[name] if name in worse else 1 if name in means else len(order) + 1 for name in values}


def margin_in_units(margin: float, baseline_mean: float) -> float:
    """Return a relative margin in units of the metric: the margin times the absolute value of the baseline's mean.

    Example:
        >>> round(margin_in_units(0.02, 0.95), 6), round(margin_in_units(0.02, -3.0), 6)
        (0.019, 0.06)
    """
    return margin * abs(baseline_mean)


def _is_within(low: float, high: float, c: Comparison, margin: float) -> bool:
    """Return whether an interval of differences lies inside the margin."""
    if c.log_ratio:
        return math.log1p(-margin) < low and high < math.log1p(margin)
    size = margin_in_units(margin, c.baseline_mean)
    return -size < low and high < size


def _judge_failures(failed: int, baseline_failed: int) -> Verdict:
    """Return the verdict if runs failed: "better" if only the baseline has failed runs, else "failed"."""
    return Verdict.BETTER if not failed and baseline_failed else Verdict.FAILED


def _judge(c: Comparison, p: float, mode: str, margin: float | None, confidence: float) -> Verdict:
    if c.identical:
        return Verdict.IDENTICAL
    if margin is not None and _is_within(c.low, c.high, c, margin):
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
        return _failure_sentence(arm, baseline, verdict, counts, metric)
    if verdict is Verdict.IDENTICAL:
        return f"{arm} and {baseline} gave identical results on all {c.n} seeds"
    size, low, high = (_amount(c, x) for x in (c.difference, c.low, c.high))
    numbers = f"{metric} {size} [{low} to {high}], corrected {p_equation(p)}, n = {c.n}"
    scope = c.design.scope
    if verdict in (Verdict.BETTER, Verdict.WORSE):
        return f"{arm} is {verdict} than {baseline} {scope}: {numbers}"
    detectable = _amount(c, c.detectable).removeprefix("+")  # a size, not a direction
    if not c.low <= 0 <= c.high:  # the p-value is corrected for the number of comparisons, the interval is not
        numbers += " (the interval is not corrected)"
    if verdict is Verdict.EQUIVALENT and margin is not None:
        limit = f"{100 * margin:g} %"
        if not c.log_ratio:
            limit += f" of {baseline}'s mean, ±{margin_in_units(margin, c.baseline_mean):.3g},"
        return f"{arm} is equivalent to {baseline} within {limit} {scope}: {numbers}"
    return (
        f"{arm} is not distinguishable from {baseline} {scope}: {numbers}; "
        f"a difference of {detectable} would have been detected with 80 % power"
    )


def _failure_sentence(arm: str, baseline: str, verdict: Verdict, counts: tuple[int, int, int], metric: str) -> str:
    failed, baseline_failed, seeds = counts
    if verdict is Verdict.BETTER:
        return f"{arm} is better than {baseline} (the baseline {_failures(baseline_failed, seeds)})"
    parts = [f"{name} {_failures(k, seeds)}" for name, k in ((arm, failed), (baseline, baseline_failed)) if k]
    return f"{' and '.join(parts)}, so {arm} and {baseline} are compared by failures, not by {metric}"


def _failures(failed: int, seeds: int) -> str:
    # An arm whose tuning failed completely has no confirmation runs at all.
    return f"failed on {failed} of {seeds} seeds" if failed < seeds else f"finished on none of the {seeds} seeds"


def _amount(c: Comparison, value: float) -> str:
    return c.format_change(value, "+") if c.log_ratio else f"{value:+.4g}".replace("-", "−")  # as in the tables

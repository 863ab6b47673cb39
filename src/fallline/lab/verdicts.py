"""What a comparison of arms comes to, in one word and in one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fallline.errors import ArgumentError
from fallline.lab.statistics import CONFIDENCE, Comparison, compare, holm


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

    def __str__(self) -> str:
        return self.sentence


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
            pairs[name] = compare(
                own, reference, log_ratio=log_ratio, mode=mode, confidence=confidence, comparisons=len(others)
            )
    corrected = dict(zip(pairs, holm([c.p for c in pairs.values()]), strict=True))
    results = {}
    for name in others:
        comparison, p = pairs.get(name), corrected.get(name, math.nan)
        verdict = _judge(comparison, p, mode, margin, confidence)
        counts = (failed[name], failed[baseline], len(values[name]))
        sentence = _sentence(name, baseline, verdict, comparison, p, counts, metric, margin)
        results[name] = Result(name, baseline, verdict, sentence, comparison, p, failed[name], failed[baseline])
    return results


def ranks(
    values: Mapping[str, Sequence[float | None]], *, log_ratio: bool, mode: str = "min", margin: float | None = None
) -> dict[str, int]:
    """Return the rank of every arm: 1 unless it is worse than the best arm; arms with failed seeds come last.

    An arm that is equivalent to the best within the margin is not worse.

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
        {name: values[name] for name in order}, order[0], log_ratio=log_ratio, mode=mode, margin=margin
    )
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
    if not c.low <= 0 <= c.high:  # the interval is that of one comparison, the p-value has been corrected
        numbers += " (the interval is not corrected)"
    if verdict is Verdict.EQUIVALENT:
        limit = f"{100 * margin:g} %" if c.log_ratio and margin is not None else f"{margin:g}"
        return f"{arm} is equivalent to {baseline} within {limit}: {numbers}"
    return (
        f"{arm} is not distinguishable from {baseline} at this budget: {numbers}; "
        f"a difference of {detectable} would have been found four times in five"
    )


def _amount(c: Comparison, value: float) -> str:
    return c.told(value, "+") if c.log_ratio else f"{value:+.4g}".replace("-", "−")  # as in the tables

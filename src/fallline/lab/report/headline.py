"""The answer of a study in one line, which may be that this budget gives no answer."""

from collections.abc import Sequence

from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import p_equation
from fallline.lab.analysis.variance import SeedsOnly
from fallline.lab.analysis.verdicts import Result, Verdict
from fallline.lab.report.measure import change, measure
from fallline.lab.report.tables import Records

_SURE = {
    Verdict.BETTER: "{second} is better seed by seed",  # ratios by seed and means can order two arms differently
    Verdict.WORSE: "a significant difference",
    Verdict.EQUIVALENT: "equivalent within the margin",
    Verdict.NOT_DISTINGUISHABLE: "not distinguishable",
}


def headline(study: StudyResults, leaders: Records) -> str:
    """Return the answer in one line.

    Args:
        study: the study.
        leaders: its leaderboard, from `fallline.lab.report.topics.leaderboard.leaders`.
    """
    first = [row["arm"] for row in leaders if row["rank"] == 1 and row["finished"]]
    finished = sum(row["finished"] for row in leaders)
    if not first:
        return "No arm finished all of its confirmation runs"
    if any(arm.twin for arm in study.spec.arms):
        return _self_check(study)
    if len(leaders) == 1:
        return f"{first[0]} was tuned and confirmed without a comparison"
    if len(first) == 1 and finished == 1:
        return f"Only {first[0]} finished all of its confirmation runs"
    scope = _scope(study, [row["arm"] for row in leaders if row["finished"]])
    if len(first) == 1:
        return f"{first[0]} is the best of {len(leaders)} arms {scope}"
    if len(first) == 2:
        return f"{first[0]} and {first[1]} are not distinguishable {scope}"
    who = f"{', '.join(first[:-1])} and {first[-1]}" if len(first) == 3 else f"{len(first)} of {len(leaders)} arms"
    return f"No single winner {scope}: {who} share the first rank"


def _scope(study: StudyResults, arms: Sequence[str]) -> str:
    """Return the scope of the ranks, which is the narrowest scope of the comparisons with the best mean."""
    scopes = {study.design(arm, arms[0]).scope for arm in arms[1:]}
    narrow = SeedsOnly().scope
    return narrow if narrow in scopes else scopes.pop()


def answer(study: StudyResults, against: Sequence[Result]) -> str:
    """Return a sentence on the lead of the best mean and its certainty; empty in a self-check or without comparisons.

    Args:
        study: the study.
        against: the comparisons with the best mean, best first.
    """
    if not against or any(arm.twin for arm in study.spec.arms):
        return ""
    (second, c), best = (against[0], against[0].comparison), against[0].baseline
    if c is None or c.identical:
        return f"{second.sentence}."
    next_arm, is_baseline = second.arm, second.arm == study.baseline
    if is_baseline:  # a pair with the baseline has one direction on the whole page: the arm against the baseline
        c = study.comparisons[best].comparison or c
    p = f"corrected {p_equation(second.p)}"  # corrected for the number of comparisons with the best arm
    how = f"(95 % interval {change(c, c.low)} to {change(c, c.high)}, {p}, {c.n} seeds)"
    size = f"with a change in {measure(study).name(measure(study).test)} of {change(c, c.difference)}"
    lead = f"{best} has the best mean. {next_arm} is next, {size} against {best}"
    if is_baseline:
        lead = f"{best} has the best mean, {size} against {next_arm}, which is next"
    return f"{lead} {how}: {_SURE[second.verdict].format(second=next_arm)}."


def _self_check(study: StudyResults) -> str:
    (result,) = study.comparisons.values()
    if result.verdict is Verdict.FAILED:
        return f"Self-check inconclusive: {study.baseline} failed on some seeds"
    if result.verdict in (Verdict.BETTER, Verdict.WORSE):
        return f"Self-check failed: {study.baseline} differs from itself"
    return f"Self-check passed: {study.baseline} does not differ from itself"

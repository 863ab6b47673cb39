"""The answer of a study in one line; that there is no answer at this budget is one."""

from typing import TYPE_CHECKING

from fallline.lab.report.records import Records
from fallline.lab.verdicts import Verdict

if TYPE_CHECKING:
    from fallline.lab.study import Study


def headline(study: "Study", leaders: Records) -> str:
    """Return the answer in one line.

    Args:
        study: the study.
        leaders: its leaderboard, as `fallline.lab.report.results.leaders` gives it.
    """
    first = [row["arm"] for row in leaders if row["rank"] == 1 and row["finished"]]
    finished = sum(row["finished"] for row in leaders)
    if not first:
        return "No arm finished all of its confirmation runs"
    if any(arm.twin for arm in study.spec.arms):
        return _self_check(study)
    if len(leaders) == 1:
        return f"{first[0]}, tuned and confirmed on its own"
    if len(first) == 1:
        return f"{first[0]} is the best of {len(leaders)}" if finished > 1 else f"Only {first[0]} finished all its runs"
    if len(first) == 2:
        return f"{first[0]} and {first[1]} cannot be told apart at this budget"
    who = f"{', '.join(first[:-1])} and {first[-1]}" if len(first) == 3 else f"{len(first)} of {len(leaders)} arms"
    return f"No single winner at this budget: {who} share the first rank"


def _self_check(study: "Study") -> str:
    (result,) = study.results.values()
    if result.verdict is Verdict.FAILED:
        return f"Self-check undecided: {study.baseline} lost seeds"
    if result.verdict in (Verdict.BETTER, Verdict.WORSE):
        return f"Self-check failed: {study.baseline} differs from itself"
    return f"Self-check passed: {study.baseline} does not differ from itself"

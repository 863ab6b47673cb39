"""The sources of chance behind each comparison: how much of its interval each makes up, and what would narrow it."""

from collections.abc import Sequence

from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import Comparison
from fallline.lab.analysis.verdicts import Result
from fallline.lab.report.document import Bullets
from fallline.lab.report.measure import change
from fallline.lab.report.records import Records
from fallline.lab.report.tables import ARM, Column, Table
from fallline.lab.report.text import number

_NOTE = (
    "Shares of the variance of the mean difference. Training: initialisation, order of the data, dropout and, where "
    "each seed draws its own split, the training set. Test examples drawn: the choice of each seed's test examples. "
    "Examples there are: the finite test set or pool, which more seeds cannot replace. With infinitely many seeds: "
    "half the width that the 95 % interval would keep."
)


def chance(study: StudyResults, results: Sequence[Result]) -> Table | None:
    """Return the table of the sources of chance; None when nothing could be compared."""
    rows, by_arm = Records(), {}
    for result in results:
        c = result.comparison
        if c is not None and c.variance.total > 0:
            by_arm[result.arm] = c
            rows.append({"arm": result.arm, **_shares(c), "limit": c.limit, "scope": c.design.scope})
    columns = (
        ARM,
        Column("training", lambda row: number(100 * row["training"], ".0f", " %")),
        Column("test examples\ndrawn", lambda row: number(100 * row["sampling"], ".0f", " %")),
        Column("examples\nthere are", lambda row: number(100 * row["examples"], ".0f", " %")),
        Column("with infinitely\nmany seeds ±", lambda row: change(by_arm[row["arm"]], row["limit"], "")),
        Column("the verdict holds", lambda row: row["scope"], "words"),
    )
    return Table("chance", rows, columns, _NOTE) if rows else None


def advice(results: Sequence[Result]) -> Bullets | None:
    """Return what would narrow each interval; None when nothing could be compared."""
    found = [(r.arm, r.comparison) for r in results if r.comparison is not None and r.comparison.variance.total > 0]
    return Bullets([f"{arm}: {narrowing(c)}" for arm, c in found]) if found else None


def narrowing(c: Comparison) -> str:
    """Return what would narrow the interval of a comparison, as a sentence."""
    if c.design.reason:
        return f"the interval covers training seeds alone, since {c.design.reason}."
    if c.variance.examples_share > 0.5:
        return f"{c.n} seeds suffice; {c.design.limit} are the limit."
    share = 100 * (1 - c.variance.examples_share)
    return f"more seeds would narrow the interval: {share:.0f} % of its variance falls with their number."


def _shares(c: Comparison) -> dict[str, float]:
    v = c.variance
    return {
        "training": (v.seeds - v.sampling) / v.total,
        "sampling": v.sampling / v.total,
        "examples": v.examples / v.total,
    }

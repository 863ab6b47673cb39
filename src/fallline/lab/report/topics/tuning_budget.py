"""Performance against tuning budget: the expected best of k trials, over all subsets of k of the trials."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import altair as alt

from fallline.formatting import format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Figures, Section, Topic
from fallline.lab.report.encodings import (
    EXTENT,
    HEIGHT,
    Rows,
    colour,
    dash,
    drawable,
    finish,
    mark,
    measured_axis,
    measured_scale,
    ticks,
    tip,
    visible,
)
from fallline.lab.report.measure import measure
from fallline.lab.report.tables import ARM, Column, Records, Table
from fallline.lab.report.topics.sensitivity import tuning_metrics, untrained

_CAPTION = (
    "Expected best validation result of k random trials, computed exactly over all subsets of k of the search points "
    "that were run, including extensions. A failure counts as an untrained model. Seconds are k times the median time "
    "of a trial of the arm on one thread, for this implementation and this machine."
)


@dataclass(frozen=True)
class BestOf:
    """The best of k trials.

    Attributes:
        k: number of trials.
        expected: mean of the lowest loss over all subsets of k trials.
        failing: share of the subsets in which every trial failed.
    """

    k: int
    expected: float
    failing: float


def best_of(losses: Sequence[float | None], start: float) -> list[BestOf]:
    """Return the best of k for k = 1 … n, exact over the C(n, k) subsets of the n trials.

    In ascending order, the i-th of the losses (i = 1 … n) is the lowest of k in C(n − i, k − 1) of the subsets. If a
    failure counted as an infinite loss, the expectation would be infinite. So a failure, like any loss above the loss
    before training, counts as the loss before training, which is the result if all trials fail. The probability that
    all trials fail is reported next to the expectation.

    Args:
        losses: lower is better; None where the trial failed.
        start: the loss before training.

    Example:
        >>> best_of([1.0, None, 2.0], start=4.0)[1]
        BestOf(k=2, expected=1.3333333333333333, failing=0.0)
    """
    n, failed = len(losses), sum(loss is None for loss in losses)
    ordered = sorted(start if loss is None else min(loss, start) for loss in losses)
    return [
        BestOf(
            k,
            math.fsum(math.comb(n - i, k - 1) * loss for i, loss in enumerate(ordered, start=1)) / math.comb(n, k),
            math.comb(failed, k) / math.comb(n, k),
        )
        for k in range(1, n + 1)
    ]


def budgets(study: StudyResults) -> Records:
    """Return one record per arm and budget: arm, trials, seconds, expected (best validation metric), failing.

    The trials are the points of the search, including extensions. The default is not a random trial and counts only if
    nothing else was run. Seconds are the number of trials times the median time of a trial of the arm, or None if no
    times were stored. The median is not affected by compilation in the first trial of a worker.
    """
    sign, start = measure(study).sign, untrained(study)
    rows = Records()
    for arm, search in study.searches.items():
        first = 1 if len(search.points) > 1 else 0
        trials = study.tuning_trials(arm)[first:]
        costs = [study.costs[trial.id].seconds for trial in trials if trial.id in study.costs]
        seconds = median(costs) if costs else None
        lower = [None if value is None else sign * value for value in tuning_metrics(study, search)[first:]]
        if all(value is None for value in lower):
            continue
        rows += [
            {
                "arm": arm,
                "trials": best.k,
                "seconds": seconds and best.k * seconds,
                "expected": sign * best.expected,
                "failing": best.failing,
            }
            for best in best_of(lower, sign * start)
        ]
    return rows


def budget_table(study: StudyResults) -> Table:
    """Return the table of the expected best result for every tuning budget."""
    kind = measure(study)
    columns = (
        ARM,
        Column("trials", lambda row: str(row["trials"])),
        Column("seconds", lambda row: format_number(row["seconds"], ".1f")),
        Column(f"expected best {kind.title(kind.metric)}", lambda row: format_number(row["expected"], ".4f")),
        Column("probability\nthat all fail", lambda row: format_number(row["failing"], ".3f")),
    )
    return Table("tuning_budget", budgets(study), columns, folded="Expected results for every tuning budget")


def budget_chart(study: StudyResults, unit: str) -> alt.LayerChart | None:
    """Return a chart of the expected best validation metric against the tuning budget; None if every trial failed.

    Args:
        study: the study.
        unit: unit of the budget, "trials" or "seconds".
    """
    kind = measure(study)
    rows: Rows = [{**row, "expected": drawable(kind, row["expected"])} for row in budgets(study)]
    rows = [row for row in rows if row[unit] is not None and math.isfinite(row[unit])]
    if not rows:
        return None
    values = [row["expected"] for row in rows]
    title = kind.title(kind.metric)
    axis = measured_axis(kind, values, minExtent=EXTENT, maxExtent=EXTENT)
    y = alt.Y("expected:Q", scale=measured_scale(kind, values), title=["expected best", title], axis=axis)
    names = {"trials": "random tuning trials", "seconds": "seconds of tuning (this machine)"}
    axis = alt.Axis(tickCount=ticks(), grid=False, **({"tickMinStep": 1} if unit == "trials" else {}))
    x = alt.X(f"{unit}:Q", title=names[unit], axis=axis)
    base = visible(rows).encode(x=x, y=y, color=colour(study.arms))
    tips = ["arm:N", "trials:Q", tip("seconds", "seconds", ".1f"), tip("expected", f"expected best {title}", ".4f")]
    tips += [tip("failing", "probability that all fail", ".3f")]
    layers = [
        base.mark_line(strokeWidth=2).encode(strokeDash=dash(study.arms)),
        base.mark_point(filled=True, size=45, opacity=1).encode(shape=mark(study.arms), tooltip=tips),
    ]
    return finish(layers, HEIGHT - 100, f"Expected best validation result against {names[unit]}, by arm")


def _section(study: StudyResults) -> Section | None:
    charts = _figures(study)
    return Section("Performance against tuning budget", [Figures(charts, _CAPTION)]) if charts else None


def _figures(study: StudyResults) -> dict[str, Any]:
    found = {f"budget-{unit}": budget_chart(study, unit) for unit in ("trials", "seconds")}
    return {name: chart for name, chart in found.items() if chart is not None}


TOPIC = Topic(_section, lambda study: [budget_table(study)], _figures)

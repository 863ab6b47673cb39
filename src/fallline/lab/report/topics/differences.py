"""The differences to the baseline, their intervals, and the sources of randomness that the intervals cover."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from fallline.formatting import NONE, format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import Comparison
from fallline.lab.analysis.verdicts import Result
from fallline.lab.report.document import Block, Bullets, Figures, Section, Tabled, Text, Topic
from fallline.lab.report.encodings import DIM, INK, Rows, colour, data, finish, mark, ticks, tip
from fallline.lab.report.measure import change, margin_size, margin_text, measure
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table
from fallline.lab.report.text import p_value
from fallline.lab.report.topics.leaderboard import leaders

_ROW = 62  # height of the row of an arm in pixels
_CHANCE_NOTE = (
    "Shares of the variance of the mean difference. Training: initialisation, order of the data, dropout and, if each "
    "seed draws its own split, the training set. Choice of test examples: the test examples that each seed draws. "
    "Finite examples: the limited number of examples in the test set or pool, which more seeds cannot reduce. With "
    "infinitely many seeds: half the width that the 95 % interval would still have."
)


def pairwise(study: StudyResults, name: str, results: Sequence[Result], note: str = "") -> Table:
    """Return the table of comparisons with one arm; each change is that of the arm of the row relative to this arm.

    Args:
        study: the study.
        name: name of the table.
        results: the comparisons, in the order of the rows.
        note: note below the table.
    """
    kind = measure(study)
    rows = Records(_record(result) for result in results)
    by_arm = {result.arm: result for result in results}

    def difference(row: Row) -> Cell:
        c = by_arm[row["arm"]].comparison
        if c is None:
            own, other = (f"{row[key]} of {study.seeds}" for key in ("failed", "baseline_failed"))
            return Cell(f"failed {own} seeds,", f"{row['baseline']} {other}", "bad")
        return Cell(change(c, c.difference), f"{change(c, c.low)} to {change(c, c.high)}")

    def detectable(row: Row) -> str:
        c = by_arm[row["arm"]].comparison
        return NONE if c is None else change(c, c.detectable, "")

    columns = (
        ARM,
        Column(f"change in\n{kind.name(kind.test)}\n95 % interval", difference),
        Column("verdict", lambda row: row["verdict"], "words"),
        Column("p\n(Holm)", lambda row: p_value(row["p"])),
        Column("p\n(sign flips)", lambda row: p_value(row["sign_flip_p"])),
        Column("probability of\nsuperiority", lambda row: format_number(row["superiority"], ".2f")),
        Column("minimum\ndetectable", detectable),
        Column("n", lambda row: str(row["n"]) if row["n"] else NONE),
    )
    return Table(name, rows, columns, note)


def _record(result: Result) -> dict[str, Any]:
    c = result.comparison
    names = ("n", "difference", "low", "high", "sign_flip_p", "superiority", "detectable", "log_ratio")
    head = {"arm": result.arm, "baseline": result.baseline, "verdict": str(result.verdict), "p": result.p}
    numbers = {name: getattr(c, name) if c else None for name in names}
    return head | numbers | {"failed": result.failed, "baseline_failed": result.baseline_failed}


def against_best(study: StudyResults) -> list[Result]:
    """Return the comparisons with the arm that has the best mean, best first; the ranks follow from them."""
    finished = [row["arm"] for row in leaders(study) if row["finished"]]
    against = study.compare_with(finished[0], finished) if finished else {}
    return [against[arm] for arm in finished[1:]]


def chance(study: StudyResults, results: Sequence[Result]) -> Table | None:
    """Return the table of the sources of randomness; None if no comparison was possible."""
    rows, by_arm = Records(), {}
    for result in results:
        c = result.comparison
        if c is not None and c.variance.total > 0:
            by_arm[result.arm] = c
            rows.append({"arm": result.arm, **_shares(c), "limit": c.limit, "scope": c.design.scope})
    columns = (
        ARM,
        Column("training", lambda row: format_number(100 * row["training"], ".0f", " %")),
        Column("choice of test\nexamples", lambda row: format_number(100 * row["sampling"], ".0f", " %")),
        Column("finite\nexamples", lambda row: format_number(100 * row["examples"], ".0f", " %")),
        Column("with infinitely\nmany seeds ±", lambda row: change(by_arm[row["arm"]], row["limit"], "")),
        Column("the verdict holds", lambda row: row["scope"], "words"),
    )
    return Table("chance", rows, columns, _CHANCE_NOTE) if rows else None


def _shares(c: Comparison) -> dict[str, float]:
    v = c.variance
    return {
        "training": (v.seeds - v.sampling) / v.total,
        "sampling": v.sampling / v.total,
        "examples": v.examples / v.total,
    }


def advice(results: Sequence[Result]) -> Bullets | None:
    """Return a list of what would narrow each interval; None if no comparison was possible."""
    found = [(r.arm, r.comparison) for r in results if r.comparison is not None and r.comparison.variance.total > 0]
    return Bullets([f"{arm}: {narrowing(c)}" for arm, c in found]) if found else None


def narrowing(c: Comparison) -> str:
    """Return a sentence on what would narrow the interval of a comparison."""
    if c.design.reason:
        return f"the interval covers only the training seeds, because {c.design.reason}."
    if c.variance.examples_share > 0.5:
        return f"more than {c.n} seeds would help little, because most of the variance comes from {c.design.limit}."
    share = 100 * (1 - c.variance.examples_share)
    return f"more seeds would narrow the interval: {share:.0f} % of the variance decreases with the number of seeds."


def differences(study: StudyResults) -> alt.LayerChart | None:
    """Return a chart of the difference to the baseline by seed, with mean and interval; None without any comparison.

    Losses above 0 are compared by ratios, shown in percent. Other metrics are compared by differences.
    """
    seeds, means = _rows(study)
    if not means:
        return None
    kind = measure(study)
    unit, form, scaled = ("%", "+.2f", 100.0) if kind.log_ratio else ("", "+.4f", 1.0)
    values = [row[key] for row in (*seeds, *means) for key in ("change", "low", "high") if key in row]
    size = scaled * margin_size(study, study.margin) if study.margin is not None else 0.0
    edges = [0.0, -size, size]
    scale = alt.Scale(domain=[min(values + edges), max(values + edges)], nice=True)
    title = f"change in {kind.name(kind.test)} against {study.baseline}{' (%)' if unit else ''}"
    x = alt.X("change:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks()))
    y = alt.Y("arm:N", sort=[row["arm"] for row in means], axis=None)
    by_arm = alt.Chart(data(means)).encode(y=y, color=colour(study.arms))
    ends = [tip(k, f"{t} {unit}".strip(), form) for k, t in (("change", "mean"), ("low", "from"), ("high", "to"))]
    bar = by_arm.mark_rule(strokeWidth=3, yOffset=-2).encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    mean = by_arm.mark_point(filled=True, size=110, opacity=1, yOffset=-2).encode(x=x, shape=mark(study.arms))
    dots = alt.Chart(data(seeds)).mark_point(size=46, strokeWidth=1.5, yOffset=14).encode(x=x, y=y)
    names = by_arm.mark_text(align="left", yOffset=-19, fontSize=12, fontWeight=600, limit=alt.ExprRef("width - 40"))
    layers = [
        alt.Chart(data([{"zero": 0}])).mark_rule(strokeDash=[4, 3], color=DIM).encode(x="zero:Q"),
        bar.encode(tooltip=["arm:N", *ends]),
        mean.encode(tooltip=["arm:N", *ends]),
        dots.encode(
            color=colour(study.arms), tooltip=["arm:N", "seed:O", tip("change", f"change {unit}".strip(), form)]
        ),
        names.encode(x=alt.value(6), text="arm:N", color=alt.value(INK)),
    ]
    if study.margin is not None:
        margin = alt.Chart(data([{"low": edges[1], "high": edges[2]}])).mark_rect(color="#000", opacity=0.06)
        layers.insert(0, margin.encode(x="low:Q", x2="high:Q"))
    return finish(layers, _ROW * len(means) + 12, f"Difference of every arm to {study.baseline}, seed by seed")


def _rows(study: StudyResults) -> tuple[Rows, Rows]:
    seeds: Rows = []
    means: Rows = []
    for arm in (row["arm"] for row in study.leaderboard()):
        result = study.comparisons.get(arm)
        if result is None or result.comparison is None:
            continue
        c = result.comparison
        pairs = zip(study.confirmed(arm), study.confirmed(study.baseline), strict=True)
        for seed, (own, other) in enumerate(pairs, start=1):
            if own is not None and other is not None:
                change = 100 * (own / other - 1) if c.log_ratio else own - other
                seeds.append({"arm": arm, "seed": seed, "change": change})
        bounds = {"change": c.difference, "low": c.low, "high": c.high}
        means.append({"arm": arm, **{k: c.percent(value) if c.log_ratio else value for k, value in bounds.items()}})
    return seeds, means


def _caption(study: StudyResults) -> str:
    kind = measure(study)
    seeds = (
        "with different seeds in the two arms"
        if any(arm.twin for arm in study.spec.arms)
        else "with the same initialisation and order of the data in both arms"
    )
    caption = f"Each circle is one seed, {seeds}. Bars show the mean and the 95 % interval over all sources of "
    caption += f"randomness. Values {'left' if kind.mode == 'min' else 'right'} of 0 are better than the baseline."
    if study.margin is not None:
        caption += f" Differences within the grey band, ±{margin_text(study, study.margin)}, are considered irrelevant."
    return caption


def _pairwise_note(study: StudyResults) -> str:
    twins = any(arm.twin for arm in study.spec.arms)
    paired = "Runs are paired by number, although the arms share no seeds" if twins else "Runs are paired by seed"
    scale = "log ratios shown as percentages" if measure(study).log_ratio else "in units of the metric"
    return (
        f"{paired}; differences are {scale}. Only p (Holm) decides the verdict; the intervals are not corrected for "
        "the number of comparisons. p (sign flips) is exact, considers only the seeds, and is given for 8 to 20 seeds. "
        "Probability of superiority: share of seeds on which the arm is better. Minimum detectable: the difference "
        "that this n would detect with 80 % power, given all sources of randomness and the corrected significance "
        "level of each comparison."
    )


def _section(study: StudyResults) -> Section | None:
    if not study.comparisons:
        return None
    rows = [study.comparisons[row["arm"]] for row in study.leaderboard() if row["arm"] in study.comparisons]
    blocks: list[Block] = []
    if charts := _figures(study):
        blocks.append(Figures(charts, _caption(study), legend=False))
    else:
        failed = (
            "No comparison is possible because of failed seeds: a mean over only the successful seeds would make an "
            "arm look too good."
        )
        blocks.append(Text(failed))
    blocks.append(Tabled(pairwise(study, "pairwise", rows, _pairwise_note(study))))
    if (sources := chance(study, rows)) is not None:
        blocks += [Tabled(sources), *filter(None, [advice(rows)])]
    against = against_best(study)
    if len(against) > 1 and against[0].baseline != study.baseline:
        blocks.append(Text("", lead=f"Differences to {against[0].baseline}, the best mean"))
        blocks.append(Tabled(pairwise(study, "against_best", against)))
    return Section(f"Differences to {study.baseline}", blocks)


def _tables(study: StudyResults) -> list[Table | None]:
    results = list(study.comparisons.values())
    return [pairwise(study, "pairwise", results) if results else None, chance(study, results)]


def _figures(study: StudyResults) -> dict[str, Any]:
    chart = differences(study)
    return {} if chart is None else {"differences": chart}


TOPIC = Topic(_section, _tables, _figures)

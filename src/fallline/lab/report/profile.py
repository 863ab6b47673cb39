"""The page about several studies: a performance profile of the arms that all of them have."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt

from fallline.errors import ArgumentError
from fallline.formatting import format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Bullets, Document, Figures, Section, Tabled, Text
from fallline.lab.report.encodings import HEIGHT, colour, dash, finish, log_axis, tip, visible
from fallline.lab.report.formats import cannot_write
from fallline.lab.report.render import to_html
from fallline.lab.report.tables import ARM, Column, Records, Table
from fallline.lab.storage.atomic_files import write_atomically

LEAST = 3  # smallest number of tasks: with fewer, a share of the tasks is meaningless


_CAPTION = (
    "The height of a line at x is the share of the tasks on which the mean of the arm is at most x times worse than "
    "the mean of the best arm of the task. At the left edge it is the share of the tasks on which the arm is the best. "
    "If a line ends below 100 %, the arm failed on the remaining tasks."
)


def ratios(values: Mapping[str, float | None], mode: str = "min") -> dict[str, float]:
    """Return for every arm how many times worse than the best arm it is, >= 1; infinity if it failed.

    The ratio is own / best for "min" and best / own for "max".

    Args:
        values: the result of each arm, > 0; None if the arm failed.
        mode: "min" if lower is better, else "max".

    Example:
        >>> ratios({"a": 2.0, "b": 3.0, "c": None})
        {'a': 1.0, 'b': 1.5, 'c': inf}
    """
    good = [value for value in values.values() if value is not None]
    best = (min if mode == "min" else max)(good, default=math.nan)

    def ratio(value: float | None) -> float:
        if value is None:
            return math.inf
        if value == best:
            return 1.0
        own, other = (value, best) if mode == "min" else (best, value)
        return own / other if other > 0 else math.inf

    return {arm: ratio(value) for arm, value in values.items()}


def profile(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of the performance profile of an arm: (τ, share of the tasks with a ratio of at most τ).

    See Dolan and Moré 2002. Infinite ratios do not count, so the last share is below 1 if the arm failed on a task.

    Args:
        values: ratios to the best arm, one per task.

    Example:
        >>> profile([1.0, 2.0, float("inf"), 1.0])
        [(1.0, 0.5), (2.0, 0.75)]
    """
    finite = sorted({value for value in values if math.isfinite(value)})
    corners = [(tau, sum(value <= tau for value in values) / len(values)) for tau in finite]
    return corners if corners and corners[0][0] == 1.0 else [(1.0, 0.0), *corners]


def write_profile(studies: Sequence[StudyResults], path: Path) -> Path:
    """Write the performance profile over several studies as one HTML file and return its path.

    Each study counts as one task. Arms are compared by the mean of the headline metric over their confirmation runs. An
    arm with a failed seed has failed on the task, which counts as an infinite ratio.

    Raises:
        ArgumentError: there are fewer than three studies, a study is given twice, or the studies have fewer than two
            arms in common.
        StudyError: the file cannot be written.
    """
    page = to_html(profile_document(studies))
    try:
        write_atomically(path, page)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def profile_records(studies: Sequence[StudyResults]) -> Records:
    """Return one record per arm and task: arm, task, value (mean of the headline metric), ratio to the best arm, >= 1.

    Raises:
        ArgumentError: as for `write_profile`.
    """
    tasks, arms = _field(studies)
    rows = Records()
    for task, study in zip(tasks, studies, strict=True):
        values = {arm: _mean(study, arm) for arm in arms}
        found = ratios(values, study.mode)
        rows += [{"arm": arm, "task": task, "value": values[arm], "ratio": found[arm]} for arm in arms]
    return rows


def _field(studies: Sequence[StudyResults]) -> tuple[list[str], list[str]]:
    if len(studies) < LEAST:
        raise ArgumentError(
            f"report: a profile needs at least {LEAST} studies, one per task, got {len(studies)}; for the report of a "
            "single study, name one DIR"
        )
    folders = [study.folder.resolve() for study in studies]
    if len(set(folders)) < len(folders):
        raise ArgumentError("report: each study may be given only once, got a folder twice; remove the duplicate")
    arms = [arm for arm in studies[0].arms if all(arm in study.arms for study in studies)]
    if len(arms) < 2:
        raise ArgumentError(
            f"report: the studies must have at least two arms in common, got {', '.join(arms) or 'none'}; compare the "
            "same --optimizers and --schedules on every task"
        )
    names = [study.spec.task for study in studies]
    tasks = [f"{n} ({f.name})" if names.count(n) > 1 else n for n, f in zip(names, folders, strict=True)]
    return tasks, arms


def _mean(study: StudyResults, arm: str) -> float | None:
    values = study.confirmed(arm)
    good = [value for value in values if value is not None]
    return math.fsum(good) / len(good) if len(good) == len(values) else None


def profile_document(studies: Sequence[StudyResults]) -> Document:
    """Return the page as a document."""
    records = profile_records(studies)
    tasks, arms = _field(studies)
    by_arm = {arm: [row["ratio"] for row in records if row["arm"] == arm] for arm in arms}
    left_out = [arm for arm in dict.fromkeys(a for study in studies for a in study.arms) if arm not in arms]
    field = [
        f"Arms: {', '.join(arms)}.",
        f"Tasks: {', '.join(tasks)}.",
        *([f"Left out, because not every study has them: {', '.join(left_out)}."] if left_out else []),
    ]
    warning = (
        "A profile depends on the set of arms: adding or removing an arm can change the best arm of a task, and with "
        "it all lines and even their order. The profile does not apply to tasks that are not listed here. It contains "
        "no significance tests; the report of each study does."
    )
    sections = [
        Section("Performance profile", [Figures({"profile": performance_profile(by_arm)}, _CAPTION)]),
        Section("Ratios to the best", [Tabled(_table(records, tasks, arms))]),
        Section("Arms and tasks", [Bullets(field), Text(warning)]),
    ]
    return Document(
        headline=_headline(by_arm, len(tasks)),
        subject=f"{len(tasks)} tasks · {len(arms)} arms",
        arms=arms,
        verdicts=_sentences(by_arm, len(tasks)),
        notes=[f"Arms: {', '.join(arms)}. Tasks: {', '.join(tasks)}. A profile depends on the set of arms and tasks."],
        warnings=[],
        sections=sections,
        name="profile",
    )


def _headline(by_arm: Mapping[str, Sequence[float]], tasks: int) -> str:
    wins = {arm: sum(value == 1.0 for value in values) for arm, values in by_arm.items()}
    most = max(wins.values())
    best = [arm for arm, count in wins.items() if count == most]
    return f"{' and '.join(best)} {'has' if len(best) == 1 else 'have'} the best mean on {most} of {tasks} tasks" + (
        " each" if len(best) > 1 else ""
    )


def _sentences(by_arm: Mapping[str, Sequence[float]], tasks: int) -> list[tuple[str, str]]:
    found = []
    for arm, values in sorted(by_arm.items(), key=lambda item: sorted(item[1])[::-1]):
        finite = [value for value in values if math.isfinite(value)]
        wins, failed = sum(value == 1.0 for value in values), tasks - len(finite)
        worst = f", at most {100 * (max(finite) - 1):.1f} % worse than the best" if finite else ""
        lost = f", failed on {failed}" if failed else ""
        found.append((arm, f"{arm}: best on {wins} of {tasks} tasks{worst}{lost}."))
    return found


def performance_profile(ratios: Mapping[str, Sequence[float]]) -> alt.LayerChart:
    """Return a chart of the share of tasks on which each arm is within a factor of the best arm.

    Args:
        ratios: by arm, one ratio to the best arm per task, >= 1; infinite if the arm failed.
    """
    arms = list(ratios)
    finite = [value for values in ratios.values() for value in values if math.isfinite(value)]
    end = max(1.1, max(finite, default=1.0) * 1.1)
    rows = []
    for arm in arms:
        corners = profile(ratios[arm])
        corners.append((end, corners[-1][1]))
        rows += [{"arm": arm, "ratio": tau, "share": share} for tau, share in corners]
    scale = alt.Scale(type="log", nice=False, domain=[1.0, end])
    x = alt.X(
        "ratio:Q", scale=scale, title="at most this many times worse than the best arm", axis=log_axis([1.0, end])
    )
    share = alt.Axis(format=".0%", tickCount=5)
    y = alt.Y("share:Q", scale=alt.Scale(domain=[0, 1.04], nice=False), title="share of the tasks", axis=share)
    base = visible(rows).encode(x=x, y=y, color=colour(arms))
    tips = ["arm:N", tip("ratio", "times worse, at most", ".3f"), tip("share", "share of the tasks", ".0%")]
    layers = [
        base.mark_line(strokeWidth=2, interpolate="step-after").encode(strokeDash=dash(arms)),
        base.mark_point(filled=True, size=90, opacity=0).encode(tooltip=tips),
    ]
    return finish(layers, HEIGHT, "Share of tasks on which each arm is within a factor of the best arm")


def _table(records: Records, tasks: Sequence[str], arms: Sequence[str]) -> Table:
    ratio = {(row["arm"], row["task"]): row["ratio"] for row in records}

    def column(task: str) -> Column:
        def cell(row: Mapping[str, str]) -> str:
            value = ratio[row["arm"], task]
            return "failed" if math.isinf(value) else format_number(value, ".3f")

        return Column(task, cell)

    rows = Records({"arm": arm} for arm in arms)
    note = (
        "Mean of the headline metric over the confirmation runs, divided by the mean of the best arm of the task (or "
        "the inverse if higher is better)."
    )
    return Table("profile", records, (ARM, *map(column, tasks)), note, rows=rows)

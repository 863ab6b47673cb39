"""Time to target: how long the confirmation runs of each arm take to reach a fixed result."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from fallline.formatting import NONE, format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.design.trial import Trial
from fallline.lab.report.document import Figures, Section, Topic, tabulate
from fallline.lab.report.encodings import (
    DIM,
    EXTENT,
    HEIGHT,
    Rows,
    colour,
    dash,
    data,
    finish,
    measured_axis,
    measured_scale,
    steps_axis,
    tip,
    visible,
)
from fallline.lab.report.measure import measure
from fallline.lab.report.tables import ARM, Column, Records, Row, Table
from fallline.lab.search.selection import Search

_TARGETS = 30  # number of points per line
_CAPTION = (
    "Median over the confirmation runs of the step of the first evaluation at which each target is reached. A line "
    "ends where half of the runs of its arm miss the target. {way} and further left is better."
)


def first_step(curve: Sequence[Mapping[str, float]], metric: str, target: float, mode: str) -> float:
    """Return the step of the first row at which a metric reaches or passes the target; infinity if there is none.

    Args:
        curve: rows with "step" and the metric.
        metric: key of the metric in the rows.
        target: value to reach.
        mode: "min" if lower is better, else "max".

    Example:
        >>> first_step([{"step": 10, "val_loss": 2.0}, {"step": 20, "val_loss": 1.0}], "val_loss", 1.5, "min")
        20
    """
    met = (row["step"] for row in curve if (row[metric] <= target if mode == "min" else row[metric] >= target))
    return next(met, math.inf)


def median(values: Iterable[float]) -> float:
    """Return the median, which is infinite if at least half of the values are; NaN without values."""
    found = list(values)
    return statistics.median(found) if found else math.nan


def grid(target: float, easiest: float, mode: str, ratios: bool) -> list[float]:
    """Return the target and easier targets up to `easiest`, hardest first.

    For losses, the easier targets are 10 %, 25 %, 50 %, 100 %, 200 % and 400 % above the target. For metrics that are
    compared by differences, the distances from the target are a tenth of these.

    Example:
        >>> grid(1.0, 2.5, "min", ratios=True)
        [1.0, 1.1, 1.25, 1.5, 2.0]
    """
    away = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]
    sign, size = (1 if mode == "min" else -1), (1.0 if ratios else 0.1) * abs(target)
    targets = [target + sign * size * share for share in away]
    return [t for t in targets if t == target or sign * t <= sign * easiest]


def fixed_target(study: StudyResults) -> float | None:
    """Return the median of the final validation metric over the baseline's runs.

    It is None if half of them failed, and if the runs have no curves.

    The target depends only on the baseline, so nobody can favour an arm by choosing the target after seeing the curves.
    """
    kind = measure(study)
    if not any(outcome.curve for _, outcome in _runs(study)):
        return None
    lower = [math.inf if v is None else kind.sign * v for v in study.confirmed(study.baseline, kind.metric)]
    target = kind.sign * median(lower)
    return target if math.isfinite(target) else None


def targets(study: StudyResults) -> list[float]:
    """Return the fixed target and easier targets, hardest first, up to the worst result at a first evaluation."""
    target, kind = fixed_target(study), measure(study)
    if target is None:
        return []
    first = [o.curve[0][kind.metric] for _, o in _runs(study) if o.curve]
    easiest = kind.sign * max((kind.sign * value for value in first), default=kind.sign * target)
    return grid(target, easiest, kind.mode, kind.is_loss)


def time_to_target(study: StudyResults, target: float) -> Records:
    """Return one record per arm for one target.

    The keys are arm, target, reached, runs, and the medians over the runs of steps, examples, gradient_evaluations and
    seconds. A run reaches the target at the first evaluation that meets it; a failed run misses the target. Misses
    count as infinite, so a median is infinite if half of the runs miss. Examples are None if the batch size of the task
    is unknown. Seconds (steps times the median time per step, without evaluation) are None if no times were stored.
    """
    rows = Records()
    for arm, search in study.searches.items():
        trials = study.confirmation_trials(search.arm.name)
        steps = steps_to(study, search, target)
        per_step: dict[str, list[float | None]] = {
            "examples": [_examples(study, search)] * len(trials),
            "gradient_evaluations": [_passes(search) for _ in trials],
            "seconds": [_seconds(study, trial) for trial in trials],
        }
        row: dict[str, Any] = {"arm": arm, "target": target, "reached": sum(map(math.isfinite, steps))}
        row |= {"runs": len(steps), "steps": median(steps)}
        for name, sizes in per_step.items():
            known = [size for size in sizes if size is not None]
            complete = len(known) == len(steps) and bool(steps)
            row[name] = median(s * size for s, size in zip(steps, known, strict=True)) if complete else None
        rows.append(row)
    return rows


def steps_to(study: StudyResults, search: Search, target: float) -> list[float]:
    """Return the number of steps in which each confirmation run of an arm reached a target; infinity if it did not."""
    kind = measure(study)
    outcomes = study.confirmation(search.arm.name)
    return [math.inf if o.failure else first_step(o.curve, kind.metric, target, kind.mode) for o in outcomes]


def _runs(study: StudyResults) -> list[tuple[Trial, Any]]:
    return [(t, study.outcome(t)) for arm in study.searches for t in study.confirmation_trials(arm)]


def _examples(study: StudyResults, search: Search) -> float | None:
    """Return the number of examples per step; None if the batch size of the task is unknown."""
    task = study.spec.task_of(search.arm)
    size = getattr(task, "batch_size", None)
    return size * task.accumulate if isinstance(size, int) else None


def _passes(search: Search) -> float:
    """Return the number of gradients of the whole batch that a step evaluates."""
    return search.arm.space.passes


def _seconds(study: StudyResults, trial: Trial) -> float | None:
    costs = study.costs.get(trial.id)
    if costs is None:
        return None
    return costs.step_ms / 1000 / (costs.passes if trial.counts_gradients else 1)


def target(study: StudyResults) -> Table | None:
    """Return the table of the time to the fixed target; None if the baseline does not determine a target."""
    fixed, kind = fixed_target(study), measure(study)
    if fixed is None:
        return None

    def middle(key: str, form: str) -> Any:
        return lambda row: (
            NONE if row[key] is None else "not reached" if math.isinf(row[key]) else format_number(row[key], form)
        )

    columns = (
        ARM,
        Column("reached by", lambda row: f"{row['reached']} of {row['runs']}" if row["runs"] else "not confirmed"),
        Column("steps", middle("steps", ",.0f")),
        Column("examples", middle("examples", ",.0f")),
        Column("gradient\nevaluations", middle("gradient_evaluations", ",.0f")),
        Column("seconds", middle("seconds", ".3g")),
    )
    note = (
        f"The target is a {kind.title(kind.metric)} of {fixed:.4g}, the median of the final results of "
        f"{study.baseline}'s confirmation runs. The baseline determines it, so it was not chosen after seeing the "
        "curves. The numbers are medians over the runs. A run that misses the target or fails counts as infinite, so "
        'the median is "not reached" if half of the runs miss. Runs are checked only when they are evaluated. Seconds '
        "hold for this implementation and this machine, and do not include evaluation."
    )
    return Table("time_to_target", time_to_target(study, fixed), columns, note)


def target_grid(study: StudyResults) -> Table | None:
    """Return the table of the steps to easier targets; None if the baseline does not determine a target."""
    levels, kind = targets(study), measure(study)
    if not levels:
        return None
    by_level = [{row["arm"]: row for row in time_to_target(study, level)} for level in levels]
    rows = Records(row for found in by_level for row in found.values())
    arms = Records({"arm": arm} for arm in study.arms)

    def column(i: int) -> Column:
        def cell(row: Row) -> str:
            found = by_level[i][row["arm"]]
            if math.isfinite(found["steps"]):
                return format_number(found["steps"], ",.0f")
            return f"not reached, {found['reached']} of {found['runs']}" if found["runs"] else NONE

        return Column(f"{levels[i]:.3g}", cell)

    columns = (ARM, *map(column, range(len(levels))))
    folded = f"Median steps to easier targets: {kind.title(kind.metric)}"
    return Table("time_to_targets", rows, columns, folded=folded, rows=arms)


def target_chart(study: StudyResults) -> alt.LayerChart | None:
    """Return a chart of targets against the median steps to reach them; None if the baseline determines no target.

    A line ends at the hardest target that more than half of the arm's runs reach.
    """
    kind, fixed = measure(study), fixed_target(study)
    if fixed is None:
        return None
    rows: Rows = []
    levels = _levels(study, fixed)
    for arm, search in study.searches.items():
        for level in levels:
            steps = steps_to(study, search, level)
            if steps and math.isfinite(middle := median(steps)):
                reached = f"{sum(map(math.isfinite, steps))} of {len(steps)}"
                rows.append({"arm": arm, "target": level, "step": middle, "reached": reached})
    title = f"target: {kind.title(kind.metric)}"
    axis = measured_axis(kind, levels, minExtent=EXTENT, maxExtent=EXTENT)
    y = alt.Y("target:Q", scale=measured_scale(kind, levels), title=title, axis=axis)
    base = visible(rows).encode(x=steps_axis(study, "median steps to reach the target"), y=y, color=colour(study.arms))
    tips = ["arm:N", tip("target", "target", ".4g"), tip("step", "median steps", ",~r"), alt.Tooltip("reached:N")]
    rule = alt.Chart(data([{"target": fixed}])).encode(y=y)
    layers = [
        rule.mark_rule(strokeDash=[4, 3], color=DIM),
        rule.mark_text(text="fixed target", align="left", dx=4, dy=-7, color=DIM, fontSize=12).encode(x=alt.value(0)),
        base.mark_line(strokeWidth=2, interpolate="step-before").encode(strokeDash=dash(study.arms), order="target:Q"),
        base.mark_point(filled=True, size=90, opacity=0).encode(tooltip=tips),
    ]
    return finish(layers, HEIGHT - 60, "Targets against the median steps to reach them, by arm")


def _levels(study: StudyResults, fixed: float) -> list[float]:
    """Return targets from the easiest one in the table to the best result of any run, evenly spaced on the axis."""
    kind = measure(study)
    easiest = targets(study)[-1]
    outcomes = [outcome for arm in study.searches for outcome in study.confirmation(arm)]
    lowest = [kind.sign * o.metrics[kind.metric] for o in outcomes if not o.failure]
    hardest = kind.sign * min([kind.sign * fixed, *lowest])
    ends = [easiest, hardest]
    if kind.is_ratio and hardest > 0:
        ends = [math.log(end) for end in ends]
    levels = [ends[0] + (ends[1] - ends[0]) * i / (_TARGETS - 1) for i in range(_TARGETS)]
    levels = [math.exp(level) for level in levels] if kind.is_ratio and hardest > 0 else levels
    return sorted({*levels, fixed})


def _section(study: StudyResults) -> Section | None:
    blocks = tabulate(target(study))
    if not blocks:
        return None
    way = "Higher" if measure(study).mode == "max" else "Lower"
    if charts := _figures(study):
        blocks.append(Figures(charts, _CAPTION.format(way=way)))
    return Section("Time to target", [*blocks, *tabulate(target_grid(study))])


def _figures(study: StudyResults) -> dict[str, Any]:
    chart = target_chart(study)
    return {} if chart is None else {"time-to-target": chart}


TOPIC = Topic(_section, lambda study: [target(study), target_grid(study)], _figures)

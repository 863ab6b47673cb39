"""The training curves of the confirmation runs, and the learning rate schedule below them."""

import math
from dataclasses import replace
from typing import Any

import altair as alt

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Figures, Section, Text, Topic
from fallline.lab.report.encodings import (
    DIM,
    EXTENT,
    FAILED,
    HEIGHT,
    INK,
    Rows,
    colour,
    dash,
    data,
    describe_failure,
    drawable,
    finish,
    measured_axis,
    measured_scale,
    steps_axis,
    tip,
    visible,
)
from fallline.lab.report.measure import Measure, measure

DECAYED = 0.005  # a decay is over when the learning rate exceeds its last value by at most this part of the peak
_STRIP_POINTS = 400
_CAPTION = (
    "Confirmation runs: lines show the mean over seeds, bands the range from the lowest to the highest value. Top: "
    "validation result. Middle: running mean of the loss on training batches. Bottom: learning rate. In the grey "
    "region the learning rate has not decayed yet; rankings there often change before the end of the schedule. If a "
    "seed of an arm failed, each of its runs is drawn separately, and a red × marks each failure."
)
_LENGTHS = (
    " The arms differ in their number of steps, and each has a complete schedule. Arms whose steps take more gradient "
    "evaluations make fewer steps."
)


def curves(study: StudyResults, split: str) -> alt.LayerChart | None:
    """Return a chart of a metric against step: mean and range over the confirmation runs; None without such runs.

    If a seed of an arm failed, each of its runs is drawn separately, because a mean over the other seeds would make the
    arm look too good.

    Args:
        study: the study.
        split: "val" for the metric of the study, or "train" for the loss.
    """
    kind = measure(study)
    if split == "train":
        kind = replace(kind, metric="val_loss", mode="min")
    metric = f"{split}_{kind.metric[4:]}"
    rows, crosses = _rows(study, metric, kind)
    if not rows and not crosses:
        return None
    bounds = [row[key] for row in rows for key in ("low", "high")]
    scale = measured_scale(kind, bounds)
    axis = measured_axis(kind, bounds, minExtent=EXTENT, maxExtent=EXTENT)
    title = kind.title(metric)
    y = alt.Y("value:Q", scale=scale, title=title, axis=axis)
    x = steps_axis(study, None)
    base = visible(rows).encode(x=x, detail="run:N", color=colour(study.arms))
    tips = ["arm:N", alt.Tooltip("run:N", title="seed"), "step:Q"]
    values = [tip(k, t, ".4f") for k, t in (("value", title), ("low", "lowest"), ("high", "highest"))]
    # A line shows a tooltip for its first point only; invisible marks show the tooltip of the point under the pointer.
    targets = base.mark_point(filled=True, size=90, opacity=0, clip=True).encode(y=y, tooltip=[*tips, *values])
    layers = [
        *_undecayed(study),
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash(study.arms)),
        targets,
    ]
    if crosses:
        cross = visible(crosses).mark_text(text="×", fontSize=19, color=FAILED).encode(x=x, y=alt.value(10))
        layers.append(cross.encode(tooltip=[*tips, "failure:N", "cause:N"]))
    height = {"val": HEIGHT, "train": HEIGHT - 100}[split]
    return finish(layers, height, f"{title.capitalize()} of the confirmation runs against step, by arm")


def _rows(study: StudyResults, key: str, kind: Measure) -> tuple[Rows, Rows]:
    """Return the points of all lines, and one cross for every failed run."""
    rows: Rows = []
    crosses: Rows = []
    for arm, search in study.searches.items():
        outcomes = [study.outcome(trial) for trial in study.confirmation_trials(search.arm.name)]
        steps = {tuple(point["step"] for point in o.curve if key in point) for o in outcomes}
        runs = {f"{i + 1} of {len(outcomes)}": [o.curve] for i, o in enumerate(outcomes)}
        if len(steps) == 1 and not any(o.failure for o in outcomes):
            runs = {f"mean of {len(outcomes)}": [o.curve for o in outcomes]}
        for run, together in runs.items():
            for points in zip(*([p for p in curve if key in p] for curve in together), strict=True):
                values = [point[key] for point in points]
                bounds = {"value": math.fsum(values) / len(values), "low": min(values), "high": max(values)}
                rows.append(
                    {"arm": arm, "run": run, "step": points[0]["step"]}
                    | {name: drawable(kind, value) for name, value in bounds.items()}
                )
        for run, outcome in zip(runs, outcomes, strict=False):
            if outcome.failure:
                crosses.append(
                    {"arm": arm, "run": run, "step": outcome.failure["step"], **describe_failure(outcome.failure)}
                )
    return rows, crosses


def _shapes(study: StudyResults) -> dict[tuple[str, int, float], list[float]]:
    """Return the learning rate factors of every schedule, length and warm-up in the confirmation runs."""
    shapes = {}
    for search in study.searches.values():
        trial = (study.confirmation_trials(search.arm.name) or study.tuning_trials(search.arm.name))[0]
        warmup = trial.warmup
        shapes[trial.schedule, trial.steps, warmup] = study.spec.factors(trial.schedule, trial.steps, warmup)
    return shapes


def undecayed(study: StudyResults) -> int:
    """Return the step until which the learning rate of some arm has not decayed yet; 0 without decay."""
    end = 0
    for factors in filter(None, _shapes(study).values()):
        above = [step for step, factor in enumerate(factors) if factor > factors[-1] + DECAYED]
        end = max([end, *(step + 1 for step in above)])
    return end


def _undecayed(study: StudyResults) -> list[alt.Chart]:
    """Return the grey region of the curves in which a ranking of the arms would mislead; empty without decay."""
    end = undecayed(study)
    if not end:
        return []
    where = alt.Chart(data([{"from": 0, "to": end}])).encode(x=alt.X("from:Q"))
    label = where.mark_text(
        text="learning rate not decayed yet: do not compare here", align="left", dx=8, color=DIM, fontSize=12
    )
    return [
        where.mark_rect(color="#000", opacity=0.045).encode(x2="to:Q"),
        label.encode(y={"value": {"expr": "height - 12"}}),
    ]


def strip(study: StudyResults) -> alt.LayerChart | None:
    """Return a chart of the learning rate against step, for display below the curves; None if it is unknown."""
    if all(search.best is None for search in study.searches.values()):
        return None
    shapes = {key: factors for key, factors in _shapes(study).items() if factors}
    if not shapes:
        return None
    lengths, warmups = {steps for _, steps, _ in shapes}, {warmup for _, _, warmup in shapes}
    rows: Rows = []
    for (schedule, steps, warmup), factors in shapes.items():
        parts = [schedule]
        parts += [f"warm-up {100 * warmup:.3g} %"] if len(warmups) > 1 else []
        parts += [f"{steps} steps"] if len(lengths) > 1 else []
        stride = max(1, steps // _STRIP_POINTS)
        held = [*factors, factors[-1]]  # extends the line to the end of the last step
        rows += [
            {"schedule": ", ".join(parts), "step": step, "factor": factor}
            for step, factor in enumerate(held)
            if step % stride == 0 or step >= steps - 1
        ]
    names = list(dict.fromkeys(row["schedule"] for row in rows))
    axis = alt.Axis(values=[0, 1], format="~g", minExtent=EXTENT, maxExtent=EXTENT)
    y = alt.Y("factor:Q", title="lr ÷ peak", axis=axis)
    legend = alt.Legend(orient="top", title=None, symbolStrokeColor=INK, columns=3) if len(names) > 1 else None
    dashes = alt.StrokeDash("schedule:N", sort=names, legend=legend)
    chart = alt.Chart(data(rows)).mark_line(strokeWidth=1.6, interpolate="step-after", color=INK)
    tips = ["schedule:N", "step:Q", tip("factor", "learning rate ÷ peak", ".3f")]
    chart = chart.encode(x=steps_axis(study, "optimizer step"), y=y, strokeDash=dashes, tooltip=tips)
    return finish([chart], 60, "Learning rate against step")


def _section(study: StudyResults) -> Section:
    charts = _figures(study)
    if "validation" not in charts:
        return Section("Training", [Text("There are no training curves, because no run has reported any.")])
    lengths = {study.spec.steps_of(arm, "confirm") for arm in study.spec.arms}
    return Section("Training", [Figures(charts, _CAPTION + (_LENGTHS if len(lengths) > 1 else ""))])


def _figures(study: StudyResults) -> dict[str, Any]:
    found = {"validation": curves(study, "val"), "training": curves(study, "train"), "strip": strip(study)}
    return {name: chart for name, chart in found.items() if chart is not None}


TOPIC = Topic(_section, figures=_figures)

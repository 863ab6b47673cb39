"""The figure of the time to target: the steps that half of the runs need, by target."""

import math

import altair as alt

from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.time_to_target import median
from fallline.lab.report.charts.curves import steps_axis
from fallline.lab.report.charts.encodings import (
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
    shown,
    tip,
)
from fallline.lab.report.measure import measure
from fallline.lab.report.reached import fixed_target, steps_to, targets

_TARGETS = 30  # points of a line


def time_to_target(study: StudyResults) -> alt.LayerChart | None:
    """Return a fine grid of targets against the median steps to them; None when the baseline fixes no target.

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
    base = shown(rows).encode(x=steps_axis(study, "median steps until it is reached"), y=y, color=colour(study.arms))
    tips = ["arm:N", tip("target", "target", ".4g"), tip("step", "median steps", ",~r"), alt.Tooltip("reached:N")]
    rule = alt.Chart(data([{"target": fixed}])).encode(y=y)
    layers = [
        rule.mark_rule(strokeDash=[4, 3], color=DIM),
        rule.mark_text(text="the fixed target", align="left", dx=4, dy=-7, color=DIM, fontSize=12).encode(
            x=alt.value(0)
        ),
        base.mark_line(strokeWidth=2, interpolate="step-before").encode(strokeDash=dash(study.arms), order="target:Q"),
        base.mark_point(filled=True, size=90, opacity=0).encode(tooltip=tips),
    ]
    return finish(layers, HEIGHT - 60, "Targets against the median steps to reach them, by arm")


def _levels(study: StudyResults, fixed: float) -> list[float]:
    """Return targets from the easiest of the table to the best result of any run, evenly spaced on the scale."""
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

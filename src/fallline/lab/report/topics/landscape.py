"""The curvature along the confirmation runs, by arm and by stage of the training."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import altair as alt

from fallline.formatting import NONE, format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Block, Figures, Section, Tabled, Topic
from fallline.lab.report.encodings import (
    EXTENT,
    HEIGHT,
    Rows,
    colour,
    dash,
    finish,
    log_axis,
    log_scale,
    positive,
    steps_axis,
    tip,
    visible,
)
from fallline.lab.report.tables import ARM, Column, Records, Table

STAGES = ("start", "middle", "end")
_KEYS = ("sharpness", "lambda_min", "trace", "critical_sharpness")
_CAPTION = (
    "Largest eigenvalue of the Hessian along the confirmation runs. Lines show the mean over seeds, bars the range."
)


def records(study: StudyResults) -> Records:
    """Return a record for every arm, stage and confirmation run: arm, seed, stage, step and the measurements."""
    rows = Records()
    for arm, search in study.searches.items():
        for trial in study.confirmation_trials(search.arm.name):
            for stage, row in zip(STAGES, study.outcome(trial).landscape, strict=False):  # failed runs have fewer
                rows.append({"arm": arm, "seed": trial.seed, "stage": stage, **row})
    return rows


def landscape(study: StudyResults) -> Table | None:
    """Return the table of the curvature of each arm; None if it was not measured."""
    measured = records(study)
    if not measured:
        return None
    rows = Records()
    for arm in study.arms:
        row: dict[str, Any] = {"arm": arm}
        for stage in STAGES:
            here = [r for r in measured if r["arm"] == arm and r["stage"] == stage]
            row |= {f"{stage}_{key}": _finite([r[key] for r in here]) for key in _KEYS}
        rows.append(row)

    def column(title: str, key: str) -> Column:
        return Column(title, lambda row: _spread(row[key]))

    columns = (
        ARM,
        *(column(f"sharpness\n{stage}", f"{stage}_sharpness") for stage in STAGES),
        column("λmin\nend", "end_lambda_min"),
        column("trace\nend", "end_trace"),
        column("critical\nsharpness, end", "end_critical_sharpness"),
    )
    note = (
        "Mean ± SD over the confirmation runs. The Hessian is that of the mean loss over four training batches (eval "
        "mode). Sharpness is its largest eigenvalue and λmin its smallest. Start: after the first step. Critical "
        "sharpness: 2 divided by the learning rate from which on the last update would raise the loss. Sharpness "
        "measures stability; it does not follow that flat minima generalise better."
    )
    return Table("landscape", measured, columns, note, rows=rows)


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = format_number(fmean(values), ".3g")
    return mean if len(values) < 2 else f"{mean} ± {format_number(stdev(values), '.2g')}"


def sharpness(study: StudyResults) -> alt.LayerChart | None:
    """Return a chart of the largest eigenvalue against step, with mean and range; None if it was not measured."""
    at: dict[tuple[str, float], list[float]] = defaultdict(list)
    for row in records(study):
        if (value := positive(row["sharpness"])) is not None:
            at[row["arm"], row["step"]].append(value)
    if not at:
        return None
    rows: Rows = [
        {"arm": arm, "step": step, "mean": fmean(found), "low": min(found), "high": max(found), "runs": len(found)}
        for (arm, step), found in at.items()
    ]
    bounds = [row[name] for row in rows for name in ("low", "high")]
    scale = log_scale(bounds)
    y = alt.Y("mean:Q", scale=scale, title="sharpness λmax", axis=log_axis(bounds, minExtent=EXTENT, maxExtent=EXTENT))
    base = visible(rows).encode(x=steps_axis(study, "optimizer step"), color=colour(study.arms))
    tips = ["arm:N", "step:Q", tip("mean", "mean sharpness", ".4g"), tip("low", "lowest", ".4g")]
    tips += [tip("high", "highest", ".4g"), "runs:Q"]
    layers = [
        base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=dash(study.arms)),
        base.mark_point(filled=True, size=60).encode(y=y, tooltip=tips),
    ]
    return finish(layers, HEIGHT - 100, "Sharpness of the confirmation runs against step, by arm")


def _section(study: StudyResults) -> Section | None:
    table = landscape(study)
    if table is None:
        return None
    charts = _figures(study)
    blocks: list[Block] = [Figures(charts, _CAPTION)] if charts else []
    return Section("Landscape", [*blocks, Tabled(table)])


def _figures(study: StudyResults) -> dict[str, Any]:
    chart = sharpness(study)
    return {} if chart is None else {"sharpness": chart}


TOPIC = Topic(_section, lambda study: [landscape(study)], _figures)

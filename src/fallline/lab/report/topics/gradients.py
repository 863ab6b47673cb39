"""The gradients: norms of the gradient and the update against step, and spikes of the training loss."""

import math
from collections import defaultdict
from statistics import median
from typing import Any

import altair as alt

from fallline.formatting import format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Block, Figures, Section, Topic, tabulate
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

_NAMES = {"grad_norm": "gradient norm", "update_norm": "update norm"}


_CAPTION = (
    "Euclidean norms over all parameters of the gradient of a batch and of the update, recorded at some steps of the "
    "confirmation runs. Lines show the median over seeds, bands the range from lowest to highest."
)


def spikes(study: StudyResults) -> Table | None:
    """Return the table of the spikes of the training loss; None if they were not counted."""
    rows = Records()
    for arm, search in study.searches.items():
        outcomes = [study.outcome(trial) for trial in study.confirmation_trials(search.arm.name)]
        counts = [o.metrics["spikes"] for o in outcomes if "spikes" in o.metrics]
        if not counts:
            continue
        norms = [row["grad_norm"] for o in outcomes for row in o.trace if "grad_norm" in row]
        rows.append(
            {"arm": arm, "runs": len(counts), "spikes": sum(counts), "median_spikes": median(counts)}
            | {"most_spikes": max(counts), "largest_grad_norm": max(norms, default=math.nan)}
        )
    columns = (
        ARM,
        Column("spikes,\ntotal", lambda row: f"{row['spikes']:.0f} in {row['runs']} runs"),
        Column("spikes per run,\nmedian", lambda row: format_number(row["median_spikes"], "g")),
        Column("spikes per run,\nmaximum", lambda row: format_number(row["most_spikes"], "g")),
        Column("largest\ngradient norm", lambda row: format_number(row["largest_grad_norm"], ".3g")),
    )
    note = "Spikes of the training loss in the confirmation runs. Failed runs count up to their failure."
    return Table("spikes", rows, columns, note) if rows else None


def norms(study: StudyResults, key: str) -> alt.LayerChart | None:
    """Return a chart of a norm against step: median and range over the confirmation runs; None without traces.

    Failed runs count up to their failure.

    Args:
        study: the study.
        key: "grad_norm" or "update_norm".
    """
    rows = _rows(study, key)
    if not rows:
        return None
    bounds = [row[name] for row in rows for name in ("low", "high")]
    scale = log_scale(bounds)
    axis = log_axis(bounds, minExtent=EXTENT, maxExtent=EXTENT)
    y = alt.Y("middle:Q", scale=scale, title=_NAMES[key], axis=axis)
    last = key == "update_norm"
    x = steps_axis(study, "optimizer step" if last else None)
    base = visible(rows).encode(x=x, color=colour(study.arms))
    tips = ["arm:N", "step:Q", tip("middle", f"median {_NAMES[key]}", ".4g")]
    tips += [tip("low", "lowest", ".4g"), tip("high", "highest", ".4g"), "runs:Q"]
    layers = [
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=dash(study.arms)),
        base.mark_point(filled=True, size=60, opacity=0, clip=True).encode(y=y, tooltip=tips),
    ]
    return finish(layers, HEIGHT - 100, f"{_NAMES[key].capitalize()} of the confirmation runs against step, by arm")


def _rows(study: StudyResults, key: str) -> Rows:
    rows: Rows = []
    for arm, search in study.searches.items():
        at: dict[float, list[float]] = defaultdict(list)
        for trial in study.confirmation_trials(search.arm.name):
            for row in study.outcome(trial).trace:
                value = positive(row.get(key, 0.0))
                if value is not None:
                    at[row["step"]].append(value)
        rows += [
            {"arm": arm, "step": step, "middle": median(found), "low": min(found), "high": max(found)}
            | {"runs": len(found)}
            for step, found in sorted(at.items())
        ]
    return rows


def _section(study: StudyResults) -> Section:
    charts = _figures(study)
    blocks: list[Block] = [Figures(charts, _CAPTION)] if charts else []
    return Section("Gradients and updates", [*blocks, *tabulate(spikes(study))])


def _figures(study: StudyResults) -> dict[str, Any]:
    found = {"gradient-norm": norms(study, "grad_norm"), "update-norm": norms(study, "update_norm")}
    return {name: chart for name, chart in found.items() if chart is not None}


TOPIC = Topic(_section, lambda study: [spikes(study)], _figures)

"""The figure of the landscape: sharpness along the confirmation runs."""

from collections import defaultdict
from statistics import fmean

import altair as alt

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.charts.curves import steps_axis
from fallline.lab.report.charts.encodings import (
    EXTENT,
    HEIGHT,
    Rows,
    colour,
    dash,
    finish,
    log_axis,
    log_scale,
    positive,
    shown,
    tip,
)
from fallline.lab.report.landscape import records


def sharpness(study: StudyResults) -> alt.LayerChart | None:
    """Return the largest eigenvalue against step, mean and range of each arm; None when it was not measured."""
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
    base = shown(rows).encode(x=steps_axis(study, "optimizer step"), color=colour(study.arms))
    tips = ["arm:N", "step:Q", tip("mean", "mean sharpness", ".4g"), tip("low", "lowest", ".4g")]
    tips += [tip("high", "highest", ".4g"), "runs:Q"]
    layers = [
        base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=dash(study.arms)),
        base.mark_point(filled=True, size=60).encode(y=y, tooltip=tips),
    ]
    return finish(layers, HEIGHT - 100, "Sharpness of the confirmation runs against step, by arm")

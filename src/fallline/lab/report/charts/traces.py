"""The figures of the gradients: the norms of gradient and update against step."""

from collections import defaultdict
from statistics import median

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

_NAMES = {"grad_norm": "gradient norm", "update_norm": "update norm"}


def norms(study: StudyResults, key: str) -> alt.LayerChart | None:
    """Return a norm against step over the confirmation runs, median and range of each arm; None without a trace.

    Runs that failed count up to their failure.

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
    base = shown(rows).encode(x=x, color=colour(study.arms))
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

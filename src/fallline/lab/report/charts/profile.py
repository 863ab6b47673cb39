"""The figure of a performance profile over several studies."""

import math
from collections.abc import Mapping, Sequence

import altair as alt

from fallline.lab.analysis.performance_profile import profile
from fallline.lab.report.charts.encodings import HEIGHT, colour, dash, finish, log_axis, shown, tip


def performance_profile(ratios: Mapping[str, Sequence[float]]) -> alt.LayerChart:
    """Return the share of tasks on which each arm is within a factor of the best arm there.

    Args:
        ratios: by arm, one ratio to the best arm a task, >= 1, infinite where the arm failed.
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
        "ratio:Q", scale=scale, title="times worse than the best arm of the task, at most", axis=log_axis([1.0, end])
    )
    share = alt.Axis(format=".0%", tickCount=5)
    y = alt.Y("share:Q", scale=alt.Scale(domain=[0, 1.04], nice=False), title="share of the tasks", axis=share)
    base = shown(rows).encode(x=x, y=y, color=colour(arms))
    tips = ["arm:N", tip("ratio", "at most times the best", ".3f"), tip("share", "share of the tasks", ".0%")]
    layers = [
        base.mark_line(strokeWidth=2, interpolate="step-after").encode(strokeDash=dash(arms)),
        base.mark_point(filled=True, size=90, opacity=0).encode(tooltip=tips),
    ]
    return finish(layers, HEIGHT, "Share of tasks on which each arm is within a factor of the best arm")

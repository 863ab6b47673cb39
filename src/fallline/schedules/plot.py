"""Schedules as a chart. Needs altair, which comes with the extra `lab`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fallline.errors import MissingExtraError
from fallline.schedules.base import check_integer

if TYPE_CHECKING:
    from fallline.schedules.base import Schedule

_POINTS = 1000  # more are not seen


def plot(schedules: "Mapping[str, Schedule]", steps: int, base: float = 1.0) -> Any:
    """Return an altair chart of the learning rate at each step, a line for every schedule.

    Args:
        schedules: by the names to show.
        steps: how many, >= 1.
        base: the base learning rate of all.

    Raises:
        MissingExtraError: altair is not installed.
    """
    try:
        import altair as alt
    except ImportError:
        raise MissingExtraError(
            'plot: altair must be installed, got an ImportError; run: pip install "fallline[lab]"'
        ) from None
    check_integer("plot", "steps", steps, 1)
    rows = [
        {"step": k, "lr": schedule(k, base), "schedule": name}
        for name, schedule in schedules.items()
        for k in sorted({*range(0, steps, -(-steps // _POINTS)), *(c for c in schedule.corners if c < steps)})
    ]
    chart = alt.Chart(alt.Data(values=rows)).mark_line(interpolate="step-after" if steps <= 60 else "linear")
    scale = alt.Scale(scheme="tableau10" if len(schedules) <= 10 else "tableau20")
    legend = alt.Legend(labelLimit=500, orient="top", columns=1)
    colour = alt.Color("schedule:N", title=None, sort=list(schedules), legend=legend, scale=scale)
    return chart.encode(
        x=alt.X("step:Q", title="step (calls of step() so far)"),
        y=alt.Y("lr:Q", title="learning rate"),
        color=colour,
        tooltip=["schedule:N", "step:Q", alt.Tooltip("lr:Q", title="learning rate", format=".4g")],
    ).properties(width=560, height=260)

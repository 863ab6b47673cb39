"""Charts of schedules, surfaces, trajectories and range tests; they need altair (extra `lab`).

The `plot` methods of results call these functions, whose arguments are typed `Any` to avoid circular imports.
"""

from collections.abc import Mapping
from typing import Any

from fallline.arguments import check_integer
from fallline.errors import MissingExtraError

INK, DIM, BLUE, RED, MASKED = "#1c2024", "#5b6570", "#0072B2", "#D55E00", "#d9dee3"
_POINTS = 1000  # per curve; more would not be visible
_SIDE = 400  # pixels
_AXES = {
    "filter": ("first random direction", "second random direction"),
    "eig": ("first eigenvector", "second eigenvector"),
    "pca": ("first principal direction", "second principal direction"),
    "given": ("first direction", "second direction"),
}


def _altair() -> Any:
    try:
        import altair
    except ImportError:
        raise MissingExtraError(
            'plot: altair must be installed, got an ImportError; run: pip install "fallline[lab]"'
        ) from None
    return altair


def plot_schedules(schedules: Mapping[str, Any], steps: int | None = None, base: float = 1.0) -> Any:
    """Return an altair chart of the learning rate at each step, with one line per schedule.

    Args:
        schedules: `Schedule` objects by the names to show.
        steps: number of steps, >= 1; by default each line ends where its schedule ends, and a schedule without an end
            extends to the longest `horizon`.
        base: base learning rate of all schedules.

    Raises:
        MissingExtraError: altair is not installed.
    """
    alt = _altair()
    if steps is not None:
        check_integer("plot", "steps", steps, 1)
    longest = steps or max(schedule.horizon for schedule in schedules.values())
    rows = [
        {"step": k, "lr": schedule(k, base), "schedule": name}
        for name, schedule in schedules.items()
        for k in _plotted_steps(schedule, steps or schedule.length or longest)
    ]
    chart = alt.Chart(alt.Data(values=rows)).mark_line(interpolate="step-after" if longest <= 60 else "linear")
    scale = alt.Scale(scheme="tableau10" if len(schedules) <= 10 else "tableau20")
    legend = alt.Legend(labelLimit=500, orient="top", columns=1)
    colour = alt.Color("schedule:N", title=None, sort=list(schedules), legend=legend, scale=scale)
    return chart.encode(
        x=alt.X(
            "step:Q",
            title="step (number of step() calls so far)",
            scale=alt.Scale(domain=[0, longest], nice=False),
        ),
        y=alt.Y("lr:Q", title="learning rate"),
        color=colour,
        tooltip=["schedule:N", "step:Q", alt.Tooltip("lr:Q", title="learning rate", format=".4g")],
    ).properties(width=560, height=260)


def _plotted_steps(schedule: Any, steps: int) -> list[int]:
    """Return the first step, the last one, the corners, and evenly spaced steps between them."""
    corners = (corner for corner in schedule.corners if corner < steps)
    return sorted({*range(0, steps, -(-steps // _POINTS)), steps - 1, *corners})


def plot_surface(
    found: Any,
    path: Any = None,
    log: bool | None = None,
    axes: tuple[str, str] | None = None,
) -> Any:
    """Return a chart of a `Surface`, optionally with a `Trajectory` and axis titles; masked cells are grey."""
    alt = _altair()
    seen = found.values[~found.mask]
    lowest, highest = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    if log is None:
        log = lowest > 0 and highest > 20 * lowest
    halves = [(axis[1] - axis[0]) / 2 for axis in (found.x, found.y)]
    rows = [
        {
            "left": float(x - halves[0]),
            "right": float(x + halves[0]),
            "low": float(y - halves[1]),
            "high": float(y + halves[1]),
            "x": float(x),
            "y": float(y),
            "loss": None if found.mask[i, j] else float(found.values[i, j]),
        }
        for i, y in enumerate(found.y)
        for j, x in enumerate(found.x)
    ]
    names = axes or _AXES[found.kind]
    domains = [
        [float(axis[0] - half), float(axis[-1] + half)] for axis, half in zip((found.x, found.y), halves, strict=True)
    ]
    x = alt.X("left:Q", title=names[0], scale=alt.Scale(domain=domains[0], nice=False), axis=alt.Axis(tickCount=5))
    y = alt.Y("low:Q", title=names[1], scale=alt.Scale(domain=domains[1], nice=False))
    scale = alt.Scale(type="log" if log else "linear", scheme="viridis", domain=[lowest, highest])
    legend = alt.Legend(orient="bottom", titleOrient="left", gradientThickness=12)
    shade = alt.Color("loss:Q", scale=scale, title="loss", legend=legend)
    colour = alt.condition("isValid(datum.loss)", shade, alt.value(MASKED))
    tips = [alt.Tooltip("loss:Q", format=".5g"), alt.Tooltip("x:Q", format=".3g"), alt.Tooltip("y:Q", format=".3g")]
    cells = alt.Chart(alt.Data(values=rows)).mark_rect(strokeWidth=0)
    layers = [cells.encode(x=x, x2="right:Q", y=y, y2="high:Q", color=colour, tooltip=tips)]
    layers += _path(path) if path is not None else []
    here = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}])).mark_point(
        shape="cross", size=120, filled=True, stroke="white"
    )
    layers.append(here.encode(x="x:Q", y="y:Q", color=alt.value(INK)))
    title = f"Mean loss around the weights (cross: {found.centre:.4g}); {found.mode} mode"
    return alt.layer(*layers).properties(width=_SIDE, height=_SIDE, title=title)


def plot_trajectory(found: Any) -> Any:
    """Return a chart of a `Trajectory`, projected onto its plane."""
    alt = _altair()
    shares = " and ".join(f"{share:.0%}" for share in found.explained)
    title = alt.TitleParams("Path of the weights", subtitle=f"the axes explain {shares} of its variance")
    return alt.layer(*_path(found)).properties(width=_SIDE, height=_SIDE, title=title)


def _path(found: Any) -> list[Any]:
    alt = _altair()
    rows = [{"x": float(x), "y": float(y), "point": k} for k, (x, y) in enumerate(found.points)]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("x:Q", title="first direction"), y=alt.Y("y:Q", title="second direction"), tooltip=["point:Q"]
    )
    return [
        base.mark_line(color="white", strokeWidth=3.5).encode(order="point:Q"),
        base.mark_line(color=RED, strokeWidth=1.8).encode(order="point:Q"),
        base.mark_circle(color=RED, size=26, opacity=1),
    ]


def plot_range(found: Any) -> Any:
    """Return a chart of an `LRRange`: losses, smoothed curve, shaded range, and a line at the suggested rate."""
    alt = _altair()
    start = float(found.smooth[0])  # smoothed, because the loss of a single batch is noisy
    ceiling = start + max(start - float(found.smooth.min()), 0.1 * abs(start), 3 * found.noise)
    rows = [
        {
            "lr": float(lr),
            "loss": float(loss) if loss <= ceiling else None,
            "smooth": float(smooth),
            "slope": float(slope),
        }
        for lr, loss, smooth, slope in zip(found.lrs, found.losses, found.smooth, found.slope, strict=True)
    ]
    seen = [float(loss) for loss in found.losses if loss <= ceiling]  # neither NaN nor outside the plot
    ends = [min([*seen, float(found.smooth.min())]), max([*seen, start])]
    room = 0.05 * (ends[1] - ends[0]) or 0.05
    x = alt.X("lr:Q", title="learning rate", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~e"))
    y = alt.Scale(domain=[ends[0] - room, ends[1] + room], nice=False, zero=False)
    base = alt.Chart(alt.Data(values=rows)).encode(x=x)
    tips = [alt.Tooltip(f"{name}:Q", format=".4g") for name in ("lr", "loss", "smooth", "slope")]
    band = alt.Chart(alt.Data(values=[{"low": found.low, "high": found.high, "lr": found.suggestion}]))
    layers = [
        band.mark_rect(color=BLUE, opacity=0.1).encode(x="low:Q", x2="high:Q"),
        base.mark_circle(color=DIM, size=22, clip=True).encode(y=alt.Y("loss:Q", scale=y, title="loss"), tooltip=tips),
        base.mark_line(color=BLUE, strokeWidth=2, clip=True).encode(y=alt.Y("smooth:Q", scale=y)),
        band.mark_rule(color=RED, strokeWidth=2, strokeDash=[7, 3]).encode(x="lr:Q"),
    ]
    title = alt.TitleParams(
        f"Suggested learning rate {found.suggestion:.2g}, range {found.low:.2g} to {found.high:.2g}",
        subtitle=found.verdict,
    )
    return alt.layer(*layers).properties(width=560, height=280, title=title)

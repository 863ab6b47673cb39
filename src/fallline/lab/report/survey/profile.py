"""The performance profile: on which share of the tasks each arm is within a factor of the best arm."""

import math
from collections.abc import Mapping, Sequence

import altair as alt

from fallline.lab.analysis.several_tasks import Estimate, TaskMeans, estimate, within
from fallline.lab.report.document import Figures, Section, Tabled
from fallline.lab.report.encodings import HEIGHT, colour, dash, finish, log_axis, tip, visible
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table

_FACTORS = (1.01, 1.05, 1.1, 1.25)  # at which the table gives the height of the profile
_CAPTION = (
    "The height of a line at x is the share of the tasks on which the mean of the arm is at most x times worse than "
    "the mean of the best arm of the task. At the left edge it is the share of the tasks on which the arm is the best. "
    "If a line ends below 100 %, the arm failed on the remaining tasks."
)


def profile(ratios: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of the performance profile of an arm: (τ, share of the tasks with a ratio of at most τ).

    See Dolan and Moré 2002. Infinite ratios do not count, so the last share is below 1 if the arm failed on a task.

    Args:
        ratios: ratios to the best arm, one per task.

    Example:
        >>> profile([1.0, 2.0, float("inf"), 1.0])
        [(1.0, 0.5), (2.0, 0.75)]
    """
    finite = sorted({value for value in ratios if math.isfinite(value)})
    corners = [(tau, sum(value <= tau for value in ratios) / len(ratios)) for tau in finite]
    return corners if corners and corners[0][0] == 1.0 else [(1.0, 0.0), *corners]


def section(arms: Sequence[str], tasks: Sequence[TaskMeans]) -> Section:
    """Return the section with the figure and the table of the profile."""
    by_arm = {arm: [float(task.observed[i]) for task in tasks] for i, arm in enumerate(arms)}
    figure = Figures({"profile": performance_profile(by_arm)}, _CAPTION)
    return Section("Performance profile", [figure, Tabled(shares(arms, tasks))])


def performance_profile(ratios: Mapping[str, Sequence[float]]) -> alt.LayerChart:
    """Return a chart of the share of tasks on which each arm is within a factor of the best arm.

    Args:
        ratios: by arm, one ratio to the best arm per task, >= 1; infinite if the arm failed.
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
        "ratio:Q", scale=scale, title="at most this many times worse than the best arm", axis=log_axis([1.0, end])
    )
    share = alt.Axis(format=".0%", tickCount=5)
    y = alt.Y("share:Q", scale=alt.Scale(domain=[0, 1.04], nice=False), title="share of the tasks", axis=share)
    base = visible(rows).encode(x=x, y=y, color=colour(arms))
    tips = ["arm:N", tip("ratio", "times worse, at most", ".3f"), tip("share", "share of the tasks", ".0%")]
    layers = [
        base.mark_line(strokeWidth=2, interpolate="step-after").encode(strokeDash=dash(arms)),
        base.mark_point(filled=True, size=90, opacity=0).encode(tooltip=tips),
    ]
    return finish(layers, HEIGHT, "Share of tasks on which each arm is within a factor of the best arm")


def shares(arms: Sequence[str], tasks: Sequence[TaskMeans]) -> Table:
    """Return the table of the height of the profile at several factors, with intervals."""
    found = {factor: estimate(tasks, within(factor)) for factor in _FACTORS}

    def record(i: int, arm: str) -> Row:
        values = {f"within_{factor}": found[factor][i] for factor in _FACTORS}
        ends = {f"{key}_{end}": getattr(e, end) for key, e in values.items() for end in ("low", "high")}
        return {"arm": arm, **{key: e.value for key, e in values.items()}, **ends}

    def column(factor: float) -> Column:
        def cell(row: Row) -> Cell:
            key = f"within_{factor}"
            return percent_cell(Estimate(row[key], row[f"{key}_low"], row[f"{key}_high"]))

        return Column(f"within {100 * (factor - 1):.0f} %\nof the best", cell)

    note = (
        "Share of the tasks on which the arm is within this distance of the best arm, with a 95 % interval over new "
        "seeds for these tasks."
    )
    rows = Records(dict(record(i, arm)) for i, arm in enumerate(arms))
    return Table("profile-shares", rows, (ARM, *map(column, _FACTORS)), note)


def percent_cell(found: Estimate) -> Cell:
    """Return a cell with a share in percent and its interval."""
    return Cell(f"{found.value:.0%}", f"{found.low:.0%} to {found.high:.0%}")

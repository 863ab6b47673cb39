"""Parts that the figures of a report share: data that can be hidden by arm, scales, axes and tooltips."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.measure import Measure
from fallline.lab.report.style import arm_styles

INK, DIM, FAILED = "#1c2024", "#5b6570", "#c00000"
HEIGHT = 300  # height of a plot in pixels
EXTENT = 52  # space in pixels for the y axis; it aligns plots that are stacked
_TICKS = 4  # smallest number of ticks on a logarithmic axis
_FINEST = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.4, 2.6, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 8, 9)
_LEADS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9), _FINEST)  # per decade
Rows = list[dict[str, Any]]
_LABEL = "format(datum.value, datum.value < 9e-5 || datum.value > 9e4 ? '~e' : '~r')"  # 1e-5, 0.001, 1000


class SharedRows(alt.InlineData):  # type: ignore[misc]  # altair is not typed here
    """The data of a chart, which its copies share; altair copies a chart in each of its methods."""

    _class_is_valid_at_instantiation = False  # altair would validate the rows of every copy

    def __deepcopy__(self, memo: Any = None) -> "SharedRows":
        return self


def data(rows: Rows) -> alt.InlineData:
    """Return rows as the data of a chart."""
    return SharedRows(values=rows)  # altair moves the data to the top level, where layers share it


def visible(rows: Rows) -> alt.Chart:
    """Return a chart of the rows whose arm is not hidden."""
    return alt.Chart(data(rows)).transform_filter("indexof(hidden, datum.arm) < 0")


def finish(layers: Sequence[alt.Chart], height: int, description: str) -> alt.LayerChart:
    """Return one chart of all layers, as wide as its container; its parameter `hidden` lists the arms not to draw."""
    chart = alt.layer(*layers).properties(width="container", height=height, description=description)
    return chart.add_params(alt.param(name="hidden", value=[]))


def colour(arms: Sequence[str]) -> alt.Color:
    """Return the encoding of arms by colour."""
    every = arm_styles(arms)
    return alt.Color("arm:N", scale=alt.Scale(domain=arms, range=[every[arm].colour for arm in arms]), legend=None)


def mark(arms: Sequence[str]) -> alt.Shape:
    """Return the encoding of arms by the shape of their marks."""
    every = arm_styles(arms)
    return alt.Shape("arm:N", scale=alt.Scale(domain=arms, range=[every[arm].mark for arm in arms]), legend=None)


def dash(arms: Sequence[str]) -> alt.StrokeDash:
    """Return the encoding of arms by the dashes of their lines."""
    every = arm_styles(arms)
    scale = alt.Scale(domain=arms, range=[list(every[arm].dash) for arm in arms])
    return alt.StrokeDash("arm:N", scale=scale, legend=None)


def tip(name: str, title: str, form: str) -> alt.Tooltip:
    """Return a line of a tooltip for a number."""
    return alt.Tooltip(f"{name}:Q", title=title, format=form)


def label(name: str, title: str) -> alt.Tooltip:
    """Return a line of a tooltip for a text."""
    return alt.Tooltip(f"{name}:N", title=title)


def log_scale(values: Sequence[float | None], **options: Any) -> alt.Scale:
    """Return a logarithmic scale that covers all values with a margin, even if some arms are hidden.

    Args:
        values: the values to be drawn.
        **options: further properties of the scale.
    """
    return alt.Scale(type="log", nice=False, domain=list(_widened(values)), **options)


def log_axis(values: Sequence[float | None], **options: Any) -> alt.Axis:
    """Return an axis with a tick at every decade, or with denser ticks if that gives fewer than four.

    The default of Vega has too many ticks.

    Args:
        values: the values to be drawn.
        **options: further properties of the axis.
    """
    low, high = _widened(values)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for leads in _LEADS:
        marks = [float(f"{lead}e{decade}") for decade in decades for lead in leads]
        inside = [tick for tick in marks if low <= tick <= high]
        if len(inside) >= _TICKS:
            break
    return alt.Axis(labelExpr=_LABEL, **({"values": inside} if len(inside) > 1 else {}), **options)


def _widened(values: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that covers all values with a margin."""
    good = [value for value in values if value]
    low, high = min(good, default=0.1), max(good, default=1.0)
    margin = max(1.1, (high / low) ** 0.04)
    return low / margin, high * margin


def measured_scale(measure: Measure, values: Sequence[float | None], **options: Any) -> alt.Scale:
    """Return a scale that covers the values of a metric: logarithmic for losses above 0, linear for other metrics."""
    if measure.is_ratio:
        return log_scale(values, **options)
    good = [value for value in values if value is not None]
    low, high = min(good, default=0.0), max(good, default=1.0)
    margin = 0.05 * (high - low) or 0.05
    return alt.Scale(zero=False, nice=False, domain=[low - margin, high + margin], **options)


def measured_axis(measure: Measure, values: Sequence[float | None], **options: Any) -> alt.Axis:
    """Return the axis for `measured_scale`."""
    return log_axis(values, **options) if measure.is_ratio else alt.Axis(tickCount=6, **options)


def drawable(measure: Measure, value: float) -> float | None:
    """Return the value if `measured_scale` can show it, else None."""
    return positive(value) if measure.is_ratio else value if math.isfinite(value) else None


def ticks() -> alt.ExprRef:
    """Return an expression for the number of ticks that fit on an axis of any width."""
    return alt.ExprRef("ceil(width / 90)")


def positive(value: float) -> float | None:
    """Return the value if a log scale can show it, else None."""
    return value if math.isfinite(value) and value > 0 else None


def describe_failure(failure: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the text of a failure for a tooltip; empty if there is no failure."""
    if failure is None:
        return {"failure": "", "cause": ""}
    return {"failure": f"{failure['state']} at step {failure['step']}", "cause": failure["cause"]}


def steps_axis(study: StudyResults, title: str | None) -> alt.X:
    """Return the axis of optimizer steps, up to the longest run of any arm."""
    lengths = [trial.steps for arm in study.searches for trial in study.confirmation_trials(arm)]
    longest = max(lengths, default=study.spec.steps)
    scale = alt.Scale(domain=[0, longest], nice=False)
    form = "~s" if longest >= 10_000 else "d"  # "0.1k" for 100 is harder to read
    return alt.X("step:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks(), format=form))

"""The sensitivity to the learning rate: the result of every tuning trial against its learning rate."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import altair as alt

from fallline.errors import FalllineError
from fallline.formatting import format_number, format_setting
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.sensitivity import sensitivity
from fallline.lab.analysis.statistics import summarize
from fallline.lab.design.spaces import Dimension
from fallline.lab.report.document import Block, Figures, Section, Tabled, Topic
from fallline.lab.report.encodings import (
    FAILED,
    HEIGHT,
    INK,
    Rows,
    colour,
    dash,
    describe_failure,
    drawable,
    finish,
    label,
    log_axis,
    log_scale,
    mark,
    measured_axis,
    measured_scale,
    tip,
    visible,
)
from fallline.lab.report.measure import Measure, measure
from fallline.lab.report.tables import ARM, Column, Records, Row, Table
from fallline.lab.search.selection import AGAIN, Search

_LANE = 14  # height in pixels of the lane with the failures of an arm


def find_dimensions(study: StudyResults) -> dict[str, Dimension]:
    """Return the hyperparameters that any arm searched, learning rate first, with the range of one such arm."""
    found = {d.name: d for search in study.searches.values() for d in search.ranges}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "lr", name))}


def describe_searched(study: StudyResults, without: str = "") -> str:
    """Return the searched hyperparameters as text, for example "the learning rate, weight decay and beta1"."""
    names = [name for name in find_dimensions(study) if name != without]
    texts = [name.replace("_", " ") if name != "lr" else "the learning rate" for name in names]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def untrained(study: StudyResults) -> float:
    """Return the value of the metric that a failed trial counts as: the loss of a predictor that ignores its input.

    If the task does not define this loss, or the metric is not the loss, return the worst result of any trial that did
    not fail, or NaN if all trials failed.
    """
    kind, trivial = measure(study), _trivial_loss(study)
    if trivial is not None:
        return trivial
    found = [v for search in study.searches.values() for v in tuning_metrics(study, search) if v is not None]
    return kind.sign * max((kind.sign * value for value in found), default=math.nan)


def _trivial_loss(study: StudyResults) -> float | None:
    """Return the loss of a predictor that ignores its input; None if it is unknown or the metric is not the loss."""
    if not measure(study).is_loss:
        return None
    try:
        return study.spec.learning.trivial_loss()
    except (FalllineError, OSError):  # a report can be written on a machine without the data
        return None


def clip_limit(study: StudyResults) -> float:
    """Return the loss at which figures end: that of an untrained model, or infinity if it is unknown.

    It is the loss of a predictor that ignores its input or, if the task does not define it, the median of the first
    training losses of the tuning trials. Any other metric has no limit.
    """
    trivial = _trivial_loss(study)
    if trivial is not None:
        return drawable(measure(study), trivial) or math.inf
    if not measure(study).is_loss:
        return math.inf
    traces = [study.outcome(t).trace for arm in study.searches for t in study.tuning_trials(arm)]
    first = [rows[0]["loss"] for rows in traces if rows and rows[0]["step"] == 0 and math.isfinite(rows[0]["loss"])]
    return median(first) if first else math.inf


def tuning_metrics(study: StudyResults, search: Search) -> list[float | None]:
    """Return the validation metric of an arm's tuning trials, by index; None if the trial failed."""
    metric = measure(study).metric
    outcomes = [study.outcome(trial) for trial in study.tuning_trials(search.arm.name)]
    return [None if o.failure else o.metrics[metric] for o in outcomes]


def repeated(study: StudyResults, search: Search) -> dict[int, list[float | None]]:
    """Return, by index, the validation metrics of configurations run on several seeds; None for a failed run."""
    metric, trials = measure(study).metric, study.repeated_trials(search.arm.name)
    found: dict[int, list[float | None]] = {index: [] for index in search.finalists}
    for trial in [*(t for t in study.tuning_trials(search.arm.name) if t.index in found), *trials]:
        outcome = study.outcome(trial)
        found[trial.index].append(None if outcome.failure else outcome.metrics[metric])
    return found


def sensitivities(study: StudyResults) -> Records:
    """Return one record per arm, with the excess, width (in decades) and open of `sensitivity`.

    The keys are arm, lowest_lr, highest_lr, best, excess, width and open. The last three are None if an arm tried only
    one learning rate or all of its trials failed.
    """
    sign, start = measure(study).sign, untrained(study)
    rows = Records()
    for arm, search in study.searches.items():
        found = tuning_metrics(study, search)
        rates = [point.get("lr", math.nan) for point in search.points]
        lower = [None if value is None else sign * value for value in found]
        result = sensitivity(rates, lower, sign * start) if len({rate for rate in rates if rate == rate}) > 1 else None
        row = {"excess": result.excess, "width": result.width, "open": result.open} if result else {}
        best = min((sign * value for value in lower if value is not None), key=lambda value: sign * value, default=None)
        ends = {"lowest_lr": min(rates), "highest_lr": max(rates)}
        rows.append({"arm": arm, **ends, "best": best, "excess": None, "width": None, "open": None, **row})
    return rows


def sensitivity_table(study: StudyResults) -> Table:
    """Return the table of the sensitivity of each arm to its learning rate."""
    kind = measure(study)
    unit = f" ({kind.unit})" if kind.is_loss and kind.unit else ""

    def width(row: Row) -> str:
        return ("≥ " if row["open"] else "") + format_number(row["width"], ".2f")

    def tried(row: Row) -> str:  # Prodigy has no learning rate
        return "–" if math.isnan(row["lowest_lr"]) else f"{row['lowest_lr']:.3g} to {row['highest_lr']:.3g}"

    columns = (
        ARM,
        Column("learning rates\ntried", tried),
        Column(f"best\n{kind.title(kind.metric)}", lambda row: format_number(row["best"], ".4f")),
        Column(f"mean excess over\nthe range{unit}", lambda row: format_number(row["excess"], ".3f")),
        Column("range within 10 %\nof the best (decades)", width),
    )
    note = (
        "Mean excess: how much worse than the best the result is on average, if the learning rate is drawn "
        "log-uniformly from the range tried; failures count as an untrained model. Range within 10 % of the best: "
        "width, in decades, of the interval of learning rates around the best one in which the result is within 10 % "
        "of the best result; ≥ means that the interval reaches an end of the range tried. Both numbers interpolate "
        "linearly between trials."
    )
    return Table("sensitivity", sensitivities(study), columns, note)


def learning_rates(study: StudyResults) -> alt.LayerChart | None:
    """Return a chart of the validation metric at the end of every tuning trial against its learning rate.

    The chart is None if the study does not set the learning rate.
    """
    also = [label(name, name.replace("_", " ")) for name in find_dimensions(study) if name != "lr"]
    rows = tuning_rows(study)
    rates = [row["lr"] for row in rows if "lr" in row]
    if not rates:
        return None
    x = alt.X("lr:Q", scale=log_scale(rates), title="learning rate", axis=log_axis(rates, grid=False))
    joined = not also  # otherwise, neighbouring points also differ in other hyperparameters
    layers, height = scatter(study, rows, x, [tip("lr", "learning rate", ".3g"), *also], HEIGHT, joined)
    if any(row["low"] is not None for row in rows):
        layers.insert(1 if joined else 0, _spread(study, rows, x))
    return finish(layers, height, "Validation result of every tuning trial against its learning rate, by arm")


def scatter(
    study: StudyResults, rows: Rows, x: alt.X, tips: list[Any], height: int, joined: bool
) -> tuple[list[alt.Chart], int]:
    """Return the layers and the height of a figure with a mark for every trial; lanes at the top show the failures."""
    kind = measure(study)
    failing = list(dict.fromkeys(row["arm"] for row in rows if row["failure"]))
    top = _LANE * (len(failing) + 1) if failing else 0
    limit = clip_limit(study)
    results = [min(row[name], limit) for row in rows for name in ("result", "low", "high") if row[name] is not None]
    title = kind.title(kind.metric)
    scale = measured_scale(kind, results, range=[height + top, top], clamp=True)
    y = alt.Y("result:Q", scale=scale, title=title, axis=measured_axis(kind, results))
    on_scale = (
        visible(rows)
        if x.shorthand.endswith(":N")
        else visible(rows).transform_filter(f"isValid(datum.{x.shorthand[:-2]})")
    )
    tips = ["arm:N", "configuration:N", *tips]
    found = [*tips, tip("result", title, ".4f"), "seeds:Q", tip("mean", "mean over seeds", ".4f")]
    base = on_scale.transform_filter("isValid(datum.result)").encode(x=x, y=y, color=colour(study.arms), tooltip=found)
    above = base.transform_filter("datum.clipped").mark_point(shape="triangle-up", size=110, strokeWidth=1.8, yOffset=5)
    inside = base.transform_filter("!datum.clipped")
    dots = inside.mark_point(filled=True, size=70, opacity=1).encode(shape=mark(study.arms))
    hollow = inside.transform_filter("datum.default").mark_point(filled=True, size=22, opacity=1)
    ring = base.transform_filter("datum.selected").mark_point(shape="circle", size=330, strokeWidth=1.6)
    layers = [dots, hollow.encode(color=alt.value("white")), ring.encode(color=alt.value(INK))]
    layers += [above] if any(row["clipped"] for row in rows) else []
    if joined:
        layers.insert(0, base.mark_line(strokeWidth=1.5).encode(strokeDash=dash(study.arms)))
    for lane, arm in enumerate(failing):
        failures = visible([row for row in rows if row["arm"] == arm and row["failure"]])
        failures = failures.encode(y=alt.value(_LANE * lane + 8))
        cross = failures.mark_text(text="×", fontSize=19, color=FAILED, baseline="middle").encode(x=x)
        name = failures.mark_point(filled=True, size=45, opacity=1).encode(x=alt.value(-14), color=colour(study.arms))
        layers += [
            cross.encode(tooltip=[*tips, "failure:N", "cause:N"]),
            name.encode(shape=mark(study.arms), tooltip="arm:N"),
        ]
    return layers, height + top


def _spread(study: StudyResults, rows: Rows, x: alt.X) -> alt.LayerChart:
    """Return a layer with the mean and standard deviation of the configurations that were run on several seeds."""
    bars = visible([row for row in rows if row["low"] is not None]).encode(x=x, color=colour(study.arms))
    bar = bars.mark_rule(strokeWidth=6, opacity=0.35).encode(y="low:Q", y2="high:Q")
    return alt.layer(bar, bars.mark_tick(thickness=2, size=16).encode(y="mean:Q"))


def tuning_rows(study: StudyResults) -> Rows:
    """Return a row for every tuning trial: its configuration, its result, and the mean and SD over several seeds."""
    kind, limit = measure(study), clip_limit(study)
    rows: Rows = []
    for arm, search in study.searches.items():
        several = repeated(study, search)
        for trial, point in zip(study.tuning_trials(arm), search.points, strict=True):
            outcome = study.outcome(trial)
            row = {"arm": arm, "default": trial.index == 0, "selected": trial.index == search.best}
            names = [name for name in ("default", "selected") if row[name]]
            row |= {key: value if _is_number(value) else format_setting(value) for key, value in point.items()}
            row["configuration"] = ", ".join(names) or f"search point {trial.index}"
            row["searched"] = [d.name for d in search.ranges]
            result = None if outcome.failure else drawable(kind, outcome.metrics[kind.metric])
            row |= {"result": result, "clipped": result is not None and result > limit}
            row |= _over_seeds(kind, several.get(trial.index, []))
            rows.append(row | describe_failure(outcome.failure))
    return rows


def describe_clipping(study: StudyResults) -> str:
    """Return the sentence of a caption on the results above the end of the axis; empty if there are none."""
    if not any(row["clipped"] for row in tuning_rows(study)):
        return ""
    return (
        f" The axis ends at the loss of an untrained model, {clip_limit(study):.3g}. A triangle at its upper edge "
        "marks a higher loss; move the pointer over it to see the value."
    )


def _over_seeds(kind: Measure, values: Sequence[float | None]) -> dict[str, Any]:
    """Return the mean over seeds, and the mean minus and plus the standard deviation; None if a seed failed."""
    good = [value for value in values if value is not None]
    if len(good) < 2 or len(good) < len(values):
        return {"mean": None, "low": None, "high": None, "seeds": len(values) or 1}
    found = summarize(good)
    ends = {"mean": found.mean, "low": found.mean - found.sd, "high": found.mean + found.sd}
    low = min(good) if kind.is_ratio and ends["low"] <= 0 else ends["low"]  # a log scale has no 0
    return {**{name: drawable(kind, value) for name, value in {**ends, "low": low}.items()}, "seeds": len(good)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _caption(study: StudyResults) -> str:
    kind, also = measure(study), describe_searched(study, without="lr")
    axes = "both axes are logarithmic" if kind.is_ratio else "the axis of the learning rate is logarithmic"
    caption = (
        f"Validation result at the end of every tuning trial, with one seed per trial; {axes}. A ring marks the "
        "selected configuration, a hollow marker the documented default, and a red × (at any height) a failed trial."
    )
    if any(search.finalists for search in study.searches.values()):
        caption += f" Bars show the mean ± SD over {AGAIN + 1} seeds for configurations that were run on more seeds."
    caption += describe_clipping(study)
    if also:
        caption += f" Neighbouring points also differ in {also}; move the pointer over a point to see its values."
    if len(study.arms) > 1:
        caption += " Click a name above a figure to hide or show its arm."
    return caption


def _section(study: StudyResults) -> Section | None:
    if not (figures := _figures(study)):
        return None
    blocks: list[Block] = [Figures(figures, _caption(study)), Tabled(sensitivity_table(study))]
    return Section("Sensitivity to the learning rate", blocks)


def _figures(study: StudyResults) -> dict[str, Any]:
    chart = learning_rates(study)
    return {} if chart is None else {"learning-rates": chart}


TOPIC = Topic(_section, lambda study: [sensitivity_table(study)], _figures)

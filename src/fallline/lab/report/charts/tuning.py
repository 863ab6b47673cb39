"""The figures of tuning: validation against the learning rate and the other hyperparameters, and what a budget buys."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import summarize
from fallline.lab.report.charts.encodings import (
    EXTENT,
    FAILED,
    HEIGHT,
    INK,
    Rows,
    colour,
    dash,
    drawable,
    finish,
    label,
    log_axis,
    log_scale,
    mark,
    measured_axis,
    measured_scale,
    shown,
    ticks,
    tip,
    told,
)
from fallline.lab.report.measure import Measure, measure
from fallline.lab.report.text import setting
from fallline.lab.report.tuned import budgets, repeated, searched
from fallline.lab.search.trials import tuning_trials

if TYPE_CHECKING:
    from fallline.lab.design.spaces import Dimension

_LANE = 14  # pixels: of an arm's failures


def learning_rates(study: StudyResults) -> alt.LayerChart:
    """Return the validation metric at the end of every tuning trial against its learning rate."""
    also = [label(name, name.replace("_", " ")) for name in searched(study) if name != "lr"]
    rows = _rows(study)
    rates = [row["lr"] for row in rows]
    x = alt.X("lr:Q", scale=log_scale(rates), title="learning rate", axis=log_axis(rates, grid=False))
    joined = not also  # otherwise neighbours in learning rate differ in more than that
    layers, height = _scatter(study, rows, x, [tip("lr", "learning rate", ".3g"), *also], HEIGHT, joined)
    if any(row["low"] is not None for row in rows):
        layers.insert(1 if joined else 0, _spread(study, rows, x))
    return finish(layers, height, "Validation result of every tuning trial against its learning rate, by arm")


def hyperparameters(study: StudyResults) -> dict[str, alt.LayerChart]:
    """Return, by hyperparameter that was searched besides the learning rate, the validation metric against it."""
    charts = {}
    for name, dimension in searched(study).items():
        if name == "lr":
            continue
        rows = [row for row in _rows(study) if name in row["searched"]]
        for row in rows:
            row["at"] = 1 - row[name] if dimension.complement else row[name]
        tips = [label(name, name.replace("_", " ")), tip("lr", "learning rate", ".3g")]
        chart, height = _scatter(study, rows, _axis(dimension, rows), tips, HEIGHT - 80, joined=False)
        charts[f"axis-{name}"] = finish(
            chart, height, f"Validation result of every tuning trial against its {name.replace('_', ' ')}, by arm"
        )
    return charts


def _axis(dimension: "Dimension", rows: Rows) -> alt.X:
    title = dimension.name.replace("_", " ")
    if dimension.choices:
        return alt.X(f"{dimension.name}:N", title=title, axis=alt.Axis(labelAngle=0))
    for row in rows:  # a log axis has no 0: the default of weight decay, say
        row["at"] = row["at"] if row["at"] > 0 else None
    values = [row["at"] for row in rows]
    title = f"1 − {title}" if dimension.complement else title
    return alt.X("at:Q", scale=log_scale(values), title=title, axis=log_axis(values, grid=False))


def _scatter(
    study: StudyResults, rows: Rows, x: alt.X, tips: list[Any], height: int, joined: bool
) -> tuple[list[alt.Chart], int]:
    """Return the layers of a figure with a mark for every trial and its height; failures lie in lanes at its top."""
    kind = measure(study)
    failing = list(dict.fromkeys(row["arm"] for row in rows if row["failure"]))
    top = _LANE * (len(failing) + 1) if failing else 0
    results = [row[name] for row in rows for name in ("result", "low", "high")]
    title = kind.title(kind.metric)
    scale = measured_scale(kind, results, range=[height + top, top])
    y = alt.Y("result:Q", scale=scale, title=title, axis=measured_axis(kind, results))
    on_scale = (
        shown(rows)
        if x.shorthand.endswith(":N")
        else shown(rows).transform_filter(f"isValid(datum.{x.shorthand[:-2]})")
    )
    tips = ["arm:N", "configuration:N", *tips]
    found = [*tips, tip("result", title, ".4f"), "seeds:Q", tip("mean", "mean over them", ".4f")]
    base = on_scale.transform_filter("isValid(datum.result)").encode(x=x, y=y, color=colour(study.arms), tooltip=found)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(shape=mark(study.arms))
    hollow = base.transform_filter("datum.default").mark_point(filled=True, size=22, opacity=1)
    ring = base.transform_filter("datum.selected").mark_point(shape="circle", size=330, strokeWidth=1.6)
    layers = [dots, hollow.encode(color=alt.value("white")), ring.encode(color=alt.value(INK))]
    if joined:
        layers.insert(0, base.mark_line(strokeWidth=1.5).encode(strokeDash=dash(study.arms)))
    for lane, arm in enumerate(failing):
        failures = shown([row for row in rows if row["arm"] == arm and row["failure"]])
        failures = failures.encode(y=alt.value(_LANE * lane + 8))
        cross = failures.mark_text(text="×", fontSize=19, color=FAILED, baseline="middle").encode(x=x)
        name = failures.mark_point(filled=True, size=45, opacity=1).encode(x=alt.value(-14), color=colour(study.arms))
        layers += [
            cross.encode(tooltip=[*tips, "failure:N", "cause:N"]),
            name.encode(shape=mark(study.arms), tooltip="arm:N"),
        ]
    return layers, height + top


def _spread(study: StudyResults, rows: Rows, x: alt.X) -> alt.LayerChart:
    """Return the mean and the standard deviation of the configurations that were tried on several seeds."""
    bars = shown([row for row in rows if row["low"] is not None]).encode(x=x, color=colour(study.arms))
    bar = bars.mark_rule(strokeWidth=6, opacity=0.35).encode(y="low:Q", y2="high:Q")
    return alt.layer(bar, bars.mark_tick(thickness=2, size=16).encode(y="mean:Q"))


def _rows(study: StudyResults) -> Rows:
    kind = measure(study)
    rows: Rows = []
    for arm, search in study.searches.items():
        several = repeated(study, search)
        for trial, point in zip(tuning_trials(study.spec, search), search.points, strict=True):
            outcome = study.outcome(trial)
            row = {"arm": arm, "default": trial.index == 0, "selected": trial.index == search.best}
            names = [name for name in ("default", "selected") if row[name]]
            row |= {key: value if _is_number(value) else setting(value) for key, value in point.items()}
            row["configuration"] = ", ".join(names) or f"search point {trial.index}"
            row["searched"] = [d.name for d in search.ranges]
            row["result"] = None if outcome.failure else drawable(kind, outcome.metrics[kind.metric])
            row |= _over_seeds(kind, several.get(trial.index, []))
            rows.append(row | told(outcome.failure))
    return rows


def _over_seeds(kind: Measure, values: Sequence[float | None]) -> dict[str, Any]:
    """Return the mean over seeds, and the mean less and plus the standard deviation, where no seed failed."""
    good = [value for value in values if value is not None]
    if len(good) < 2 or len(good) < len(values):
        return {"mean": None, "low": None, "high": None, "seeds": len(values) or 1}
    found = summarize(good)
    ends = {"mean": found.mean, "low": found.mean - found.sd, "high": found.mean + found.sd}
    low = min(good) if kind.is_ratio and ends["low"] <= 0 else ends["low"]  # a log scale has no 0
    return {**{name: drawable(kind, value) for name, value in {**ends, "low": low}.items()}, "seeds": len(good)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def budget(study: StudyResults, unit: str) -> alt.LayerChart | None:
    """Return the expected best validation metric against what was spent on tuning; None when every trial failed.

    Args:
        study: the study.
        unit: "trials" or "seconds".
    """
    kind = measure(study)
    rows: Rows = [{**row, "expected": drawable(kind, row["expected"])} for row in budgets(study)]
    rows = [row for row in rows if row[unit] is not None and math.isfinite(row[unit])]
    if not rows:
        return None
    values = [row["expected"] for row in rows]
    title = kind.title(kind.metric)
    axis = measured_axis(kind, values, minExtent=EXTENT, maxExtent=EXTENT)
    y = alt.Y("expected:Q", scale=measured_scale(kind, values), title=["expected best", title], axis=axis)
    names = {"trials": "random trials of tuning", "seconds": "seconds of tuning (this machine)"}
    axis = alt.Axis(tickCount=ticks(), grid=False, **({"tickMinStep": 1} if unit == "trials" else {}))
    x = alt.X(f"{unit}:Q", title=names[unit], axis=axis)
    base = shown(rows).encode(x=x, y=y, color=colour(study.arms))
    tips = ["arm:N", "trials:Q", tip("seconds", "seconds", ".1f"), tip("expected", f"expected best {title}", ".4f")]
    tips += [tip("failing", "probability that all fail", ".3f")]
    layers = [
        base.mark_line(strokeWidth=2).encode(strokeDash=dash(study.arms)),
        base.mark_point(filled=True, size=45, opacity=1).encode(shape=mark(study.arms), tooltip=tips),
    ]
    return finish(layers, HEIGHT - 100, f"Expected best validation result against {names[unit]}, by arm")

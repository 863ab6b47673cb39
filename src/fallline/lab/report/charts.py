"""The figures of a report, as Vega-Lite charts: one function a figure."""

import math
from typing import TYPE_CHECKING, Any

import altair as alt

from fallline.lab.plan import confirm, tuning_trials
from fallline.lab.schedules import learning_rates as learning_rate_factors

if TYPE_CHECKING:
    from fallline.lab.study import Study

# Okabe & Ito's palette, told apart by the colour-blind; an arm keeps its place in it in every figure.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
FAILED = "#C00000"
DECAYED = 0.1  # of the peak learning rate; above, curves are stamped
_EXTENT = 48  # pixels left of the axis, so that the curves and the strip below them line up
Rows = list[dict[str, Any]]


def _colour(study: "Study") -> alt.Color:
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(study.arms))]
    legend = alt.Legend(orient="top", symbolOpacity=1)
    return alt.Color("arm:N", scale=alt.Scale(domain=study.arms, range=colours), legend=legend, title=None)


def _data(rows: Rows) -> alt.Data:
    return alt.Data(values=[{k: _finite(v) for k, v in row.items()} for row in rows])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _toggle() -> alt.Parameter:
    return alt.selection_point(fields=["arm"], bind="legend")


def learning_rates(study: "Study") -> alt.Chart:
    """Return the final validation loss of every tuning trial against its learning rate."""
    rows: Rows = []
    for arm, search in study.searches.items():
        for trial, point in zip(tuning_trials(study.spec, search), search.points, strict=True):
            outcome = study.outcome(trial)
            kind = "selected" if trial.index == search.best else "default" if trial.index == 0 else "search"
            loss = outcome.metrics.get("val_loss") if outcome.failure is None else None
            rows.append({"arm": arm, "kind": kind, "val_loss": loss, "failure": "", **point})
            if outcome.failure:
                rows[-1]["failure"] = f"{outcome.failure['state']} at step {outcome.failure['step']}"
    toggle = _toggle()
    tips = ["arm:N", "kind:N", alt.Tooltip("lr:Q", format=".3g"), alt.Tooltip("val_loss:Q", format=".4f"), "failure:N"]
    extra = sorted(
        {key for row in rows for key in row} & {"weight_decay", "momentum", "beta1", "beta2", "alpha", "eps"}
    )
    tips += [alt.Tooltip(f"{key}:Q", format=".3g") for key in extra]
    x = alt.X("lr:Q", scale=alt.Scale(type="log"), title="learning rate", axis=alt.Axis(format=".0e"))
    y = alt.Y(
        "val_loss:Q", scale=alt.Scale(type="log", nice=False, padding=12), title="validation loss at the end (nats)"
    )
    base = alt.Chart(_data(rows)).encode(x=x, tooltip=tips)
    good = base.transform_filter("datum.failure == ''")
    dim = alt.condition(toggle, alt.value(1.0), alt.value(0.08))
    line = good.mark_line(strokeWidth=1.5).encode(y=y, color=_colour(study), opacity=dim)
    kinds = alt.Scale(domain=["search", "default", "selected"], range=["circle", "square", "diamond"])
    shape = alt.Shape("kind:N", scale=kinds, legend=alt.Legend(orient="top", title=None))
    points = good.mark_point(filled=True, size=90).encode(y=y, color=_colour(study), shape=shape, opacity=dim)
    layers = [line, points]
    if any(row["failure"] for row in rows):
        bad = base.transform_filter("datum.failure != ''")
        layers.append(bad.mark_text(text="×", size=18, color=FAILED).encode(y=alt.value(6)))
    return alt.layer(*layers).add_params(toggle).properties(width="container", height=320)


def curves(study: "Study") -> alt.Chart:
    """Return loss against step over the confirmation runs."""
    rows = _curve_rows(study)
    toggle = _toggle()
    dim = alt.condition(toggle, alt.value(1.0), alt.value(0.05))
    band_dim = alt.condition(toggle, alt.value(0.15), alt.value(0.0))
    tips = ["arm:N", "split:N", "step:Q", *(alt.Tooltip(f"{k}:Q", format=".4f") for k in ("mean", "low", "high"))]
    base = alt.Chart(_data(rows)).encode(x=_steps(study), color=_colour(study))
    band = (
        base.transform_filter("datum.split == 'validation'")
        .mark_area()
        .encode(y=alt.Y("low:Q"), y2="high:Q", opacity=band_dim)
    )
    dash = alt.StrokeDash(
        "split:N",
        scale=alt.Scale(domain=["validation", "training"], range=[[1, 0], [4, 3]]),
        legend=alt.Legend(orient="top", title=None),
    )
    y = alt.Y(
        "mean:Q", scale=alt.Scale(type="log"), title="loss (nats)", axis=alt.Axis(minExtent=_EXTENT, maxExtent=_EXTENT)
    )
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash, opacity=dim, tooltip=tips)
    return alt.layer(*_undecayed(study), band, line).add_params(toggle).properties(width="container", height=320)


def _undecayed(study: "Study") -> list[alt.Chart]:
    """Return the stamp on the part of the curves in which ranking the arms would mislead; none without decay."""
    ends = []
    for schedule in dict.fromkeys(arm.schedule for arm in study.spec.arms):
        factors = learning_rate_factors(schedule, study.spec.steps)
        ends += [step for step, factor in enumerate(factors) if factor > DECAYED] if min(factors[-1:]) < DECAYED else []
    if not ends:
        return []
    region = alt.Chart(_data([{"from": 0, "to": max(ends)}])).encode(x=alt.X("from:Q", title="step"), x2="to:Q")
    text = "not decayed yet: do not rank here"
    label = alt.Chart(_data([{"from": 0}])).mark_text(text=text, align="left", dx=6, color="#666")
    return [
        region.mark_rect(color="#000", opacity=0.045),
        label.encode(x=alt.X("from:Q", title="step"), y=alt.value(12)),
    ]


def strip(study: "Study") -> alt.Chart:
    """Return the learning rate against step, to stand under `curves`."""
    rows = [
        {"schedule": schedule, "step": step, "lr": factor}
        for schedule in dict.fromkeys(arm.schedule for arm in study.spec.arms)
        for step, factor in enumerate(learning_rate_factors(schedule, study.spec.steps))
    ]
    y = alt.Y("lr:Q", title="lr ÷ peak", axis=alt.Axis(values=[0, 1], minExtent=_EXTENT, maxExtent=_EXTENT))
    dash = alt.StrokeDash("schedule:N", legend=alt.Legend(orient="top", title=None))
    chart = alt.Chart(_data(rows)).mark_line(strokeWidth=1.5, interpolate="step-after", color="#444")
    tips = ["schedule:N", "step:Q", alt.Tooltip("lr:Q", format=".3f")]
    return chart.encode(x=_steps(study), y=y, strokeDash=dash, tooltip=tips).properties(width="container", height=60)


def _steps(study: "Study") -> alt.X:
    return alt.X("step:Q", title="step", scale=alt.Scale(domain=[0, study.spec.steps], nice=False))


def _curve_rows(study: "Study") -> Rows:
    rows: Rows = []
    for arm, search in study.searches.items():
        runs = [o.curve for o in map(study.outcome, confirm(study.spec, search)) if o.failure is None]
        for points in zip(*runs, strict=True):
            for split, key in (("validation", "val_loss"), ("training", "train_loss")):
                values = [point[key] for point in points]
                mean = math.fsum(values) / len(values)
                row = {"arm": arm, "split": split, "step": points[0]["step"]}
                rows.append({**row, "mean": mean, "low": min(values), "high": max(values)})
    return rows


def differences(study: "Study") -> alt.Chart:
    """Return the difference to the baseline of every seed, with mean and interval."""
    seeds: Rows = []
    means: Rows = []
    for arm, result in study.results.items():
        if result.comparison is None:
            continue
        pairs = zip(study.confirmed(arm), study.confirmed(study.baseline), strict=True)
        for index, (own, other) in enumerate(pairs):
            if own is not None and other is not None:
                seeds.append({"arm": arm, "seed": index, "percent": 100 * (own / other - 1)})
        c = result.comparison
        bounds = {name: c.percent(value) for name, value in (("mean", c.difference), ("low", c.low), ("high", c.high))}
        means.append({"arm": arm, **bounds})
    y = alt.Y("arm:N", title=None, sort=study.arms)
    title = f"test loss against {study.baseline} (%)"
    zero = alt.Chart(_data([{"zero": 0}])).mark_rule(strokeDash=[4, 3], color="#666").encode(x="zero:Q")
    dots = (
        alt.Chart(_data(seeds))
        .mark_point(filled=True, size=55, opacity=1, stroke="white", strokeWidth=1)
        .encode(x=alt.X("percent:Q", title=title), y=y, color=_colour(study), tooltip=_tips("arm", "seed", "percent"))
    )
    tips = _tips("arm", "mean", "low", "high")
    bars = (
        alt.Chart(_data(means))
        .mark_rule(strokeWidth=3)
        .encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y, color=_colour(study), tooltip=tips)
    )
    ticks = alt.Chart(_data(means)).mark_tick(thickness=3, height=18).encode(x="mean:Q", y=y, color=_colour(study))
    height = 60 + 44 * len(means)
    return alt.layer(zero, bars, ticks, dots).properties(width="container", height=height)


def _tips(*names: str) -> list[alt.Tooltip]:
    text = {"arm": alt.Tooltip("arm:N"), "seed": alt.Tooltip("seed:O")}
    return [text.get(name) or alt.Tooltip(f"{name}:Q", format=".2f") for name in names]

"""The figures of a report, as Vega-Lite charts: one function a figure.

Every chart has a parameter `hidden`, the list of arms not to draw; the page's legend sets it in all charts at once.
"""

import math
from typing import TYPE_CHECKING, Any

import altair as alt

from fallline.lab.plan import confirm, tuning_trials
from fallline.lab.report.encodings import (
    DIM,
    FAILED,
    INK,
    Rows,
    colour,
    dash,
    data,
    finish,
    log_axis,
    log_scale,
    mark,
    positive,
    shown,
    ticks,
    tip,
)
from fallline.lab.schedules import learning_rates as learning_rate_factors

if TYPE_CHECKING:
    from fallline.lab.study import Study

DECAYED = 0.005  # of the peak: how far above its last value a learning rate may be for its decay to be over
_HEIGHT, _ROW, _LANE = 300, 62, 14  # pixels: of a plot, of an arm's row, of an arm's failures
_EXTENT = 52  # pixels left of the plot, so that the curves and the strip below them line up
_STRIP_POINTS = 400


def learning_rates(study: "Study") -> alt.LayerChart:
    """Return the validation loss at the end of every tuning trial against its learning rate."""
    rows = _tuning_rows(study)
    failing = list(dict.fromkeys(row["arm"] for row in rows if row["failure"]))
    searched = {d.name for search in study.searches.values() for d in search.ranges}
    top = _LANE * (len(failing) + 1) if failing else 0  # lanes for what failed, above the scale of losses
    losses, rates = [row["loss"] for row in rows], [row["lr"] for row in rows]
    scale = log_scale(losses, range=[_HEIGHT + top, top])
    y = alt.Y("loss:Q", scale=scale, title="validation loss (nats)", axis=log_axis(losses))
    x = alt.X("lr:Q", scale=log_scale(rates), title="learning rate", axis=log_axis(rates, grid=False))
    base = shown(rows).transform_filter("isValid(datum.loss)").encode(x=x, y=y, color=colour(study.arms))
    tips = ["arm:N", "configuration:N", tip("lr", "learning rate", ".3g")]
    also = [tip(name, name.replace("_", " "), ".4g") for name in sorted(searched - {"lr"})]
    loss = tip("loss", "validation loss (nats)", ".4f")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(shape=mark(study.arms), tooltip=[*tips, loss, *also])
    hollow = base.transform_filter("datum.default").mark_point(filled=True, size=22, opacity=1)
    ring = base.transform_filter("datum.selected").mark_point(shape="circle", size=330, strokeWidth=1.6)
    layers = [dots, hollow.encode(color=alt.value("white")), ring.encode(color=alt.value(INK))]
    if searched <= {"lr"}:  # otherwise neighbours in learning rate differ in more than that
        layers.insert(0, base.mark_line(strokeWidth=1.5).encode(strokeDash=dash(study.arms)))
    for lane, arm in enumerate(failing):
        failures = shown([row for row in rows if row["arm"] == arm and row["failure"]]).encode(
            y=alt.value(_LANE * lane + 8)
        )
        cross = failures.mark_text(text="×", fontSize=19, color=FAILED, baseline="middle").encode(x=x)
        name = failures.mark_point(filled=True, size=45, opacity=1).encode(x=alt.value(-14), color=colour(study.arms))
        layers += [cross.encode(tooltip=[*tips, "failure:N", "cause:N", *also]), name.encode(shape=mark(study.arms))]
    return finish(layers, _HEIGHT + top, "Validation loss of every tuning trial against its learning rate, by arm")


def _tuning_rows(study: "Study") -> Rows:
    rows: Rows = []
    for arm, search in study.searches.items():
        for trial, point in zip(tuning_trials(study.spec, search), search.points, strict=True):
            outcome = study.outcome(trial)
            row = {"arm": arm, "default": trial.index == 0, "selected": trial.index == search.best, **point}
            names = [name for name in ("default", "selected") if row[name]]
            row["configuration"] = ", ".join(names) or f"search point {trial.index}"
            row["loss"] = None if outcome.failure else positive(outcome.metrics["val_loss"])
            rows.append(row | _failure(outcome.failure))
    return rows


def _failure(failure: dict[str, Any] | None) -> dict[str, str]:
    if failure is None:
        return {"failure": "", "cause": ""}
    return {"failure": f"{failure['state']} at step {failure['step']}", "cause": failure["cause"]}


def curves(study: "Study", split: str) -> alt.LayerChart | None:
    """Return loss against step over the confirmation runs, mean and range of each arm; None when nothing was confirmed.

    Runs of an arm of which a seed failed are drawn one by one: a mean over the survivors would flatter it.

    Args:
        study: the study.
        split: "val" or "train".
    """
    name = {"val": "validation", "train": "training"}[split]
    rows, crosses = _curve_rows(study, f"{split}_loss")
    if not rows and not crosses:
        return None
    bounds = [row[key] for row in rows for key in ("low", "high")]
    scale, axis = log_scale(bounds), log_axis(bounds, minExtent=_EXTENT, maxExtent=_EXTENT)
    y = alt.Y("loss:Q", scale=scale, title=f"{name} loss (nats)", axis=axis)
    x = _steps(study, None)
    base = shown(rows).encode(x=x, detail="run:N", color=colour(study.arms))
    tips = ["arm:N", alt.Tooltip("run:N", title="seed"), "step:Q"]
    losses = [tip(k, t, ".4f") for k, t in (("loss", f"{name} loss (nats)"), ("low", "lowest"), ("high", "highest"))]
    # A line answers the pointer with its first point only; unseen marks answer with the one that is meant.
    targets = base.mark_point(filled=True, size=90, opacity=0, clip=True).encode(y=y, tooltip=[*tips, *losses])
    layers = [
        *_undecayed(study),
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash(study.arms)),
        targets,
    ]
    if crosses:
        cross = shown(crosses).mark_text(text="×", fontSize=19, color=FAILED).encode(x=x, y=alt.value(10))
        layers.append(cross.encode(tooltip=[*tips, "failure:N", "cause:N"]))
    height = {"val": _HEIGHT, "train": _HEIGHT - 100}[split]
    return finish(layers, height, f"{name.capitalize()} loss of the confirmation runs against step, by arm")


def _curve_rows(study: "Study", key: str) -> tuple[Rows, Rows]:
    """Return the points of all lines, and a cross for every failed run."""
    rows: Rows = []
    crosses: Rows = []
    for arm, search in study.searches.items():
        outcomes = [study.outcome(trial) for trial in confirm(study.spec, search)]
        runs = {f"{i + 1} of {len(outcomes)}": [o.curve] for i, o in enumerate(outcomes)}
        if not any(o.failure for o in outcomes):
            runs = {f"mean of {len(outcomes)}": [o.curve for o in outcomes]}
        for run, together in runs.items():
            for points in zip(*together, strict=True):
                values = [point[key] for point in points]
                bounds = {"loss": math.fsum(values) / len(values), "low": min(values), "high": max(values)}
                rows.append(
                    {"arm": arm, "run": run, "step": points[0]["step"]}
                    | {key: positive(value) for key, value in bounds.items()}
                )
        for run, outcome in zip(runs, outcomes, strict=False):
            if outcome.failure:
                step = outcome.failure["step"]
                crosses.append({"arm": arm, "run": run, "step": step, **_failure(outcome.failure)})
    return rows, crosses


def _undecayed(study: "Study") -> list[alt.Chart]:
    """Return the stamp on the part of the curves in which ranking the arms would mislead; none without decay."""
    end = 0
    for schedule in dict.fromkeys(arm.schedule for arm in study.spec.arms):
        factors = learning_rate_factors(schedule, study.spec.steps)
        above = [step for step, factor in enumerate(factors) if factor > factors[-1] + DECAYED]
        end = max([end, *above])
    if not end:
        return []
    where = alt.Chart(data([{"from": 0, "to": end + 1}])).encode(x=alt.X("from:Q"))
    label = where.mark_text(text="not decayed yet: do not rank here", align="left", dx=8, color=DIM, fontSize=12)
    return [
        where.mark_rect(color="#000", opacity=0.045).encode(x2="to:Q"),
        label.encode(y={"value": {"expr": "height - 12"}}),
    ]


def strip(study: "Study") -> alt.LayerChart:
    """Return the learning rate against step, to stand under the curves."""
    schedules = list(dict.fromkeys(arm.schedule for arm in study.spec.arms))
    stride = max(1, study.spec.steps // _STRIP_POINTS)
    rows = [
        {"schedule": schedule, "step": step, "factor": factor}
        for schedule in schedules
        for step, factor in enumerate(_held(learning_rate_factors(schedule, study.spec.steps)))
        if step % stride == 0 or step >= study.spec.steps - 1
    ]
    y = alt.Y(
        "factor:Q", title="lr ÷ peak", axis=alt.Axis(values=[0, 1], format="~g", minExtent=_EXTENT, maxExtent=_EXTENT)
    )
    legend = alt.Legend(orient="top", title=None, symbolStrokeColor=INK) if len(schedules) > 1 else None
    dash = alt.StrokeDash("schedule:N", sort=schedules, legend=legend)
    chart = alt.Chart(data(rows)).mark_line(strokeWidth=1.6, interpolate="step-after", color=INK)
    tips = ["schedule:N", "step:Q", tip("factor", "learning rate ÷ peak", ".3f")]
    chart = chart.encode(x=_steps(study, "optimizer step"), y=y, strokeDash=dash, tooltip=tips)
    return finish([chart], 60, "Learning rate against step")


def _held(factors: list[float]) -> list[float]:
    """Return the factors with the last one held, so that the line reaches the end of its step."""
    return [*factors, factors[-1]]


def differences(study: "Study") -> alt.LayerChart | None:
    """Return the difference to the baseline of every seed, with mean and interval; None when none can be compared."""
    seeds, means = _difference_rows(study)
    if not means:
        return None
    values = [row[key] for row in (*seeds, *means) for key in ("percent", "low", "high") if key in row]
    edges = [0.0, *((-100 * study.margin, 100 * study.margin) if study.margin is not None else ())]
    scale = alt.Scale(domain=[min(values + edges), max(values + edges)], nice=True)
    title = f"test loss, change against {study.baseline} (%)"
    x = alt.X("percent:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks()))
    y = alt.Y("arm:N", sort=[row["arm"] for row in means], axis=None)
    by_arm = alt.Chart(data(means)).encode(y=y, color=colour(study.arms))
    ends = [tip(k, t, "+.2f") for k, t in (("percent", "mean, %"), ("low", "from, %"), ("high", "to, %"))]
    bar = by_arm.mark_rule(strokeWidth=3, yOffset=-2).encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    mean = by_arm.mark_point(filled=True, size=110, opacity=1, yOffset=-2).encode(x=x, shape=mark(study.arms))
    dots = alt.Chart(data(seeds)).mark_point(size=46, strokeWidth=1.5, yOffset=14).encode(x=x, y=y)
    names = by_arm.mark_text(align="left", yOffset=-19, fontSize=12, fontWeight=600, limit=alt.ExprRef("width - 40"))
    layers = [
        alt.Chart(data([{"zero": 0}])).mark_rule(strokeDash=[4, 3], color=DIM).encode(x="zero:Q"),
        bar.encode(tooltip=["arm:N", *ends]),
        mean.encode(tooltip=["arm:N", *ends]),
        dots.encode(color=colour(study.arms), tooltip=["arm:N", "seed:O", tip("percent", "change, %", "+.2f")]),
        names.encode(x=alt.value(6), text="arm:N", color=alt.value(INK)),
    ]
    if study.margin is not None:
        margin = alt.Chart(data([{"low": edges[1], "high": edges[2]}])).mark_rect(color="#000", opacity=0.06)
        layers.insert(0, margin.encode(x="low:Q", x2="high:Q"))
    return finish(layers, _ROW * len(means) + 12, f"Difference of every arm to {study.baseline}, seed by seed")


def _difference_rows(study: "Study") -> tuple[Rows, Rows]:
    seeds: Rows = []
    means: Rows = []
    for arm in (row["arm"] for row in study.leaderboard()):
        result = study.results.get(arm)
        if result is None or result.comparison is None:
            continue
        pairs = zip(study.confirmed(arm), study.confirmed(study.baseline), strict=True)
        for number, (own, other) in enumerate(pairs, start=1):
            if own is not None and other is not None:
                seeds.append({"arm": arm, "seed": number, "percent": 100 * (own / other - 1)})
        c = result.comparison
        bounds = {"percent": c.difference, "low": c.low, "high": c.high}
        means.append({"arm": arm, **{key: c.percent(value) for key, value in bounds.items()}})
    return seeds, means


def _steps(study: "Study", title: str | None) -> alt.X:
    scale = alt.Scale(domain=[0, study.spec.steps], nice=False)
    return alt.X("step:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks(), format="~s"))

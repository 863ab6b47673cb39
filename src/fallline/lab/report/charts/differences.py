"""The figure of the differences to the baseline, seed by seed."""

import altair as alt

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.charts.encodings import DIM, INK, Rows, colour, data, finish, mark, ticks, tip
from fallline.lab.report.measure import margin_size, measure

_ROW = 62  # pixels: of an arm's row


def differences(study: StudyResults) -> alt.LayerChart | None:
    """Return the difference to the baseline of every seed, with mean and interval; None when none can be compared.

    Losses are compared by ratios, shown in percent; other metrics as they are.
    """
    seeds, means = _rows(study)
    if not means:
        return None
    kind = measure(study)
    unit, form, scaled = ("%", "+.2f", 100.0) if kind.log_ratio else ("", "+.4f", 1.0)
    values = [row[key] for row in (*seeds, *means) for key in ("change", "low", "high") if key in row]
    size = scaled * margin_size(study, study.margin) if study.margin is not None else 0.0
    edges = [0.0, -size, size]
    scale = alt.Scale(domain=[min(values + edges), max(values + edges)], nice=True)
    title = f"{kind.name(kind.test)}, change against {study.baseline}{' (%)' if unit else ''}"
    x = alt.X("change:Q", title=title, scale=scale, axis=alt.Axis(tickCount=ticks()))
    y = alt.Y("arm:N", sort=[row["arm"] for row in means], axis=None)
    by_arm = alt.Chart(data(means)).encode(y=y, color=colour(study.arms))
    ends = [tip(k, f"{t} {unit}".strip(), form) for k, t in (("change", "mean"), ("low", "from"), ("high", "to"))]
    bar = by_arm.mark_rule(strokeWidth=3, yOffset=-2).encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    mean = by_arm.mark_point(filled=True, size=110, opacity=1, yOffset=-2).encode(x=x, shape=mark(study.arms))
    dots = alt.Chart(data(seeds)).mark_point(size=46, strokeWidth=1.5, yOffset=14).encode(x=x, y=y)
    names = by_arm.mark_text(align="left", yOffset=-19, fontSize=12, fontWeight=600, limit=alt.ExprRef("width - 40"))
    layers = [
        alt.Chart(data([{"zero": 0}])).mark_rule(strokeDash=[4, 3], color=DIM).encode(x="zero:Q"),
        bar.encode(tooltip=["arm:N", *ends]),
        mean.encode(tooltip=["arm:N", *ends]),
        dots.encode(
            color=colour(study.arms), tooltip=["arm:N", "seed:O", tip("change", f"change {unit}".strip(), form)]
        ),
        names.encode(x=alt.value(6), text="arm:N", color=alt.value(INK)),
    ]
    if study.margin is not None:
        margin = alt.Chart(data([{"low": edges[1], "high": edges[2]}])).mark_rect(color="#000", opacity=0.06)
        layers.insert(0, margin.encode(x="low:Q", x2="high:Q"))
    return finish(layers, _ROW * len(means) + 12, f"Difference of every arm to {study.baseline}, seed by seed")


def _rows(study: StudyResults) -> tuple[Rows, Rows]:
    seeds: Rows = []
    means: Rows = []
    for arm in (row["arm"] for row in study.leaderboard()):
        result = study.comparisons.get(arm)
        if result is None or result.comparison is None:
            continue
        c = result.comparison
        pairs = zip(study.confirmed(arm), study.confirmed(study.baseline), strict=True)
        for number, (own, other) in enumerate(pairs, start=1):
            if own is not None and other is not None:
                change = 100 * (own / other - 1) if c.log_ratio else own - other
                seeds.append({"arm": arm, "seed": number, "change": change})
        bounds = {"change": c.difference, "low": c.low, "high": c.high}
        means.append({"arm": arm, **{k: c.percent(value) if c.log_ratio else value for k, value in bounds.items()}})
    return seeds, means

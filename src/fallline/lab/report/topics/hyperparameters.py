"""The selected hyperparameters, and the validation result against each hyperparameter that was searched."""

import math
from typing import Any

import altair as alt

from fallline.formatting import NONE, format_setting
from fallline.lab.analysis.results import StudyResults
from fallline.lab.design.spaces import Dimension
from fallline.lab.report.document import Block, Figures, Section, Tabled, Topic
from fallline.lab.report.encodings import HEIGHT, Rows, finish, label, log_axis, log_scale, tip
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table
from fallline.lab.report.topics.sensitivity import describe_clipping, find_dimensions, scatter, tuning_rows

_CAPTION = (
    "Validation result of every tuning trial against the other hyperparameters that were searched. Trials of an arm "
    "also differ in the learning rate. The marks have the same meaning as in the figure of the learning rate. A "
    "default of 0 is not shown, because the axis is logarithmic."
)


def hyperparameters(study: StudyResults) -> Table:
    """Return the table of the selected configurations: the value of each hyperparameter and its origin."""
    rows = Records()
    for arm, search in study.searches.items():
        ranges = {d.name: d for d in search.ranges}
        point = search.points[search.best] if search.best is not None else {}
        interior = None if search.best is None or not ranges else search.edge is None
        row: dict[str, Any] = {"arm": arm, "interior": interior, "edge": " ".join(search.end or ())}
        for name in search.points[0]:
            how = "set by the user" if name in search.arm.fixed else "default"
            if name in ranges:
                ends = (ranges[name].value(0.0), ranges[name].value(1.0))
                choices = ranges[name].choices
                how = " or ".join(map(format_setting, choices)) if choices else f"{min(ends):.3g} to {max(ends):.3g}"
            row[name] = point.get(name, math.nan if name in ranges else search.points[0][name])
            row[f"{name}_how"] = how
            row[f"{name}_searched"] = name in ranges
        rows.append(row)
    names = list(dict.fromkeys(name for search in study.searches.values() for name in search.points[0]))

    def column(name: str) -> Column:
        def cell(row: Row) -> Cell | str:
            if name not in row:
                return ""
            return Cell(format_setting(row[name]), row[f"{name}_how"], "tuned" if row[f"{name}_searched"] else "")

        return Column("learning\nrate" if name == "lr" else name.replace("_", " "), cell)

    def inside(row: Row) -> Cell | str:
        if row["interior"] is None:
            return NONE
        return "yes" if row["interior"] else Cell("no", row["edge"].replace("_", " "), "bad")

    note = (
        "Bold values were tuned; the range that was searched, including extensions, is shown below them. Other values "
        "were fixed at the documented default or by the user."
    )
    return Table("hyperparameters", rows, (ARM, *map(column, names), Column("optimum\ninterior", inside)), note)


def axis_charts(study: StudyResults) -> dict[str, alt.LayerChart]:
    """Return a chart of the validation metric against each searched hyperparameter other than the learning rate."""
    charts = {}
    for name, dimension in find_dimensions(study).items():
        if name == "lr":
            continue
        rows = [row for row in tuning_rows(study) if name in row["searched"]]
        for row in rows:
            row["at"] = 1 - row[name] if dimension.complement else row[name]
        tips = [label(name, name.replace("_", " ")), tip("lr", "learning rate", ".3g")]
        chart, height = scatter(study, rows, _axis(dimension, rows), tips, HEIGHT - 80, joined=False)
        charts[f"axis-{name}"] = finish(
            chart, height, f"Validation result of every tuning trial against its {name.replace('_', ' ')}, by arm"
        )
    return charts


def _axis(dimension: Dimension, rows: Rows) -> alt.X:
    title = dimension.name.replace("_", " ")
    if dimension.choices:
        return alt.X(f"{dimension.name}:N", title=title, axis=alt.Axis(labelAngle=0))
    if dimension.linear:
        return alt.X("at:Q", title=title, scale=alt.Scale(zero=False))
    for row in rows:  # a log axis has no 0, which is the default of weight decay in some optimizers
        row["at"] = row["at"] if row["at"] > 0 else None
    values = [row["at"] for row in rows]
    title = f"1 − {title}" if dimension.complement else title
    return alt.X("at:Q", scale=log_scale(values), title=title, axis=log_axis(values, grid=False))


def _section(study: StudyResults) -> Section:
    charts = axis_charts(study)
    blocks: list[Block] = [Tabled(hyperparameters(study))]
    if charts:
        blocks.append(Figures(charts, _CAPTION + describe_clipping(study), beside=len(charts) > 1))
    return Section("Chosen hyperparameters", blocks)


TOPIC = Topic(_section, lambda study: [hyperparameters(study)], axis_charts)

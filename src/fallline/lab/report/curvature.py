"""The page of a task's curvature: verdict, numbers with their errors, the spectrum and the surface."""

import math
from pathlib import Path
from typing import Any

import altair as alt

from fallline.formatting import format_number, plural
from fallline.lab.report.document import Bullets, Code, Document, Figures, Section, Tabled, Text
from fallline.lab.report.encodings import DIM, HEIGHT, INK, data, finish, tip
from fallline.lab.report.formats import cannot_write
from fallline.lab.report.render import to_html
from fallline.lab.report.style import COLOURS
from fallline.lab.report.tables import Cell, Column, Records, Table
from fallline.lab.run.curvature import Curvature
from fallline.lab.storage.atomic_files import write_atomically
from fallline.plotting import plot_surface

_SILENT = (
    "Sharpness gauges stability: how large a learning rate the weights bear. It does not foretell how well they "
    "generalise; a network can be rescaled to any sharpness without computing anything else (Dinh et al. 2017, "
    "arXiv:1703.04933).",
    "All of it is of the training loss at one point, in eval mode, over the items named above; others move it.",
    "A saddle is certain once one direction curves down. That there is none is only as certain as the search says.",
)
AXES = {
    "eigenvectors": ("the eigenvector of λmax", "the eigenvector of λmin"),
    "random": ("a random direction", "another"),
}
_PLANES = {
    "eigenvectors": "Along the eigenvectors of λmax and λmin each axis goes as far as its curvature alone would change "
    "the loss by its own size, the length of all weights (or 1) at most.",
    "random": "Random directions are filter-normalised (Li et al. 2018, arXiv:1712.09913): at 1 every filter has moved "
    "by its own length. They are two of many, and show little of the outermost curvatures.",
}
_HEADLINES = {
    "saddle": "A saddle: some directions curve down",
    "minimum": "A minimum, as far as curvature tells",
    "flat": "Flat: no curvature beyond rounding",
    "undetermined": "Undetermined: the smallest curvature cannot be told from zero",
    "not stationary": "Not a critical point: the gradient is not small",
}


def write_curvature(found: Curvature, path: Path, command: str) -> Path:
    """Write the page of a measurement and return its path.

    Raises:
        StudyError: the file cannot be written.
    """
    try:
        write_atomically(path, to_html(document(found, command)))
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def document(found: Curvature, command: str) -> Document:
    """Return the page as a document.

    Args:
        found: the measurement.
        command: what makes it again.
    """
    what = (
        f"{found.parameters:,} parameters, loss {format_number(found.loss, '.4g')} over {found.items:,} items of the "
        f"training set in {plural(found.batches, 'batch')}, {found.mode} mode; "
        f"{found.matvecs} products by {found.hvp}."
    )
    spectrum = Figures(
        {"spectrum": chart(found)},
        f"Density of all {found.parameters:,} eigenvalues, from {found.density.matvecs} products; bumps of width "
        f"{format_number(found.density.width, '.2g')} stand for its points. The logarithmic scale shows even a single "
        "one.",
        legend=False,
    )
    return Document(
        headline=_HEADLINES[found.point.kind],
        subject=f"curvature of {found.task} at {found.place}",
        arms=[],
        verdicts=[],
        notes=[found.sentence[0].upper() + found.sentence[1:], what],
        warnings=list_caveats(found),
        sections=[
            Section("Numbers", [Tabled(table(found))]),
            Section("Spectrum", [spectrum]),
            *([Section("Surface", [_surfaces(found)])] if found.surfaces else []),
            Section("What the numbers do not say", [Bullets(_SILENT)]),
            Section(
                "Again",
                [Text("The same command gives the same numbers on the same machine.", note=True), Code(command)],
            ),
        ],
        name="landscape",
    )


def list_caveats(found: Curvature) -> list[str]:
    """Return what to know before trusting the numbers."""
    eigen, sharpness, caveats = found.point.eigen, found.sharpness, []
    if not eigen.converged:
        missed = format_number(eigen.miss_probability, ".2g")
        caveats.append(
            f"The search for the outer eigenvalues has not converged in {eigen.matvecs} products: the probability that "
            f"one was missed is {missed}."
        )
    if sharpness is not None and not sharpness.converged:
        caveats.append(
            f"The search for the sharpness has not converged in {sharpness.matvecs} products: it may be larger than "
            f"{format_number(sharpness.value, '.4g')}."
        )
    return caveats


def _surfaces(found: Curvature) -> Figures:
    one = next(iter(found.surfaces.values()))
    caption = (
        f"The loss on planes through the weights (cross), {len(one.x)} × {len(one.y)} cells over the same "
        f"{found.items:,} items. " + " ".join(_PLANES[name] for name in found.surfaces)
    )
    charts = {f"surface-{name}": relief(found, name) for name in found.surfaces}
    return Figures(charts, caption, legend=False, beside=len(charts) > 1)


def relief(found: Curvature, name: str) -> alt.LayerChart:
    """Return a surface as a chart for the page."""
    across, up = AXES[name]
    return finish(
        plot_surface(found.surfaces[name], axes=(f"along {across}", f"along {up}")).layer,
        HEIGHT,
        f"Loss of {found.task} on a plane through its weights, along {across} and {up}",
    )


def records(found: Curvature) -> Records:
    """Return the numbers: quantity, value, low, high and what the range is."""
    point, density = found.point, found.density
    bound = "an eigenvalue lies within"
    rows = Records()

    def add(quantity: str, value: float | None, low: float | None, high: float | None, means: str) -> None:
        rows.append({"quantity": quantity, "value": value, "low": low, "high": high, "range": means})

    for name, value, error in (
        ("λmin", point.smallest, point.smallest_bound),
        ("λmax (sharpness)", point.largest, point.largest_bound),
    ):
        add(name, value, value - error, value + error, bound)
    if (edge := found.sharpness) is not None and edge.preconditioned:
        add("preconditioned sharpness", edge.value, edge.value - edge.bound, edge.value + edge.bound, bound)
    if edge is not None and edge.limit is not None:
        add("limit of stability", edge.limit, None, None, f"of {found.optimizer} at lr = {found.lr:g}, full batches")
        add("part of the limit", edge.ratio, None, None, "1 is the edge of stability")
    add("‖gradient‖", point.gradient, None, None, "")
    negative = "undefined with negative curvature" if point.curvature == "negative" else ""
    add("condition number", point.condition, None, None, negative)
    add("trace", found.trace.estimate, *found.trace.ci95, f"95 % interval, {found.trace.method}")
    add("negative eigenvalues", density.negative_mass, *density.negative_ci95, "part of all, 95 % interval")
    add("a missed eigenvalue", point.eigen.miss_probability, None, None, "probability that one further out was missed")
    return rows


def table(found: Curvature) -> Table:
    """Return the numbers as people read them."""

    def value(row: Any) -> Cell | str:
        return format_number(row["value"], ".4g")

    def span(row: Any) -> str:
        known = row["low"] is not None and math.isfinite(row["low"])
        return (
            f"{format_number(row['low'], '.4g')} to {format_number(row['high'], '.4g')}"
            if known
            else format_number(None, "")
        )

    columns = (
        Column("quantity", lambda row: str(row["quantity"]), "text"),
        Column("value", value),
        Column("range", span),
        Column("meaning of the range", lambda row: str(row["range"]), "words"),
    )
    return Table("curvature", records(found), columns)


def chart(found: Curvature) -> alt.LayerChart:
    """Return the density of the eigenvalues, with the outer ones that were found as ticks."""
    density = found.density
    floor = 0.1 / found.parameters / max(density.width, 1e-30)
    rows = [
        {"eigenvalue": x, "density": max(y, floor)}
        for x, y in zip(density.grid.tolist(), density.density.tolist(), strict=True)
    ]
    ends = [{"eigenvalue": x} for x in found.point.eigen.values.tolist()]
    x = alt.X("eigenvalue:Q", title="eigenvalue", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickCount=8))
    scale = alt.Scale(type="log", domain=[floor, 2 * max(row["density"] for row in rows)], nice=False)
    y = alt.Y("density:Q", title="density", scale=scale, axis=alt.Axis(format="~e", tickCount=5))
    tips = [tip("eigenvalue", "eigenvalue", ".4g"), tip("density", "density", ".3g")]
    curve = alt.Chart(data(rows)).mark_line(color=COLOURS[0], clip=True)
    zero = alt.Chart(data([{"eigenvalue": 0.0}])).mark_rule(color=DIM, strokeDash=[3, 3]).encode(x="eigenvalue:Q")
    marks = alt.Chart(data(ends)).mark_tick(color=INK, thickness=1.5, size=14, yOffset=-7)
    return finish(
        [
            zero,
            curve.encode(x=x, y=y, tooltip=tips),
            marks.encode(x=x, y=alt.value(HEIGHT - 20), tooltip=tips[:1]),
        ],
        HEIGHT - 20,
        f"Density of the eigenvalues of the Hessian of {found.task}",
    )

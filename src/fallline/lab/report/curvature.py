"""The page about the curvature of a task: the verdict, the numbers with their errors, the spectrum and the surface."""

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

_LIMITATIONS = (
    "Sharpness measures stability, that is, how large a learning rate the optimizer can use at these weights. It does "
    "not predict how well the weights generalise: a network can be rescaled to any sharpness without a change of the "
    "function that it computes (Dinh et al. 2017, arXiv:1703.04933).",
    "All numbers describe the training loss at one point, in eval mode, over the items named above; other items give "
    "other numbers.",
    "A saddle is certain if one direction with negative curvature was found. If none was found, the probability that "
    "the search missed one is given in the table.",
)
AXES = {
    "eigenvectors": ("the eigenvector of λmax", "the eigenvector of λmin"),
    "random": ("a random direction", "another random direction"),
}
_PLANES = {
    "eigenvectors": "Along the eigenvectors of λmax and λmin, each axis extends to the distance at which its curvature "
    "alone would change the loss by the value of the loss, but at most to the norm of all weights (or 1).",
    "random": "Random directions are filter-normalised (Li et al. 2018, arXiv:1712.09913): at a distance of 1, every "
    "filter has moved by its own norm. They are two of many directions and show little of the largest and smallest "
    "curvatures.",
}
_HEADLINES = {
    "saddle": "Saddle: the curvature is negative in some directions",
    "minimum": "Minimum: the curvature is positive in every direction that was computed",
    "flat": "Flat: the curvature is zero to within rounding error",
    "undetermined": "Undetermined: the smallest curvature cannot be distinguished from zero",
    "not stationary": "Not stationary: the gradient is too large for a critical point",
}


def write_curvature(found: Curvature, path: Path, command: str) -> Path:
    """Write the page about a measurement and return its path.

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
        command: the command that reproduces it.
    """
    what = (
        f"{found.parameters:,} parameters, loss {format_number(found.loss, '.4g')} over {found.items:,} items of the "
        f"training set in {plural(found.batches, 'batch')}, {found.mode} mode; "
        f"{found.matvecs} Hessian-vector products ({found.hvp})."
    )
    spectrum = Figures(
        {"spectrum": chart(found)},
        f"Estimated density of all {found.parameters:,} eigenvalues, from {found.density.matvecs} Hessian-vector "
        f"products, smoothed with a Gaussian kernel of width {format_number(found.density.width, '.2g')}. On the "
        "logarithmic scale, even a single eigenvalue is visible. Ticks mark the outer eigenvalues found by the search.",
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
            Section("Limitations", [Bullets(_LIMITATIONS)]),
            Section(
                "Reproduce",
                [Text("The same command gives the same numbers on the same machine.", note=True), Code(command)],
            ),
        ],
        name="landscape",
    )


def list_caveats(found: Curvature) -> list[str]:
    """Return warnings that a reader needs before trusting the numbers."""
    eigen, sharpness, caveats = found.point.eigen, found.sharpness, []
    if not eigen.converged:
        missed = format_number(eigen.miss_probability, ".2g")
        caveats.append(
            f"The search for the outer eigenvalues has not converged in {eigen.matvecs} products: the probability that "
            f"it missed one is {missed}."
        )
    if sharpness is not None and not sharpness.converged:
        caveats.append(
            f"The search for the sharpness has not converged in {sharpness.matvecs} products: the sharpness may be "
            f"larger than {format_number(sharpness.value, '.4g')}."
        )
    return caveats


def _surfaces(found: Curvature) -> Figures:
    one = next(iter(found.surfaces.values()))
    caption = (
        f"The loss on planes through the weights (marked by a cross), on a grid of {len(one.x)} × {len(one.y)} cells. "
        f"Each cell is the mean over the same {found.items:,} items. "
        + " ".join(_PLANES[name] for name in found.surfaces)
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
    """Return the numbers as records with the keys quantity, value, low, high and range (the meaning of the range)."""
    point, density = found.point, found.density
    bound = "contains an eigenvalue"
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
        where = f"for {found.optimizer} at lr = {found.lr:g} with full batches"
        add("stability limit", edge.limit, None, None, where)
        add("sharpness ÷ limit", edge.ratio, None, None, "1 is the edge of stability")
    add("‖gradient‖", point.gradient, None, None, "")
    negative = "undefined with negative curvature" if point.curvature == "negative" else ""
    add("condition number", point.condition, None, None, negative)
    add("trace", found.trace.estimate, *found.trace.ci95, f"95 % interval, {found.trace.method}")
    add("negative eigenvalues", density.negative_mass, *density.negative_ci95, "fraction of all, 95 % interval")
    missed = "probability that the search missed a larger or smaller eigenvalue"
    add("missed eigenvalue", point.eigen.miss_probability, None, None, missed)
    return rows


def table(found: Curvature) -> Table:
    """Return the numbers as a table for readers."""

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
    """Return a chart of the density of the eigenvalues, with ticks at the outer eigenvalues that were found."""
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

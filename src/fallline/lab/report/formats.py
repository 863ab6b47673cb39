"""Write a report in several formats: HTML, Markdown, tables as CSV, figures as images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from fallline.errors import ArgumentError, StudyError
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Document
from fallline.lab.report.render import to_html, to_markdown_page
from fallline.lab.report.style import CONFIG
from fallline.lab.report.tables import Table, to_csv
from fallline.lab.report.topics import document, tables
from fallline.lab.storage.atomic_files import write_atomically

FORMATS = ("html", "md", "csv", "png", "svg", "pdf")
WIDTH = 720  # width of a figure in a file or a notebook, in pixels
_BY_ARM = ("color", "shape", "strokeDash")
_SCALE = 2  # pixels of a PNG per pixel of the page


def write_formats(study: StudyResults, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the report of a finished study in several formats and return the paths of the files.

    "html" writes report.html and "md" writes report.md. "csv" writes one file per table under tables/. "png", "svg" and
    "pdf" write one file per figure under figures/. The Markdown file shows the figures that the same call writes as SVG
    or PNG, and links to those that it writes as PDF.

    Args:
        study: the study.
        folder: the folder to write to; it is created if it does not exist.
        formats: names of formats in FORMATS.

    Raises:
        ArgumentError: a format is unknown, or no format is given.
        StudyError: a file cannot be written.
    """
    check_formats(formats)
    try:
        return write_document(document(study), folder, formats, "report", tables(study))
    except OSError as error:
        raise cannot_write(folder, error) from None


def check_formats(formats: Sequence[str]) -> None:
    """Check that all formats are known and that there is at least one.

    Raises:
        ArgumentError: a format is unknown, or no format is given.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ArgumentError(f"format: must be one of {', '.join(FORMATS)}, got {got}; try html,md,csv")


def cannot_write(path: Path, error: OSError, what: str = "report") -> StudyError:
    """Return the error for a report, or other output named by `what`, that cannot be written to a path."""
    return StudyError(f"{what}: the file must be writable, got {str(path)!r} ({error.strerror}); pass another path")


def write_document(
    report: Document, folder: Path, formats: Sequence[str], name: str, exported: Sequence[Table] | None = None
) -> list[Path]:
    """Write a document in several formats and return the paths of the files.

    Args:
        report: the document.
        folder: the folder to write to; it is created if it does not exist.
        formats: names of formats in FORMATS.
        name: name of the HTML and Markdown files.
        exported: the tables to write as CSV; by default those of the document.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if "html" in formats:
        written.append(_text(folder / f"{name}.html", to_html(report)))
    if "csv" in formats:
        (folder / "tables").mkdir(exist_ok=True)
        found = report.tables if exported is None else exported
        written += [_text(folder / "tables" / f"{table.name}.csv", to_csv(table.records)) for table in found]
    drawn: dict[str, dict[str, str]] = {form: {} for form in ("svg", "png", "pdf") if form in formats}
    for figure, chart in report.charts.items() if drawn else ():
        (folder / "figures").mkdir(exist_ok=True)
        spec = static_spec(chart)
        for form, names in drawn.items():
            path = folder / "figures" / f"{figure}.{form}"
            path.write_bytes(picture(spec, form))
            names[figure] = f"figures/{path.name}"
            written.append(path)
    if "md" in formats:
        pictures = drawn.get("svg") or drawn.get("png") or {}
        text = to_markdown_page(report, pictures, drawn.get("pdf", {}))
        written.append(_text(folder / f"{name}.md", text))
    return written


def static(chart: alt.LayerChart) -> alt.LayerChart:
    """Return a chart of the page as a chart that can be shown without the page."""
    return alt.LayerChart.from_dict(static_spec(chart))


def static_spec(chart: alt.LayerChart) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart for use without the page, with its description as its title.

    Args:
        chart: a chart of the page, which is as wide as its container and has its legend in HTML.
    """
    spec: dict[str, Any] = chart.to_dict()
    spec |= {
        "width": WIDTH,
        "title": {"text": spec["description"], "anchor": "start", "fontSize": 14, "fontWeight": 600},
    }
    spec["config"] = {**CONFIG, "font": "Helvetica, Arial, sans-serif"}
    encodings = list(_encodings(spec))
    legend = {"orient": "top", "title": None, "columns": 4, "symbolOpacity": 1, "symbolSize": 90}
    drawn = {channel for e in encodings for channel in _BY_ARM if e.get(channel, {}).get("field") == "arm"}
    if "shape" in drawn:  # in the legend, dashes would also apply to the outlines of the marks
        drawn.discard("strokeDash")
    else:
        legend |= {"symbolType": "stroke", "symbolSize": 500, "symbolStrokeWidth": 2}
    for encoding in encodings:
        for channel in drawn & encoding.keys():
            if encoding[channel].get("field") == "arm":
                encoding[channel]["legend"] = legend
    return spec


def _encodings(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "encoding" in spec:
        yield spec["encoding"]
    for layer in spec.get("layer", []):
        yield from _encodings(layer)


def picture(spec: dict[str, Any], form: str) -> bytes:
    """Return a Vega-Lite chart as the bytes of an SVG, PNG or PDF file, rendered without a browser or a network."""
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    if form == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=_SCALE))
    return bytes(vl_convert.vegalite_to_pdf(spec))


def _text(path: Path, text: str) -> Path:
    write_atomically(path, text)
    return path

"""Render a document as one HTML page that works without a network, or as Markdown."""

import contextlib
import functools
import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import altair as alt
import jinja2
import vl_convert

from fallline.errors import TrustError
from fallline.folders import cache_folder, create_private_folder, require_trusted
from fallline.formatting import unbroken
from fallline.lab.report.document import Document, Figures, Section
from fallline.lab.report.style import CONFIG, arm_styles, dark_rules
from fallline.lab.report.tables import to_markdown
from fallline.lab.report.text import breakable, plain
from fallline.lab.storage.atomic_files import write_atomically

_LAST_LINE = "\n// end of the bundle\n"


def to_html(report: Document) -> str:
    """Return a document as an HTML page that does not use the network."""
    charts = {name: _json(chart.to_dict(validate=False)) for name, chart in report.charts.items()}
    theme, javascript = _json(CONFIG), _javascript()
    template = _environment(autoescape=True).get_template("page.html.j2")
    return template.render(
        report=report, styles=arm_styles(report.arms), charts=charts, theme=theme, javascript=javascript
    )


def chart_page(chart: Any, headline: str, subject: str, notes: tuple[str, ...], caption: str) -> str:
    """Return an HTML page that opens from disk, with a chart as wide as the window.

    Args:
        chart: an altair chart; its title is removed, because the headline replaces it.
        headline: the answer in one line.
        subject: the question in one line.
        notes: explanations of the answer, shown below it.
        caption: how to read the chart.
    """
    wide = chart.properties(width="container")
    wide.title = alt.Undefined
    figures = Figures({"chart": wide}, caption, legend=False)
    sections = [Section("Figure", [figures])]
    return to_html(Document(headline, subject, [], [], notes, [], sections, name=subject.partition(" ")[0]))


def to_markdown_page(report: Document, pictures: Mapping[str, str], links: Mapping[str, str]) -> str:
    """Return a document as Markdown.

    Args:
        report: the document.
        pictures: the image file of each figure, by figure name; the page shows the image.
        links: a file of each figure, by figure name; the page links to it.
    """
    template = _environment(autoescape=False).get_template("page.md.j2")
    text = template.render(report=report, pictures=pictures, links=links)
    lines = [line.rstrip() for line in text.splitlines()]
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]  # at most one empty line in a row
    return "\n".join(kept).strip() + "\n"


def _environment(autoescape: bool) -> jinja2.Environment:
    folder = files("fallline.lab.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["dark_rules"] = dark_rules()
    environment.filters |= {"unbroken": unbroken, "breakable": breakable, "plain": plain, "rows": to_markdown}
    return environment


@functools.cache
def _javascript() -> str:
    """Return one script with Vega, Vega-Lite and vega-embed; it sets `window.vegaEmbed`.

    To bundle it takes two seconds, so it is kept in the cache folder, with a name that contains the version.
    """
    path = cache_folder() / f"vega-embed-{version('vl-convert-python')}.js"
    with contextlib.suppress(OSError, UnicodeError, TrustError):
        require_trusted(path)  # a browser executes it
        script = path.read_text(encoding="utf-8")
        if script.endswith(_LAST_LINE):  # a file on a full disk may be cut
            return script
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    script = script.replace("</script", "<\\/script") + _LAST_LINE
    with contextlib.suppress(OSError, TrustError):
        create_private_folder(path.parent)
        require_trusted(path.parent)
        write_atomically(path, script)
    return script


def _json(chart: Mapping[str, Any]) -> str:
    # Inside <script>, "</script" ends the element and "<!--" changes how it ends, even within a JSON string.
    return json.dumps(chart, allow_nan=False).replace("<", "\\u003c")

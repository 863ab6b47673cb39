"""Writes a document down: as one HTML page that opens from disk without a network, or as Markdown."""

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert

from fallline.lab.report.document import Document
from fallline.lab.report.style import looks
from fallline.lab.report.tables import to_markdown
from fallline.lab.report.text import breakable, plain, unbroken
from fallline.lab.report.theme import CONFIG


def to_html(report: Document) -> str:
    """Return a document as an HTML page that fetches nothing."""
    charts = {name: _json(chart.to_dict()) for name, chart in report.charts.items()}
    theme, javascript = _json(CONFIG), _javascript()
    template = _environment(autoescape=True).get_template("page.html.j2")
    return template.render(report=report, looks=looks(report.arms), charts=charts, theme=theme, javascript=javascript)


def to_markdown_page(report: Document, pictures: Mapping[str, str], links: Mapping[str, str]) -> str:
    """Return a document as Markdown.

    Args:
        report: the document.
        pictures: by figure, the file that shows it.
        links: by figure, a file that only is linked to.
    """
    template = _environment(autoescape=False).get_template("page.md.j2")
    text = template.render(report=report, pictures=pictures, links=links)
    lines = [line.rstrip() for line in text.splitlines()]
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]  # one empty line is enough
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
    environment.filters |= {"unbroken": unbroken, "breakable": breakable, "plain": plain, "rows": to_markdown}
    return environment


@functools.cache
def _javascript() -> str:
    """Return Vega, Vega-Lite and vega-embed in one script that sets `window.vegaEmbed`."""
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return script.replace("</script", "<\\/script")


def _json(chart: Mapping[str, Any]) -> str:
    # Inside <script>, "</script" ends the element and "<!--" changes how it ends, whatever the JSON says.
    return json.dumps(chart, allow_nan=False).replace("<", "\\u003c")

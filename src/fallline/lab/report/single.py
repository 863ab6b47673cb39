"""A page around one chart, for commands that draw no more than that."""

from typing import Any

import altair as alt

from fallline.lab.report.document import Document, Figures, Section
from fallline.lab.report.render import to_html


def chart_page(chart: Any, headline: str, subject: str, notes: tuple[str, ...], caption: str) -> str:
    """Return an HTML page that opens from disk, with a chart as wide as the window.

    Args:
        chart: an altair chart; its title is left out, since the headline says it.
        headline: the answer in one line.
        subject: what was asked, in one line.
        notes: what the answer means, below it.
        caption: how to read the chart.
    """
    wide = chart.properties(width="container")
    wide.title = alt.Undefined
    figures = Figures({"chart": wide}, caption, legend=False)
    sections = [Section("Picture", [figures])]
    return to_html(Document(headline, subject, [], [], notes, [], sections, name=subject.partition(" ")[0]))

"""Figures that stand by themselves, in files and notebooks: of a fixed width, with a legend in the picture."""

from collections.abc import Iterator
from typing import Any

import altair as alt

from fallline.lab.report.theme import CONFIG

WIDTH = 720  # pixels
_BY_ARM = ("color", "shape", "strokeDash")


def static(chart: alt.LayerChart) -> alt.LayerChart:
    """Return a chart of the page as one that needs no page around it."""
    return alt.LayerChart.from_dict(static_spec(chart))


def static_spec(chart: alt.LayerChart) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart that needs no page around it, with its description as its title.

    Args:
        chart: as the page draws it: as wide as its container, its legend in HTML.
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
    if "shape" in drawn:  # dashes would tear the outlines of the marks
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

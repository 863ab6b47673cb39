"""How every figure looks, on the page and in files: Vega-Lite's configuration."""

from typing import Any

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "labelColor": "#3d454d",
        "titleColor": "#3d454d",
        "gridColor": "#edf0f2",
        "domainColor": "#aab2ba",
        "tickColor": "#aab2ba",
        "titlePadding": 8,
    },
    "axisX": {"labelOverlap": "greedy", "labelSeparation": 8},
    "legend": {"labelFontSize": 12, "labelLimit": 0},
    "view": {"stroke": None},
}

"""The style of figures: the colour, dash and mark of every arm, and the configuration of Vega-Lite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The palette of Okabe and Ito, which colour-blind readers can distinguish. Yellow is last, since it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (13, 4))
# Outlines as SVG paths in a square from -1 to 1, so that Vega and the HTML legend of the page draw the same marks.
MARKS = (
    "M0,-1A1,1,0,1,1,0,1A1,1,0,1,1,0,-1Z",  # circle
    "M-.88,-.88H.88V.88H-.88Z",  # square
    "M0,-1.1L1.1,.9H-1.1Z",  # triangle
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",  # diamond
    "M0,1.1L1.1,-.9H-1.1Z",  # triangle pointing down
    "M-.36,-1.1H.36V-.36H1.1V.36H.36V1.1H-.36V.36H-1.1V-.36H-.36Z",  # plus
    "M-1.1,0L.9,-1.1V1.1Z",  # triangle pointing left
)

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


# The colours on a dark page. Marks have a contrast of at least 3 to the page and text of at least 4.5 (WCAG 2.2).
DARK = {
    "#0072B2": "#3f97dd",
    "#D55E00": "#f07a2e",
    "#009E73": "#1fbf91",
    "#CC79A7": "#d98bb5",
    "#56B4E9": "#a5dcff",
    "#000000": "#ffffff",
    "#000": "#e6e9ec",
    "white": "#14181c",
    "#1c2024": "#e6e9ec",
    "#3d454d": "#c3cad1",
    "#5b6570": "#a3adb7",
    "#aab2ba": "#6b7580",
    "#c3ccd6": "#4a545e",
    "#d9dee3": "#3a424a",
    "#edf0f2": "#2a3138",
    "#c00000": "#ff6b60",
}


def dark_rules() -> str:
    """Return the CSS rules that recolour drawings on a dark screen.

    The drawings keep the light colours in their attributes, so print and saved figures remain light.
    """
    rules = [
        f'svg [fill="{light}" i] {{ fill: {dark}; }} svg [stroke="{light}" i] {{ stroke: {dark}; }} '
        f'[style*="{light};"] {{ border-left-color: {dark} !important; }}'
        for light, dark in DARK.items()
    ]
    return "\n".join(["@media screen and (prefers-color-scheme: dark) {", *rules, "}"])


@dataclass(frozen=True)
class ArmStyle:
    """The colour of an arm, its dash (lengths in pixels of line and gap in turn) and its mark (an SVG path)."""

    colour: str
    dash: tuple[int, ...]
    mark: str


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Return the style of every arm by its position; the lengths of the three lists allow 280 distinct styles.

    Example:
        >>> arm_styles(["adam", "sgd"])["sgd"].colour
        '#D55E00'
    """
    return {
        arm: ArmStyle(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKS[i % len(MARKS)])
        for i, arm in enumerate(arms)
    }

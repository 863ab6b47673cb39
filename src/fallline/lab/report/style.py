"""How an arm looks in every figure and table of a report: one colour, one dash and one mark."""

from collections.abc import Sequence
from dataclasses import dataclass

# Okabe & Ito's palette, which the colour-blind can tell apart; yellow comes last, being faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (13, 4))
# Outlines as SVG paths in a square from -1 to 1, so that Vega and the page's own legend draw the same mark.
MARKS = (
    "M0,-1A1,1,0,1,1,0,1A1,1,0,1,1,0,-1Z",  # circle
    "M-.88,-.88H.88V.88H-.88Z",  # square
    "M0,-1.1L1.1,.9H-1.1Z",  # triangle
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",  # diamond
    "M0,1.1L1.1,-.9H-1.1Z",  # triangle on its tip
    "M-.36,-1.1H.36V-.36H1.1V.36H.36V1.1H-.36V.36H-1.1V-.36H-.36Z",  # plus
    "M-1.1,0L.9,-1.1V1.1Z",  # triangle to the left
)


@dataclass(frozen=True)
class Look:
    """An arm's colour, dash (lengths in pixels, drawn and blank in turn) and mark (an SVG path)."""

    colour: str
    dash: tuple[int, ...]
    mark: str


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """Return a look for every arm, by its place; the three lists differ in length, so that 280 arms look different.

    Example:
        >>> looks(["adam", "sgd"])["sgd"].colour
        '#D55E00'
    """
    return {
        arm: Look(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKS[i % len(MARKS)])
        for i, arm in enumerate(arms)
    }

"""Format names and p-values for the report; `fallline.formatting` formats other numbers."""

import math

from markupsafe import Markup

from fallline.formatting import NONE
from fallline.lab.analysis.statistics import p_text


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals ("< 0.001" if it is smaller), or a dash if there is none."""
    return NONE if value is None or math.isnan(value) else p_text(value)


def breakable(arm: str) -> Markup:
    """Return the escaped name of an arm, which may break into lines before each "@"."""
    return Markup("<wbr>@").join(arm.split("@"))


def plain(text: str) -> str:
    """Return text with the special characters of Markdown escaped."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in text).replace("\n", " ")

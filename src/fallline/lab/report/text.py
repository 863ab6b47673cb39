"""Names as a reader of the report sees them; numbers come from `fallline.formatting`."""

import math

from markupsafe import Markup

from fallline.formatting import NONE
from fallline.lab.analysis.statistics import p_text


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals, or that it is smaller."""
    return NONE if value is None or math.isnan(value) else p_text(value)


def breakable(arm: str) -> Markup:
    """Return an arm's name, escaped, that may break before what was fixed of it."""
    return Markup("<wbr>@").join(arm.split("@"))


def plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in text).replace("\n", " ")

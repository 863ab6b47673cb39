"""Numbers and names as a reader sees them."""

import math

from markupsafe import Markup

from fallline.lab.analysis.statistics import p_text

NONE = "–"


def number(value: float | None, form: str, unit: str = "") -> str:
    """Return a number with a true minus sign and its unit, or a dash when there is none.

    Example:
        >>> number(-0.25, ".1f", " s"), number(float("nan"), ".1f")
        ('−0.2 s', '–')
    """
    return NONE if value is None or math.isnan(value) else f"{value:{form}}{unit}".replace("-", "−")


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals, or that it is smaller."""
    return NONE if value is None or math.isnan(value) else p_text(value)


def setting(value: object, form: str = ".4g") -> str:
    """Return a hyperparameter, which need not be a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(tuple(value) if isinstance(value, list) else value)
    return number(value, form)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    Example:
        >>> plural(1, "seed"), plural(2, "seed"), plural(2, "batch")
        ('1 seed', '2 seeds', '2 batches')
    """
    ending = "es" if noun.endswith("ch") else "s"
    return f"{count} {noun}{'' if count == 1 else ending}"


def unbroken(sentence: str) -> str:
    """Return a sentence whose numbers keep their units and equals signs on their line."""
    return sentence.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0").replace("p < ", "p\u00a0<\u00a0")


def breakable(arm: str) -> Markup:
    """Return an arm's name, escaped, that may break before what was fixed of it."""
    return Markup("<wbr>@").join(arm.split("@"))


def plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in text).replace("\n", " ")

"""Format numbers, measurements, counts and sizes for display."""

import math

NONE = "–"


def format_number(value: float | None, form: str, unit: str = "") -> str:
    """Return a number with its unit and a typographic minus sign, or a dash for None and NaN.

    Example:
        >>> format_number(-0.25, ".1f", " s"), format_number(float("nan"), ".1f")
        ('−0.2 s', '–')
    """
    return NONE if value is None or math.isnan(value) else f"{value:{form}}{unit}".replace("-", "−")


def format_measurement(value: float, bound: float = 0.0) -> str:
    """Return a measured number with its error bound and the digits that the bound justifies; four without a bound.

    Example:
        >>> format_measurement(-0.3128, 0.02), format_measurement(-3e-9, 1e-10), format_measurement(1234.567)
        ('−0.31 ± 0.02', '−3e−09 ± 1e−10', '1235')
    """
    if not math.isfinite(bound) or bound <= 0:
        return f"{value:.4g}".replace("-", "−")
    if abs(value) >= 1e4 or (abs(value) < 1e-2 and bound < 1e-4):  # too long, or 0, with fixed decimals
        return f"{value:.4g} ± {bound:.1g}".replace("-", "−")
    digits = max(0, min(4, -math.floor(math.log10(bound))))
    return f"{value:.{digits}f}".replace("-", "−") + f" ± {max(bound, 10.0**-digits):.{digits}f}"


def format_setting(value: object, form: str = ".4g") -> str:
    """Return a hyperparameter as text; it need not be a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(tuple(value) if isinstance(value, list) else value)
    return format_number(value, form)


def format_duration(seconds: float) -> str:
    """Return a time in minutes and seconds.

    Example:
        >>> format_duration(75.2), format_duration(9)
        ('1 min 15 s', '9 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def format_bytes(count: int) -> str:
    """Return a number of bytes in kB or MB.

    Example:
        >>> format_bytes(2_345_678), format_bytes(2_345)
        ('2.3 MB', '2.3 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun in the singular or plural.

    Example:
        >>> plural(1, "seed"), plural(2, "seed"), plural(2, "batch")
        ('1 seed', '2 seeds', '2 batches')
    """
    ending = "es" if noun.endswith("ch") else "s"
    return f"{count} {noun}{'' if count == 1 else ending}"


def unbroken(sentence: str) -> str:
    """Return a sentence with non-breaking spaces before percent signs and around equals and less-than signs."""
    return sentence.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0").replace("p < ", "p\u00a0<\u00a0")

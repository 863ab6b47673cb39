"""How measurements are said: with the digits that they have."""

import math


def number(value: float, bound: float = 0.0) -> str:
    """Return a number with its bound, and with as many digits as that allows; four without one.

    Example:
        >>> number(-0.3128, 0.02), number(-3e-9, 1e-10), number(1234.567)
        ('−0.31 ± 0.02', '−3e−09 ± 1e−10', '1235')
    """
    if not math.isfinite(bound) or bound <= 0:
        return f"{value:.4g}".replace("-", "−")
    if abs(value) >= 1e4 or (abs(value) < 1e-2 and bound < 1e-4):  # too long, or 0, with a fixed number of digits
        return f"{value:.4g} ± {bound:.1g}".replace("-", "−")
    digits = max(0, min(4, -math.floor(math.log10(bound))))
    return f"{value:.{digits}f}".replace("-", "−") + f" ± {max(bound, 10.0**-digits):.{digits}f}"

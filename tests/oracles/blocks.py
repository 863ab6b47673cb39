"""States in 8 bits, element by element in Python's exact fractions.

A block of 256 elements has one scale, the smallest power of two of which no magnitude is more than 1.875 times. Each
element is a small float: FP8 numbers of 4 exponent and 3 mantissa bits (as E4M3 of Micikevicius et al. 2022,
arXiv:2209.05433, but with all exponents for numbers) if the state has signs, and of 5 and 3 bits without denormals if
it has none.
"""

from fractions import Fraction

LARGEST = Fraction(15, 8)


def table(signed: bool) -> dict[int, Fraction]:
    """Return the number of every code at a scale of 1."""
    if signed:
        magnitudes = [Fraction(k, 8) * Fraction(2) ** -14 for k in range(8)]
        magnitudes += [(1 + Fraction(k, 8)) * Fraction(2) ** e for e in range(-14, 1) for k in range(8)]
        return {sign * code: sign * x for code, x in enumerate(magnitudes) for sign in (1, -1)}
    numbers = [(1 + Fraction(k, 8)) * Fraction(2) ** e for e in range(-31, 1) for k in range(8)]
    return dict(enumerate(numbers))


def scale(values: list[float]) -> Fraction:
    """Return the scale of a block of finite numbers, whose magnitudes are 0 or from 1e-27 to 1e38."""
    largest, found = max(abs(Fraction(v)) for v in values), Fraction(2) ** -93
    while largest > LARGEST * found:
        found *= 2
    return found


def neighbours(value: float, of_block: list[float], signed: bool) -> tuple[Fraction, Fraction]:
    """Return the stored numbers next to a value of a block, the same one twice if the value itself is stored."""
    unit = scale(of_block)
    numbers = sorted(unit * x for x in table(signed).values())
    exact = max(Fraction(value), numbers[0])
    return max(x for x in numbers if x <= exact), min(x for x in numbers if x >= exact)

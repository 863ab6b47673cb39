"""Sequential looks at the confirmation seeds of a study: significance levels that hold over all looks together."""

from collections.abc import Sequence
from typing import Any

from fallline.errors import ArgumentError

Seeds = int | tuple[int, int]  # a fixed number, or the smallest and the largest number
LEVEL = 0.05
_STANDARD = (4, 8, 12, 16)
# Nominal levels after 4, 8, 12 and 16 pairs, by the level over all looks: linear spending, calibrated on the t process
# and rounded down, so that simulations of 200,000 studies stay below the level despite the error of the simulations.
# Bounds for a normal process would give 11 to 15 % errors at four pairs. benchmarks/sequential.py recomputes these.
_NOMINAL = {
    LEVEL: (0.0124, 0.0141, 0.0178, 0.0220),
    LEVEL / 2: (0.0062, 0.0068, 0.0083, 0.0101),
    LEVEL / 3: (0.0041, 0.0044, 0.0053, 0.0064),
}


def check_seeds(seeds: object) -> None:
    """Check a number of confirmation seeds or a range of it.

    Raises:
        ArgumentError: it is neither a whole number >= 2 nor a range of such numbers.
    """
    ends: tuple[Any, ...] = seeds if isinstance(seeds, tuple) else (seeds,)
    whole = all(type(n) is int and n >= 2 for n in ends)
    if not whole or (isinstance(seeds, tuple) and (len(ends) != 2 or ends[0] >= ends[1])):
        raise ArgumentError(
            f"seeds: must be a whole number >= 2, or a range FEWEST < MOST, got seeds={seeds!r}; pass 5 or (4, 16)"
        )


def parse_seeds(text: str) -> Seeds:
    """Parse a number of seeds such as "8", or a range such as "4..16".

    Raises:
        ArgumentError: the text is neither.

    Example:
        >>> parse_seeds("8"), parse_seeds("4..16")
        (8, (4, 16))
    """
    fewest, dots, most = text.strip().partition("..")
    if not fewest.isdecimal() or (dots and not most.isdecimal()):
        raise ArgumentError(f"seeds: must be a whole number or FEWEST..MOST, got {text!r}; pass 5 or 4..16")
    seeds: Seeds = (int(fewest), int(most)) if dots else int(fewest)
    check_seeds(seeds)
    return seeds


def seeds_text(seeds: Seeds) -> str:
    """Return the text from which `parse_seeds` returns these seeds.

    Example:
        >>> seeds_text((4, 16))
        '4..16'
    """
    return "..".join(map(str, seeds)) if isinstance(seeds, tuple) else str(seeds)


def looks_of(seeds: Seeds) -> tuple[int, ...]:
    """Return the numbers of seeds after which a study examines its results.

    Args:
        seeds: a number, or the smallest and the largest number; looks are then after the smallest number, after every
            fourth further seed, and after the largest.

    Example:
        >>> looks_of((4, 16)), looks_of(8), looks_of((3, 8))
        ((4, 8, 12, 16), (8,), (3, 7, 8))
    """
    if isinstance(seeds, int):
        return (seeds,)
    fewest, most = seeds
    return (*range(fewest, most, 4), most)


def nominal_level(level: float, seeds: int, looks: Sequence[int]) -> float:
    """Return the significance level of one look for which all looks together keep `level`.

    If no calibrated level is known, it is `level` divided by the number of looks, which is always valid.

    Args:
        level: significance level over all looks.
        seeds: number of seeds at this look.
        looks: numbers of seeds at all looks.

    Example:
        >>> nominal_level(0.05, 4, (4, 8, 12, 16)), nominal_level(0.01, 4, (4, 8, 12, 16)), nominal_level(0.05, 8, (8,))
        (0.0124, 0.0025, 0.05)
    """
    if len(looks) == 1:
        return level
    if tuple(looks) == _STANDARD:
        for known, nominal in _NOMINAL.items():
            if abs(level - known) < 1e-12:
                return nominal[_STANDARD.index(seeds)]
    return level / len(looks)

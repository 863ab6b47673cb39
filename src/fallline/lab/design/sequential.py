"""Looks at a study while its confirmation seeds come in: significance levels that hold over all looks together."""

from collections.abc import Sequence
from typing import Any

from fallline.errors import ArgumentError

Seeds = int | tuple[int, int]  # a fixed number, or the fewest and the most
LEVEL = 0.05
_STANDARD = (4, 8, 12, 16)
# Nominal levels at 4, 8, 12 and 16 pairs by the level over all looks: linear spending, calibrated on the t process, and
# rounded down, so that simulations of 200,000 studies stay below the level in spite of their own error.
# Bounds for a normal process would give 11 to 15 % errors at four pairs. benchmarks/sequential.py computes them again.
_NOMINAL = {
    LEVEL: (0.0124, 0.0141, 0.0178, 0.0220),
    LEVEL / 2: (0.0062, 0.0068, 0.0083, 0.0101),
    LEVEL / 3: (0.0041, 0.0044, 0.0053, 0.0064),
}


def check_seeds(seeds: object) -> None:
    """Check a number of confirmation seeds.

    Raises:
        ArgumentError: it is neither a whole number from 2 nor the fewest and the most.
    """
    ends: tuple[Any, ...] = seeds if isinstance(seeds, tuple) else (seeds,)
    whole = all(type(n) is int and n >= 2 for n in ends)
    if not whole or (isinstance(seeds, tuple) and (len(ends) != 2 or ends[0] >= ends[1])):
        raise ArgumentError(
            f"seeds: must be a whole number >= 2, or two of them, FEWEST < MOST, got seeds={seeds!r}; pass 5 or (4, 16)"
        )


def parse_seeds(text: str) -> Seeds:
    """Return the seeds in "8" or "4..16".

    Raises:
        ArgumentError: it is neither.

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
    """Return the text that `parse_seeds` reads.

    Example:
        >>> seeds_text((4, 16))
        '4..16'
    """
    return "..".join(map(str, seeds)) if isinstance(seeds, tuple) else str(seeds)


def looks_of(seeds: Seeds) -> tuple[int, ...]:
    """Return after how many seeds a study is looked at.

    Args:
        seeds: a number, or the fewest and the most: a look after the fewest and after every fourth seed from there.

    Example:
        >>> looks_of((4, 16)), looks_of(8), looks_of((3, 8))
        ((4, 8, 12, 16), (8,), (3, 7, 8))
    """
    if isinstance(seeds, int):
        return (seeds,)
    fewest, most = seeds
    return (*range(fewest, most, 4), most)


def nominal_level(level: float, seeds: int, looks: Sequence[int]) -> float:
    """Return the significance level of one look, so that all looks together keep `level`.

    Where no calibrated bound is known, it is `level` divided by the number of looks, which always holds.

    Args:
        level: over all looks.
        seeds: of the look.
        looks: after how many seeds there is one.

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

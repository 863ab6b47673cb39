"""The ranges of hyperparameters, and the check of one that is several numbers."""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from fallline.arguments import real_number
from fallline.errors import ArgumentError, ArgumentTypeError


@dataclass(frozen=True)
class Range:
    """The range of a hyperparameter: finite numbers in [low, below), or in (low, below) if `open`.

    Attributes:
        optional: whether None is allowed too.
        infinite: whether infinity is allowed too.
    """

    low: float = 0.0
    below: float = math.inf
    open: bool = False
    optional: bool = False
    infinite: bool = False

    def __str__(self) -> str:
        if self.below == math.inf:
            limit = "" if self.low == -math.inf else f" {'>' if self.open else '>='} {self.low:g}"
            return f"a {'' if self.infinite else 'finite '}number{limit}" + " or None" * self.optional
        return f"in {'(' if self.open else '['}{self.low:g}, {self.below:g})"

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raise ArgumentError unless `value` (a number or a one-element tensor) lies in the range."""
        if value is None and self.optional:
            return
        try:
            number = float(real_number(value))
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentTypeError(f"{owner}: {name} must be {self}, got {value!r}; pass a number") from None
        above = self.low < number if self.open else self.low <= number
        below = number < self.below or (self.infinite and number == math.inf)
        if not ((self.infinite or math.isfinite(number)) and above and below):
            raise ArgumentError(f"{owner}: {name} must be {self}, got {number:g}; choose a value in that range")


NON_NEGATIVE = Range()
POSITIVE = Range(open=True)
FRACTION = Range(0.0, 1.0)


def several(owner: str, name: str, values: Any, count: int) -> tuple[Any, ...]:
    """Return the values of a hyperparameter such as `betas`, which any iterable that has a length may hold.

    Raises:
        ArgumentError: `values` is not such an iterable, is text, or does not have `count` elements.
    """
    try:  # not isinstance: OmegaConf's lists are no list, and NumPy's arrays are no Sequence
        unordered = isinstance(values, (str, bytes, Set, Mapping)) or len(values) != count
        found = () if unordered else tuple(values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != count:
        words = {2: "two numbers", 3: "three numbers"}.get(count, f"{count} numbers")
        example = str((0.9, 0.999, 0.9999)[:count]) if count <= 3 else "a tuple of them"
        raise ArgumentError(f"{owner}: {name} must be {words}, got {name}={values!r}; pass {example}")
    return found

"""Argument checks. Their messages name the owner, the limit, the value and the remedy."""

import inspect
import math
import operator
from numbers import Real
from typing import Any

from fallline.errors import ArgumentError, ArgumentTypeError, suggest


def check_integer(where: str, name: str, value: Any, minimum: int, remedy: str = "pass a whole number of steps") -> int:
    """Return `value` as an int; raise an error unless it is an integer (not a bool or a float) >= `minimum`."""
    message = f"{where}: {name} must be an int >= {minimum}, got {name}={value!r}; {remedy}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(message) from None
    if isinstance(value, bool):
        raise ArgumentTypeError(message)
    if number < minimum:
        raise ArgumentError(message)
    return number


def check_number(
    where: str,
    name: str,
    value: Any,
    maximum: float = math.inf,
    above_zero: bool = False,
    remedy: str = "choose a number in that range",
) -> float:
    """Return `value` as a float; raise an error unless it is finite and in [0, maximum] (> 0 with `above_zero`)."""
    sign = ">" if above_zero else ">="
    limit = f"a finite number {sign} 0" if maximum == math.inf else f"a number in [0, {maximum:g}]"
    message = f"{where}: {name} must be {limit}, got {name}={value!r}; {remedy}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(message)
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= maximum) or (above_zero and number == 0):
        raise ArgumentError(message)
    return number


def is_number(value: object) -> bool:
    """Return whether a value is an int or a float; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def real_number(value: Any) -> float:
    """Return a number, a NumPy scalar or an array or tensor of one element as a Python int or float.

    Raises:
        TypeError: `value` is not a real number; text such as "0.1" or b"1" is none, although float() accepts it.

    Example:
        >>> import numpy as np
        >>> real_number(np.float32(0.5)), real_number(np.array([3]))
        (0.5, 3)
    """
    if type(value) is float or type(value) is int:  # the usual case, once per hyperparameter and step
        return value
    item = value.item() if hasattr(value, "item") else value  # float() of a tensor that requires grad warns
    if isinstance(item, (int, float)):
        return item
    if isinstance(item, (str, bytes)) or not hasattr(type(item), "__float__"):  # np.str_ has __float__
        raise TypeError(f"{type(value).__name__} is not a real number")
    return float(item)


def check_call(cls: type, *args: Any, **keywords: Any) -> None:
    """Check that a class can be called with these arguments.

    Raises:
        ArgumentTypeError: an argument is missing, or there are too many.
    """
    try:
        inspect.signature(cls.__init__).bind(None, *args, **keywords)  # type: ignore[misc]
    except TypeError as error:
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]  # type: ignore[misc]
        raise ArgumentTypeError(
            f"{cls.__name__}: arguments must be ({', '.join(known)}), got a call that does not fit ({error}); pass "
            "them by keyword"
        ) from None


class KnownKeywords:
    """Mixin that rejects unknown and missing arguments; the error lists the known ones."""

    def __new__(cls, *args: Any, **keywords: Any) -> "KnownKeywords":
        """Check the arguments against the signature."""
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        for name in keywords:
            if name not in known:
                raise ArgumentTypeError(
                    f"{cls.__name__}: keyword arguments must be one of {', '.join(known) or '(none)'}, "
                    f"got {name}={keywords[name]!r}; {suggest(name, known)}"
                )
        if args or keywords:  # copy and pickle call this without arguments
            check_call(cls, *args, **keywords)
        return super().__new__(cls)

"""Keep the errors of an observer of a training out of that training."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from fallline.errors import ObserverWarning

T = TypeVar("T")


class Guard:
    """Runs the hooks of an observer. An error in them becomes a warning, once for each part of what it records.

    Args:
        observer: name of the observer, for the warnings.

    Example:
        >>> import warnings
        >>> guard = Guard("Monitor")
        >>> with warnings.catch_warnings(record=True) as found:
        ...     warnings.simplefilter("always")
        ...     values = [guard.run("ratio", lambda: 1 / 0) for _ in range(3)]
        >>> values, [str(warning.message) for warning in found]
        ([None, None, None], ['Monitor: ratio is omitted, because ZeroDivisionError: division by zero'])
    """

    def __init__(self, observer: str) -> None:
        self._observer = observer
        self._omitted: set[str] = set()

    def run(self, part: str, function: Callable[..., T], *arguments: Any) -> T | None:
        """Return the result of a function; if it raises an error, omit this part and return None."""
        try:
            return function(*arguments)
        except Exception as error:  # the state of an optimizer can hold anything
            self.omit(part, describe_error(error))
        return None

    def omit(self, part: str, reason: str) -> None:
        """Warn that a part is omitted, the first time that this happens."""
        if part not in self._omitted:
            self._omitted.add(part)
            warnings.warn(f"{self._observer}: {part} is omitted, because {reason}", ObserverWarning, stacklevel=3)


def describe_error(error: Exception) -> str:
    """Return the class and the message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())

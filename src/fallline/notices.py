"""Notices about slow work, such as compiling kernels; progress displays show them, and `logging` receives them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOGGER = logging.getLogger("fallline")


_sent: set[str] = set()


def notify(text: str) -> None:
    """Send a notice, unless it has been sent before; without a receiver, it does not count as sent."""
    if text not in _sent and _LOGGER.isEnabledFor(logging.INFO):
        _sent.add(text)
        _LOGGER.info(text)


class _Receiver(logging.Handler):
    """Passes the text of each notice to a function."""

    def __init__(self, receive: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._receive = receive

    def emit(self, record: logging.LogRecord) -> None:
        self._receive(record.getMessage())


@contextmanager
def receive_notices(receive: Callable[[str], None]) -> Iterator[None]:
    """Call `receive` with every notice that is sent within the block.

    Example:
        >>> found = []
        >>> with receive_notices(found.append):
        ...     notify("compiling a kernel")
        ...     notify("compiling a kernel")
        >>> found
        ['compiling a kernel']
    """
    level, handler = _LOGGER.level, _Receiver(receive)
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOGGER.setLevel(level)
        _LOGGER.removeHandler(handler)

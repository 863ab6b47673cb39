"""How far a long measurement is, and before it starts what it will cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """How far a long measurement is; the first comes before any of its work is done, and is the estimate of its cost.

    Attributes:
        done: units of work so far.
        total: units expected, at most.
        seconds: what the remaining ones take, by the time of those so far; None before any was timed.
        bytes: memory that is taken besides the model's own.
        unit: of the work: products, forward passes, updates.
    """

    done: int
    total: int
    seconds: float | None
    bytes: int
    unit: str = "products"

    def __str__(self) -> str:
        time = "" if self.seconds is None else f", about {self.seconds:.2g} s left"
        return f"{self.done} of at most {self.total} {self.unit}{time}, {self.bytes / 1e6:.1f} MB extra"


Progress = Callable[[Step], None]


class Clock:
    """Tells of work whose units take about the same time each.

    Args:
        total: units, at most.
        bytes: memory that is taken besides the model's own.
        unit: its name.
        progress: told, or None.
    """

    def __init__(self, total: int, bytes: int, unit: str, progress: Progress | None) -> None:
        self._total, self._bytes, self._unit, self._progress = total, bytes, unit, progress
        self.start()

    def start(self) -> None:
        """Time from here on."""
        self._began = time.perf_counter()

    def tell(self, done: int, timed: int, total: int | None = None) -> None:
        """Tell how much is done, where `timed` units have passed since the clock was started; `total` corrects it."""
        if self._progress is None:
            return
        self._total = total or self._total
        each = (time.perf_counter() - self._began) / timed if timed else None
        seconds = None if each is None else each * (self._total - done)
        self._progress(Step(done, self._total, seconds, self._bytes, self._unit))

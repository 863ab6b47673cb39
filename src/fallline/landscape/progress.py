"""Progress of a long measurement, and an estimate of its cost before it starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Progress of a long measurement. The first one is reported before any work is done and estimates the cost.

    Attributes:
        done: number of units of work done so far.
        total: largest number of units expected.
        seconds: estimated time for the remaining units, from the units done so far; None before one was timed.
        bytes: memory used in addition to the model's own.
        unit: unit of the work: products, forward passes or updates.
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
    """Reports the progress of work whose units take about the same time each.

    Args:
        total: largest number of units.
        bytes: memory used in addition to the model's own.
        unit: name of the unit.
        progress: callback that receives each `Step`, or None.
    """

    def __init__(self, total: int, bytes: int, unit: str, progress: Progress | None) -> None:
        self._total, self._bytes, self._unit, self._progress = total, bytes, unit, progress
        self.start()

    def start(self) -> None:
        """Restart the timer."""
        self._began = time.perf_counter()

    def report(self, done: int, timed: int, total: int | None = None) -> None:
        """Report that `done` units are done and `timed` units have run since `start`; `total` updates the total."""
        if self._progress is None:
            return
        self._total = total or self._total
        each = (time.perf_counter() - self._began) / timed if timed else None
        seconds = None if each is None else each * (self._total - done)
        self._progress(Step(done, self._total, seconds, self._bytes, self._unit))

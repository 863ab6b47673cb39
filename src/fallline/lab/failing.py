"""When a run has failed before its end: its loss is not finite, or has blown up (LAB R5)."""

import math
from dataclasses import dataclass
from typing import Any

FROM_START, FROM_LOWEST = 3, 10  # times the loss at the start, after warm-up, and times the lowest so far
PATIENCE = 3  # evaluations for which it may stay above the second, as after a spike

Failure = dict[str, Any]


@dataclass
class Watch:
    """Recognises a run that has failed; most divergence is finite.

    Attributes:
        warmup: steps after which the loss must not be far above its start.
        start: training loss of the first step.
        lowest: mean training loss of the best interval between evaluations so far.
        above: for how many evaluations it has been far above that.
    """

    warmup: int
    start: float = math.nan
    lowest: float = math.inf
    above: int = 0

    def step(self, step: int, loss: float) -> Failure | None:
        """Return the failure when one batch's loss is not finite."""
        if step == 0:
            self.start = loss
        if math.isfinite(loss):
            return None
        return {"state": "nonfinite", "step": step, "cause": f"training loss became {loss}"}

    def row(self, step: int, mean: float) -> Failure | None:
        """Return the failure when the mean training loss of an interval has blown up.

        Example:
            >>> watch = Watch(warmup=5)
            >>> watch.step(0, 2.0), watch.row(10, 5.9)
            (None, None)
            >>> watch.row(20, 6.1)["cause"]
            'training loss 6.1 after warm-up is over 3 × its start 2'
        """
        self.lowest = min(self.lowest, mean)
        self.above = self.above + 1 if mean > self._far(FROM_LOWEST, self.lowest) else 0
        over = "over {} ×" if self._has_ratios() else "by {} × its fall above"
        if step >= self.warmup and mean > self._far(FROM_START, self.start):
            cause = f"training loss {mean:.3g} after warm-up is {over.format(FROM_START)} its start {self.start:.3g}"
        elif self.above >= PATIENCE:
            cause = f"training loss {mean:.3g} stayed {over.format(FROM_LOWEST)} its minimum {self.lowest:.3g}"
        else:
            return None
        return {"state": "blown-up", "step": step, "cause": cause}

    def _far(self, times: int, loss: float) -> float:
        """Return a multiple of a loss; where losses are not above 0, the loss plus a multiple of their fall so far."""
        if self._has_ratios():
            return times * loss
        return loss + times * max(self.start - self.lowest, abs(self.start))  # it may not have fallen yet

    def _has_ratios(self) -> bool:
        return min(self.start, self.lowest) > 0

"""Detect that a run has failed before its end (docs/lab-protocol.md, section Failures)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fallline.lab.design.outcome import Failure
from fallline.loss_curves import is_above, level

FROM_START, FROM_LOWEST = 3, 10  # limits: multiples of the initial loss (after warm-up) and of the lowest so far
SHARE = 0.15  # fraction of a run for which the loss must stay above a limit; a spike that recovers is no failure
SHORTEST, LONGEST = 20, 1000  # bounds of the window, in steps
FIRST = (1, 3, 10, 30, 100)  # numbers of steps tried as the start, because a run may diverge after any of them
CHECKS = 10  # checks per window
RISEN = 5  # consecutive steps


@dataclass
class Watch:
    """Detects a run that has failed; the loss of most diverging runs stays finite.

    A run has failed if the medians of both halves of the last `window` losses are far above the start or far above the
    lowest median so far, and by more than the noise of the losses explains. The result depends neither on a single loss
    nor on the number of evaluations. The start is the median of the first 1, 3, 10, … losses; several counts are tried
    because a run that diverges at once has only a few losses from before.

    Attributes:
        warmup: number of warm-up steps; afterwards the loss must not be far above its start.
        window: number of steps for which the loss must be too high; see `window_of`.
        first: the first losses.
        recent: the last `window` losses.
        lowest: the half window of losses with the lowest median so far.
        ratios: whether all losses so far were positive, so that multiples of them are meaningful.
    """

    warmup: int
    window: int
    first: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)
    ratios: bool = True

    def step(self, step: int, loss: float) -> Failure | None:
        """Record the training loss of a step, counted from 0, and return the failure if the run has failed, else None.

        Example:
            >>> watch = Watch(warmup=5, window=20)
            >>> found = [watch.step(k, 2.0 if k < 30 else 6.1) for k in range(60)]
            >>> found[46], found[51]["cause"]
            (None, 'training loss 6.1 after warm-up is over 3 × its start 2')
        """
        if not math.isfinite(loss):
            return {"state": "nonfinite", "step": step, "cause": f"training loss became {loss}"}
        self.ratios = self.ratios and loss > 0
        if len(self.first) < FIRST[-1]:
            self.first.append(loss)
        self.recent.append(loss)
        del self.recent[: -self.window]
        if step + 1 < self.window or (step + 1) % max(1, self.window // CHECKS):
            return None
        return self._judge(step + 1)

    def _judge(self, steps: int) -> Failure | None:
        half = self.window // 2
        now = level(self.recent[half:])
        if not self.lowest or now < level(self.lowest):
            self.lowest = self.recent[half:]
        over = "over {} ×" if self.ratios else "over {} × its decrease above"
        if steps >= self.warmup + half:
            for earlier, start in _starts(self.first[:half]):
                if self._exceeds(FROM_START, earlier, start):
                    excess = f"after warm-up is {over.format(FROM_START)} its start {start:.3g}"
                    return {"state": "blown-up", "step": steps, "cause": f"training loss {now:.3g} {excess}"}
        if self._exceeds(FROM_LOWEST, self.lowest, level(self.lowest)):
            excess = f"stayed {over.format(FROM_LOWEST)} its minimum {level(self.lowest):.3g}"
            return {"state": "blown-up", "step": steps, "cause": f"training loss {now:.3g} {excess}"}
        return None

    def _exceeds(self, times: int, earlier: Sequence[float], before: float) -> bool:
        """Return whether both halves of the window are far above earlier losses, whose level is `before`."""
        if self.ratios:
            limit = times * before
        else:  # the losses may not have decreased yet
            limit = before + times * max(level(self.first[: FIRST[2]]) - level(self.lowest), abs(before))
        half = self.window // 2
        halves = self.recent[half:], self.recent[:half]
        return all(level(part) > limit and is_above(part, earlier, ratios=self.ratios) for part in halves)


def _starts(losses: Sequence[float]) -> Iterator[tuple[Sequence[float], float]]:
    """Yield the first losses and their level, fewest first; a decrease within them does not lower the start."""
    yield losses[:1], losses[0]
    highest = -math.inf
    for count in FIRST[1:]:
        if count <= len(losses):
            highest = max(highest, level(losses[:count]))
            yield losses[:count], highest


def window_of(steps: int) -> int:
    """Return how long, in steps, the loss must stay far above its start before a run of `steps` counts as failed."""
    return min(LONGEST, max(SHORTEST, 2 * round(SHARE * steps / 2)))


def has_risen(losses: Sequence[float]) -> bool:
    """Return whether the loss was far above its start for several steps, even if it has recovered since.

    A run that recovers has not failed. If a run has learned nothing and its loss had risen, the rise is the reason: its
    learning rate is too high, not too low.

    Example:
        >>> has_risen([2.3, 2.3, 2.4, *[1e6] * 5, *[2.3] * 90]), has_risen([2.3, 2.3, 2.4, 1e6, *[2.3] * 90])
        (True, False)
    """
    first = losses[: FIRST[1]]
    limit = max(first, default=math.inf) + (FROM_LOWEST - 1) * max(map(abs, first), default=0.0)
    longest = now = 0
    for loss in losses:
        now = now + 1 if loss > limit else 0
        longest = max(longest, now)
    return longest >= RISEN

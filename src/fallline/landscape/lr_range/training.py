"""The training of a learning rate range test: the rate increases with every update, until the loss diverges."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape.loss.averaging import (
    LossFn,
    Weight,
    batches_of,
    check_finite,
    check_graph,
    check_loss,
    describe_value,
    updater_of,
    weight_of,
)
from fallline.landscape.progress import Clock
from fallline.loss_curves import is_above, level, spread

FIRST = 20  # number of first losses, whose median is the level at the start
LATEST = 5  # number of last losses, whose median is compared with the start; an exploding loss allows no more
ENOUGH = 10  # number of losses from which their noise can be estimated
CEILING = 3.0  # the test ends when the loss exceeds its start by more than this multiple of the size of the start
AT_ONCE = 1000.0  # the same, if the start is known from one batch only
PATIENCE = 1000  # number of batches without an update after which the test stops waiting for one
_BASES = ("base_lr", "initial_lr")  # keys of a group for its rate before any schedule


class RisingRate:
    """A training whose learning rate increases with every update; `run` runs it once.

    Attributes:
        ratios: ratios of the rates of the groups to the highest one.
        updates, batches: numbers of updates and batches so far.
        latest: the batches of the last two updates, each with its number.
        diverged: whether the loss diverged.
        level: robust level of the loss at the start, on which no single batch has much influence.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFn | None,
        accumulate: int,
        scaler: Any,
        step: Callable[[Any], Any] | None,
        weight: Weight | None,
    ) -> None:
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.accumulate, self.scaler, self.step, self.weight = accumulate, scaler, step, weight
        self.updater = updater_of(optimizer)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.ratios = [rate / max(rates) if max(rates) > 0 else 1.0 for rate in rates]
        self.updates = self.batches = 0
        self.latest: deque[tuple[int, Any]] = deque(maxlen=2 * accumulate)
        self.diverged = False
        self.level = math.nan

    def count(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Count an update, unless the scaler skipped it."""
        self.updates += not bool(getattr(optimizer, "found_inf", False))

    def run(self, rates: np.ndarray, batches: Iterator[Any], clock: Clock) -> list[float]:
        """Make an update at each rate; return the loss before each update and, in the end, one more."""
        losses: list[float] = []
        for k in range(len(rates) + 1):
            loss = self._update(batches, float(rates[min(k, len(rates) - 1)]))
            if loss is None:  # the data were an iterator, which has ended
                break
            losses.append(loss)
            if k == 0 and not math.isfinite(loss):
                raise LossError(
                    f"lr_range: loss must be finite before the first update, got {loss}; check that batch and the "
                    "initial weights"
                )
            clock.report(k, k)
            if k == 0:  # the first update takes longer: it loads kernels and creates the state
                clock.start()
            if not math.isfinite(loss) or self._has_diverged(losses):
                self.diverged = True
                break
        if len(losses) < 2:
            raise ArgumentError(
                f"lr_range: data must last for two updates, got an end after {self.batches} batches; pass a loader"
            )
        return losses

    def _has_diverged(self, losses: list[float]) -> bool:
        """Return whether the losses are far above the start, by more than their noise; set `level` to the start.

        The latest losses are compared with those of the first updates, whose rates are too low to change the loss. If
        the loss diverges immediately, there is only one loss from before. All later losses are then compared with it,
        and must be higher by a much larger factor, because a single batch may have almost no loss.
        """
        ratios = min(losses) > 0
        self.level = level(losses[: min(FIRST, max(3, len(losses) // 5))]) if len(losses) > 4 else losses[0]
        for count, later in ((1, losses[1:]), (FIRST, losses[FIRST:][-LATEST:])):
            if len(later) < (1 if count == 1 else LATEST):
                continue
            earlier = losses[:count]
            start = level(earlier)
            size = max(abs(start), start - min(losses))
            if level(later) <= start + size * (AT_ONCE if count == 1 else CEILING):
                continue
            least = 0.0 if max(count, len(later)) >= ENOUGH else 1.0 if ratios else size
            before = None if count == 1 else spread([math.log(loss) for loss in earlier] if ratios else earlier)
            if is_above(later, earlier, ratios=ratios, deviation=before, least=least):
                self.level = start
                return True
        return False

    def _set(self, rate: float) -> None:
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            for key in ("lr", *(key for key in _BASES if key in group)):
                if isinstance(group[key], torch.Tensor):
                    group[key].fill_(rate * ratio)
                else:
                    group[key] = rate * ratio

    def _update(self, batches: Iterator[Any], rate: float) -> float | None:
        """Process batches until the optimizer has made an update; return the mean loss before it."""
        before = self.updates
        parts: list[tuple[float, float]] = []
        while self.updates == before:
            self._set(rate)  # also after a skipped step, because the user's schedule may have changed the rate
            if len(parts) >= PATIENCE:
                if self.scaler is not None and self.step is None and self.updates:
                    return math.nan  # the scaler skips every step: no gradient is finite any more
                if self.scaler is not None and self.step is None:
                    raise LossError(
                        f"lr_range: gradients must be finite at some scale of the scaler, got {PATIENCE} skipped steps "
                        "in a row; look for a square root or logarithm at 0"
                    )
                raise ArgumentError(
                    f"lr_range: step must call optimizer.step(), got {PATIENCE} batches without an update; "
                    "call it on the optimizer that was passed"
                )
            group = [batch for _, batch in zip(range(1 if self.step else self.accumulate), batches, strict=False)]
            if not group:
                return None
            self.latest += enumerate(group, self.batches)
            self.batches += len(group)
            weights = [weight_of("lr_range", batch, self.weight) for batch in group]
            loss = _number(self.step(group[0])) if self.step else self._own_step(group, weights)
            parts.append((math.fsum(weights), loss))
            if not math.isfinite(loss):
                return loss
        return math.fsum(w * loss for w, loss in parts) / math.fsum(w for w, _ in parts)

    def _own_step(self, group: list[Any], weights: list[float]) -> float:
        """Make one step on all these batches; return the loss before it."""
        found: list[float] = []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            total = torch.zeros(())
            for k, (batch, weight) in enumerate(zip(group, weights, strict=True)):
                assert self.loss_fn is not None
                loss = check_loss("lr_range", self.loss_fn(self.model, batch)) * (weight / math.fsum(weights))
                number = self.batches - len(group) + k
                check_graph("lr_range", loss, number)
                if not self.updates and not found:
                    check_finite("lr_range", loss, number, self.model)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                total = total + loss.detach().cpu()
            found.append(float(total))
            return total

        with torch.enable_grad():
            if self.scaler is None:
                self.optimizer.step(closure)  # type: ignore[arg-type]
            else:
                closure()
                self.scaler.step(self.optimizer)
                self.scaler.update()
        return found[0]


def endless(data: Any) -> Iterator[Any]:
    """Yield the batches of data repeatedly without end; those of an iterator once."""
    once = isinstance(data, Iterator)
    while True:
        yield from batches_of("lr_range", data)
        if once:
            return


def _number(loss: Any) -> float:
    if isinstance(loss, torch.Tensor):
        return float(check_loss("lr_range", loss).detach())
    if not isinstance(loss, int | float):
        raise ArgumentTypeError(
            f"lr_range: step must return the loss of its batch, got {describe_value(loss)}; add return loss"
        )
    return float(loss)

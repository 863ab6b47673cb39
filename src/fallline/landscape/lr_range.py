"""The learning rate range test: one short training at a rising rate, after which all is as before."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.landscape.averaging import LossFn, Weight, batches_of, check_graph, check_loss, updater_of, weight_of
from fallline.landscape.culprits import check_batches
from fallline.landscape.progress import Clock, Progress
from fallline.landscape.restoring import memory_of, restoring, trained
from fallline.landscape.slope import read

CEILING = 3.0  # times the size of the start that the loss may rise above it before the test ends
PATIENCE = 1000  # batches without an update, before it is taken that none will come
_BASES = ("base_lr", "initial_lr")  # what a group calls its rate before any schedule


@dataclass(frozen=True, eq=False)
class LRRange:
    """The curve of a range test, and what it suggests.

    Attributes:
        lrs: of the updates, (n,), of the group whose rate is the highest.
        losses: after each, on the batches of the next, (n,).
        smooth: the losses smoothed by straight lines through neighbours.
        slope: the change of that a decade of learning rate.
        noise: standard deviation of the losses about it.
        start: the loss before the first update.
        suggestion: the rate at which the loss falls most steeply against log lr.
        low, high: the rates where it begins to fall and where it stops.
        ratios: of the groups' rates to that of the highest, kept throughout.
        diverged: whether the loss left all bounds, so that higher rates were not tried.
        batches: that were drawn.
        verdict: what it suggests and how sure that is, in a sentence.
    """

    lrs: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    slope: np.ndarray
    noise: float
    start: float
    suggestion: float
    low: float
    high: float
    ratios: tuple[float, ...]
    diverged: bool
    batches: int
    verdict: str

    def plot(self) -> Any:
        """Return an altair chart of the loss over the learning rate; a notebook shows it. Needs the extra `lab`."""
        from fallline.landscape.drawing import plot_range  # altair is no dependency of training

        return plot_range(self)


def lr_range(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFn | None,
    data: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    accumulate: int = 1,
    scaler: Any = None,
    step: Callable[[Any], Any] | None = None,
    weight: Weight | None = None,
    keep: Iterable[Any] = (),
    progress: Progress | None = None,
) -> LRRange:
    """Train at a rate that rises from update to update, and return how the loss took it; all is put back to the bit.

    Updates are what counts, not batches: the rate rises when the optimizer has stepped, not when gradients are added up
    or when the scaler has skipped a step. The groups of the optimizer keep the ratios of their rates.

    Args:
        model: the model; it is put into train mode for the test.
        optimizer: the user's own, fresh or in mid-training.
        loss_fn: `(model, batch)` to the mean loss of the batch; not needed with `step`.
        data: a batch (tensor, tuple, dict), a list of batches or a loader, gone through as often as needed; an iterator
            is used up as far as it is needed.
        low, high: the first and last rate, of the group whose rate is the highest.
        steps: updates, evenly spaced in log lr.
        accumulate: batches to an update; their gradients are averaged by weight.
        scaler: a `torch.amp.GradScaler`; autocast belongs into `loss_fn`.
        step: a training step of the user's own, `batch` to its loss: forward, backward, and where it is due
            `optimizer.step()` and `zero_grad()`. It replaces `loss_fn`, `accumulate` and `scaler.step`.
        weight: `batch` to its weight in averages, such as its tokens; its rows by default.
        keep: further objects with a state dict that `step` changes, such as a schedule, to be put back too.
        progress: told of every update, and of how many before the first; from the second on of the time they take.

    Raises:
        LossError: the loss is not one number or has no graph, or there is no batch.
        ArgumentError, ArgumentTypeError: an argument cannot be used, a batch has a loss or a gradient that is not
            finite before any update, the data end, or the user's step makes no update.

    Example:
        >>> import torch
        >>> w = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(w.weight, 1.0)
        >>> optimizer = torch.optim.SGD(w.parameters(), lr=1e-3)
        >>> found = lr_range(w, optimizer, lambda m, x: m(x).square().sum() / 2, torch.ones(1, 1))
        >>> found.low < found.suggestion < found.high < 2.5  # 2 is the limit of stability here
        True
        >>> w.weight.item()
        1.0
    """
    _check(model, optimizer, loss_fn, low, high, steps, accumulate, step)
    test = _Test(model, optimizer, loss_fn, accumulate, scaler, step, weight)
    rates = np.geomspace(low, high, steps)
    clock = Clock(steps, memory_of(model, optimizer), "updates", progress)
    with restoring(model, optimizer, scaler, data, keep):
        model.train()
        optimizer.zero_grad()
        handle = test.updater.register_step_post_hook(test.count)
        try:
            losses = test.run(rates, _endless(data), clock)
        finally:
            handle.remove()
    if not math.isfinite(losses[-1]):
        with restoring(model, optimizer, scaler, data, keep):
            model.train()
            check_batches(test.latest, model, loss_fn, step, trained(model, optimizer))
    start, after = losses[0], np.asarray(losses[1:])
    used = rates[: len(after)]
    found = read(used, after, start, test.diverged)
    return LRRange(
        used,
        np.where(np.isfinite(after), after, np.nan),
        found.smooth,
        found.slope,
        found.noise,
        start,
        found.suggestion,
        found.low,
        found.high,
        tuple(test.ratios),
        test.diverged,
        test.batches,
        found.verdict,
    )


class _Test:
    """A running test."""

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
        self.latest: deque[tuple[int, Any]] = deque(maxlen=2 * accumulate)  # batches of two updates, by number
        self.diverged = False

    def count(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Count an update, unless the scaler had it skipped."""
        self.updates += not bool(getattr(optimizer, "found_inf", False))

    def run(self, rates: np.ndarray, batches: Iterator[Any], clock: Clock) -> list[float]:
        """Return the loss before each update, at the rates in turn, and one more."""
        losses: list[float] = []
        for k in range(len(rates) + 1):
            loss = self._update(batches, float(rates[min(k, len(rates) - 1)]))
            if loss is None:  # an iterator has ended
                break
            losses.append(loss)
            if k == 0 and not math.isfinite(loss):
                raise ArgumentError(
                    f"lr_range: the loss must be finite before the first update, got {loss}; look at that batch and at "
                    "the initial weights"
                )
            clock.tell(k, k)
            if k == 0:  # the first update takes longer: kernels are loaded, state is made
                clock.start()
            bound = losses[0] + CEILING * max(abs(losses[0]), losses[0] - min(losses))
            if not math.isfinite(loss) or sorted(losses[-3:])[len(losses[-3:]) // 2] > bound:
                self.diverged = True
                break
        if len(losses) < 2:
            raise ArgumentError(
                f"lr_range: data must last for two updates, got an end after {self.batches} batches; pass a loader"
            )
        return losses

    def _set(self, rate: float) -> None:
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            for key in ("lr", *(key for key in _BASES if key in group)):
                if isinstance(group[key], torch.Tensor):
                    group[key].fill_(rate * ratio)
                else:
                    group[key] = rate * ratio

    def _update(self, batches: Iterator[Any], rate: float) -> float | None:
        """Go through batches until the optimizer has made an update; return the mean loss before it."""
        before = self.updates
        parts: list[tuple[float, float]] = []
        while self.updates == before:
            self._set(rate)  # again after a step that was skipped: the user's schedule may have moved it
            if len(parts) >= PATIENCE:
                if self.scaler is not None and self.step is None:
                    return math.nan  # every step is skipped: not a gradient is finite any more
                raise ArgumentError(
                    f"lr_range: step must call optimizer.step() in the end, got {PATIENCE} batches without an update; "
                    "call it on the optimizer that was passed"
                )
            group = [batch for _, batch in zip(range(1 if self.step else self.accumulate), batches, strict=False)]
            if not group:
                return None
            self.latest += enumerate(group, self.batches + 1)
            self.batches += len(group)
            weights = [weight_of("lr_range", batch, self.weight) for batch in group]
            loss = _number(self.step(group[0])) if self.step else self._own_step(group, weights)
            parts.append((math.fsum(weights), loss))
            if not math.isfinite(loss):
                return loss
        return math.fsum(w * loss for w, loss in parts) / math.fsum(w for w, _ in parts)

    def _own_step(self, group: list[Any], weights: list[float]) -> float:
        """Make a step on these batches together; return the loss before it."""
        found: list[float] = []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            total = torch.zeros(())
            for batch, weight in zip(group, weights, strict=True):
                assert self.loss_fn is not None
                loss = check_loss("lr_range", self.loss_fn(self.model, batch)) * (weight / math.fsum(weights))
                check_graph("lr_range", loss, self.batches - len(group))
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


def _endless(data: Any) -> Iterator[Any]:
    once = isinstance(data, Iterator)
    while True:
        yield from batches_of("lr_range", data)
        if once:
            return


def _number(loss: Any) -> float:
    if isinstance(loss, torch.Tensor):
        return float(check_loss("lr_range", loss).detach())
    if not isinstance(loss, int | float):
        raise ArgumentTypeError(f"lr_range: step must return the loss of its batch, got {loss!r}; add return loss")
    return float(loss)


def _check(
    model: Any, optimizer: Any, loss_fn: Any, low: Any, high: Any, steps: Any, accumulate: Any, step: Any
) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"lr_range: model must be a torch.nn.Module, got {model=!r}; pass the model itself")
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(f"lr_range: optimizer must be a torch.optim.Optimizer, got {optimizer=!r}; pass one")
    if (loss_fn is None) == (step is None):
        raise ArgumentTypeError("lr_range: one of loss_fn and step must be given, got both or none; pass loss_fn")
    for name, value in (("low", low), ("high", high)):
        if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise ArgumentError(f"lr_range: {name} must be a finite number > 0, got {name}={value!r}; leave it out")
    if low >= high:
        raise ArgumentError(f"lr_range: low must be < high, got {low=}, {high=}; 1e-7 and 10 are usual")
    for name, value, least in (("steps", steps, 10), ("accumulate", accumulate, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ArgumentError(f"lr_range: {name} must be an int >= {least}, got {name}={value!r}; leave it out")

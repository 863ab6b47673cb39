"""The learning rate range test: a short training at an increasing rate, after which all state is restored."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from fallline.arguments import check_integer, check_number
from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.landscape.loss.averaging import LossFn, Weight, check_functions
from fallline.landscape.loss.nonfinite import check_batches
from fallline.landscape.loss.preserve import memory_of, restoring, trained
from fallline.landscape.lr_range.slope import read
from fallline.landscape.lr_range.training import RisingRate, endless
from fallline.landscape.progress import Clock, Progress


@dataclass(frozen=True, eq=False)
class LRRange:
    """The curve of a range test, and the suggested learning rate.

    Attributes:
        lrs: learning rate of each update, (n,), in the group with the highest rate.
        losses: loss after each update, on the batches of the next one, (n,).
        smooth: the losses smoothed by local linear regression.
        slope: change of the smoothed loss per decade of the learning rate.
        noise: standard deviation of the losses about the smoothed loss.
        start: the loss before the first update.
        suggestion: the rate at which the loss falls most steeply against log lr.
        low, high: the rates at which the loss begins to fall and stops falling.
        ratios: ratios of the rates of the groups to the highest one, which are constant during the test.
        diverged: whether the loss diverged, so that higher rates were not tried.
        batches: number of batches drawn.
        verdict: the result and its certainty, in a sentence.
    """

    lrs: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    smooth: np.ndarray = field(repr=False)
    slope: np.ndarray = field(repr=False)
    noise: float
    start: float
    suggestion: float
    low: float
    high: float
    ratios: tuple[float, ...]
    diverged: bool
    batches: int
    verdict: str

    def __str__(self) -> str:
        return self.verdict

    def plot(self) -> Any:
        """Return an Altair chart of the loss over the learning rate, for a notebook. Requires the extra `lab`."""
        from fallline.plotting import plot_range  # imported here because altair is an optional dependency

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
    """Train at a learning rate that increases with every update, record the loss, and restore all state bit-for-bit.

    The rate increases after each update of the optimizer, not with each batch: batches whose gradients are accumulated
    and steps that the scaler skipped do not count. The ratios between the rates of the groups are kept.

    Args:
        model: the model. The test runs it in train mode.
        optimizer: the optimizer, new or in the middle of a training.
        loss_fn: `loss_fn(model, batch)` returns the mean loss of the batch; None with `step`.
        data: a batch (tensor, tuple, dict), a list of batches or a loader, which is read repeatedly if necessary. An
            iterator is advanced as far as necessary.
        low, high: the first and last learning rate, in the group with the highest rate.
        steps: number of updates; the learning rate grows by the same factor in each.
        accumulate: number of batches per update; their gradients are averaged by weight.
        scaler: a `torch.amp.GradScaler`; use autocast inside `loss_fn`.
        step: a custom training step: `step(batch)` runs forward and backward, calls `optimizer.step()` and
            `zero_grad()` when an update is due, and returns the loss. It replaces `loss_fn`, `accumulate` and
            `scaler.step`.
        weight: `weight(batch)` returns the weight of a batch in averages, for example its number of tokens; by default
            its number of rows.
        keep: further objects with a state dict that `step` changes and that must be restored, such as a schedule.
        progress: callback that receives a `Step` before the first update, with the number of updates, and after every
            update. The remaining time is estimated from the second `Step` on.

    Raises:
        LossError: the loss is not a single number or has no graph; the loss or its gradient is not finite for a batch
            before any update; or there is no batch.
        ArgumentError, ArgumentTypeError: an argument is invalid, the data end too early, or `step` makes no update.

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
    keep = list(keep) if isinstance(keep, Iterable) else [keep]
    _check(model, optimizer, loss_fn, low, high, steps, accumulate, step, keep)
    check_functions("lr_range", loss_fn or step, weight)
    test = RisingRate(model, optimizer, loss_fn, accumulate, scaler, step, weight)
    rates = np.geomspace(low, high, steps)
    clock = Clock(steps, memory_of(model, optimizer), "updates", progress)
    with restoring(model, optimizer, scaler, data, keep):
        model.train()
        if callable(switch := getattr(test.updater, "train", None)):  # a schedule-free optimizer
            switch()
        optimizer.zero_grad()
        handle = test.updater.register_step_post_hook(test.count)
        try:
            losses = test.run(rates, endless(data), clock)
        finally:
            handle.remove()
    if not math.isfinite(losses[-1]):
        with restoring(model, optimizer, scaler, data, keep):
            model.train()
            check_batches(test.latest, model, loss_fn, step, trained(model, optimizer))
    start, after = losses[0], np.asarray(losses[1:])
    used = rates[: len(after)]
    found = read(used, after, test.level, test.diverged)
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


def _check(
    model: Any, optimizer: Any, loss_fn: Any, low: Any, high: Any, steps: Any, accumulate: Any, step: Any, keep: Any
) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"lr_range: model must be a torch.nn.Module, got {model=!r}; pass the model itself")
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(f"lr_range: optimizer must be a torch.optim.Optimizer, got {optimizer=!r}; pass one")
    mine = {id(p) for p in model.parameters()}
    if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
        raise ArgumentError(
            "lr_range: optimizer must train the model, got one without any of its parameters; create it with "
            "model.parameters()"
        )
    if not all("lr" in group for group in optimizer.param_groups):
        raise ArgumentError(
            f"lr_range: optimizer must have a learning rate lr in every group, got {type(optimizer).__name__} without "
            "one; its step length cannot be varied in this way"
        )
    for thing in keep:
        if not callable(getattr(thing, "load_state_dict", None)):
            raise ArgumentTypeError(
                f"lr_range: keep must be a list of objects with a state dict, got a {type(thing).__name__} in it; "
                "pass the schedule"
            )
    if (loss_fn is None) == (step is None):
        raise ArgumentTypeError("lr_range: one of loss_fn and step must be given, got both or none; pass loss_fn")
    for name, value in (("low", low), ("high", high)):
        check_number("lr_range", name, value, above_zero=True, remedy="leave it out")
    if low >= high:
        raise ArgumentError(f"lr_range: low must be < high, got {low=}, {high=}; typical values are 1e-7 and 10")
    for name, value, least in (("steps", steps, 10), ("accumulate", accumulate, 1)):
        check_integer("lr_range", name, value, least, "leave it out")

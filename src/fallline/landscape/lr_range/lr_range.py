"""The learning rate range test: one short training at a rising rate, after which all is as before."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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

    def __str__(self) -> str:
        return self.verdict

    def plot(self) -> Any:
        """Return an altair chart of the loss over the learning rate; a notebook shows it. Needs the extra `lab`."""
        from fallline.plotting import plot_range  # altair is no dependency of training

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
        LossError: the loss is not one number or has no graph; it, or its gradient, is not finite for a batch before any
            update; or there is no batch.
        ArgumentError, ArgumentTypeError: an argument cannot be used, or the data end or the user's step makes no
            update.

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
            "lr_range: optimizer must train the model, got one without any of its parameters; make it of "
            "model.parameters()"
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
        raise ArgumentError(f"lr_range: low must be < high, got {low=}, {high=}; 1e-7 and 10 are usual")
    for name, value, least in (("steps", steps, 10), ("accumulate", accumulate, 1)):
        check_integer("lr_range", name, value, least, "leave it out")

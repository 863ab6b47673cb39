"""Checks of the schedule, run ahead over the training."""

import math
from itertools import pairwise

from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from fallline.linting.finding import Found, check
from fallline.linting.setup import Group, Setup, is_cyclic, length, looked_at
from fallline.schedules import Scheduler


@check("error", "torch's CosineAnnealingLR is periodic: it rises again after T_max", "Warm restarts by hand.")
def rises_again(setup: Setup) -> Found:
    """Find a learning rate that has decayed and rises again."""
    if not setup.curve or is_cyclic(setup.scheduler):
        return
    top = lowest = 0.0
    for k, lr in zip(setup.steps, setup.curve, strict=True):
        if lr >= top:
            top = lowest = lr
        lowest = min(lowest, lr)
        if lowest < 0.5 * top and lr > lowest + 0.05 * top:
            yield (
                f"the learning rate falls to {lowest:.2g} and rises again (to {lr:.2g} at call {k} of {setup.calls})",
                f"use fl.Cosine(optimizer, total_steps={setup.calls}), which stays at its end, and give it the length "
                "of the run",
            )
            return


@check("error", "the schedule simulated over total_steps", "Training is meant to be cut short, or to go on.")
def wrong_length(setup: Setup) -> Found:
    """Find a schedule that ends long before the training does, or long after it."""
    if setup.scheduler is None or setup.calls is None or not isinstance(setup.scheduler, LRScheduler):
        return
    done = max(setup.scheduler.last_epoch, 0)
    end = length(setup.scheduler)
    if end is None:
        end = _seen_end(setup, done)
    all_calls = setup.calls + done if setup.lrs and done else setup.calls
    if end is None or abs(end - all_calls) <= max(0.02 * all_calls, 2):
        return
    if setup.per_epoch and setup.steps_per_epoch and abs(end - (setup.total_steps or 0)) <= max(0.02 * end, 2):
        yield (
            f"the scheduler is called once an epoch, {all_calls} times, but its length of {end} counts steps: the "
            "learning rate hardly decays",
            f"call scheduler.step() after each optimizer.step(), or give it a length of {all_calls}",
        )
        return
    told = _after(setup, end - done) if end < all_calls else "the learning rate never reaches its end"
    yield (
        f"the schedule takes {end} {setup.unit}, the training {all_calls}: {told}",
        f"give the schedule a length of {all_calls} {setup.unit}",
    )


def _after(setup: Setup, end: int) -> str:
    """Return what a schedule does when it is called more than `end` times from now on."""
    last = f"for the last {(setup.calls or 0) - end} {setup.unit}"
    if isinstance(setup.scheduler, OneCycleLR):
        return f"{last} scheduler.step() raises an error"
    curve = setup.curve or []
    after = [lr for k, lr in zip(setup.steps, curve, strict=False) if k >= end]
    if not after:
        return f"{last} it has nothing to say"
    if max(after) > after[0] + 1e-3 * max(curve):
        return f"{last} the learning rate rises again (from {after[0]:.2g} to {max(after):.2g})"
    return f"{last} the learning rate stays at {after[0]:.2g}"


def _seen_end(setup: Setup, done: int) -> int | None:
    """Return when a schedule that does not tell its length reaches 0 for good; looked for over twice the training."""
    steps = looked_at(2 * (setup.calls or 0))
    curve = [max(row) for row in setup.ahead(steps) or []]
    if not curve or curve[-1] != 0 or max(curve) == 0:
        return None
    return done + max(k for k, lr in zip(steps, curve, strict=True) if lr > 0) + 1


@check("warning", "a step at lr 0 computes a gradient for nothing", "Statistics are to be gathered at first.")
def first_step_at_zero(setup: Setup) -> Found:
    """Find a first step whose learning rate is 0."""
    if setup.curve and len(setup.curve) > 1 and setup.curve[0] == 0 and max(setup.curve) > 0:
        steps = next(k for k, lr in zip(setup.steps, setup.curve, strict=True) if lr > 0)
        lost = (setup.steps_per_epoch or 1) * steps if setup.per_epoch else steps
        yield (
            f"the learning rate of the first {'step' if lost == 1 else f'{lost} steps'} is 0, which moves nothing",
            "use fl.WarmupCosine or fl.Linear, whose first step is base_lr/warmup_steps",
        )


@check(
    "error", "PyTorch 1.1 and later: optimizer.step() comes before scheduler.step()", "The scheduler was moved by hand."
)
def stepped_before_optimizer(setup: Setup) -> Found:
    """Find a scheduler that was stepped though the optimizer never was."""
    scheduler, optimizer = setup.scheduler, setup.optimizer
    if not isinstance(scheduler, LRScheduler) or any(optimizer.state.values()):
        return
    if isinstance(scheduler, Scheduler):
        early = scheduler._ignored > 0 and scheduler._ignored == scheduler._calls
    else:
        early = scheduler.last_epoch > 0 and not getattr(optimizer, "_opt_called", False)
    if early:
        yield (
            "scheduler.step() was called before the first optimizer.step(): the first learning rate was skipped",
            "call optimizer.step(), then scheduler.step()",
        )


@check("error", "group learning rates are ratios to keep", "All groups are meant to get the same from now on.")
def ratios_overwritten(setup: Setup) -> Found:
    """Find groups that were given different learning rates and now have the same."""
    groups = setup.groups
    given = [_given(group) for group in groups]
    if len(groups) < 2 or any(map(math.isnan, given)) or not setup.lrs or setup.scheduler is None:
        return
    peaks = [max(column) for column in zip(*setup.lrs, strict=True)]
    for (a, b), (x, y) in zip(pairwise(given), pairwise(peaks), strict=True):
        if abs(a - b) > 1e-6 * max(a, b) and abs(x - y) <= 1e-6 * max(x, y):
            yield (
                f"the groups were given learning rates in the ratio {a:g} : {b:g}, and the schedule gives both {x:g}",
                "use a schedule that scales each group's base (fl.OneCycle without max_lr), or one value a group",
            )
            return


def _given(group: Group) -> float:
    """Return the learning rate, or its factor, that a group was built with; NaN if it does not say."""
    return float(next((group[key] for key in ("lr_scale", "base_lr") if key in group), math.nan))

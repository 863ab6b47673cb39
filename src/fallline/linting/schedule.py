"""Checks of the schedule, simulated over the whole training."""

import math
from itertools import pairwise

from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from fallline.linting.finding import Found, check
from fallline.linting.setup import Group, Setup, is_cyclic, length, sample_calls
from fallline.schedules import Scheduler
from fallline.wrappers import single_schedulers, wrapped_optimizers


@check("error", "torch's CosineAnnealingLR is periodic: it rises again after T_max", "Warm restarts are intended.")
def rises_again(setup: Setup) -> Found:
    """Find a learning rate that decays and rises again."""
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
                f"use fl.Cosine(optimizer, total_steps={setup.calls}), which has the length of the run and stays at "
                "its final value",
            )
            return


@check("error", "the schedule simulated over total_steps", "Training is to be stopped early, or continued later.")
def wrong_length(setup: Setup) -> Found:
    """Find a schedule that ends long before or long after the training."""
    if setup.scheduler is None or setup.calls is None or not isinstance(setup.scheduler, LRScheduler):
        return
    end, all_calls = length(setup.scheduler), setup.calls
    if end is None:
        end = _simulated_end(setup)
    if end is None or abs(end - all_calls) <= max(0.02 * all_calls, 2):
        return
    if setup.per_epoch and setup.steps_per_epoch and abs(end - (setup.total_steps or 0)) <= max(0.02 * end, 2):
        yield (
            f"the scheduler is called once per epoch, {all_calls} times, but its length of {end} counts steps: the "
            "learning rate hardly decays",
            f"call scheduler.step() after each optimizer.step(), or set its length to {all_calls}",
        )
        return
    consequence = _after(setup, end) if end < all_calls else "the learning rate never reaches its final value"
    yield (
        f"the schedule takes {end} {setup.unit}, and the training {all_calls}: {consequence}",
        f"set the length of the schedule to {all_calls} {setup.unit}",
    )


def _after(setup: Setup, end: int) -> str:
    """Return a description of the schedule after `end` calls."""
    last = f"for the last {(setup.calls or 0) - end} {setup.unit}"
    if isinstance(setup.scheduler, OneCycleLR):
        return f"{last} scheduler.step() raises an error"
    curve = setup.curve or []
    after = [lr for k, lr in zip(setup.steps, curve, strict=False) if k >= end]
    if not after:
        return f"{last} it defines no learning rate"
    if max(after) > after[0] + 1e-3 * max(curve):
        return f"{last} the learning rate rises again (from {after[0]:.2g} to {max(after):.2g})"
    return f"{last} the learning rate stays at {after[0]:.2g}"


def _simulated_end(setup: Setup) -> int | None:
    """Return the call at which a schedule without a known length reaches 0 for good, within twice the training."""
    steps, rows = setup.rates(sample_calls(2 * (setup.calls or 0)))
    curve = [max(row) for row in rows or []]
    if not curve or curve[-1] != 0 or max(curve) == 0:
        return None
    return max(k for k, lr in zip(steps, curve, strict=True) if lr > 0) + 1


@check(
    "warning", "a step at lr 0 computes a gradient without using it", "The first step is to collect statistics only."
)
def first_step_at_zero(setup: Setup) -> Found:
    """Find a first step whose learning rate is 0."""
    if setup.curve and len(setup.curve) > 1 and setup.steps[0] == setup.curve[0] == 0 and max(setup.curve) > 0:
        steps = next(k for k, lr in zip(setup.steps, setup.curve, strict=True) if lr > 0)
        lost = (setup.steps_per_epoch or 1) * steps if setup.per_epoch else steps
        yield (
            f"the learning rate of the first {'step' if lost == 1 else f'{lost} steps'} is 0, which changes no weights",
            "use fl.WarmupCosine or fl.Linear, whose first step is base_lr/warmup_steps",
        )


@check(
    "error",
    "PyTorch 1.1 and later: optimizer.step() comes before scheduler.step()",
    "The scheduler was advanced on purpose.",
)
def stepped_before_optimizer(setup: Setup) -> Found:
    """Find a scheduler that was stepped before the first step of the optimizer."""
    states = setup.updater.state.values()  # of some optimizers, not all of them are dicts
    if not isinstance(setup.scheduler, LRScheduler) or any(not isinstance(state, dict) or state for state in states):
        return
    ours = [one for one in single_schedulers(setup.scheduler) if isinstance(one, Scheduler)]
    if ours:
        stepped = any(one._record.stepped for one in ours)
    else:  # more than one call without a step is a scheduler that was loaded
        stepped = setup.done > 1 or any(
            getattr(one, "_opt_called", False) for one in wrapped_optimizers(setup.optimizer)
        )
    if setup.done > 0 and not stepped:
        yield (
            "scheduler.step() was called before the first optimizer.step(): the first learning rate was skipped",
            "call optimizer.step(), then scheduler.step()",
        )


@check(
    "error",
    "schedules should keep the ratios of the learning rates of groups",
    "All groups are to have the same learning rate from now on.",
)
def ratios_overwritten(setup: Setup) -> Found:
    """Find groups that were created with different learning rates and get the same one from the schedule."""
    groups = setup.groups
    given = [_given(group) for group in groups]
    if len(groups) < 2 or any(map(math.isnan, given)) or not setup.lrs or setup.scheduler is None:
        return
    peaks = [max(column) for column in zip(*setup.lrs, strict=True)]
    for (a, b), (x, y) in zip(pairwise(given), pairwise(peaks), strict=True):
        if abs(a - b) > 1e-6 * max(a, b) and abs(x - y) <= 1e-6 * max(x, y):
            yield (
                f"the groups were created with learning rates in the ratio {a:g} : {b:g}, but the schedule sets "
                f"both to {x:g}",
                "use a schedule that scales the base learning rate of each group (fl.OneCycle without max_lr), or pass "
                "one value per group",
            )
            return


@check(
    "warning",
    "Defazio et al. 2024, arXiv:2405.15682: the average of the iterates takes the place of the decay",
    "The decay is part of an experiment.",
)
def schedule_free_with_decay(setup: Setup) -> Found:
    """Find a schedule-free optimizer whose learning rate decays."""
    if setup.scheduler is None or not setup.curve or not any("weight_lr_power" in group for group in setup.groups):
        return
    top, last = max(setup.curve), setup.curve[-1]
    if last < 0.5 * top:
        yield (
            f"{setup.kind} evaluates an average of its iterates instead of decaying the learning rate, but the "
            f"schedule lowers it from {top:.2g} to {last:.2g}: late steps are short, yet count fully in the average",
            "leave the schedule out and set warmup_steps of the optimizer",
        )


@check(
    "warning",
    "README of prodigyopt 1.1.2: keep lr=1, tune d_coef, and use cosine annealing without restarts",
    "The rate is lowered on purpose, against instability.",
)
def prodigy_learning_rate(setup: Setup) -> Found:
    """Find Prodigy, which multiplies lr by its own estimate, with another lr than 1 or a schedule that restarts."""
    groups = [group for group in setup.groups if {"d_coef", "d0", "d"} <= group.keys()]
    rates = [float(group["initial_lr"] if "initial_lr" in group else group["lr"]) for group in groups]
    if groups and any(rate not in (0.0, 1.0) for rate in rates):
        yield (
            f"Prodigy estimates the learning rate and multiplies it by lr={max(rates):g}: the estimate makes up for it "
            "as long as it grows, and the steps after that are short or long for good",
            "pass lr=1, and tune d_coef if at all",
        )
    top = lowest = 0.0
    for lr in setup.curve if groups and setup.curve else []:
        if lowest < 0.5 * top and lr > 0.9 * top:
            yield (
                f"the schedule restarts: lr falls to {lowest:.2g} and rises to {lr:.2g} again, but Prodigy's estimate "
                "also grew with the low rates and never falls",
                "use one decay over the whole run, such as fl.Cosine",
            )
            return
        if lr >= top:
            top = lowest = lr
        lowest = min(lowest, lr)


def _given(group: Group) -> float:
    """Return the learning rate, or its factor, with which a group was created; NaN if it is not known."""
    return float(next((group[key] for key in ("lr_scale", "base_lr") if key in group), math.nan))

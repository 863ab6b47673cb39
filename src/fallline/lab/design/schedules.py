"""The schedules that the lab compares, with the same length and warm-up, and their end at the last step."""

import math
from collections.abc import Callable
from typing import Any, SupportsFloat

from fallline.errors import ArgumentError, FalllineError, find_name, suggest
from fallline.lab.user_code.import_path import describe, is_path, load_object
from fallline.schedules import inverse_sqrt, linear, step_decay, warmup_cosine, warmup_stable_decay

# Fractions of the steps of a run.
WARMUP = 0.05
DROPS = (0.3, 0.6, 0.9)  # where `step` multiplies the learning rate by 0.1
STABLE = 0.2  # length of the decay at the end of `wsd`

Shape = Callable[[int], float]

# Functions of (steps, ramp), by name; each returns the factor as a function of the step. The warm-up has `ramp` steps.
_SHAPES: dict[str, Callable[[int, int], Shape]] = {
    "constant": lambda steps, ramp: lambda k: 1.0,
    "step": lambda steps, ramp: step_decay(milestones=[round(steps * part) for part in DROPS], gamma=0.1),
    "cosine": lambda steps, ramp: warmup_cosine(ramp, steps),
    "linear": lambda steps, ramp: linear(steps, warmup_steps=ramp),
    "wsd": lambda steps, ramp: warmup_stable_decay(ramp, steps - ramp - round(STABLE * steps), round(STABLE * steps)),
    "inverse_sqrt": lambda steps, ramp: inverse_sqrt(max(ramp, 1)),
}
_WARM = ("constant", "step")  # shapes without a warm-up, which is added to them
SCHEDULES = tuple(_SHAPES)


def find_schedule(schedule: str) -> str:
    """Return the name of a schedule as in SCHEDULES, regardless of case, or the location of the user's function.

    Raises:
        ArgumentError: it is neither.

    Example:
        >>> find_schedule("Cosine")
        'cosine'
    """
    found = schedule if is_path(schedule) else find_name(schedule, SCHEDULES)
    if found is None:
        raise ArgumentError(
            f"schedules: must be one of {', '.join(SCHEDULES)} or FILE.py:FUNCTION, got {schedule!r}; "
            + (
                f"name the function in it, as in {schedule}:mine"
                if schedule.endswith(".py")
                else suggest(schedule, SCHEDULES, "cosine is the default")
            )
        )
    if is_path(schedule):
        load_object("schedules", schedule)
    return found


def warmup_steps(steps: int, warmup: float) -> int:
    """Return the number of warm-up steps in a run of `steps` steps."""
    return round(steps * warmup)


def learning_rates(schedule: str, steps: int, warmup: float = WARMUP) -> list[float]:
    """Return the learning rate factor of each of `steps` steps.

    Args:
        schedule: "constant", "step" (×0.1 at 30, 60 and 90 % of the steps), "cosine" and "linear" (to 0 at the last
            step), "wsd" (constant, then linear to 0 over the last fifth), "inverse_sqrt"; or FILE.py:FUNCTION, where
            FUNCTION(steps, warmup_steps) returns a schedule: the factor as a function of the step.
        steps: length of the run, including the warm-up.
        warmup: fraction of the steps in which the rate rises linearly, the same for every schedule.

    Raises:
        ArgumentError: the schedule does not exist, is longer than the run, or returns an invalid factor.

    Example:
        >>> [round(f, 2) for f in learning_rates("cosine", 10, warmup=0.3)]
        [0.33, 0.67, 1.0, 0.95, 0.81, 0.61, 0.39, 0.19, 0.05, 0.0]
    """
    schedule = find_schedule(schedule)
    ramp = warmup_steps(steps, warmup)
    try:
        length, factors = _factors(schedule, steps, ramp)
    except FalllineError:
        raise
    except Exception as error:  # raised by the user's schedule
        raise ArgumentError(
            f"schedules: {schedule} must take (steps, warmup_steps) and return a function of the step, got "
            f"{describe(error)}; try lambda k: 1 - k / steps"
        ) from error
    if length is not None and length > steps:
        raise ArgumentError(
            f"schedules: {schedule} must end within the run, got {length} steps in a run of {steps}; use the argument "
            f"steps as its length, otherwise it would be ranked before its end"
        )
    if not all(math.isfinite(factor) and factor >= 0 for factor in factors):
        k = next(k for k, factor in enumerate(factors) if not (math.isfinite(factor) and factor >= 0))
        raise ArgumentError(f"schedules: {schedule} must return finite factors >= 0, got {factors[k]} at step {k}")
    return factors


def _factors(schedule: str, steps: int, ramp: int) -> tuple[int | None, list[float]]:
    """Return the length of a schedule, or None if it has no attribute `length`, and its factors in this run."""
    make = load_object("schedules", schedule) if is_path(schedule) else _SHAPES[schedule]
    shape = make(steps, ramp)
    rise = [(k + 1) / ramp if schedule in _WARM and k + 1 < ramp else 1.0 for k in range(steps)]
    factors: list[Any] = [shape(k) for k in range(steps)]
    for k, factor in enumerate(factors):
        if not isinstance(factor, SupportsFloat):
            raise ArgumentError(
                f"schedules: {schedule} must return numbers, got {factor!r} at step {k}; return 1 - k / steps"
            )
    return getattr(shape, "length", None), [up * float(factor) for up, factor in zip(rise, factors, strict=True)]

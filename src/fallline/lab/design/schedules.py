"""The schedules that the lab compares: the same length, the same warm-up, the end reached at the last step."""

import math
from collections.abc import Callable

from fallline.errors import ArgumentError, FalllineError, suggest
from fallline.lab.user_code.import_path import describe, is_path, load_object
from fallline.schedules import inverse_sqrt, linear, step_decay, warmup_cosine, warmup_stable_decay

WARMUP = 0.05  # of the steps
DROPS = (0.3, 0.6, 0.9)  # of the steps: where `step` multiplies by 0.1
STABLE = 0.2  # of the steps: the length of the decay at the end of `wsd`

Shape = Callable[[int], float]

# By name: the factor at step k of `steps`, of which the first `ramp` warm up.
_SHAPES: dict[str, Callable[[int, int], Shape]] = {
    "constant": lambda steps, ramp: lambda k: 1.0,
    "step": lambda steps, ramp: step_decay(milestones=[round(steps * part) for part in DROPS], gamma=0.1),
    "cosine": lambda steps, ramp: warmup_cosine(ramp, steps),
    "linear": lambda steps, ramp: linear(steps, warmup_steps=ramp),
    "wsd": lambda steps, ramp: warmup_stable_decay(ramp, steps - ramp - round(STABLE * steps), round(STABLE * steps)),
    "inverse_sqrt": lambda steps, ramp: inverse_sqrt(max(ramp, 1)),
}
_WARM = ("constant", "step")  # the shapes that do not warm up by themselves
SCHEDULES = tuple(_SHAPES)


def check_schedule(schedule: str) -> None:
    """Check that a study can name a schedule so: one of SCHEDULES, or where the user's own is, which must be there.

    Raises:
        ArgumentError: it cannot.
    """
    if schedule not in SCHEDULES and not is_path(schedule):
        raise ArgumentError(
            f"schedules: must be among {', '.join(SCHEDULES)} or FILE.py:FUNCTION, got {schedule!r}; "
            + suggest(schedule, SCHEDULES, "cosine is the usual one")
        )
    if is_path(schedule):
        load_object("schedules", schedule)


def warmup_steps(steps: int, warmup: float) -> int:
    """Return in how many of `steps` steps the learning rate rises."""
    return round(steps * warmup)


def learning_rates(schedule: str, steps: int, warmup: float = WARMUP) -> list[float]:
    """Return the factor on the learning rate of each of `steps` steps.

    Args:
        schedule: "constant", "step" (×0.1 at 30, 60 and 90 % of the steps), "cosine" and "linear" (to 0 at the last
            step), "wsd" (constant, then linear to 0 over the last fifth), "inverse_sqrt"; or FILE.py:FUNCTION, where
            FUNCTION(steps, warmup_steps) returns a schedule: the factor as a function of the step.
        steps: length of the run, warm-up included.
        warmup: part of the steps in which the rate rises linearly, the same for every schedule.

    Raises:
        ArgumentError: there is none of that name, it is longer than the run, or it gives no usable number.

    Example:
        >>> [round(f, 2) for f in learning_rates("cosine", 10, warmup=0.3)]
        [0.33, 0.67, 1.0, 0.95, 0.81, 0.61, 0.39, 0.19, 0.05, 0.0]
    """
    check_schedule(schedule)
    ramp = warmup_steps(steps, warmup)
    try:
        length, factors = _factors(schedule, steps, ramp)
    except FalllineError:
        raise
    except Exception as error:  # from the user's own
        raise ArgumentError(
            f"schedules: {schedule} must take (steps, warmup_steps) and return a function of the step, got "
            f"{describe(error)}; for example lambda k: 1 - k / steps"
        ) from error
    if length is not None and length > steps:
        raise ArgumentError(
            f"schedules: {schedule} must end within the run, got {length} steps in a run of {steps}; it would be cut "
            f"short, and its ranking would be one in mid-schedule"
        )
    if not all(math.isfinite(factor) and factor >= 0 for factor in factors):
        k = next(k for k, factor in enumerate(factors) if not (math.isfinite(factor) and factor >= 0))
        raise ArgumentError(f"schedules: {schedule} must give finite factors >= 0, got {factors[k]} at step {k}")
    return factors


def _factors(schedule: str, steps: int, ramp: int) -> tuple[int | None, list[float]]:
    """Return how long the schedule is, if it says so, and its factors in this run."""
    make = load_object("schedules", schedule) if is_path(schedule) else _SHAPES[schedule]
    shape = make(steps, ramp)
    rise = [(k + 1) / ramp if schedule in _WARM and k + 1 < ramp else 1.0 for k in range(steps)]
    return getattr(shape, "length", None), [up * float(shape(k)) for k, up in enumerate(rise)]

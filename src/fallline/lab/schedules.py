"""The schedules that the lab compares: the same length, the same warm-up, the end reached at the last step."""

from collections.abc import Callable

from fallline.errors import ArgumentError
from fallline.schedules import step_decay, warmup_cosine

SCHEDULES = ("constant", "step", "cosine")
WARMUP = 0.05  # of the steps


def learning_rates(schedule: str, steps: int, warmup: float = WARMUP) -> list[float]:
    """Return the factor on the learning rate of each of `steps` steps.

    Args:
        schedule: "constant", "step" (×0.1 at 30, 60 and 90 % of the steps) or "cosine" (to 0 at the last step).
        steps: length of the run, warm-up included.
        warmup: part of the steps in which the rate rises linearly, the same for every schedule.

    Example:
        >>> [round(f, 2) for f in learning_rates("cosine", 10, warmup=0.3)]
        [0.33, 0.67, 1.0, 0.95, 0.81, 0.61, 0.39, 0.19, 0.05, 0.0]
    """
    ramp = round(steps * warmup)
    shape: dict[str, Callable[[int], float]] = {
        "constant": lambda k: 1.0,
        "step": step_decay(milestones=[round(steps * part) for part in (0.3, 0.6, 0.9)], gamma=0.1),
        "cosine": warmup_cosine(ramp, steps),
    }
    if schedule not in shape:
        raise ArgumentError(f"schedules: must be among {', '.join(shape)}, got {schedule!r}; cosine is the usual one")
    rise = [(k + 1) / ramp if k + 1 < ramp else 1.0 for k in range(steps)]
    values = [float(shape[schedule](k)) for k in range(steps)]
    return values if schedule == "cosine" else [up * value for up, value in zip(rise, values, strict=True)]

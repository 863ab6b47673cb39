"""When a training loss has spiked."""

import math
from collections.abc import Sequence
from statistics import median

WINDOW, LEAST = 50, 10  # losses before that one is compared with; how many at least
_MADS, _PART = 8.0, 0.2  # median absolute deviations, and part of the median, that it must be above


def is_spike(loss: float, before: Sequence[float]) -> bool:
    """Return whether a loss is not finite, or far above the median of the last WINDOW of those before.

    Example:
        >>> is_spike(9.0, [2.0] * 20), is_spike(2.1, [2.0] * 20), is_spike(9.0, [2.0] * 5)
        (True, False, False)
    """
    if not math.isfinite(loss):
        return True
    recent = [x for x in before[-WINDOW:] if math.isfinite(x)]
    if len(recent) < LEAST:
        return False
    middle = median(recent)
    spread = median(abs(x - middle) for x in recent)
    return loss > middle + max(_MADS * spread, _PART * abs(middle))

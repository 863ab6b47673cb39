"""Finds the spikes of a training loss; what a spike is stands here alone."""

import math
from collections.abc import Sequence

import numpy as np

WINDOW = 50  # losses before that one is compared with
LEAST = 10  # of them, where there are no more: the first hundred steps are where most spikes are
DEVIATIONS = 6.0  # robust standard deviations over their median
SHARE = 0.1  # of the loss at the start: what is smaller is the noise of a loss near 0
APART = 10  # steps; nearer ones are one spike


def is_spike(loss: float, before: Sequence[float], start: float) -> bool:
    """Return whether a loss is not finite, or far above those before.

    It is when it exceeds the median of the last WINDOW finite losses (at least LEAST) by DEVIATIONS × 1.4826 × their
    median absolute deviation, and by SHARE of `start`, the median of the first LEAST finite losses of the run.

    Example:
        >>> is_spike(9.0, [2.0] * 20, 2.0), is_spike(2.1, [2.0] * 20, 2.0), is_spike(9.0, [2.0] * 5, 2.0)
        (True, False, False)
    """
    if not math.isfinite(loss):
        return True
    recent = [x for x in before if math.isfinite(x)][-WINDOW:]
    return len(recent) >= LEAST and bool(loss > _limits(np.asarray(recent)[None], start)[0])


def spikes(losses: Sequence[float]) -> list[int]:
    """Return the steps at which `is_spike` holds of the losses of a run.

    Example:
        >>> spikes([2.0] * 20 + [9.0] + [2.0] * 5)
        [20]
    """
    every = np.asarray(losses, dtype=float)
    steps = np.flatnonzero(np.isfinite(every))
    finite = every[steps]
    start = float(np.median(finite[:LEAST])) if len(finite) else 0.0  # a single loss may be anything
    limits = [np.full(min(LEAST, len(finite)), np.inf)]
    limits += [_limits(finite[None, :k], start) for k in range(LEAST, min(WINDOW, len(finite)))]
    if len(finite) > WINDOW:
        limits.append(_limits(np.lib.stride_tricks.sliding_window_view(finite, WINDOW)[:-1], start))
    found = steps[finite > np.concatenate(limits)]
    return sorted([*found.tolist(), *np.flatnonzero(~np.isfinite(every)).tolist()])


def count_spikes(losses: Sequence[float]) -> int:
    """Return how many spikes the losses of a run have; steps less than APART from each other make one.

    Example:
        >>> quiet = [2.0 + 0.01 * (k % 3) for k in range(200)]
        >>> count_spikes(quiet), count_spikes(quiet[:100] + [4.0, 3.5] + quiet[100:])
        (0, 1)
    """
    steps = spikes(losses)
    return int(len(steps) and 1 + np.count_nonzero(np.diff(steps) >= APART))


def _limits(windows: np.ndarray, start: float) -> np.ndarray:
    """Return for every row of losses what the next one must exceed to be a spike."""
    median = np.median(windows, axis=1)
    deviation = 1.4826 * np.median(np.abs(windows - median[:, None]), axis=1)
    return np.asarray(median + np.maximum(DEVIATIONS * deviation, SHARE * abs(start)))

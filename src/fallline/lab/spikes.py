"""Counts the spikes of a training loss."""

from collections.abc import Sequence

import numpy as np

WINDOW = 50  # steps before a step that it is compared with
LEAST = 10  # of them, where there are no more: the first hundred steps are where most spikes are
DEVIATIONS = 6.0  # robust standard deviations over their median
SHARE = 0.1  # of the first loss: what is smaller is the noise of a loss near 0
APART = 10  # steps; nearer ones are one spike


def count_spikes(losses: Sequence[float]) -> int:
    """Return how often a loss jumps above what the steps before it had.

    A step is in a spike when its loss is above the median of the last WINDOW steps (at least LEAST) by DEVIATIONS ×
    1.4826 × their median absolute deviation, and by SHARE of the first loss. Steps less than APART from each other
    make one spike.

    Example:
        >>> quiet = [2.0 + 0.01 * (k % 3) for k in range(200)]
        >>> count_spikes(quiet), count_spikes(quiet[:100] + [4.0, 3.5] + quiet[100:])
        (0, 1)
    """
    array = np.asarray(losses, dtype=float)
    limits = [np.full(min(LEAST, len(array)), np.inf)]
    limits += [_limits(array[None, :k], array[0]) for k in range(LEAST, min(WINDOW, len(array)))]
    if len(array) > WINDOW:
        limits.append(_limits(np.lib.stride_tricks.sliding_window_view(array, WINDOW)[:-1], array[0]))
    steps = np.flatnonzero(array > np.concatenate(limits))
    return int(len(steps) and 1 + np.count_nonzero(np.diff(steps) >= APART))


def _limits(windows: np.ndarray, first: float) -> np.ndarray:
    """Return for every row of losses what the next one must exceed to be a spike."""
    median = np.median(windows, axis=1)
    deviation = 1.4826 * np.median(np.abs(windows - median[:, None]), axis=1)
    return np.asarray(median + np.maximum(DEVIATIONS * deviation, SHARE * first))

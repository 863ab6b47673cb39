"""Events in the noisy loss of a training: spikes, and levels that have risen."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

LEVEL_DEVIATIONS = (
    4.5  # standard errors by which levels must differ; tests/lab/run/test_divergence.py holds its error rates
)
SEPARATED = 3, 10  # earlier and later losses of which all the later being higher is no chance: 1 in 286
_MAD = 1.4826  # times the median absolute deviation of normal values is their standard deviation
_MEDIAN = 1.2533  # standard error of a median of normal values, times that of their mean
WINDOW = 50  # losses before that one is compared with
LEAST_LOSSES = 10  # of them, where there are no more: the first hundred steps are where most spikes are
SPIKE_DEVIATIONS = 6.0  # robust standard deviations over their median
SPIKE_SHARE = 0.1  # of the loss at the start: what is smaller is the noise of a loss near 0
SPIKES_APART = 10  # steps; nearer ones are one spike


def level(losses: Sequence[float]) -> float:
    """Return the median, on which single values have no influence.

    Example:
        >>> level([2.0, 1.0, 1e9])
        2.0
    """
    return statistics.median(losses)


def is_above(
    later: Sequence[float],
    earlier: Sequence[float],
    *,
    ratios: bool,
    deviation: float | None = None,
    least: float = 0.0,
) -> bool:
    """Return whether later losses lie above earlier ones by more than their noise explains.

    Args:
        later, earlier: losses, at least one each.
        ratios: compare logarithms, as for losses above 0, whose noise is proportional to their size.
        deviation: standard deviation of what is compared; by default the larger one of both, estimated robustly.
        least: that it is at least, where there are too few losses to estimate it.

    Example:
        >>> is_above([3.0, 3.1, 2.9, 3.0], [1.0], ratios=True)
        True
        >>> is_above([3.0, 0.2, 30.0, 3.0], [1.0], ratios=True)
        False
    """
    if len(earlier) >= SEPARATED[0] and len(later) >= SEPARATED[1] and min(later) > max(earlier):
        return True  # also where a loss that diverges jumps by orders of magnitude, which would pass for noise
    new, old = (list(map(math.log, losses)) if ratios else losses for losses in (later, earlier))
    if deviation is None:
        deviation = max(spread(new), spread(old))
    noise = max(deviation, least) * _MEDIAN * math.sqrt(1 / len(new) + 1 / len(old))
    limit = LEVEL_DEVIATIONS * (1 + 1 / len(old))  # few losses have longer tails than their median has for many
    return level(new) - level(old) > limit * noise


def spread(values: Sequence[float]) -> float:
    """Return a standard deviation that outliers do not change.

    Example:
        >>> round(spread([1.0, 2.0, 3.0, 4.0, 1e9]), 2)
        1.48
    """
    middle = level(values)
    return _MAD * level([abs(value - middle) for value in values])


def is_spike(loss: float, before: Sequence[float], start: float) -> bool:
    """Return whether a loss is not finite, or far above those before.

    It is when it exceeds the median of the last WINDOW finite losses (at least LEAST_LOSSES) by SPIKE_DEVIATIONS ×
    1.4826 × their median absolute deviation, and by SPIKE_SHARE of `start`, the median of the first LEAST_LOSSES
    finite losses of the run.

    Example:
        >>> is_spike(9.0, [2.0] * 20, 2.0), is_spike(2.1, [2.0] * 20, 2.0), is_spike(9.0, [2.0] * 5, 2.0)
        (True, False, False)
    """
    if not math.isfinite(loss):
        return True
    recent = [x for x in before if math.isfinite(x)][-WINDOW:]
    return len(recent) >= LEAST_LOSSES and bool(loss > _limits(np.asarray(recent)[None], start)[0])


def spikes(losses: Sequence[float]) -> list[int]:
    """Return the steps at which `is_spike` holds of the losses of a run.

    Example:
        >>> spikes([2.0] * 20 + [9.0] + [2.0] * 5)
        [20]
    """
    every = np.asarray(losses, dtype=float)
    steps = np.flatnonzero(np.isfinite(every))
    finite = every[steps]
    start = float(np.median(finite[:LEAST_LOSSES])) if len(finite) else 0.0  # a single loss may be anything
    limits = [np.full(min(LEAST_LOSSES, len(finite)), np.inf)]
    limits += [_limits(finite[None, :k], start) for k in range(LEAST_LOSSES, min(WINDOW, len(finite)))]
    if len(finite) > WINDOW:
        limits.append(_limits(np.lib.stride_tricks.sliding_window_view(finite, WINDOW)[:-1], start))
    found = steps[finite > np.concatenate(limits)]
    return sorted([*found.tolist(), *np.flatnonzero(~np.isfinite(every)).tolist()])


def count_spikes(losses: Sequence[float]) -> int:
    """Return how many spikes the losses of a run have; steps less than SPIKES_APART from each other make one.

    Example:
        >>> quiet = [2.0 + 0.01 * (k % 3) for k in range(200)]
        >>> count_spikes(quiet), count_spikes(quiet[:100] + [4.0, 3.5] + quiet[100:])
        (0, 1)
    """
    steps = spikes(losses)
    return int(len(steps) and 1 + np.count_nonzero(np.diff(steps) >= SPIKES_APART))


def _limits(windows: np.ndarray, start: float) -> np.ndarray:
    """Return for every row of losses what the next one must exceed to be a spike."""
    median = np.median(windows, axis=1)
    deviation = 1.4826 * np.median(np.abs(windows - median[:, None]), axis=1)
    return np.asarray(median + np.maximum(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * abs(start)))

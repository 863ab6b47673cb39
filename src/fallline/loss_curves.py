"""Detect spikes and risen levels in the noisy loss of a training run."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

# Number of standard errors by which two levels must differ; tests/lab/run/test_divergence.py checks the error rates.
LEVEL_DEVIATIONS = 4.5
SEPARATED = 3, 10  # numbers of earlier and later losses; by chance, all the later are higher in 1 case of 286
_MAD = 1.4826  # standard deviation of normal values / their median absolute deviation
_MEDIAN = 1.2533  # standard error of the median of normal values / that of their mean
WINDOW = 50  # number of previous losses that a loss is compared with
LEAST_LOSSES = 10  # minimum number of previous losses; small, because most spikes are in the first hundred steps
SPIKE_DEVIATIONS = 6.0  # threshold above the median, in robust standard deviations
SPIKE_SHARE = 0.1  # threshold as a share of the loss at the start; smaller jumps are the noise of a loss near 0
SPIKES_APART = 10  # steps; closer spikes count as one


def level(losses: Sequence[float]) -> float:
    """Return the median, which single outliers do not influence.

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
    """Return whether later losses are above earlier ones by more than their noise explains.

    Args:
        later, earlier: losses, at least one each.
        ratios: compare logarithms; suitable for losses above 0, whose noise is proportional to their size.
        deviation: standard deviation of the compared values; by default the larger of the two robust estimates.
        least: lower bound of that standard deviation, for cases with too few losses to estimate it.

    Example:
        >>> is_above([3.0, 3.1, 2.9, 3.0], [1.0], ratios=True)
        True
        >>> is_above([3.0, 0.2, 30.0, 3.0], [1.0], ratios=True)
        False
    """
    if len(earlier) >= SEPARATED[0] and len(later) >= SEPARATED[1] and min(later) > max(earlier):
        return True  # also if a diverging loss jumps by orders of magnitude, which would be taken for noise below
    new, old = (list(map(math.log, losses)) if ratios else losses for losses in (later, earlier))
    if deviation is None:
        deviation = max(spread(new), spread(old))
    noise = max(deviation, least) * _MEDIAN * math.sqrt(1 / len(new) + 1 / len(old))
    limit = LEVEL_DEVIATIONS * (1 + 1 / len(old))  # the median of few losses has longer tails than that of many
    return level(new) - level(old) > limit * noise


def spread(values: Sequence[float]) -> float:
    """Return a robust estimate of the standard deviation, which outliers do not influence.

    Example:
        >>> round(spread([1.0, 2.0, 3.0, 4.0, 1e9]), 2)
        1.48
    """
    middle = level(values)
    return _MAD * level([abs(value - middle) for value in values])


def is_spike(loss: float, before: Sequence[float], start: float) -> bool:
    """Return whether a loss is not finite, or far above the previous ones.

    A finite loss is a spike if it exceeds the median of the last WINDOW finite losses (at least LEAST_LOSSES) both by
    SPIKE_DEVIATIONS × 1.4826 × their median absolute deviation and by SPIKE_SHARE of `start`, the median of the first
    LEAST_LOSSES finite losses of the run.

    Example:
        >>> is_spike(9.0, [2.0] * 20, 2.0), is_spike(2.1, [2.0] * 20, 2.0), is_spike(9.0, [2.0] * 5, 2.0)
        (True, False, False)
    """
    if not math.isfinite(loss):
        return True
    recent = [x for x in before if math.isfinite(x)][-WINDOW:]
    return len(recent) >= LEAST_LOSSES and bool(loss > _limits(np.asarray(recent)[None], start)[0])


def spikes(losses: Sequence[float]) -> list[int]:
    """Return the steps of a run whose losses are spikes by `is_spike`.

    Example:
        >>> spikes([2.0] * 20 + [9.0] + [2.0] * 5)
        [20]
    """
    every = np.asarray(losses, dtype=float)
    steps = np.flatnonzero(np.isfinite(every))
    finite = every[steps]
    start = float(np.median(finite[:LEAST_LOSSES])) if len(finite) else 0.0  # a single loss could be an outlier
    limits = [np.full(min(LEAST_LOSSES, len(finite)), np.inf)]
    limits += [_limits(finite[None, :k], start) for k in range(LEAST_LOSSES, min(WINDOW, len(finite)))]
    if len(finite) > WINDOW:
        limits.append(_limits(np.lib.stride_tricks.sliding_window_view(finite, WINDOW)[:-1], start))
    found = steps[finite > np.concatenate(limits)]
    return sorted([*found.tolist(), *np.flatnonzero(~np.isfinite(every)).tolist()])


def count_spikes(losses: Sequence[float]) -> int:
    """Return the number of spikes in the losses of a run; steps less than SPIKES_APART from each other count as one.

    Example:
        >>> quiet = [2.0 + 0.01 * (k % 3) for k in range(200)]
        >>> count_spikes(quiet), count_spikes(quiet[:100] + [4.0, 3.5] + quiet[100:])
        (0, 1)
    """
    steps = spikes(losses)
    return int(len(steps) and 1 + np.count_nonzero(np.diff(steps) >= SPIKES_APART))


def _limits(windows: np.ndarray, start: float) -> np.ndarray:
    """Return, for every row of losses, the threshold above which the next loss is a spike."""
    median = np.median(windows, axis=1)
    deviation = 1.4826 * np.median(np.abs(windows - median[:, None]), axis=1)
    return np.asarray(median + np.maximum(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * abs(start)))

"""Analysis of the curve of a learning rate range test: where the loss falls, how steeply, and where it stops."""

from dataclasses import dataclass

import numpy as np

from fallline.loss_curves import spread

BANDWIDTH = 0.4  # half-width of a local fit in decades
FEWEST = 6  # smallest number of points in a local fit
BEGUN = 0.1  # share of the whole fall at which the range begins
RISEN = 0.02  # share of the whole fall by which the loss must rise to count as no longer falling
ROUNDING = 1e-9  # relative change of a constant loss by the rounding of the fits
EARLY = 10  # number of first points, at rates too low to change much; losses are clipped above their noise
LASTING = 3  # number of losses in a row that a rise must last
SIGNIFICANT = 3.0  # standard deviations of the noise that a fall or a rise must exceed


@dataclass(frozen=True, eq=False)
class Reading:
    """A smoothed curve and the suggested learning rate.

    Attributes:
        smooth: the smoothed loss.
        slope: change of the smoothed loss per decade of the learning rate.
        noise: standard deviation of the losses about the smoothed loss, from their median absolute deviation.
        low, high: the rates at which the loss begins to fall and stops falling.
        suggestion: the rate between them at which the loss falls most steeply against log lr.
        verdict: the result as a sentence.
    """

    smooth: np.ndarray
    slope: np.ndarray
    noise: float
    low: float
    high: float
    suggestion: float
    verdict: str


def read(lrs: np.ndarray, losses: np.ndarray, start: float, diverged: bool) -> Reading:
    """Return the analysis of a curve. It always has a suggestion.

    Args:
        lrs: increasing learning rates, (n,), n >= 1.
        losses: loss after the update at each rate. Losses that are not finite or far above the start are clipped.
        start: level of the loss before the first update, from several batches if available.
        diverged: whether the test ended because the loss diverged.
    """
    lowest = float(np.nanmin(np.where(np.isfinite(losses), losses, np.nan), initial=start))
    noise = spread(losses[:EARLY].tolist()) if len(losses) > EARLY and np.isfinite(losses[:EARLY]).all() else 0.0
    ceiling = start + max(start - lowest, 0.1 * abs(start), SIGNIFICANT * noise)
    capped = np.where(np.isfinite(losses), np.minimum(losses, ceiling), ceiling)
    smooth, slope, noise, end = _fit(np.log10(lrs), capped)
    steepest = int(slope[: end + 1].argmin())
    level = float(np.median(smooth[: steepest // 2 + 1]))  # of the plateau before the fall
    fall = level - float(smooth[end])
    if len(lrs) < FEWEST and diverged:
        low, high = float(lrs[0]) / 10, float(lrs[0])
        updates = "1 update" if len(lrs) == 1 else f"{len(lrs)} updates"
        verdict = f"the loss diverged within {updates}: every learning rate was too high; decrease low"
        return Reading(smooth, slope, noise, low, high, low, verdict)
    if end == 0 or fall <= max(SIGNIFICANT * noise, ROUNDING * abs(start)):
        return _not_fallen(lrs, smooth, slope, noise, start, diverged)
    above = np.flatnonzero(smooth[: steepest + 1] > level - BEGUN * fall)
    begin = int(above[-1]) if len(above) else 0
    low, high, best = (float(lrs[k]) for k in (begin, end, steepest))
    verdict = f"the loss falls from lr {low:.2g} on, most steeply at {best:.2g}, and stops falling at {high:.2g}"
    if end == len(lrs) - 1 and not diverged:
        verdict = f"the loss falls from lr {low:.2g} on, and still falls at the highest lr, {high:.2g}; increase high"
    return Reading(smooth, slope, noise, low, high, best, verdict)


def _fit(x: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Return the smoothed loss, its slope, the noise, and the index at which the loss stops falling.

    This is where it is lowest before it rises by more than the noise: at rates that are too high, the loss may rise and
    then fall to a lower value by chance. The losses from the rise on are smoothed separately, because a line across it
    would rise before the loss does.
    """
    smooth, slope = local_lines(x, losses)
    rise = len(x)
    while True:
        end = int(smooth[:rise].argmin())
        noise = _deviation(losses[: end + 1] - smooth[: end + 1])
        fall = float(smooth[0] - smooth[end])
        least = max(SIGNIFICANT * noise, RISEN * fall, ROUNDING * abs(float(smooth[0])))
        before, rise = rise, _rise(smooth, losses, least, rise)
        if rise == before:
            return smooth, slope, noise, end
        parts = [local_lines(x[part], losses[part]) for part in (slice(rise), slice(rise, None))]
        smooth, slope = (np.concatenate(both) for both in zip(*parts, strict=True))


def _rise(smooth: np.ndarray, losses: np.ndarray, least: float, known: int) -> int:
    """Return the first index from which the losses are above the lowest smoothed loss by more than `least`.

    The smoothed loss shows whether there is a rise, and the losses themselves where it begins.

    Args:
        smooth, losses: the smoothed loss and the losses.
        least: the least rise that counts.
        known: index at which a rise is known to begin at the latest, which is also the result if there is no earlier
            one; the number of losses if none is known.
    """
    lowest = np.minimum.accumulate(smooth)
    first = known - LASTING  # a fit that contains the first losses of a rise has its minimum there
    latest = known
    if known == len(losses):
        risen = np.flatnonzero(smooth - lowest > least)
        if not len(risen):
            return known
        latest = int(risen[0])
        first = int(smooth[:latest].argmin()) + 1
    above = losses > lowest + least
    for k in range(max(first, 1), known):
        if above[k : k + LASTING].all():
            return k
    return latest


def _deviation(rest: np.ndarray) -> float:
    """Return the standard deviation of values, from their median absolute deviation."""
    return float(1.4826 * np.median(np.abs(rest - np.median(rest))))


def _not_fallen(
    lrs: np.ndarray, smooth: np.ndarray, slope: np.ndarray, noise: float, start: float, diverged: bool
) -> Reading:
    """Return the analysis of a loss that fell by no more than its noise: the rates at which it did not rise."""
    level = max(start, float(np.median(smooth[: max(len(smooth) // 4, 1)])))
    above = smooth > level + max(SIGNIFICANT * noise, ROUNDING * abs(level))
    last = len(lrs) - 1 if not above.any() else max(int(above.argmax()) - 1, 0)
    low, high = float(lrs[0]), float(lrs[last])
    if float(np.ptp(smooth)) <= ROUNDING * abs(level) and noise <= ROUNDING * abs(level):
        verdict = f"the loss is the same at every lr up to {high:.2g}; check that it depends on the trained parameters"
        return Reading(smooth, slope, noise, low, high, max(low, high / 10), verdict)
    verdict = (
        f"the loss does not fall by more than its noise ({noise:.2g}) at any lr, and does not rise up to {high:.2g}; "
        "use larger batches or more steps" + ("" if diverged else ", or increase high")
    )
    return Reading(smooth, slope, noise, low, high, max(low, high / 10), verdict)


def local_lines(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return value and slope at every x of a line fitted to the neighboring points, weighted by their distance.

    A running mean would lag behind the curve, and differences between neighbours would amplify the noise.

    Args:
        x: increasing, (n,).
        y: (n,).

    Example:
        >>> import numpy as np
        >>> x = np.linspace(0, 2, 30)
        >>> value, slope = local_lines(x, 3 - 2 * x)
        >>> bool(np.allclose(value, 3 - 2 * x)), bool(np.allclose(slope, -2))
        (True, True)
    """
    if len(x) < 2:
        return y.astype(float), np.zeros(len(x))
    distance = np.abs(x[:, None] - x)
    nearest = np.sort(distance, 1)[:, min(FEWEST, len(x) - 1)]
    reach = np.maximum(BANDWIDTH, 1.001 * nearest)[:, None]
    weights = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
    weights /= weights.sum(1, keepdims=True)
    mean_x, mean_y = weights @ x, weights @ y
    away = x - mean_x[:, None]
    slope = (weights * away * (y - mean_y[:, None])).sum(1) / (weights * away**2).sum(1)
    return mean_y + slope * (x - mean_x), slope

"""Sensitivity to the learning rate: the mean excess loss over the range tried, and the width of the good range."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

NEAR = 0.1  # part of the best loss by which a loss may exceed it and still count as good


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of an arm to its learning rate.

    Attributes:
        excess: mean of min(ℓ, ℓ₀) − ℓ* over the decades tried; NaN if only one learning rate was tried.
        width: decades around the best learning rate in which ℓ is within 10 % of ℓ*.
        open: whether the good range reaches an end of the range tried, in which case it may be wider.
    """

    excess: float
    width: float
    open: bool


def sensitivity(rates: Sequence[float], losses: Sequence[float | None], start: float) -> Sensitivity | None:
    """Return the sensitivity to the learning rate, or None if every trial failed.

    With x = log10(lr), ℓ is the piecewise-linear function of x through the trials. Losses are clipped at ℓ₀, the loss
    of an untrained model, and a failure counts as ℓ₀. With ℓ* = min ℓ and the integral from the smallest to the
    largest x tried,

        excess = 1 / (x_max − x_min) · ∫ (min(ℓ(x), ℓ₀) − ℓ*) dx.

    The trapezoidal rule is exact for this function. The width is that of the interval around the best trial in which
    ℓ(x) <= ℓ* + 0.1 · |ℓ*|; the interval does not extend past a failure. Among trials with the same rate, the best
    one counts.

    Args:
        rates: learning rates, > 0.
        losses: lower is better; None where the trial failed.
        start: ℓ₀, the loss before training.

    Example:
        >>> found = sensitivity([0.01, 0.1, 1.0], [3.0, 1.0, None], start=5.0)
        >>> found.excess, round(found.width, 3), found.open
        (1.5, 0.075, False)
    """
    nodes: dict[float, tuple[float, bool]] = {}
    for rate, loss in zip(rates, losses, strict=True):
        node = (start, True) if loss is None else (min(loss, start), False)
        nodes[math.log10(rate)] = min(node, nodes.get(math.log10(rate), (math.inf, True)))
    x = sorted(nodes)
    y, failed = [nodes[at][0] for at in x], [nodes[at][1] for at in x]
    if all(failed):
        return None
    best = min((i for i in range(len(x)) if not failed[i]), key=lambda i: y[i])
    area = math.fsum((x[i + 1] - x[i]) * (y[i] + y[i + 1]) / 2 for i in range(len(x) - 1))
    excess = area / (x[-1] - x[0]) - y[best] if len(x) > 1 else math.nan
    limit = y[best] + NEAR * abs(y[best])
    (left, left_open), (right, right_open) = (
        _reach(x, y, failed, range(best, end, step), limit) for end, step in ((-1, -1), (len(x), 1))
    )
    return Sensitivity(excess, left + right, left_open or right_open)


def _reach(x: list[float], y: list[float], failed: list[bool], path: range, limit: float) -> tuple[float, bool]:
    """Return how far along a path of points ℓ stays under the limit, and whether it does so up to the last point."""
    reach = 0.0
    for here, there in itertools.pairwise(path):
        gap = abs(x[there] - x[here])
        if y[there] > limit:
            return reach + gap * (limit - y[here]) / (y[there] - y[here]), False
        if failed[there]:  # ℓ₀ may be within the limit, but a failure does not count as good
            return reach, False
        reach += gap
    return reach, True

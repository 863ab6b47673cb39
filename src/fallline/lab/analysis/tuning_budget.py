"""What tuning buys: the best of k trials, in expectation over all choices of k of those that were run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BestOf:
    """The best of k trials.

    Attributes:
        k: trials.
        expected: mean of the lowest loss over all subsets of k trials.
        failing: share of the subsets of which every trial failed.
    """

    k: int
    expected: float
    failing: float


def best_of(losses: Sequence[float | None], start: float) -> list[BestOf]:
    """Return the best of k for k = 1 … n, exact over the C(n, k) subsets of the n trials.

    Sorted upwards, the i-th of the losses (i = 1 … n) is the lowest of k in C(n − i, k − 1) of the subsets. An
    expectation over infinite losses would be infinite for ever; so a failure, like a loss above it, counts as the loss
    before training, with which someone is left whose trials all failed, and how likely that is stands beside it.

    Args:
        losses: lower is better; None where the trial failed.
        start: the loss before training.

    Example:
        >>> best_of([1.0, None, 2.0], start=4.0)[1]
        BestOf(k=2, expected=1.3333333333333333, failing=0.0)
    """
    n, failed = len(losses), sum(loss is None for loss in losses)
    ordered = sorted(start if loss is None else min(loss, start) for loss in losses)
    return [
        BestOf(
            k,
            math.fsum(math.comb(n - i, k - 1) * loss for i, loss in enumerate(ordered, start=1)) / math.comb(n, k),
            math.comb(failed, k) / math.comb(n, k),
        )
        for k in range(1, n + 1)
    ]

"""The sources of chance in a comparison of two arms: which there are, and the variance that each contributes.

NOTE [linearisation] The log ratio of two means changes, to first order, by A_e / mean(A) − B_e / mean(B) per example e.
Each seed is linearised around its own means, so that the mean over its examples is exactly the seed's log ratio and the
part of the seeds equals that of the paired t-test.

NOTE [pool] With a new split for each seed, the variance of the differences over the seeds is that of one pool. What the
pool adds is what the same example does in every seed: the covariance of its contributions in the test sets of different
seeds. The whole spread of single examples is an upper bound of it, three to six times as large on real networks, since
most of that spread is another one in every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

LEAST_PAIRS = 100  # of an example's contributions in two seeds, below which their covariance is too uncertain


@dataclass(frozen=True)
class Variance:
    """The variance of a mean difference, by what would reduce it.

    Attributes:
        seeds: part that falls with the number of seeds.
        examples: part that only more examples would reduce.
        sampling: what the choice of test examples contributes to `seeds`, where each seed draws its own.
    """

    seeds: float
    examples: float = 0.0
    sampling: float = 0.0

    @property
    def total(self) -> float:
        """The variance of the mean difference."""
        return self.seeds + self.examples

    @property
    def examples_share(self) -> float:
        """The share of the examples in the variance, from 0 to 1; 0 where nothing varies."""
        return self.examples / self.total if self.total > 0 else 0.0


class Design(Protocol):
    """Which sources of chance vary in a study, for one pair of arms."""

    @property
    def scope(self) -> str:
        """What a verdict holds for: "with new seeds and new test examples (training set fixed)"."""

    @property
    def limit(self) -> str:
        """The examples that more seeds cannot replace ("the 360 test examples"); empty where there are none."""

    @property
    def reason(self) -> str:
        """Why a verdict does not cover new examples; empty where it does."""

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return the variance of the mean of the differences (n,), one per seed."""


@dataclass(frozen=True)
class SeedsOnly:
    """Seeds vary; the test examples are taken as they are."""

    reason: str = ""
    scope: str = "on this test set"
    limit: str = ""

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return s²/n with s² the variance of the differences."""
        return Variance(_variance(differences) / len(differences))


@dataclass(frozen=True)
class _PairedItems:
    """The metric of every test item (E,) by seed, of two arms that were tested on the same items."""

    arm: Sequence[np.ndarray]
    baseline: Sequence[np.ndarray]

    def contributions(self, log_ratio: bool) -> list[np.ndarray]:
        """Return by seed how far each item's linearised difference is from that of its seed; their mean is 0."""
        found = []
        for arm, baseline in zip(self.arm, self.baseline, strict=True):
            a, b = arm.astype(float), baseline.astype(float)
            difference = a / a.mean() - b / b.mean() if log_ratio else a - b
            found.append(difference - difference.mean())
        return found


@dataclass(frozen=True)
class FixedTestSet(_PairedItems):
    """Seeds and test examples vary, crossed: every run is tested on the same examples.

    Attributes:
        arm, baseline: the metric of every test item (E,) by seed.
        unit: what an item is, in the plural.
    """

    unit: str = "test examples"
    scope: str = "with new seeds and new test examples (training set fixed)"
    reason: str = ""

    @property
    def limit(self) -> str:
        """The test examples, with their number."""
        return f"the {len(self.arm[0]):,} {self.unit}"

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return [MS_S + max(0, MS_E − MS_R)] / (S · E), the two-way random-effects variance of the grand mean.

        MS_S, MS_E and MS_R are the mean squares of seeds, of examples and of what remains.
        """
        table = np.stack(self.contributions(log_ratio))
        seeds, examples = table.shape
        of_examples = table.mean(0)
        mean_square = seeds * float((of_examples**2).sum()) / (examples - 1)  # the rows, and so the whole, have mean 0
        rest = float(((table - of_examples) ** 2).sum()) / ((seeds - 1) * (examples - 1))
        of_seeds = _variance(differences) / seeds
        return Variance(of_seeds, max(0.0, mean_square - rest) / (seeds * examples))


@dataclass(frozen=True)
class RandomSplits(_PairedItems):
    """Every seed draws its own split of a pool of examples, the same for all arms.

    Attributes:
        arm, baseline: the metric of every test item (E,) by seed.
        examples: which example each item is (E,) by seed; none where that is not known.
        pool: how many items the pool has.
        unit: what an item is, in the plural.
    """

    examples: Sequence[np.ndarray]
    pool: float
    unit: str = "examples"
    scope: str = "with new seeds and new test examples (each seed with its own split)"
    reason: str = ""

    @property
    def limit(self) -> str:
        """The pool, with its size."""
        return f"the {self.pool:,.0f} {self.unit} of the pool"

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return s²/n + c/N.

        s² is the variance of the differences, c the covariance of an example's contributions in the test sets of
        different seeds, and N the size of the pool. Where it is not known which example an item is, c is the variance
        of the items within a test set, averaged over seeds: valid and wide.
        """
        parts = self.contributions(log_ratio)
        seeds, spread = _variance(differences) / len(differences), float(np.mean([_variance(part) for part in parts]))
        shared = _covariance(parts, self.examples) if self.examples else None
        sampling = min(seeds, spread / len(self.arm[0]) / len(differences))
        return Variance(seeds, (spread if shared is None else max(0.0, shared)) / self.pool, sampling)


@dataclass(frozen=True)
class RandomSplitMeans:
    """Every seed draws its own split, and only the means over test sets are known (Nadeau and Bengio 2003).

    Attributes:
        ratio: size of the test set by that of the training set.
    """

    ratio: float
    scope: str = "with new seeds and new test examples (each seed with its own split)"
    reason: str = ""
    limit: str = "the overlap of the training sets"

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return s² (1/n + n_test/n_train), which is valid and wide."""
        spread = _variance(differences)
        return Variance(spread / len(differences), spread * self.ratio)


def _covariance(parts: Sequence[np.ndarray], examples: Sequence[np.ndarray]) -> float | None:
    """Return the mean product of an example's contributions in two seeds; None when there are too few such pairs."""
    names, positions = np.unique(np.concatenate(examples), return_inverse=True)
    rows = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    sums, counts = (
        np.bincount(rows * len(names) + positions, weights, len(parts) * len(names)).reshape(len(parts), -1)
        for weights in (np.concatenate(parts), None)
    )
    pairs = (counts.sum(0) ** 2 - (counts**2).sum(0)).sum()  # each of them twice, as in the numerator
    return float((sums.sum(0) ** 2 - (sums**2).sum(0)).sum() / pairs) if pairs >= 2 * LEAST_PAIRS else None


def _variance(values: np.ndarray) -> float:
    """Return the variance with n − 1 in the denominator; exactly 0 for constant values, in spite of rounding."""
    return 0.0 if bool((values == values[0]).all()) else float(values.var(ddof=1))

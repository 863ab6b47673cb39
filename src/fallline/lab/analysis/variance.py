"""The sources of randomness in a comparison of two arms, and the variance that each of them contributes.

NOTE [linearisation] The log ratio of two means changes, to first order, by A_e / mean(A) − B_e / mean(B) per example e.
Each seed is linearised around its own means, so that the mean over its examples is exactly the seed's log ratio and the
contribution of the seeds equals the variance of the paired t-test.

NOTE [pool] With a new split for each seed, the variance of the differences over the seeds is the variance for one fixed
pool. The finite pool adds the effect that an example has in every seed, which is the covariance of its contributions in
the test sets of different seeds. The total variance of single examples is an upper bound of this covariance. On real
networks it is three to six times as large, because most of the variation of an example differs from run to run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

LEAST_PAIRS = 100  # with fewer pairs of an example's contributions in two seeds, their covariance is too uncertain


@dataclass(frozen=True)
class Variance:
    """The variance of a mean difference, split by what would reduce it.

    Attributes:
        seeds: the part that more seeds reduce.
        examples: the part that only more examples reduce.
        sampling: the part of `seeds` that comes from the choice of test examples, if each seed draws its own.
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
        """The share of the variance that comes from the examples, from 0 to 1; 0 if the variance is 0."""
        return self.examples / self.total if self.total > 0 else 0.0


class Design(Protocol):
    """The sources of randomness in a study, for one pair of arms."""

    @property
    def scope(self) -> str:
        """The conditions for which a verdict holds: "with new seeds and new test examples (training set fixed)"."""

    @property
    def limit(self) -> str:
        """The examples that more seeds cannot replace ("the 360 test examples"); empty if there are none."""

    @property
    def reason(self) -> str:
        """The reason why a verdict does not cover new examples; empty if it does."""

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return the variance of the mean of the differences (n,), one per seed."""


@dataclass(frozen=True)
class SeedsOnly:
    """Only the seeds are random; the test examples are fixed."""

    reason: str = ""
    scope: str = "on this test set"
    limit: str = ""

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return s²/n, where s² is the variance of the differences."""
        return Variance(_variance(differences) / len(differences))


@dataclass(frozen=True)
class _PairedItems:
    """The metric of every test item (E,) by seed, for two arms that were tested on the same items."""

    arm: Sequence[np.ndarray]
    baseline: Sequence[np.ndarray]

    def contributions(self, log_ratio: bool) -> list[np.ndarray]:
        """Return, by seed, each item's linearised difference minus the mean over the items of that seed."""
        found = []
        for arm, baseline in zip(self.arm, self.baseline, strict=True):
            a, b = arm.astype(float), baseline.astype(float)
            difference = a / a.mean() - b / b.mean() if log_ratio else a - b
            found.append(difference - difference.mean())
        return found


@dataclass(frozen=True)
class FixedTestSet(_PairedItems):
    """Seeds and test examples are both random and crossed: every run is tested on the same examples.

    Attributes:
        arm, baseline: the metric of every test item (E,) by seed.
        unit: the name of the items, in the plural.
    """

    unit: str = "test examples"
    scope: str = "with new seeds and new test examples (training set fixed)"
    reason: str = ""

    @property
    def limit(self) -> str:
        """The test examples and their number."""
        return f"the {len(self.arm[0]):,} {self.unit}"

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return [MS_S + max(0, MS_E − MS_R)] / (S · E), the two-way random-effects variance of the grand mean.

        MS_S, MS_E and MS_R are the mean squares of the seeds, the examples and the residual.
        """
        table = np.stack(self.contributions(log_ratio))
        seeds, examples = table.shape
        of_examples = table.mean(0)
        mean_square = seeds * float((of_examples**2).sum()) / (examples - 1)  # all rows, and so the table, have mean 0
        rest = float(((table - of_examples) ** 2).sum()) / ((seeds - 1) * (examples - 1))
        of_seeds = _variance(differences) / seeds
        return Variance(of_seeds, max(0.0, mean_square - rest) / (seeds * examples))


@dataclass(frozen=True)
class RandomSplits(_PairedItems):
    """Every seed draws its own split of a pool of examples, the same for all arms.

    Attributes:
        arm, baseline: the metric of every test item (E,) by seed.
        examples: the id of the example of each item (E,) by seed; empty if the ids are unknown.
        pool: number of items in the pool.
        unit: the name of the items, in the plural.
    """

    examples: Sequence[np.ndarray]
    pool: float
    unit: str = "examples"
    scope: str = "with new seeds and new test examples (each seed with its own split)"
    reason: str = ""

    @property
    def limit(self) -> str:
        """The pool and its size."""
        return f"the {self.pool:,.0f} {self.unit} of the pool"

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return s²/n + c/N.

        s² is the variance of the differences, c the covariance of an example's contributions in the test sets of
        different seeds, and N the size of the pool. If the ids of the examples are unknown or too few examples occur
        in several test sets, c is the variance of the items within a test set, averaged over seeds. This is an upper
        bound, so the intervals are valid but wide.
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
        ratio: size of the test set divided by the size of the training set.
    """

    ratio: float
    scope: str = "with new seeds and new test examples (each seed with its own split)"
    reason: str = ""
    limit: str = "the overlap of the training sets"

    def variance(self, differences: np.ndarray, log_ratio: bool) -> Variance:
        """Return s² (1/n + n_test/n_train); the intervals are valid but wide."""
        spread = _variance(differences)
        return Variance(spread / len(differences), spread * self.ratio)


def _covariance(parts: Sequence[np.ndarray], examples: Sequence[np.ndarray]) -> float | None:
    """Return the mean product of an example's contributions in two seeds; None if there are too few such pairs."""
    names, positions = np.unique(np.concatenate(examples), return_inverse=True)
    rows = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    sums, counts = (
        np.bincount(rows * len(names) + positions, weights, len(parts) * len(names)).reshape(len(parts), -1)
        for weights in (np.concatenate(parts), None)
    )
    pairs = (counts.sum(0) ** 2 - (counts**2).sum(0)).sum()  # each pair is counted twice, as in the numerator
    return float((sums.sum(0) ** 2 - (sums**2).sum(0)).sum() / pairs) if pairs >= 2 * LEAST_PAIRS else None


def _variance(values: np.ndarray) -> float:
    """Return the variance with n − 1 in the denominator; exactly 0 for constant values despite rounding."""
    return 0.0 if bool((values == values[0]).all()) else float(values.var(ddof=1))

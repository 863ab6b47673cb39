"""Which sources of chance the comparison of two arms contains, read from what their confirmation runs have kept."""

from collections.abc import Sequence

import numpy as np

from fallline.lab.designs import LEAST_ITEMS, Design, FixedTestSet, RandomSplitMeans, RandomSplits, SeedsOnly
from fallline.lab.trial import Outcome

_UNITS = {"example": "examples", "batch": "batches"}


def pair_design(arm: Sequence[Outcome], baseline: Sequence[Outcome], resplit: bool) -> Design:
    """Return the design of a comparison of two arms.

    Args:
        arm, baseline: the outcomes of their confirmation runs by seed, none of which has failed, with their items.
        resplit: whether every seed has a split of its own.
    """
    facts = arm[0].test_set
    unit = _UNITS.get(facts.get("kind", ""), "items")
    pairs = [(a.items, b.items) for a, b in zip(arm, baseline, strict=True)]
    known = [(a, b) for a, b in pairs if a is not None and b is not None and a.shape == b.shape]
    items: tuple[list[np.ndarray], list[np.ndarray]] = ([a for a, _ in known], [b for _, b in known])
    if resplit:
        if len(known) < len(pairs):
            return RandomSplitMeans(facts["test"] / facts["train"])
        return RandomSplits(*items, pool=facts["pool"] * facts["items"] / facts["test"], unit=unit)
    if len(known) < len(pairs):
        return SeedsOnly(_reason(facts.get("items", 0)))
    if facts["items"] < LEAST_ITEMS:
        return SeedsOnly(f"the test set has only {facts['items']} {unit}, fewer than {LEAST_ITEMS}")
    return FixedTestSet(*items, unit=f"test {unit}")


def _reason(items: int) -> str:
    if items:
        return "the files of the single test examples (items.npy) are missing or do not match"
    return f"the task has no method losses for this metric, and its test set has fewer than {LEAST_ITEMS} batches"

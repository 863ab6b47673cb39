"""Find the sources of randomness in a comparison of two arms, from the stored results of their confirmation runs."""

from collections.abc import Sequence

import numpy as np

from fallline.lab.analysis.variance import Design, FixedTestSet, RandomSplitMeans, RandomSplits, SeedsOnly
from fallline.lab.design.outcome import LEAST_ITEMS, Outcome

_UNITS = {"example": "examples", "batch": "batches"}
_Items = list[np.ndarray]


def pair_design(arm: Sequence[Outcome], baseline: Sequence[Outcome], resplit: bool) -> Design:
    """Return the design of a comparison of two arms.

    Args:
        arm, baseline: the outcomes of their confirmation runs by seed, none of which has failed, with their items.
        resplit: whether every seed has its own split.
    """
    facts = arm[0].test_set
    unit = _UNITS.get(facts.get("kind", ""), "items")
    pairs = [(a.items, b.items) for a, b in zip(arm, baseline, strict=True)]
    known = [(_ordered(a), _ordered(b)) for a, b in pairs if a is not None and b is not None]
    alike = all(np.array_equal(a["example"], b["example"]) for a, b in known)
    own, other = ([pair[side]["metric"] for pair in known] for side in (0, 1))
    examples = [a["example"] for a, _ in known]
    if resplit:
        if len(known) < len(pairs) or not alike:
            return RandomSplitMeans(facts["test"] / facts["train"])
        named = [row for row in examples if row.all()]
        pool = facts["pool"] * facts["items"] / facts["test"]
        return RandomSplits(own, other, named if len(named) == len(examples) else [], pool, unit)
    if facts.get("kind") == "validation":
        return SeedsOnly("the training loop reports no test metric", scope="on the validation data used for tuning")
    if len(known) < len(pairs):
        return SeedsOnly(_reason(facts.get("items", 0), facts.get("kind", "")))
    if not alike or any(not np.array_equal(row, examples[0]) for row in examples):
        return SeedsOnly("the test set is not the same in all runs")
    if facts["items"] < LEAST_ITEMS:
        return SeedsOnly(f"the test set has only {facts['items']} {unit}, fewer than {LEAST_ITEMS}")
    return FixedTestSet(own, other, f"test {unit}")


def _ordered(items: np.ndarray) -> np.ndarray:
    """Return test items sorted by example, so that their order does not depend on the order of reading."""
    return items[np.argsort(items["example"], kind="stable")]


def _reason(items: int, kind: str) -> str:
    if items:
        return "the files with the results per test example (items.npy) are missing"
    if kind == "reported":
        return "the training loop reports no test_losses, the metric of every test example"
    return f"the task has no losses() method for this metric, and its test set has fewer than {LEAST_ITEMS} batches"

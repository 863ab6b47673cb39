"""Select the configuration of an arm to confirm; the best ones of its search are compared again on further seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fallline.lab.design.arms import Arm
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.spaces import AXES, Dimension
from fallline.lab.tasks import Task

EDGE = 0.1  # outer fraction of a range in which an optimum counts as "at the edge"
AGAIN = 2  # further seeds for finalists, because the lowest loss of many single runs is partly luck
FINALISTS = 3  # maximum number; one for every four search points


@dataclass(frozen=True)
class Search:
    """The state of the hyperparameter search of one arm.

    Attributes:
        ranges: the searched dimensions, including extensions.
        points: configurations by index, each with a value for every hyperparameter.
        origins: for each point, the independent search that drew it.
        best: index of the selected configuration, or None if every trial failed.
        edge: the searched dimension at whose edge the optimum lies and the side ("low" or "high"), or None; if every
            trial failed, the side on which an optimum may lie.
        finalists: indices of the best configurations, which are run again on AGAIN further seeds.
    """

    arm: Arm
    ranges: tuple[Dimension, ...]
    points: tuple[Mapping[str, Any], ...]
    origins: tuple[int, ...]
    best: int | None = None
    edge: tuple[str, str] | None = None
    finalists: tuple[int, ...] = ()

    @property
    def end(self) -> tuple[str, str] | None:
        """The edge in terms of the hyperparameter itself; the side is reversed if 1 − value is searched."""
        if self.edge is None:
            return None
        name, side = self.edge
        turned = any(d.complement for d in self.ranges if d.name == name)
        return name, {"low": "high", "high": "low"}[side] if turned else side


def finalists(trials: int) -> int:
    """Return the number of finalists for a search with this many points; 0 if there would be only one."""
    count = min(FINALISTS, trials // 4)
    return count if count > 1 else 0


def judge(search: Search, found: Sequence[Outcome], task: Task) -> Search:
    """Return the search with the best configuration by single runs selected and its edge set.

    Args:
        search: the search.
        found: the outcome of every point.
        task: defines the metric to compare.
    """
    scores = _scores(found, task)
    good = {i: score for i, score in enumerate(scores) if math.isfinite(score)}
    return _select(search, good, scores) if good else replace(search, best=None, edge=_extension_side(search, found))


def nominate(search: Search, found: Sequence[Outcome], task: Task, count: int) -> Search:
    """Return the search with its `count` best configurations as finalists; none if only one succeeded."""
    scores = _scores(found, task)
    good = (i for i, score in enumerate(scores) if math.isfinite(score))
    order = sorted(good, key=lambda i: (i != search.best, scores[i], i))
    return replace(search, finalists=tuple(order[:count]) if len(order) > 1 else ())


def settle(search: Search, runs: Mapping[int, Sequence[Outcome]], found: Sequence[Outcome], task: Task) -> Search:
    """Return the search with the finalist of the best mean selected; a finalist that fails on any seed ranks last.

    Args:
        search: the search with its finalists.
        runs: the outcomes of each finalist by index, including its first outcome.
        found: the outcome of every point.
        task: defines the metric to compare.
    """
    means, finite = {}, {}
    for index, outcomes in runs.items():
        scores = _scores(outcomes, task)
        if all(map(math.isfinite, scores)):
            means[index] = math.fsum(scores) / len(scores)
            finite[index] = scores
    return _select(search, means, _scores(found, task), _noise(list(finite.values()))) if means else search


def _noise(runs: Sequence[Sequence[float]]) -> float:
    """Return the standard error of the difference between two finalists' means; 0 if it cannot be estimated.

    All finalists run on the same seeds, so the effect that a seed has on all of them is not noise. It is removed, as in
    a two-way analysis of variance with the factors finalist and seed.
    """
    seeds = len(runs[0]) if runs else 0
    if len(runs) < 2 or seeds < 2:
        return 0.0
    by_run = [math.fsum(scores) / seeds for scores in runs]
    by_seed = [math.fsum(column) / len(runs) for column in zip(*runs, strict=True)]
    mean = math.fsum(by_run) / len(runs)
    residuals = [
        score - by_run[i] - by_seed[j] + mean for i, scores in enumerate(runs) for j, score in enumerate(scores)
    ]
    variance = math.fsum(r * r for r in residuals) / ((len(runs) - 1) * (seeds - 1))
    return math.sqrt(2 * variance / seeds)


def _scores(outcomes: Sequence[Outcome], task: Task) -> list[float]:
    """Return the metric of every outcome, where lower is better; infinite if the run failed or the metric is NaN."""
    sign = 1 if task.mode == "min" else -1
    values = [math.inf if o.failure else sign * o.metrics[task.metric] for o in outcomes]
    return [value if math.isfinite(value) else math.inf for value in values]


def _select(search: Search, candidates: Mapping[int, float], scores: Sequence[float], noise: float = 0.0) -> Search:
    """Return the search with the best candidate selected; near ties are broken by the distance to failed points.

    Candidates are nearly tied if they differ from the best by at most the noise. The noise of single runs is unknown,
    so only equal scores are tied there.
    """
    lowest = min(candidates.values())
    failed = [search.points[i] for i, score in enumerate(scores) if score == math.inf]
    near = [i for i, score in candidates.items() if score - lowest <= noise]
    best = max(near, key=lambda i: (_distance(search, search.points[i], failed), -candidates[i], -i))
    top = [search.points[i] for i in sorted(candidates, key=lambda i: (candidates[i], i))[:3]]
    extensible = [d for d in search.ranges if not d.choices and d.axis in AXES]  # the limits of others are unknown
    edges = [_edge(d, search.points[best], top, search.points) for d in extensible]
    return replace(search, best=best, edge=next((edge for edge in edges if edge is not None), None))


def _extension_side(search: Search, found: Sequence[Outcome]) -> tuple[str, str] | None:
    """Return the side on which to extend the learning rate range when every trial failed, or None.

    If the lowest rate diverged, lower rates may not. If no rate diverged and nothing was learned, higher rates may
    learn. If all trials raised the same error, the learning rate is not the cause.
    """
    if not any(d.name == "lr" for d in search.ranges):
        return None
    sources = {o.failure.get("source") for o in found if o.failure is not None}
    if len(sources) == 1 and None not in sources:
        return None
    diverged = [o.failure is not None and o.failure["state"] != "not-learned" for o in found]
    if diverged[min(range(len(found)), key=lambda i: search.points[i]["lr"])]:
        return "lr", "low"
    return None if any(diverged) else ("lr", "high")


def _edge(
    dimension: Dimension,
    best: Mapping[str, Any],
    top: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
) -> tuple[str, str] | None:
    """Return the dimension's name and the side at which the optimum lies, or None if it is interior.

    It is at an edge if the best point, or two of the best three, lie in the outer tenth. For the learning rate, it is
    also at an edge if no point was tried beyond the best one, since eight points can leave the outer tenth empty.
    """
    unit, *units = (dimension.unit(point[dimension.name]) for point in (best, *top))
    tried = [dimension.unit(point[dimension.name]) for point in points]
    outermost = dimension.axis == "lr" and len(set(tried)) > 1
    if unit < EDGE or sum(u < EDGE for u in units) >= 2 or (outermost and unit <= min(tried)):
        return dimension.name, "low"
    if unit > 1 - EDGE or sum(u > 1 - EDGE for u in units) >= 2 or (outermost and unit >= max(tried)):
        return dimension.name, "high"
    return None


def _distance(search: Search, point: Mapping[str, Any], failed: Sequence[Mapping[str, Any]]) -> float:
    """Return the distance from a point to the nearest failed point, in units of the ranges; 0 if none failed."""
    gaps = [max(abs(d.unit(point[d.name]) - d.unit(other[d.name])) for d in search.ranges) for other in failed]
    return min(gaps, default=0.0)

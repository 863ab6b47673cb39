"""The list of trials that a study needs, as a function of its specification and of the outcomes so far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fallline.lab.arms import Arm
from fallline.lab.optimizers import split_wrapper
from fallline.lab.spaces import Dimension, sobol
from fallline.lab.spec import Spec
from fallline.lab.trial import Outcome, Trial, derive

EDGE = 0.1  # the outer part of a range in which an optimum counts as "at the edge"
ROUNDS = 2  # how often a range is extended before the report says "not interior"
NEAR_TIE = 0.02  # relative difference of validation losses below which the point farther from failures is taken

Outcomes = Mapping[str, Outcome]  # by trial id


@dataclass(frozen=True)
class Search:
    """The tuning of one arm so far.

    Attributes:
        ranges: the searched dimensions, as extended.
        points: configurations by index, each a value for every hyperparameter.
        origins: which of the independent searches drew each point.
        best: index of the selected configuration, or None when every trial failed.
        edge: the searched dimension at whose edge the optimum lies and its side ("low", "high"), or None.
    """

    arm: Arm
    ranges: tuple[Dimension, ...]
    points: tuple[Mapping[str, Any], ...]
    origins: tuple[int, ...]
    best: int | None = None
    edge: tuple[str, str] | None = None


def tune(spec: Spec, outcomes: Outcomes) -> tuple[list[Trial], dict[str, Search]]:
    """Return the tuning trials known to be needed by now, and the state of each arm's search.

    The list grows by a round of extensions once all of it has been run; when it no longer does, tuning is over.
    """
    searches = {arm.name: _first_round(spec, arm) for arm in spec.arms}
    for round_number in range(ROUNDS + 1):
        trials = [trial for search in searches.values() for trial in tuning_trials(spec, search)]
        if any(trial.id not in outcomes for trial in trials):
            break
        searches = {name: _judge(spec, s, outcomes) for name, s in searches.items()}
        if round_number == ROUNDS or not any(s.edge for s in searches.values()):
            break
        searches = {name: _extend(spec, s, round_number) for name, s in searches.items()}
    return trials, searches


def confirm(spec: Spec, search: Search, stage: str = "confirm") -> list[Trial]:
    """Return the confirmation trials of an arm: its selected configuration on fresh seeds, in the order of the seeds.

    There are none when every tuning trial failed.

    Args:
        spec, search: the study, and the arm's search in it.
        stage: "confirm"; or "equal-steps", the same at the full number of steps for an arm that makes fewer because
            each takes several gradients, and none for other arms.
    """
    arm = search.arm
    if search.best is None or (stage == "equal-steps" and not makes_fewer_steps(spec, arm)):
        return []
    stream = f"confirm {arm.name}" if arm.twin else "confirm"
    seeds = [derive(spec.seed, stream, i) for i in range(spec.seeds)]
    return [_trial(spec, search, search.best, stage, seed) for seed in seeds]


def makes_fewer_steps(spec: Spec, arm: Arm) -> bool:
    """Return whether an arm makes fewer steps than others because each takes several backward passes."""
    return spec.equal == "grad-evals" and arm.space.passes > 1


def tuning_trials(spec: Spec, search: Search) -> list[Trial]:
    """Return the tuning trials of an arm, by index; the default configuration is the first."""
    seeds = [derive(spec.seed, "tune", *_number(origin)) for origin in range(spec.searches)]
    return [_trial(spec, search, index, "tune", seeds[origin]) for index, origin in enumerate(search.origins)]


def _number(origin: int) -> tuple[int, ...]:
    """Return what tells the random numbers of the independent searches apart: nothing for the first."""
    return (origin,) if origin else ()


def _first_round(spec: Spec, arm: Arm) -> Search:
    ranges = arm.space.searched(spec.trials, arm.fixed, arm.ranges)
    defaults = {**arm.space.defaults, **arm.fixed}
    search = Search(arm, ranges, (defaults,), (0,))
    return _draw(spec, search, ranges, ranges, spec.trials)


def _draw(
    spec: Spec,
    search: Search,
    drawn_from: Sequence[Dimension],
    ranges: tuple[Dimension, ...],
    count: int,
    *names: object,
) -> Search:
    """Add `count` points of the Sobol sequence of these names to each of the searches."""
    points, origins = list(search.points), list(search.origins)
    for origin in range(spec.searches if ranges else 0):
        for point in sobol(derive(spec.seed, "search", *names, *_number(origin)), count):
            points.append({**search.points[0], **{d.name: d.value(point[d.axis]) for d in drawn_from}})
            origins.append(origin)
    return Search(search.arm, ranges, tuple(points), tuple(origins))


def _extend(spec: Spec, search: Search, round_number: int) -> Search:
    """Add as many points to every arm: beyond the edge where an optimum lies at one, inside the range elsewhere."""
    drawn_from, ranges = [], []
    for dimension in search.ranges:
        beyond = inside = dimension
        if search.edge and search.edge[0] == dimension.name:
            # 1 - value runs against value, and ends at 1
            low, high = dimension.low, dimension.high
            if search.edge[1] == "high":
                beyond = _between(dimension, high, min(10 * high, 0.999) if dimension.complement else 10 * high)
                inside = _between(dimension, low, beyond.high)
            else:
                beyond = _between(dimension, low / 10, low)
                inside = _between(dimension, low / 10, high)
        drawn_from.append(beyond)
        ranges.append(inside)
    return _draw(spec, search, drawn_from, tuple(ranges), max(1, spec.trials // 2), "extension", round_number)


def _between(dimension: Dimension, low: float, high: float) -> Dimension:
    return replace(dimension, low=low, high=high)


def _judge(spec: Spec, search: Search, outcomes: Outcomes) -> Search:
    """Return the search with its selected configuration and whether that lies at an edge of the ranges."""
    found = [outcomes[trial.id] for trial in tuning_trials(spec, search)]
    task = spec.learning
    sign = 1 if task.mode == "min" else -1
    scores = {i: sign * o.metrics[task.metric] for i, o in enumerate(found) if o.failure is None}
    good = sorted((score, i) for i, score in scores.items() if math.isfinite(score))
    if not good:
        return replace(search, best=None, edge=None)
    failed = [point for i, point in enumerate(search.points) if i not in scores]
    near = [i for score, i in good if score - good[0][0] <= NEAR_TIE * abs(good[0][0])]
    best = max(near, key=lambda i: (_distance(search, search.points[i], failed), -i))
    top = [search.points[i] for _, i in good[:3]]
    edges = [_edge(d, search.points[best], top, search.points) for d in search.ranges if not d.choices]
    edge = next((found for found in edges if found is not None), None)
    return replace(search, best=best, edge=edge)


def _edge(
    dimension: Dimension,
    best: Mapping[str, Any],
    top: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
) -> tuple[str, str] | None:
    """Return the dimension's name and the side at which the optimum lies, or None when it is interior.

    It is at an edge when the best point, or two of the best three, lie in the outer tenth; and, for the learning rate,
    when nothing was tried beyond the best point: eight points can leave the outer tenth empty.
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
    """Return how far a point is from the nearest failed one, in units of the ranges; 0 when none failed."""
    gaps = [max(abs(d.unit(point[d.name]) - d.unit(other[d.name])) for d in search.ranges) for other in failed]
    return min(gaps, default=0.0)


def _trial(spec: Spec, search: Search, index: int, stage: str, seed: int) -> Trial:
    arm, point = search.arm, search.points[index]
    space = arm.space
    named = {spec.task, split_wrapper(space.optimizer)[1], arm.schedule}
    return Trial(
        stage=stage,
        task=spec.task,
        arm=arm.name,
        optimizer=space.optimizer,
        schedule=arm.schedule,
        steps=spec.steps_of(arm, stage),
        index=index,
        seed=seed,
        options=space.options(point),
        warmup=point["warmup"],
        settings=spec.settings_of(arm),
        evaluations=spec.evaluations,
        device=spec.device,
        sources={place: digest for place, digest in spec.sources.items() if place in named},
    )

"""The list of trials that a study needs, as a function of its specification and of the outcomes so far."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.schedules import SCHEDULES
from fallline.lab.spaces import Dimension, Space, get_space, sobol
from fallline.lab.tasks import get_task
from fallline.lab.trial import Outcome, Trial, derive

EDGE = 0.1  # the outer part of a range in which an optimum counts as "at the edge"
ROUNDS = 2  # how often a range is extended before the report says "not interior"
NEAR_TIE = 0.02  # relative difference of validation losses below which the point farther from failures is taken


@dataclass(frozen=True)
class Arm:
    """One optimizer under one schedule, with what the user fixed of it.

    Attributes:
        name: in every table and picture.
        optimizer: name of a space ("momentum", "adamw" …).
        schedule: "constant", "step" or "cosine".
        fixed: hyperparameters that are not searched, by name.
        twin: confirmation seeds of its own, disjoint from the other arms' (`--self-check`).
    """

    name: str
    optimizer: str
    schedule: str = "cosine"
    fixed: Mapping[str, float] = field(default_factory=dict)
    twin: bool = False

    @property
    def space(self) -> Space:
        """The arm's search space."""
        return get_space(self.optimizer)


@dataclass(frozen=True)
class Spec:
    """Everything that decides the numbers of a study.

    Attributes:
        trials: points of the Sobol sequence per arm, a power of two; the default configuration comes on top.
        seeds: confirmation runs per arm.
        seed: from which all other seeds derive.
    """

    task: str
    steps: int
    arms: tuple[Arm, ...]
    trials: int = 16
    seeds: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        get_task(self.task)
        if self.trials < 1 or self.trials & (self.trials - 1):
            below = 1 << max(0, self.trials.bit_length() - 1)
            raise ArgumentError(
                f"trials: must be a power of two (a Sobol sequence is balanced only there), got trials={self.trials}; "
                f"pass {below} or {2 * below}"
            )
        if self.seeds < 2:
            raise ArgumentError(f"seeds: must be at least 2, or there is no interval, got seeds={self.seeds}; pass 5")
        if self.steps < 20:
            raise ArgumentError(f"steps: must be at least 20, or there is no curve, got steps={self.steps}")
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise ArgumentError(f"optimizers: each arm must be named once, got {', '.join(names) or 'none'}")

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads back."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def digest(self) -> str:
        """Return a hash that does not depend on the order of the arms, since that decides no number."""
        data = self.to_json()
        data["arms"].sort(key=lambda arm: str(arm["name"]))
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Spec":
        """Return the specification that `to_json` wrote."""
        return Spec(**{**data, "arms": tuple(Arm(**arm) for arm in data["arms"])})


def make_arms(optimizers: Sequence[str], schedules: Sequence[str]) -> tuple[Arm, ...]:
    """Return an arm for every optimizer under every schedule.

    Args:
        optimizers: names of spaces, with fixed hyperparameters after an @: `adamw@lr=1e-4`.
        schedules: "constant", "step", "cosine".

    Example:
        >>> [arm.name for arm in make_arms(["sgd", "adam@lr=1e-3"], ["cosine"])]
        ['sgd', 'adam@lr=1e-3']
    """
    for schedule in schedules:
        if schedule not in SCHEDULES:
            raise ArgumentError(f"schedules: must be among {', '.join(SCHEDULES)}, got {schedule!r}")
    arms = []
    for text in optimizers:
        optimizer, _, assignments = text.partition("@")
        space = get_space(optimizer)
        fixed = dict(_assignment(text, part, space) for part in assignments.split("@") if part)
        arms += [
            Arm(text if len(schedules) == 1 else f"{text} + {schedule}", optimizer, schedule, fixed)
            for schedule in schedules
        ]
    return tuple(arms)


def _assignment(text: str, part: str, space: Space) -> tuple[str, float]:
    name, _, value = part.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if name not in space.defaults or not math.isfinite(number):
        raise ArgumentError(
            f"optimizers: after @ comes NAME=NUMBER with NAME among {', '.join(space.defaults)}, got {text!r}; "
            f"for example {space.optimizer}@lr=0.001"
        )
    return name, number


Outcomes = Mapping[str, Outcome]  # by trial id


@dataclass(frozen=True)
class Search:
    """The tuning of one arm so far.

    Attributes:
        ranges: the searched dimensions, as extended.
        points: configurations by index, each a value for every hyperparameter.
        best: index of the selected configuration, or None when every trial failed.
        edge: the searched dimension at whose edge the optimum lies and its side ("low", "high"), or None.
    """

    arm: Arm
    ranges: tuple[Dimension, ...]
    points: tuple[Mapping[str, float], ...]
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


def confirm(spec: Spec, search: Search) -> list[Trial]:
    """Return the confirmation trials of an arm: its selected configuration on fresh seeds, in the order of the seeds.

    There are none when every tuning trial failed.
    """
    if search.best is None:
        return []
    stream = f"confirm {search.arm.name}" if search.arm.twin else "confirm"
    seeds = [derive(spec.seed, stream, i) for i in range(spec.seeds)]
    return [_trial(spec, search, search.best, "confirm", seed) for seed in seeds]


def tuning_trials(spec: Spec, search: Search) -> list[Trial]:
    """Return the tuning trials of an arm, by index; the default configuration is the first."""
    seed = derive(spec.seed, "tune")
    return [_trial(spec, search, index, "tune", seed) for index in range(len(search.points))]


def _first_round(spec: Spec, arm: Arm) -> Search:
    ranges = arm.space.searched(spec.trials, arm.fixed)
    defaults = {**arm.space.defaults, **arm.fixed}
    cube = sobol(derive(spec.seed, "search"), spec.trials)
    drawn = [{**defaults, **{d.name: d.value(point[d.axis]) for d in ranges}} for point in cube] if ranges else []
    return Search(arm, ranges, (defaults, *drawn))


def _extend(spec: Spec, search: Search, round_number: int) -> Search:
    """Add as many points to every arm: beyond the edge where an optimum lies at one, inside the range elsewhere."""
    cube = sobol(derive(spec.seed, "search", "extension", round_number), max(1, spec.trials // 2))
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
    drawn = [{**search.points[0], **{d.name: d.value(p[d.axis]) for d in drawn_from}} for p in cube] if ranges else []
    return Search(search.arm, tuple(ranges), (*search.points, *drawn))


def _between(dimension: Dimension, low: float, high: float) -> Dimension:
    return Dimension(dimension.name, dimension.axis, low, high, dimension.complement)


def _judge(spec: Spec, search: Search, outcomes: Outcomes) -> Search:
    """Return the search with its selected configuration and whether that lies at an edge of the ranges."""
    found = [outcomes[trial.id] for trial in tuning_trials(spec, search)]
    good = sorted((o.metrics["val_loss"], i) for i, o in enumerate(found) if o.failure is None)
    if not good:
        return Search(search.arm, search.ranges, search.points)
    failed = [search.points[i] for i, o in enumerate(found) if o.failure is not None]
    near = [i for loss, i in good if loss <= (1 + NEAR_TIE) * good[0][0]]
    best = max(near, key=lambda i: (_distance(search, search.points[i], failed), -i))
    top = [search.points[i] for _, i in good[:3]]
    edges = [_edge(d, search.points[best], top, search.points) for d in search.ranges]
    edge = next((found for found in edges if found is not None), None)
    return Search(search.arm, search.ranges, search.points, best, edge)


def _edge(
    dimension: Dimension,
    best: Mapping[str, float],
    top: Sequence[Mapping[str, float]],
    points: Sequence[Mapping[str, float]],
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


def _distance(search: Search, point: Mapping[str, float], failed: Sequence[Mapping[str, float]]) -> float:
    """Return how far a point is from the nearest failed one, in units of the ranges; 0 when none failed."""
    gaps = [max(abs(d.unit(point[d.name]) - d.unit(other[d.name])) for d in search.ranges) for other in failed]
    return min(gaps, default=0.0)


def _trial(spec: Spec, search: Search, index: int, stage: str, seed: int) -> Trial:
    arm = search.arm
    return Trial(
        stage=stage,
        task=spec.task,
        arm=arm.name,
        optimizer=arm.space.optimizer,
        schedule=arm.schedule,
        steps=spec.steps,
        index=index,
        seed=seed,
        options=arm.space.options(search.points[index]),
    )

"""List the trials that a study needs, given its specification and the outcomes so far."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fallline.lab.design.arms import Arm
from fallline.lab.design.optimizers import split_wrapper
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.schedules import WARMUP, learning_rates
from fallline.lab.design.spaces import AXES, Dimension, sobol
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import derive
from fallline.lab.search.selection import AGAIN, Search, finalists, judge, nominate, settle

ROUNDS = 2  # maximum extensions of a range; afterwards the report says "not interior"

Outcomes = Mapping[str, Outcome]  # by trial id


def check_schedules(spec: Spec) -> None:
    """Try the schedule of every arm for every run length, so that errors are raised before any trial runs.

    Raises:
        ArgumentError: a schedule cannot be used for a run length.
    """
    for arm in spec.arms:
        for stage in ("tune", "confirm", "equal-steps"):
            learning_rates(arm.schedule, spec.steps_of(arm, stage), arm.fixed.get("warmup", WARMUP))


def tune(spec: Spec, outcomes: Outcomes) -> tuple[list[Trial], dict[str, Search]]:
    """Return the tuning trials known to be needed so far, and the state of each arm's search.

    When all trials of the list have finished, the list grows by a round of extensions, and finally by the trials of the
    finalists. Tuning is complete when the list no longer grows.
    """
    task = spec.learning
    searches = {arm.name: _first_round(spec, arm) for arm in spec.arms}
    for round_number in range(ROUNDS + 1):
        trials = [trial for search in searches.values() for trial in tuning_trials(spec, search)]
        if any(trial.id not in outcomes for trial in trials):
            return trials, searches
        found = {name: [outcomes[t.id] for t in tuning_trials(spec, s)] for name, s in searches.items()}
        searches = {name: judge(s, found[name], task) for name, s in searches.items()}
        if round_number == ROUNDS or not any(s.edge for s in searches.values()):
            break
        searches = {name: _extend(spec, s, round_number) for name, s in searches.items()}
    searches = {name: nominate(s, found[name], task, finalists(spec.trials)) for name, s in searches.items()}
    again = {name: trials_again(spec, search) for name, search in searches.items()}
    trials += [trial for more in again.values() for trial in more]
    if all(trial.id in outcomes for trial in trials):
        for name, search in searches.items():
            runs = {i: [found[name][i]] for i in search.finalists}
            for trial in again[name]:
                runs[trial.index].append(outcomes[trial.id])
            searches[name] = settle(search, runs, found[name], task)
    return trials, searches


def trials_again(spec: Spec, search: Search) -> list[Trial]:
    """Return the trials of an arm's finalists on further tuning seeds, which are not used elsewhere in the study."""
    seeds = [derive(spec.seed, "tune again", number) for number in range(AGAIN)]
    return [_trial(spec, search, index, "tune", seed) for index in search.finalists for seed in seeds]


def confirm(spec: Spec, search: Search, stage: str = "confirm", seeds: int | None = None) -> list[Trial]:
    """Return the confirmation trials of an arm: its selected configuration on fresh seeds, in the order of the seeds.

    The list is empty if every tuning trial failed. If the task splits its data itself, each seed has a separate split,
    the same for all arms.

    Args:
        spec, search: the study, and the arm's search.
        seeds: number of seeds; by default the maximum in the specification.
        stage: "confirm"; or "equal-steps" for the same trials at the full number of steps, which exist only for arms
            that make fewer steps because each step takes several gradients.
    """
    arm = search.arm
    if search.best is None or (stage == "equal-steps" and not makes_fewer_steps(spec, arm)):
        return []
    stream = f"confirm {arm.name}" if arm.twin else "confirm"
    trials = []
    for i in range(spec.looks[-1] if seeds is None else seeds):
        split = derive(spec.seed, "split", i) if spec.resplit else None
        trials.append(_trial(spec, search, search.best, stage, derive(spec.seed, stream, i), split))
    return trials


def makes_fewer_steps(spec: Spec, arm: Arm) -> bool:
    """Return whether an arm makes fewer steps than others because each of its steps takes several backward passes."""
    return spec.equal == "grad-evals" and arm.space.passes > 1


def tuning_trials(spec: Spec, search: Search) -> list[Trial]:
    """Return the tuning trials of an arm, ordered by index; the default configuration comes first."""
    seeds = [derive(spec.seed, "tune", *_search_key(origin)) for origin in range(spec.searches)]
    return [_trial(spec, search, index, "tune", seeds[origin]) for index, origin in enumerate(search.origins)]


def _search_key(origin: int) -> tuple[int, ...]:
    """Return the key that separates the random numbers of the independent searches; empty for the first search."""
    return (origin,) if origin else ()


def _first_round(spec: Spec, arm: Arm) -> Search:
    ranges = arm.space.dimensions_for(spec.trials, arm.fixed, arm.ranges)
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
    """Add `count` points of the Sobol sequence seeded by `names` to each independent search."""
    points, origins = list(search.points), list(search.origins)
    others = tuple(sorted({d.axis for d in drawn_from} - {*AXES}))
    for origin in range(spec.searches if ranges else 0):
        for point in sobol(derive(spec.seed, "search", *names, *_search_key(origin)), count, others):
            points.append({**search.points[0], **{d.name: d.value(point[d.axis]) for d in drawn_from}})
            origins.append(origin)
    return Search(search.arm, ranges, tuple(points), tuple(origins))


def _extend(spec: Spec, search: Search, round_number: int) -> Search:
    """Add the same number of points to every arm: beyond the edge if the optimum lies at one, else inside the range."""
    drawn_from, ranges = [], []
    for dimension in search.ranges:
        beyond = inside = dimension
        if search.edge and search.edge[0] == dimension.name:
            # a complement is 1 - value, which must stay below 1
            low, high = dimension.low, dimension.high
            if search.edge[1] == "high":
                end = max(high, min(10 * high, 0.999)) if dimension.complement else 10 * high
                beyond = _between(dimension, high if end > high else low, end)  # inside if nothing lies beyond
                inside = _between(dimension, low, end)
            else:
                beyond = _between(dimension, low / 10, low)
                inside = _between(dimension, low / 10, high)
        drawn_from.append(beyond)
        ranges.append(inside)
    return _draw(spec, search, drawn_from, tuple(ranges), max(1, spec.trials // 2), "extension", round_number)


def _between(dimension: Dimension, low: float, high: float) -> Dimension:
    return replace(dimension, low=low, high=high)


def _trial(spec: Spec, search: Search, index: int, stage: str, seed: int, split: int | None = None) -> Trial:
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
        settings=spec.trial_settings(arm),
        evaluations=spec.evaluations,
        device=spec.device,
        sources={file: digest for place in sorted(named) for file, digest in spec.sources.get(place, {}).items()},
        landscape=spec.landscape and stage == "confirm",
        split=split,
        counts_gradients=space.measured and spec.equal == "grad-evals",
        versions=spec.versions,
        data=spec.data.get(spec.data_key(arm), ""),
    )

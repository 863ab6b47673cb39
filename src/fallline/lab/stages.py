"""Read the results of a study from its folder, and run its missing trials stage by stage (tuning, confirmation)."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fallline.errors import StudyError
from fallline.lab.analysis.failures import shared_failure
from fallline.lab.analysis.results import StudyResults, missing_outcome
from fallline.lab.design.outcome import TRACEBACK, Outcome, Timing
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.executors import Executor
from fallline.lab.executors.shard import Shard
from fallline.lab.search.trials import tune
from fallline.lab.storage.store import Store
from fallline.lab.storage.study_file import read_study

TIMING = "timing.json"  # in the study's folder
Callback = Callable[[Trial, Outcome], None]


@dataclass(frozen=True)
class Progress:
    """The progress of a study: trials done, trials expected in total, estimated seconds left, and current stage."""

    done: int
    total: int
    seconds_left: float
    stage: str


def read_results(store: Store, spec: Spec, baseline: str | None = None, margin: float | None = None) -> StudyResults:
    """Return the results that the folder of a study holds so far.

    Args:
        store: the folder.
        spec: the specification of the study.
        baseline: the arm that the others are compared with; the first by default.
        margin: difference, relative to the baseline's mean, below which arms count as equivalent, or None.
    """
    try:
        manifest: Mapping[str, Any] = read_study(store.folder).get("manifest", {})
    except StudyError:  # the study has not started
        manifest = {}
    first = StudyResults(
        spec,
        spec.arm_name(baseline or spec.arms[0].name, "baseline"),
        margin,
        spec.looks[0],
        timings=read_timings(store),
        folder=store.folder,
        manifest=manifest,
    )
    return update(first, store)


def update(study: StudyResults, store: Store) -> StudyResults:
    """Return the results together with those that were added to the folder since; no file is read twice."""
    outcomes = dict(study.outcomes)
    while True:
        trials, searches = tune(study.spec, outcomes)
        added = {t.id: o for t in trials if t.id not in outcomes and (o := store.outcome(t)) is not None}
        if not added:
            break
        outcomes |= added
    study = _read(replace(study, searches=searches, outcomes=outcomes), store)
    return count_seeds(study, store) if study.has(study.tuning) else study


def count_seeds(study: StudyResults, store: Store) -> StudyResults:
    """Return the results with the number of confirmation seeds, as far as it is known, and the runs on these seeds.

    The number is that of the first look at which every comparison is decided or runs are still missing, and that of
    the last look if there is none.
    """
    for seeds in study.spec.looks:
        study = _read(replace(study, seeds=seeds), store)
        if not study.has(study.confirmations) or study.is_decided():
            break
    return study


def _read(study: StudyResults, store: Store) -> StudyResults:
    """Return the results with the outcomes, costs and test items of all trials that the folder holds."""
    trials, confirmations = study.trials, study.confirmations
    outcomes = {t.id: o for t in trials if t.id not in study.outcomes and (o := store.outcome(t)) is not None}
    outcomes = {**study.outcomes, **outcomes}
    done = [trial for trial in trials if trial.id in outcomes]
    costs = {t.id: c for t in done if t.id not in study.costs and (c := store.costs(t)) is not None}
    items = {t.id: store.items(t) for t in confirmations if t.id in outcomes and t.id not in study.items}
    return replace(study, outcomes=outcomes, costs={**study.costs, **costs}, items={**study.items, **items})


def read_timings(store: Store) -> dict[str, Timing]:
    """Return the measurements of the timing pass, by arm; empty before the timing pass."""
    try:
        stored = json.loads((store.folder / TIMING).read_text(encoding="utf-8"))
        return {arm: Timing(**timing) for arm, timing in stored.items()}
    except (OSError, ValueError, TypeError):
        return {}


def write_timings(store: Store, timings: Mapping[str, Timing]) -> None:
    """Write the timings to the study's folder."""
    store.write(TIMING, json.dumps({arm: t.__dict__ for arm, t in timings.items()}))


def run_stages(
    study: StudyResults,
    store: Store,
    executor: Executor,
    progress: Callable[[Progress], None],
    callbacks: Sequence[Callback],
    workers: int | None = None,
) -> StudyResults:
    """Run the missing trials stage by stage; the outcomes of each stage determine the trials of the next one.

    Args:
        study: the results so far.
        store: the folder of the study.
        executor: runs the trials.
        progress: called after every trial.
        callbacks: called after every trial, with the trial and its outcome.
        workers: number of trials that run at a time, for the remaining time; None if it is unknown.
    """
    began, ran, spent = time.monotonic(), 0, 0.0
    to_confirm = study.spec.looks[0] * len(study.spec.arms)

    def complete(trials: list[Trial], expected: int, stage: str) -> StudyResults:
        nonlocal ran, spent
        outcomes = dict(study.outcomes)
        for trial in executor.run([trial for trial in trials if trial.id not in outcomes]):
            outcome = store.outcome(trial)
            if outcome is None:
                raise missing_outcome(trial)
            outcomes[trial.id] = outcome
            for callback in callbacks:
                callback(trial, outcome)
            ran += 1
            done = sum(t.id in outcomes for t in trials)
            missing = len(trials) - done + expected
            if workers is not None and (costs := store.costs(trial)) is not None:
                spent += costs.seconds  # without the start of the workers, which would count for every missing trial
                left = missing * spent / ran / min(workers, max(missing, 1))
            else:
                left = missing * (time.monotonic() - began) / ran
            earlier = 0 if stage == "tuning" else len(study.tuning)
            progress(Progress(earlier + done, earlier + len(trials) + expected, left, stage))
        return replace(study, outcomes=outcomes)

    while True:
        if not study.has(study.tuning):
            study = complete(study.tuning, to_confirm, "tuning")
        else:
            outcomes = [study.outcome(trial) for trial in study.tuning]
            _check_shared_error(store, study.tuning, outcomes, shared_folder=isinstance(executor, Shard))
            if study.has(study.confirmations):
                return study
            study = complete(study.confirmations, 0, "confirming")
        study = update(study, store)


def _check_shared_error(
    store: Store, trials: Sequence[Trial], outcomes: Sequence[Outcome], shared_folder: bool = False
) -> None:
    """Raise an error if all trials raised the same error at the same line, which no single arm can have caused.

    Args:
        store: the folder of the study.
        trials: the trials that have been run so far.
        outcomes: their outcomes.
        shared_folder: whether other processes also run trials of the study and wait for these outcomes. If not, the
            outcomes are removed, so that the same command runs the trials again.

    Raises:
        StudyError: every trial raised the same error.
    """
    failure = shared_failure(outcomes)
    if failure is None:
        return
    kept = store.log(trials[0])
    text, remedy = kept.read_text(encoding="utf-8"), f"fix it, delete {str(kept.parents[1])!r} and rerun the command"
    if not shared_folder:
        store.write(kept.name, text)
        for trial in trials:
            store.discard(trial)
        kept, remedy = store.folder / kept.name, "fix it and rerun the command"
    raise StudyError(
        f"All {len(trials)} trials of all arms raised the same error: {failure['cause']}. To continue, {remedy}. The "
        f"{'traceback' if kept.name == TRACEBACK else 'output'} is in {str(kept)!r}"
    )

"""A study from beginning to end: tune, confirm on fresh seeds, compare; and its tables."""

import functools
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.executors.local import LocalPool
from fallline.lab.plan import Search, Spec, confirm, make_arms, tune, tuning_trials
from fallline.lab.statistics import summarize
from fallline.lab.store import Store, read_study
from fallline.lab.tasks import get_task
from fallline.lab.trial import Outcome, Trial
from fallline.lab.verdicts import Result, compare_all, ranks

HEADLINE = "test_loss"  # from confirmation runs only; no decision of the study has seen it
TWIN = " (again)"


@dataclass(frozen=True)
class Progress:
    """How far a study is: trials done and expected, seconds left, and what is running."""

    done: int
    total: int
    seconds_left: float
    stage: str


class Study:
    """A finished study: its specification, its trials, and what follows from them.

    Attributes:
        spec: what decides its numbers.
        baseline: the arm that the others are compared with.
        margin: relative difference that the user calls irrelevant, or None.
        searches: the tuning of each arm, by name.
    """

    def __init__(self, spec: Spec, store: Store, baseline: str | None = None, margin: float | None = None) -> None:
        self.spec = spec
        self.store = store
        self.baseline = baseline or spec.arms[0].name
        self.margin = margin
        self.searches: dict[str, Search] = {}
        self._outcomes: dict[str, Outcome] = {}  # what is written is never written again

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order of the specification."""
        return [arm.name for arm in self.spec.arms]

    @property
    def trials(self) -> list[Trial]:
        """Every trial of the study, tuning first."""
        tuning = [trial for search in self.searches.values() for trial in tuning_trials(self.spec, search)]
        return tuning + [trial for search in self.searches.values() for trial in confirm(self.spec, search)]

    def outcome(self, trial: Trial) -> Outcome:
        """Return the outcome of one of the study's trials."""
        if trial.id not in self._outcomes:
            outcome = self.store.outcome(trial)
            if outcome is None:
                raise ArgumentError(f"trial: must have been run, got {trial.id} ({trial.arm}); repeat the command")
            self._outcomes[trial.id] = outcome
        return self._outcomes[trial.id]

    def confirmed(self, arm: str, metric: str = HEADLINE) -> list[float | None]:
        """Return a metric of an arm's confirmation runs, by seed; None where the run failed."""
        outcomes = [self.outcome(trial) for trial in confirm(self.spec, self.searches[arm])]
        if not outcomes:
            return [None] * self.spec.seeds
        return [None if o.failure else o.metrics[metric] for o in outcomes]

    @functools.cached_property
    def results(self) -> dict[str, Result]:
        """The comparison of every other arm with the baseline, on the headline metric."""
        values = {arm: self.confirmed(arm) for arm in self.arms}
        return compare_all(values, self.baseline, log_ratio=True, mode="min", margin=self.margin, metric="loss")

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return one record an arm, best first.

        Keys: rank, arm, verdict (against the baseline), lr, failed, seeds, interior, and mean and SD over the
        confirmation runs of test_loss, test_accuracy, val_loss, train_loss; default_val_loss and tuned_val_loss
        are single runs on the tuning seed.
        """
        order = ranks({arm: self.confirmed(arm) for arm in self.arms}, log_ratio=True, mode="min", margin=self.margin)
        rows = [{"rank": order[arm], **self._row(arm)} for arm in self.arms]
        return sorted(rows, key=lambda row: (row["rank"], _last_if_nan(row["test_loss"])))

    def _row(self, arm: str) -> dict[str, Any]:
        search = self.searches[arm]
        tuning = [self.outcome(trial) for trial in tuning_trials(self.spec, search)]
        row: dict[str, Any] = {
            "arm": arm,
            "verdict": "baseline" if arm == self.baseline else str(self.results[arm].verdict),
            "lr": search.points[search.best]["lr"] if search.best is not None else math.nan,
            "failed": sum(value is None for value in self.confirmed(arm)),
            "seeds": self.spec.seeds,
            "tuning_failed": sum(o.failure is not None for o in tuning),
            "tuning_trials": len(tuning),
            "interior": search.best is not None and search.edge is None,
            "default_val_loss": tuning[0].metrics["val_loss"] if not tuning[0].failure else math.nan,
            "tuned_val_loss": tuning[search.best].metrics["val_loss"] if search.best is not None else math.nan,
        }
        metrics = next((o.metrics for o in map(self.outcome, confirm(self.spec, search)) if not o.failure), {})
        for metric in dict.fromkeys(("test_loss", *sorted(metrics, reverse=True))):
            values = [value for value in (self.confirmed(arm, metric) if metrics else []) if value is not None]
            summary = summarize(values) if values and not row["failed"] else None  # survivors alone would flatter
            row[metric] = summary.mean if summary else math.nan
            row[f"{metric}_sd"] = summary.sd if summary else math.nan
        return row

    def warnings(self) -> list[str]:
        """Return what a reader must know before trusting the numbers, a sentence each."""
        found = []
        for arm, search in self.searches.items():
            if search.best is None:
                found.append(f"{arm}: every tuning trial failed, so nothing was confirmed")
            elif search.edge is not None:
                name, side = search.edge
                if any(d.complement for d in search.ranges if d.name == name):  # 1 − value was searched
                    side = {"low": "high", "high": "low"}[side]
                found.append(f"{arm}: the best {name} lies at the {side} end of its range, even after extending it")
            elif not search.ranges:
                found.append(f"{arm}: nothing was tuned, since every searched hyperparameter is fixed")
        return found

    def costs(self) -> list[dict[str, Any]]:
        """Return one record an arm: trials, seconds in all, medians of milliseconds a step, bytes of state."""
        rows = []
        for arm, search in self.searches.items():
            trials = [*tuning_trials(self.spec, search), *confirm(self.spec, search)]
            costs = [c for c in map(self.store.costs, trials) if c is not None]
            names = ("seconds", "step_ms", "optimizer_ms", "state_bytes")  # the results do not need them: may be lost
            columns = {name: sorted(getattr(c, name) for c in costs) or [math.nan] for name in names}
            middle = len(costs) // 2
            row = {
                "seconds": sum(columns["seconds"]),
                "step_ms": columns["step_ms"][middle],
                "optimizer_ms": columns["optimizer_ms"][middle],
                "state_bytes": columns["state_bytes"][-1],
            }
            rows.append({"arm": arm, "trials": len(trials), **row})
        return rows

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs no network, and return its path."""
        from fallline.lab.report import write_report

        return write_report(self, Path(path))


def compare(
    task: str = "digits",
    optimizers: Sequence[str] = ("momentum", "adam", "adamw"),
    schedules: Sequence[str] = ("cosine",),
    *,
    trials: int = 16,
    seeds: int = 8,
    steps: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    out: str | Path | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    self_check: bool = False,
    fork: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Study:
    """Tune each optimizer with the same budget, confirm on fresh seeds, and compare.

    The same call completes a study that was interrupted. Workers are separate processes: in a script, call this
    under `if __name__ == "__main__":`.

    Args:
        task: name of a built-in task.
        optimizers: names as in `fallline list`; `adamw@lr=1e-4` fixes a hyperparameter.
        schedules: "constant", "step", "cosine"; each is an arm of its own.
        trials: search points an arm, a power of two; the default configuration comes on top.
        seeds: confirmation runs an arm, at least 2.
        steps: optimizer steps a run, the task's by default.
        seed: from which every other seed derives.
        jobs: worker processes; by default one a core.
        out: folder of the study; by default one under `fallline-runs` named by the specification.
        baseline: the arm that the others are compared with; the first by default.
        margin: relative difference below which arms count as equivalent (0.02 is 2 %).
        self_check: run the first arm under two names with disjoint seeds; a sound study finds no difference.
        fork: go on in a folder that holds a study of another specification.
        progress: called after every trial.

    Raises:
        ArgumentError: an argument cannot be used.
        StudyError: the folder cannot be written, or holds another study.
    """
    arms = make_arms(optimizers, schedules)
    if self_check:
        arms = (arms[0], replace(arms[0], name=arms[0].name + TWIN, twin=True))
    spec = Spec(task, get_task(task).steps if steps is None else steps, arms, trials, seeds, seed)
    if baseline is not None and baseline not in (names := [arm.name for arm in arms]):
        raise ArgumentError(
            f"baseline: must be one of {', '.join(names)}, got {baseline!r}; leave it out for the first"
        )
    if jobs is not None and jobs < 1:
        raise ArgumentError(f"jobs: must be at least 1, got jobs={jobs}; leave it out for one a core")
    if margin is not None and not 0 < margin < 1:
        raise ArgumentError(f"margin: must be in (0, 1), got margin={margin:g}; 0.02 is 2 %")
    store = Store(Path(out) if out is not None else _default_folder(spec))
    study = Study(spec, store, baseline, margin)
    store.claim(spec, {"baseline": study.baseline, "margin": margin}, _manifest(), fork)
    with LocalPool(store.folder, jobs or os.cpu_count() or 1) as pool:
        _run(study, pool, progress or (lambda _: None))
    store.write_tables(study.trials)
    return study


def load(folder: str | Path) -> Study:
    """Return the finished study in a folder, with the baseline and margin it was last compared with.

    Raises:
        StudyError: the folder holds none.
        ArgumentError: trials of the study are missing.
    """
    stored = read_study(Path(folder))
    spec = Spec.from_json(stored["spec"])
    study = Study(spec, Store(Path(folder)), **stored["analysis"])
    known = {trial.id: outcome for trial in _all_tuning(study) if (outcome := study.store.outcome(trial))}
    _, study.searches = tune(spec, known)
    for trial in study.trials:
        study.outcome(trial)
    return study


def _all_tuning(study: Study) -> list[Trial]:
    known: dict[str, Outcome] = {}
    while True:
        trials, _ = tune(study.spec, known)
        fresh = {t.id: o for t in trials if t.id not in known and (o := study.store.outcome(t)) is not None}
        if not fresh:
            return trials
        known |= fresh


def _run(study: Study, pool: LocalPool, progress: Callable[[Progress], None]) -> None:
    """Run what is missing, stage by stage; the plan is asked again after each, since extensions depend on outcomes."""
    outcomes: dict[str, Outcome] = {}
    began, ran = time.monotonic(), 0
    to_confirm = study.spec.seeds * len(study.spec.arms)

    def complete(trials: list[Trial], expected: int, stage: str) -> None:
        nonlocal ran
        for trial in trials:
            stored = outcomes.get(trial.id) or study.store.outcome(trial)
            if stored is not None:
                outcomes[trial.id] = stored
        missing = [trial for trial in trials if trial.id not in outcomes]
        for trial in pool.run(missing):
            outcomes[trial.id] = study.outcome(trial)
            ran += 1
            done = sum(t.id in outcomes for t in trials)
            left = (len(trials) - done + expected) * (time.monotonic() - began) / ran
            earlier = 0 if stage == "tuning" else len(tuning)
            progress(Progress(earlier + done, earlier + len(trials) + expected, left, stage))

    tuning: list[Trial] = []
    while True:
        tuning, study.searches = tune(study.spec, outcomes)
        if all(trial.id in outcomes for trial in tuning):
            break
        complete(tuning, to_confirm, "tuning")
    complete([t for s in study.searches.values() for t in confirm(study.spec, s)], 0, "confirming")


def _default_folder(spec: Spec) -> Path:
    return Path("fallline-runs") / f"{spec.task}-{spec.digest()}"


def _manifest() -> dict[str, Any]:
    packages = ("fallline", "torch", "numpy", "numba", "scipy", "scikit-learn")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
    }


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value

"""The results of a study: its specification, searches, outcomes and costs, and the statistics computed from them."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import ArgumentError
from fallline.lab.analysis.pairing import pair_design
from fallline.lab.analysis.statistics import summarize
from fallline.lab.analysis.variance import Design
from fallline.lab.analysis.verdicts import Result, Verdict, compare_all, ranks
from fallline.lab.design.outcome import Costs, Outcome, Timing
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.search.selection import Search
from fallline.lab.search.trials import confirm, trials_again, tuning_trials

CONFIRMATION = ("confirm", "equal-steps")  # stages after tuning


@dataclass(frozen=True, eq=False)
class StudyResults:
    """All results of a study. The analysis and the report use this object and do not read files of the study.

    While a study runs, outcomes may be missing. Methods that need a missing outcome raise an ArgumentError.

    Attributes:
        spec: the specification, which determines every number of the study.
        baseline: the arm that the others are compared with.
        margin: largest difference, relative to the baseline's mean, that the user considers irrelevant, or None.
        seeds: number of confirmation runs per arm, so far or at the end of the study.
        searches: the tuning of each arm, by name; empty before the study starts.
        outcomes: the outcomes of the trials, by trial id.
        items: the test items of confirmation runs, by trial id; None where they were not stored.
        costs: the costs of the trials, by trial id; an entry is missing if its file was lost, since no result needs it.
        timings: the timing of one step of each arm, by name; empty before the arms are timed.
        folder: the folder of the study.
        manifest: versions, hardware, parameter groups and skipped checks, from study.json.
    """

    spec: Spec
    baseline: str
    margin: float | None
    seeds: int
    searches: Mapping[str, Search] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    items: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    costs: Mapping[str, Costs] = field(default_factory=dict)
    timings: Mapping[str, Timing] = field(default_factory=dict)
    folder: Path = Path()
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def metric(self) -> str:
        """The validation metric by which configurations are selected."""
        return self.spec.learning.metric

    @functools.cached_property
    def mode(self) -> str:
        """Whether smaller ("min") or larger ("max") values of the metric are better."""
        return self.spec.learning.mode

    @property
    def headline(self) -> str:
        """The same metric on the test split; only confirmation runs have it."""
        return f"test_{self.metric.removeprefix('val_')}"

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order of the specification."""
        return [arm.name for arm in self.spec.arms]

    @functools.cached_property
    def tuning(self) -> list[Trial]:
        """The tuning trials of all arms; the trials of the finalists on further seeds come last."""
        return [
            t for trials in (self.tuning_trials, self.repeated_trials) for arm in self.searches for t in trials(arm)
        ]

    @property
    def confirmations(self) -> list[Trial]:
        """The confirmation trials of all arms; the trials at equal steps come last."""
        return [t for stage in CONFIRMATION for arm in self.searches for t in self.confirmation_trials(arm, stage)]

    @property
    def trials(self) -> list[Trial]:
        """All trials of the study; the tuning trials come first."""
        return self.tuning + self.confirmations

    def has(self, trials: Sequence[Trial]) -> bool:
        """Return whether the outcomes of all given trials are available."""
        return all(trial.id in self.outcomes for trial in trials)

    def outcome(self, trial: Trial) -> Outcome:
        """Return the outcome of one of the study's trials.

        Raises:
            ArgumentError: the trial has not been run.
        """
        outcome = self.outcomes.get(trial.id)
        if outcome is None:
            raise missing_outcome(trial)
        return outcome

    def confirmed(self, arm: str, metric: str | None = None, stage: str = "confirm") -> list[float | None]:
        """Return a metric of an arm's confirmation runs, by seed; None where the run failed or was not started.

        Args:
            arm: name of the arm.
            metric: name of the metric; the headline metric by default.
            stage: "confirm", or "equal-steps" for the runs in which an arm like SAM makes as many steps as the others.
        """
        outcomes = self.confirmation(arm, stage)
        if not outcomes:
            return [None] * self.seeds
        return [None if o.failure else o.metrics.get(metric or self.headline, math.nan) for o in outcomes]

    def confirmation(self, arm: str, stage: str = "confirm") -> list[Outcome]:
        """Return the outcomes of an arm's confirmation runs, by seed; empty if every tuning trial failed."""
        return [self.outcome(trial) for trial in self.confirmation_trials(arm, stage)]

    def tuning_trials(self, arm: str) -> list[Trial]:
        """Return an arm's tuning trials, ordered by index; the default configuration comes first."""
        return self._find_trials(arm, "tune", lambda search: tuning_trials(self.spec, search))

    def repeated_trials(self, arm: str) -> list[Trial]:
        """Return the trials of an arm's finalists on further seeds."""
        return self._find_trials(arm, "again", lambda search: trials_again(self.spec, search))

    def confirmation_trials(self, arm: str, stage: str = "confirm") -> list[Trial]:
        """Return an arm's confirmation trials, by seed; empty if every tuning trial failed."""
        return self._find_trials(arm, stage, lambda search: confirm(self.spec, search, stage, self.seeds))

    def _find_trials(self, arm: str, stage: str, make: Callable[[Search], list[Trial]]) -> list[Trial]:
        if (arm, stage) not in self._trials:
            self._trials[arm, stage] = make(self.searches[arm])
        return self._trials[arm, stage]

    @functools.cached_property
    def _trials(self) -> dict[tuple[str, str], list[Trial]]:
        return {}  # by arm and stage; a lookup is cheaper than computing the ids of the trials, which are hashes

    @functools.cached_property
    def log_ratio(self) -> bool:
        """Whether arms are compared by ratios, which is the case for losses if all of them are above 0."""
        values = [value for arm in self.arms for value in self.confirmed(arm) if value is not None]
        return self.headline.endswith("loss") and all(value > 0 for value in values)

    @functools.cached_property
    def has_losses_below_0(self) -> bool:
        """Whether any loss is below 0, in which case axes of losses cannot be logarithmic."""
        rows = (row for trial in self.trials for row in self.outcome(trial).curve)
        return any(row[name] < 0 for row in rows for name in ("train_loss", "val_loss") if name in row)

    def compare_with(self, baseline: str, arms: Sequence[str] | None = None) -> dict[str, Result]:
        """Compare arms (by default all) with `baseline` on the headline metric, and return the results by arm."""
        return compare_all(
            {arm: self.confirmed(arm) for arm in arms or self.arms},
            baseline,
            log_ratio=self.log_ratio,
            mode=self.mode,
            margin=self.margin,
            metric=self.headline.removeprefix("test_").replace("_", " "),
            design=self.design,
            looks=self.spec.looks,
        )

    @functools.cached_property
    def comparisons(self) -> dict[str, Result]:
        """The comparison of every other arm with the baseline on the headline metric."""
        return self.compare_with(self.baseline)

    def design(self, arm: str, baseline: str) -> Design:
        """Return the sources of randomness in the comparison of two arms that have no failed confirmation runs."""
        own, other = (self._confirmation_with_items(name) for name in (arm, baseline))
        return pair_design(own, other, self.spec.resplit)

    def _confirmation_with_items(self, arm: str) -> list[Outcome]:
        return [replace(self.outcome(t), items=self.items.get(t.id)) for t in self.confirmation_trials(arm)]

    def is_decided(self) -> bool:
        """Return whether every comparison with the baseline is decided, so that no further seeds are needed."""
        return all(result.is_decided(self.margin) for result in self.comparisons.values())

    def explain_stopping(self) -> str:
        """Return a sentence on when and why the confirmation stopped; empty if the number of seeds was fixed."""
        looks = self.spec.looks
        if len(looks) == 1 or not self.comparisons:
            return ""
        undecided = [a for a, result in self.comparisons.items() if result.verdict is Verdict.NOT_DISTINGUISHABLE]
        if self.seeds == looks[-1] and not self.is_decided():
            return f"All {self.seeds} seeds were used, and these comparisons stayed undecided: {', '.join(undecided)}."
        why = "every comparison was decided"
        if undecided:
            why = (
                f"more seeds could not decide the comparisons of {', '.join(undecided)}, because the number of test "
                "examples limits their precision"
            )
        return f"The confirmation stopped after {self.seeds} of at most {looks[-1]} seeds: {why}."

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return one record per arm, best arm first.

        The keys are rank, arm, verdict (against the baseline), lr, steps, failed, seeds, interior, and the mean and SD
        of test_loss, test_accuracy, val_loss and train_loss over the confirmation runs. default_val_loss and
        tuned_val_loss come from single runs on the tuning seed; their names follow the metric that selects
        configurations (for example default_val_accuracy).
        """
        return [dict(row) for row in self._leaderboard]

    @functools.cached_property
    def _leaderboard(self) -> list[dict[str, Any]]:
        values = {arm: self.confirmed(arm) for arm in self.arms}
        order = ranks(
            values,
            log_ratio=self.log_ratio,
            mode=self.mode,
            margin=self.margin,
            design=self.design,
            looks=self.spec.looks,
        )
        rows = [{"rank": order[arm], **self._row(arm)} for arm in self.arms]
        sign = 1 if self.mode == "min" else -1
        return sorted(rows, key=lambda row: (row["rank"], _last_if_nan(sign * row[self.headline])))

    def _row(self, arm: str) -> dict[str, Any]:
        search = self.searches[arm]
        tuning = [self.outcome(trial) for trial in self.tuning_trials(arm)]
        row: dict[str, Any] = {
            "arm": arm,
            "verdict": "baseline" if arm == self.baseline else str(self.comparisons[arm].verdict),
            "steps": self.spec.steps_of(search.arm, "confirm"),
            "lr": search.points[search.best].get("lr", math.nan) if search.best is not None else math.nan,
            "failed": sum(value is None for value in self.confirmed(arm)),
            "seeds": self.seeds,
            "tuning_failed": sum(o.failure is not None for o in tuning),
            "tuning_trials": len(tuning),
            "interior": search.best is not None and search.edge is None,
            f"default_{self.metric}": tuning[0].metrics[self.metric] if not tuning[0].failure else math.nan,
            f"tuned_{self.metric}": tuning[search.best].metrics[self.metric] if search.best is not None else math.nan,
        }
        metrics = next((o.metrics for o in self.confirmation(arm) if not o.failure), {})
        for metric in dict.fromkeys((self.headline, *sorted(metrics, reverse=True))):
            values = [value for value in (self.confirmed(arm, metric) if metrics else []) if value is not None]
            known = bool(values) and not row["failed"] and all(map(math.isfinite, values))
            summary = summarize(values) if known else None  # a mean over only the finished runs would be too good
            row[metric] = summary.mean if summary else math.nan
            row[f"{metric}_sd"] = summary.sd if summary else math.nan
        return row


def missing_outcome(trial: Trial) -> ArgumentError:
    """Return the error for a trial without an outcome."""
    return ArgumentError(f"trial: must have been run, got {trial.id} ({trial.arm}); rerun the command")


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value

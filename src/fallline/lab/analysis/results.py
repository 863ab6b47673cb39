"""The results of a study: its specification, searches, outcomes and costs, and what is computed from them."""

import functools
import math
from collections.abc import Mapping, Sequence
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
    """Everything that is known of a study. Analysis and report take this and read no file of the study.

    While a study runs, outcomes may be missing; methods that need one of these raise an ArgumentError.

    Attributes:
        spec: decides every number of the study.
        baseline: the arm that the others are compared with.
        margin: difference, relative to the baseline's mean, that the user calls irrelevant, or None.
        seeds: number of confirmation runs per arm, so far or in the end.
        searches: the tuning of each arm, by name; empty before the study has begun.
        outcomes: by trial id.
        items: the test items of confirmation runs, by trial id; None where they were not kept.
        costs: by trial id; missing where they were lost, since no result needs them.
        timings: of a step of each arm, by name; empty before the arms are timed.
        folder: where the study is stored.
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
        """The metric by which configurations are selected, on validation."""
        return self.spec.learning.metric

    @functools.cached_property
    def mode(self) -> str:
        """Whether smaller ("min") or larger ("max") values of the metric are better."""
        return self.spec.learning.mode

    @property
    def headline(self) -> str:
        """The metric on the test split, from confirmation runs only."""
        return f"test_{self.metric.removeprefix('val_')}"

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order of the specification."""
        return [arm.name for arm in self.spec.arms]

    @functools.cached_property
    def tuning(self) -> list[Trial]:
        """The tuning trials of all arms, the finalists' further trials last."""
        searches = self.searches.values()
        return [trial for trials in (tuning_trials, trials_again) for s in searches for trial in trials(self.spec, s)]

    @property
    def confirmations(self) -> list[Trial]:
        """The confirmation trials of all arms, those at equal steps last."""
        return [t for stage in CONFIRMATION for arm in self.searches for t in self.confirmation_trials(arm, stage)]

    @property
    def trials(self) -> list[Trial]:
        """Every trial of the study, tuning first."""
        return self.tuning + self.confirmations

    def has(self, trials: Sequence[Trial]) -> bool:
        """Return whether the outcomes of all these trials are known."""
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
        """Return a metric of an arm's confirmation runs, by seed; None where the run failed or was never made.

        Args:
            arm: its name.
            metric: the headline by default.
            stage: "confirm"; or "equal-steps", the runs of an arm like SAM at as many steps as the other arms make.
        """
        outcomes = self.confirmation(arm, stage)
        if not outcomes:
            return [None] * self.seeds
        return [None if o.failure else o.metrics.get(metric or self.headline, math.nan) for o in outcomes]

    def confirmation(self, arm: str, stage: str = "confirm") -> list[Outcome]:
        """Return the outcomes of an arm's confirmation runs, by seed; none when every tuning trial failed."""
        return [self.outcome(trial) for trial in self.confirmation_trials(arm, stage)]

    def confirmation_trials(self, arm: str, stage: str = "confirm") -> list[Trial]:
        """Return an arm's confirmation trials, by seed; none when every tuning trial failed."""
        key = (arm, stage)
        if key not in self._confirmations:
            self._confirmations[key] = confirm(self.spec, self.searches[arm], stage, self.seeds)
        return self._confirmations[key]

    @functools.cached_property
    def _confirmations(self) -> dict[tuple[str, str], list[Trial]]:
        return {}  # by arm and stage: the id of a trial is a hash, and costs more than to look it up

    @functools.cached_property
    def log_ratio(self) -> bool:
        """Whether arms are compared by ratios: losses are, where all are above 0."""
        values = [value for arm in self.arms for value in self.confirmed(arm) if value is not None]
        return self.headline.endswith("loss") and all(value > 0 for value in values)

    @functools.cached_property
    def has_losses_below_0(self) -> bool:
        """Whether some loss is below 0, so that no axis of losses can be logarithmic."""
        rows = (row for trial in self.trials for row in self.outcome(trial).curve)
        return any(row[name] < 0 for row in rows for name in ("train_loss", "val_loss") if name in row)

    def compare_with(self, baseline: str, arms: Sequence[str] | None = None) -> dict[str, Result]:
        """Return the comparison of arms with one of them on the headline metric; of all arms by default."""
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
        """The comparison of every other arm with the baseline, on the headline metric."""
        return self.compare_with(self.baseline)

    def design(self, arm: str, baseline: str) -> Design:
        """Return which sources of chance a comparison of two arms contains, none of whose runs has failed."""
        own, other = (self._confirmation_with_items(name) for name in (arm, baseline))
        return pair_design(own, other, self.spec.resplit)

    def _confirmation_with_items(self, arm: str) -> list[Outcome]:
        return [replace(self.outcome(t), items=self.items.get(t.id)) for t in self.confirmation_trials(arm)]

    def is_decided(self) -> bool:
        """Return whether every comparison with the baseline is decided, so that no further seeds are needed."""
        return all(result.is_decided(self.margin) for result in self.comparisons.values())

    def explain_stopping(self) -> str:
        """Return after how many seeds the confirmation stopped and why, as a sentence; empty for a fixed number."""
        looks = self.spec.looks
        if len(looks) == 1 or not self.comparisons:
            return ""
        undecided = [a for a, result in self.comparisons.items() if result.verdict is Verdict.NOT_DISTINGUISHABLE]
        if self.seeds == looks[-1] and not self.is_decided():
            return f"All {self.seeds} seeds were used; they could not decide {', '.join(undecided)}."
        why = "every comparison was decided"
        if undecided:
            why = f"further seeds could not decide {', '.join(undecided)}, since the examples are the limit"
        return f"The confirmation stopped after {self.seeds} of at most {looks[-1]} seeds: {why}."

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return one record per arm, best first.

        Keys: rank, arm, verdict (against the baseline), lr, steps, failed, seeds, interior, and mean and SD over the
        confirmation runs of test_loss, test_accuracy, val_loss, train_loss; default_val_loss and tuned_val_loss
        are single runs on the tuning seed, of the metric that selects (default_val_accuracy …).
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
        tuning = [self.outcome(trial) for trial in tuning_trials(self.spec, search)]
        row: dict[str, Any] = {
            "arm": arm,
            "verdict": "baseline" if arm == self.baseline else str(self.comparisons[arm].verdict),
            "steps": self.spec.steps_of(search.arm, "confirm"),
            "lr": search.points[search.best]["lr"] if search.best is not None else math.nan,
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
            summary = summarize(values) if known else None  # survivors alone would flatter
            row[metric] = summary.mean if summary else math.nan
            row[f"{metric}_sd"] = summary.sd if summary else math.nan
        return row


def missing_outcome(trial: Trial) -> ArgumentError:
    """Return the error that reports a trial without an outcome."""
    return ArgumentError(f"trial: must have been run, got {trial.id} ({trial.arm}); repeat the command")


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value

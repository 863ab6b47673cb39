"""A study from beginning to end: tune, confirm on fresh seeds, compare; and its tables."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.errors import ArgumentError
from fallline.lab.analysis.caveats import doubts
from fallline.lab.analysis.costs import cost_records
from fallline.lab.analysis.pairing import pair_design
from fallline.lab.analysis.statistics import summarize
from fallline.lab.analysis.variance import Design
from fallline.lab.analysis.verdicts import Result, compare_all, ranks
from fallline.lab.design.outcome import Outcome, Timing
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.search.selection import Search
from fallline.lab.search.trials import confirm, trials_again, tuning_trials
from fallline.lab.storage.store import Store

if TYPE_CHECKING:
    from fallline.lab.report.records import Records

TIMING = "timing.json"  # in the study's folder


class Study:
    """A study: its specification, its trials, and what follows from them once they have been run.

    Attributes:
        spec: what decides its numbers.
        baseline: the arm that the others are compared with.
        margin: difference, relative to the baseline's mean, that the user calls irrelevant, or None.
        searches: the tuning of each arm, by name.
        seeds: how many seeds each arm is confirmed on, so far or in the end.
        metric: what configurations are selected by, on validation.
        headline: the same on the test split, from confirmation runs only; no decision of the study has seen it.
        mode: "min" when smaller is better, else "max".
    """

    def __init__(self, spec: Spec, store: Store, baseline: str | None = None, margin: float | None = None) -> None:
        self.spec = spec
        self.store = store
        self.baseline = baseline or spec.arms[0].name
        self.margin = margin
        task = spec.learning
        self.metric, self.mode = task.metric, task.mode
        self.headline = f"test_{self.metric.removeprefix('val_')}"
        self.searches: dict[str, Search] = {}
        self.seeds = spec.looks[0]
        self._results: dict[int, dict[str, Result]] = {}  # by the number of seeds
        self._items: dict[str, np.ndarray | None] = {}  # by trial
        self._outcomes: dict[str, Outcome] = {}  # what is written is never written again
        self._confirmations: dict[tuple[str, str, int], tuple[Search, list[Trial]]] = {}  # by arm, stage and seeds

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order of the specification."""
        return [arm.name for arm in self.spec.arms]

    @property
    def trials(self) -> list[Trial]:
        """Every trial of the study, tuning first."""
        searches = self.searches.values()
        tuning = [trial for trials in (tuning_trials, trials_again) for s in searches for trial in trials(self.spec, s)]
        stages = ("confirm", "equal-steps")
        return tuning + [t for stage in stages for arm in self.searches for t in self.confirmation_trials(arm, stage)]

    def outcome(self, trial: Trial) -> Outcome:
        """Return the outcome of one of the study's trials."""
        if trial.id not in self._outcomes:
            outcome = self.store.outcome(trial)
            if outcome is None:
                raise ArgumentError(f"trial: must have been run, got {trial.id} ({trial.arm}); repeat the command")
            self._outcomes[trial.id] = outcome
        return self._outcomes[trial.id]

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
        search, key = self.searches[arm], (arm, stage, self.seeds)
        known = self._confirmations.get(key)
        if known is None or known[0] is not search:
            known = self._confirmations[key] = search, confirm(self.spec, search, stage, self.seeds)
        return known[1]

    @property
    def log_ratio(self) -> bool:
        """Whether arms are compared by ratios: losses are, where all are above 0."""
        values = [value for arm in self.arms for value in self.confirmed(arm) if value is not None]
        return self.headline.endswith("loss") and all(value > 0 for value in values)

    @functools.cached_property
    def has_losses_below_0(self) -> bool:
        """Whether some loss is, so that no axis of losses can be logarithmic."""
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

    @property
    def results(self) -> dict[str, Result]:
        """The comparison of every other arm with the baseline, on the headline metric."""
        if self.seeds not in self._results:
            self._results[self.seeds] = self.compare_with(self.baseline)
        return self._results[self.seeds]

    def design(self, arm: str, baseline: str) -> Design:
        """Return which sources of chance a comparison of two arms contains, none of whose runs has failed."""
        own, other = (self._confirmation_with_items(name) for name in (arm, baseline))
        return pair_design(own, other, self.spec.resplit)

    def _confirmation_with_items(self, arm: str) -> list[Outcome]:
        found = []
        for trial in self.confirmation_trials(arm):
            if trial.id not in self._items:
                self._items[trial.id] = self.store.items(trial)
            found.append(replace(self.outcome(trial), items=self._items[trial.id]))
        return found

    def is_decided(self) -> bool:
        """Return whether every comparison with the baseline is decided, so that no further seeds are needed."""
        return all(result.is_decided(self.margin) for result in self.results.values())

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return one record an arm, best first.

        Keys: rank, arm, verdict (against the baseline), lr, steps, failed, seeds, interior, and mean and SD over the
        confirmation runs of test_loss, test_accuracy, val_loss, train_loss; default_val_loss and tuned_val_loss
        are single runs on the tuning seed, of the metric that selects (default_val_accuracy …).
        """
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
            "verdict": "baseline" if arm == self.baseline else str(self.results[arm].verdict),
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

    def warnings(self) -> list[str]:
        """Return what a reader must know before trusting the numbers, a sentence each."""
        return doubts(self)

    def costs(self) -> list[dict[str, Any]]:
        """Return one record an arm.

        Keys: trials, seconds (of all trials), tuning_s and evaluation_s (of these), and step_ms, optimizer_ms (median,
        quartiles), data_ms, passes, state_bytes, memory_bytes from the timing pass; medians over trials where there
        was none.
        """
        return cost_records(self)

    def timings(self) -> dict[str, Timing]:
        """Return what the timing pass measured, by arm; empty when it has not been made."""
        try:
            stored = json.loads((self.store.folder / TIMING).read_text(encoding="utf-8"))
            return {arm: Timing(**timing) for arm, timing in stored.items()}
        except (OSError, ValueError, TypeError):
            return {}

    def keep_timings(self, timings: Mapping[str, Timing]) -> None:
        """Write the timings to the study's folder."""
        self.store.write(TIMING, json.dumps({arm: t.__dict__ for arm, t in timings.items()}))

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs no network, and return its path."""
        from fallline.lab.report import write_report

        return write_report(self, Path(path))

    def tables(self) -> "dict[str, Records]":
        """Return every table of the report, by name, as lists of records with a method `to_pandas`."""
        from fallline.lab.report.notebook import tables

        return tables(self)

    def figures(self) -> dict[str, Any]:
        """Return every figure of the report, by name, as an Altair chart, which a notebook shows inline."""
        from fallline.lab.report.notebook import figures

        return figures(self)

    def best_code(self) -> str:
        """Return the best arm as Python code to paste; empty when every arm failed."""
        from fallline.lab.report import best_code

        return best_code(self)

    def to_tensorboard(self, folder: str | Path) -> Path:
        """Write the curves of every trial as TensorBoard event files, and return the folder.

        Raises:
            MissingExtraError: the package tensorboard is not installed.
        """
        from fallline.lab.report.tensorboard import to_tensorboard

        return to_tensorboard(self, Path(folder))

    def __str__(self) -> str:
        head = f"study of {self.spec.task} in {self.store.folder}"
        if not self.searches or any(self.store.outcome(trial) is None for trial in self.trials):
            return f"{head}: not finished"
        ranks = []
        for row in self.leaderboard():
            value = f"{self.headline.replace('_', ' ')} {row[self.headline]:.4g} ± {row[f'{self.headline}_sd']:.2g}"
            result = f"failed {row['failed']} of {row['seeds']}" if row["failed"] else value
            rank = "–" if row["failed"] else f"{row['rank']}."
            ranks.append(f"{rank} {row['arm']}: {result}")
        said = [f"• {result}" for result in self.results.values()]
        return "\n".join([head, *ranks, *said, *(f"! {warning}" for warning in self.warnings())])

    def _repr_html_(self) -> str:
        from fallline.lab.report.notebook import summary_html

        return summary_html(self) if self.searches else repr(self)


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value

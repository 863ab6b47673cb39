"""The object that `compare` and `load` return: the results of a study, its report and its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.analysis.costs import summarize_costs
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.variance import Design
from fallline.lab.analysis.verdicts import Result
from fallline.lab.design.outcome import Outcome, Timing
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.search.selection import Search
from fallline.lab.stages import read_results
from fallline.lab.storage.store import Store
from fallline.lab.storage.study_file import read_spec, read_study

if TYPE_CHECKING:
    from fallline.lab.report.tables import Records


class Study:
    """A study: its specification, its trials, and the results computed from them.

    The methods that write or draw import the report only when they are called, because it needs altair and jinja2,
    whose import takes longer than the start of a worker.

    Attributes:
        record: outcomes, searches and costs, and the results computed from them.
        store: the folder of the study.
    """

    def __init__(self, record: StudyResults, store: Store) -> None:
        self.record = record
        self.store = store

    @property
    def spec(self) -> Spec:
        """The specification, which determines all results of the study."""
        return self.record.spec

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return self.record.baseline

    @property
    def margin(self) -> float | None:
        """Difference, relative to the baseline's mean, below which arms count as equivalent, or None."""
        return self.record.margin

    @property
    def searches(self) -> Mapping[str, Search]:
        """The tuning of each arm, by name."""
        return self.record.searches

    @property
    def seeds(self) -> int:
        """The number of confirmation seeds per arm; it may still grow while the study runs."""
        return self.record.seeds

    @property
    def metric(self) -> str:
        """The validation metric by which configurations are selected."""
        return self.record.metric

    @property
    def mode(self) -> str:
        """Whether smaller ("min") or larger ("max") values of the metric are better."""
        return self.record.mode

    @property
    def headline(self) -> str:
        """The metric on the test split, from confirmation runs only; no configuration is selected by it."""
        return self.record.headline

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order of the specification."""
        return self.record.arms

    @property
    def trials(self) -> list[Trial]:
        """Every trial of the study, tuning first."""
        return self.record.trials

    def outcome(self, trial: Trial) -> Outcome:
        """Return the outcome of one of the study's trials."""
        return self.record.outcome(trial)

    def confirmed(self, arm: str, metric: str | None = None, stage: str = "confirm") -> list[float | None]:
        """Return a metric of an arm's confirmation runs, by seed; None where the run failed or does not exist.

        Args:
            arm: name of the arm.
            metric: name of the metric; the headline by default.
            stage: "confirm", or "equal-steps" for the runs in which an arm such as SAM makes as many steps as the
                other arms.
        """
        return self.record.confirmed(self.spec.arm_name(arm), metric, stage)

    def confirmation(self, arm: str, stage: str = "confirm") -> list[Outcome]:
        """Return the outcomes of an arm's confirmation runs, by seed; empty when every tuning trial failed."""
        return self.record.confirmation(self.spec.arm_name(arm), stage)

    def confirmation_trials(self, arm: str, stage: str = "confirm") -> list[Trial]:
        """Return an arm's confirmation trials, by seed; empty when every tuning trial failed."""
        return self.record.confirmation_trials(self.spec.arm_name(arm), stage)

    @property
    def log_ratio(self) -> bool:
        """Whether arms are compared by ratios, which holds for a loss whose values are all above 0."""
        return self.record.log_ratio

    @property
    def has_losses_below_0(self) -> bool:
        """Whether some loss is below 0, in which case no axis of losses can be logarithmic."""
        return self.record.has_losses_below_0

    def compare_with(self, baseline: str, arms: Sequence[str] | None = None) -> dict[str, Result]:
        """Return the comparison of arms (by default all) with a baseline on the headline metric."""
        others = None if arms is None else list(map(self.spec.arm_name, arms))
        return self.record.compare_with(self.spec.arm_name(baseline, "baseline"), others)

    @property
    def results(self) -> dict[str, Result]:
        """The comparison of every other arm with the baseline, on the headline metric."""
        return self.record.comparisons

    def design(self, arm: str, baseline: str) -> Design:
        """Return the sources of randomness in a comparison of two arms without failed runs."""
        return self.record.design(self.spec.arm_name(arm), self.spec.arm_name(baseline, "baseline"))

    def is_decided(self) -> bool:
        """Return whether every comparison with the baseline is decided, so that no further seeds are needed."""
        return self.record.is_decided()

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return one record per arm, best first.

        Keys: rank, arm, verdict (against the baseline), lr, steps, failed, seeds, interior, and mean and SD over the
        confirmation runs of test_loss, test_accuracy, val_loss, train_loss. default_val_loss and tuned_val_loss are
        from single runs on the tuning seed; if another metric selects configurations, the keys contain its name
        (default_val_accuracy …).
        """
        return self.record.leaderboard()

    def warnings(self) -> list[str]:
        """Return the reasons why the results may not be reliable, one sentence each."""
        return find_caveats(self.record)

    def costs(self) -> list[dict[str, Any]]:
        """Return one record per arm.

        Keys: trials, seconds (of all trials), tuning_s and evaluation_s (parts of seconds), and step_ms, optimizer_ms
        (median, quartiles), data_ms, passes, state_bytes, memory_bytes from the timing pass. Without a timing pass
        these are medians over the trials.
        """
        return summarize_costs(self.record)

    def timings(self) -> dict[str, Timing]:
        """Return the measurements of the timing pass, by arm; empty before the timing pass."""
        return dict(self.record.timings)

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs no network, and return its path."""
        from fallline.lab.report import write_report

        return write_report(self.record, Path(path))

    def tables(self) -> "dict[str, Records]":
        """Return every table of the report, by name, as lists of records with a method `to_pandas`."""
        from fallline.lab.report import tables

        return tables(self.record)

    def figures(self) -> dict[str, Any]:
        """Return every figure of the report, by name, as an Altair chart, which a notebook shows inline."""
        from fallline.lab.report import figures

        return figures(self.record)

    def best_code(self) -> str:
        """Return Python code that sets up the best arm for a `model`, ready to paste; empty when every arm failed."""
        from fallline.lab.report import best_code

        return best_code(self.record)

    def to_tensorboard(self, folder: str | Path) -> Path:
        """Write the curves of every trial as TensorBoard event files, and return the folder.

        Raises:
            MissingExtraError: the package tensorboard is not installed.
        """
        from fallline.lab.report import to_tensorboard

        return to_tensorboard(self.record, Path(folder))

    def __repr__(self) -> str:
        return f"<study of {self.spec.task} with {', '.join(self.record.arms)}, in {str(self.store.folder)!r}>"

    def __str__(self) -> str:
        head = f"study of {self.spec.task} in {self.store.folder}"
        if not self.searches or not self.record.has(self.trials):
            return f"{head}: not finished"
        ranks = []
        for row in self.leaderboard():
            value = f"{self.headline.replace('_', ' ')} {row[self.headline]:.4g} ± {row[f'{self.headline}_sd']:.2g}"
            result = f"failed {row['failed']} of {row['seeds']}" if row["failed"] else value
            rank = "–" if row["failed"] else f"{row['rank']}."
            ranks.append(f"{rank} {row['arm']}: {result}")
        comparisons = [f"• {result}" for result in self.results.values()]
        return "\n".join([head, *ranks, *comparisons, *(f"! {warning}" for warning in self.warnings())])

    def _repr_html_(self) -> str:
        from fallline.lab.report import summary_html

        return summary_html(self.record) if self.searches else repr(self)


def load(folder: str | Path) -> Study:
    """Return the finished study in a folder, with the baseline and margin it was last compared with.

    Raises:
        StudyError: the folder holds no study.
        ArgumentError: trials of the study are missing.
    """
    stored = read_study(Path(folder))
    store = Store(Path(folder), writable=False)
    record = read_results(store, read_spec(Path(folder)), **stored["analysis"])
    for trial in record.trials:
        record.outcome(trial)
    return Study(record, store)

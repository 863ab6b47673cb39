"""The deciding metric of a study, and its name in figures and tables."""

import math
from dataclasses import dataclass

from fallline.formatting import format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import Comparison
from fallline.lab.analysis.verdicts import margin_in_units

SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Measure:
    """The metric by which configurations are selected and, on the test split, arms are compared.

    Attributes:
        metric: name of the metric in curves and outcomes, for example "val_loss" or "val_accuracy".
        mode: "min" if lower is better, else "max".
        unit: unit of the loss; "" if it has none.
        log_ratio: whether arms are compared by ratios, which is the case for losses if all of them are above 0.
        below_0: whether any loss of the study is below 0.
    """

    metric: str
    mode: str
    unit: str
    log_ratio: bool = True
    below_0: bool = False

    @property
    def is_loss(self) -> bool:
        """Whether the metric is the loss, so that no result counts as worse than the loss of an untrained model."""
        return self.metric == "val_loss" and self.mode == "min"

    @property
    def is_ratio(self) -> bool:
        """Whether axes are logarithmic and changes are given in percent."""
        return self.is_loss and not self.below_0

    @property
    def test(self) -> str:
        """The headline metric: the same metric on the test split."""
        return f"test_{self.metric[4:]}"

    @property
    def sign(self) -> int:
        """The factor by which values are multiplied so that lower is better: 1 or -1."""
        return 1 if self.mode == "min" else -1

    @property
    def better(self) -> str:
        """The better direction: "lower" or "higher"."""
        return "lower" if self.mode == "min" else "higher"

    @staticmethod
    def name(metric: str) -> str:
        """Return the name of a metric for readers.

        Example:
            >>> Measure.name("test_accuracy")
            'test accuracy'
        """
        split, _, name = metric.partition("_")
        return f"{SPLITS[split]} {name.replace('_', ' ')}"

    def title(self, metric: str) -> str:
        """Return the name of a metric for readers, with its unit.

        Example:
            >>> Measure("val_loss", "min", "nats").title("train_loss")
            'training loss (nats)'
        """
        unit = f" ({self.unit})" if metric.endswith("_loss") and self.unit else ""
        return f"{self.name(metric)}{unit}"


def measure(study: StudyResults) -> Measure:
    """Return the deciding metric of a study."""
    return Measure(study.metric, study.mode, study.spec.learning.unit, study.log_ratio, study.has_losses_below_0)


def margin_size(study: StudyResults, margin: float) -> float:
    """Return a margin on the scale of the differences: the margin itself for ratios, else in units of the metric."""
    if study.log_ratio:
        return margin
    means = [r.comparison.baseline_mean for r in study.comparisons.values() if r.comparison is not None]
    return margin_in_units(margin, means[0]) if means else math.nan


def margin_text(study: StudyResults, margin: float) -> str:
    """Return the user's margin as text: in percent and, if differences are compared, also in units of the metric."""
    relative = f"{100 * margin:g} %"
    if study.log_ratio:
        return relative
    return f"{relative} of {study.baseline}'s mean ({format_number(margin_size(study, margin), '.3g')})"


def change(c: Comparison, value: float, form: str = "+") -> str:
    """Return a difference as text: in percent if arms are compared by ratios, else in units of the metric.

    Args:
        c: the comparison.
        value: its difference, an end of its interval, or its smallest detectable difference.
        form: "+" to show the sign, or "".
    """
    return c.format_change(value, form) if c.log_ratio else f"{value:{form}.4f}".replace("-", "−")

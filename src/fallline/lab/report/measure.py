"""What a study is judged by, and how figures and tables name it."""

import math
from dataclasses import dataclass

from fallline.formatting import format_number
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import Comparison
from fallline.lab.analysis.verdicts import margin_in_units

SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Measure:
    """The metric by which configurations are selected and, on the test split, arms compared.

    Attributes:
        metric: of a curve and an outcome: "val_loss", "val_accuracy".
        mode: "min" when lower is better, else "max".
        unit: of the loss; "" when it has none.
        log_ratio: whether arms are compared by ratios: losses are, where all are above 0.
        below_0: whether some loss of the study is.
    """

    metric: str
    mode: str
    unit: str
    log_ratio: bool = True
    below_0: bool = False

    @property
    def is_loss(self) -> bool:
        """Whether the loss of an untrained model is the worst that counts."""
        return self.metric == "val_loss" and self.mode == "min"

    @property
    def is_ratio(self) -> bool:
        """Whether axes are logarithmic, and changes given in percent."""
        return self.is_loss and not self.below_0

    @property
    def test(self) -> str:
        """The headline metric."""
        return f"test_{self.metric[4:]}"

    @property
    def sign(self) -> int:
        """What makes lower better."""
        return 1 if self.mode == "min" else -1

    @property
    def better(self) -> str:
        """Which way is better: "lower" or "higher"."""
        return "lower" if self.mode == "min" else "higher"

    @staticmethod
    def name(metric: str) -> str:
        """Return what people call a metric.

        Example:
            >>> Measure.name("test_accuracy")
            'test accuracy'
        """
        split, _, name = metric.partition("_")
        return f"{SPLITS[split]} {name.replace('_', ' ')}"

    def title(self, metric: str) -> str:
        """Return what people call a metric, with its unit.

        Example:
            >>> Measure("val_loss", "min", "nats").title("train_loss")
            'training loss (nats)'
        """
        unit = f" ({self.unit})" if metric.endswith("_loss") and self.unit else ""
        return f"{self.name(metric)}{unit}"


def measure(study: StudyResults) -> Measure:
    """Return what a study is judged by."""
    return Measure(study.metric, study.mode, study.spec.learning.unit, study.log_ratio, study.has_losses_below_0)


def margin_size(study: StudyResults, margin: float) -> float:
    """Return a margin as differences are compared: itself for ratios, else in the metric's own unit."""
    if study.log_ratio:
        return margin
    means = [r.comparison.baseline_mean for r in study.comparisons.values() if r.comparison is not None]
    return margin_in_units(margin, means[0]) if means else math.nan


def margin_text(study: StudyResults, margin: float) -> str:
    """Return the user's margin in words: relative, with its size in the metric's own unit where that is compared."""
    relative = f"{100 * margin:g} %"
    if study.log_ratio:
        return relative
    return f"{relative} of {study.baseline}'s mean ({format_number(margin_size(study, margin), '.3g')})"


def change(c: Comparison, value: float, form: str = "+") -> str:
    """Return a difference of a comparison as people read it: in percent for losses, as it is for other metrics.

    Args:
        c: the comparison.
        value: its difference, an end of its interval, or what it could have detected.
        form: "+" to show the sign, or "".
    """
    return c.told(value, form) if c.log_ratio else f"{value:{form}.4f}".replace("-", "−")

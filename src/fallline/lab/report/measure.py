"""What a study is judged by, and how figures and tables name it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fallline.lab.statistics import Comparison

if TYPE_CHECKING:
    from fallline.lab.study import Study

SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Measure:
    """The metric by which configurations are selected and, on the test split, arms compared.

    Attributes:
        metric: of a curve and an outcome: "val_loss", "val_accuracy".
        mode: "min" when lower is better, else "max".
        unit: of the loss; "" when it has none.
        log_ratio: whether arms are compared by ratios: losses are, where all are above 0.
    """

    metric: str
    mode: str
    unit: str
    log_ratio: bool = True

    @property
    def is_loss(self) -> bool:
        """Whether axes are logarithmic and the loss of an untrained model is the worst that counts."""
        return self.metric == "val_loss" and self.mode == "min"

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


def measure(study: "Study") -> Measure:
    """Return what a study is judged by."""
    return Measure(study.metric, study.mode, study.spec.learning.unit, study.log_ratio)


def change(c: Comparison, value: float, form: str = "+") -> str:
    """Return a difference of a comparison as people read it: in percent for losses, as it is for other metrics.

    Args:
        c: the comparison.
        value: its difference, an end of its interval, or what it could have detected.
        form: "+" to show the sign, or "".
    """
    return c.told(value, form) if c.log_ratio else f"{value:{form}.4f}".replace("-", "−")

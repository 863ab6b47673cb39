"""What a trial results in: its outcome, its costs, and the timing of its configuration."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fallline.lab.design.trial import Trial

ITEM = np.dtype([("metric", "<f4"), ("example", "<u8")])  # of a test item: the deciding metric, the hash of its content
LEAST_ITEMS = 20  # test items below which their spread says too little about new examples

Failure = dict[str, Any]
TRACEBACK = "traceback.txt"  # in the folder of a trial that raised an error


@dataclass
class Outcome:
    """What a trial gave; decided by its specification alone.

    Attributes:
        failure: None, or {"state": "nonfinite" | "blown-up" | "not-learned" | "error", "step": …, "cause": …}; an error
            has "source" too, its type and the user's line.
        metrics: at the end of the schedule: train_loss, val_loss, val_accuracy …; test_* only when confirming; spikes.
        curve: rows of step, lr_factor, train_loss (mean since the last row), val_loss, val_accuracy.
        trace: rows of step, loss of one batch, grad_norm, update_norm, at some of the steps.
        landscape: rows of step, sharpness, lambda_min, trace, critical_sharpness …; see `Waypoints`.
        test_set: of a confirmation run: how many test "items" there are and whether each is an "example" or a "batch"
            (`kind`), and the sizes of "pool", "train" and "test" of a task that splits its data itself.
        items: every test item (n,) of dtype `evaluation.ITEM`; None where they are not known. Kept in another file.
    """

    failure: dict[str, Any] | None
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    trace: list[dict[str, float]] = field(default_factory=list)
    landscape: list[dict[str, float]] = field(default_factory=list)
    test_set: dict[str, Any] = field(default_factory=dict)
    items: np.ndarray | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON can hold it, without the items: null for numbers that are not finite."""
        return {name: _finite(value) for name, value in asdict(replace(self, items=None)).items() if name != "items"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Outcome":
        """Return the outcome that `to_json` has returned; numbers that were not finite are NaN.

        Raises:
            TypeError: the record has other fields.
        """
        return cls(**{name: value if name == "failure" else _with_nan(value) for name, value in record.items()})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


@dataclass
class Costs:
    """What a trial took on this machine.

    Attributes:
        seconds: in all.
        step_ms, optimizer_ms, data_ms: medians of a step, of `optimizer.step()` alone, of getting its batch.
        evaluation_s: seconds of evaluation in all.
        state_bytes: of optimizer state.
        passes: backward passes a step.
    """

    seconds: float
    step_ms: float
    optimizer_ms: float
    state_bytes: int
    data_ms: float = 0.0
    evaluation_s: float = 0.0
    passes: float = 1.0


@dataclass(frozen=True)
class Timing:
    """What a step takes on this machine by this implementation: medians and quartiles over all timed steps.

    Attributes:
        step_ms, optimizer_ms: (median, first quartile, third quartile) of a step and of `optimizer.step()` alone.
        data_ms: median of getting a batch.
        evaluation_s: one pass over the validation split.
        passes: backward passes a step.
        state_bytes: of optimizer state.
        memory_bytes: parameters, gradients, optimizer state and what the backward pass keeps, counted, not sampled.
    """

    step_ms: tuple[float, float, float]
    optimizer_ms: tuple[float, float, float]
    data_ms: float
    evaluation_s: float
    passes: float
    state_bytes: int
    memory_bytes: int

    def seconds(self, trial: Trial) -> float:
        """Return what a trial of this kind takes on one worker."""
        steps = trial.steps / self.passes if trial.counts_gradients else trial.steps
        return 1e-3 * self.step_ms[0] * steps + self.evaluation_s * trial.evaluations

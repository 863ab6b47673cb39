"""The results of a trial: its outcome, its costs, and the timing of its configuration."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fallline.lab.design.trial import Trial

ITEM = np.dtype([("metric", "<f4"), ("example", "<u8")])  # the headline metric of a test item, the hash of its content
LEAST_ITEMS = 20  # the spread over fewer test items is not a reliable estimate for new examples

Failure = dict[str, Any]
TRACEBACK = "traceback.txt"  # file in the folder of a trial that raised an error
OUTPUT = "output.txt"  # file in the folder of a trial that is a command, with what it printed


@dataclass
class Outcome:
    """The outcome of a trial, which is determined by its specification alone.

    Attributes:
        failure: None, or {"state": "nonfinite" | "blown-up" | "not-learned" | "error", "step": …, "cause": …}; an error
            also has "source", its type and the line of the user's code, and of a command "log", the file of its output.
        metrics: metrics at the end of the schedule: train_loss, val_loss, val_accuracy …; test_* only in confirmation
            runs; and the number of spikes.
        curve: rows of step, lr_factor, train_loss (mean since the last row), val_loss, val_accuracy.
        trace: rows of step, loss of one batch, grad_norm, update_norm, at some of the steps.
        landscape: rows of step, sharpness, lambda_min, trace, critical_sharpness …; see `Waypoints`.
        test_set: in a confirmation run, the number of test "items" and whether each is an "example" or a "batch"
            (`kind`), and the sizes of "pool", "train" and "test" if the task splits its data itself.
        items: every test item, (n,) of dtype `ITEM`; None if they are not known. They are stored in another file.
    """

    failure: dict[str, Any] | None
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    trace: list[dict[str, float]] = field(default_factory=list)
    landscape: list[dict[str, float]] = field(default_factory=list)
    test_set: dict[str, Any] = field(default_factory=dict)
    items: np.ndarray | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome without the items as data for JSON, with null for numbers that are not finite."""
        return {name: _finite(value) for name, value in asdict(replace(self, items=None)).items() if name != "items"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Outcome":
        """Return the outcome from the data of `to_json`; numbers that were not finite become NaN.

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
    """The costs of a trial on this machine.

    Attributes:
        seconds: total duration.
        step_ms, optimizer_ms, data_ms: median times of a step, of `optimizer.step()` alone, and of loading a batch.
        evaluation_s: total seconds of evaluation.
        state_bytes: size of the optimizer state.
        passes: backward passes per step.
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
    """The time and memory of a step on this machine with this implementation, from the timing pass.

    Attributes:
        step_ms, optimizer_ms: (median, first quartile, third quartile) over all timed steps, of a step and of
            `optimizer.step()` alone.
        data_ms: median time of loading a batch.
        evaluation_s: seconds of one pass over the validation split.
        passes: backward passes per step.
        state_bytes: size of the optimizer state.
        memory_bytes: size of parameters, gradients, optimizer state and tensors kept for the backward pass; computed
            from the sizes of the tensors, not sampled.
    """

    step_ms: tuple[float, float, float]
    optimizer_ms: tuple[float, float, float]
    data_ms: float
    evaluation_s: float
    passes: float
    state_bytes: int
    memory_bytes: int

    def seconds(self, trial: Trial) -> float:
        """Return the expected seconds of a trial with this configuration on one worker."""
        steps = trial.steps / self.passes if trial.counts_gradients else trial.steps
        return 1e-3 * self.step_ms[0] * steps + self.evaluation_s * trial.evaluations

"""Measure the loss landscape at the start, in the middle and at the end of a confirmation run (`--landscape`)."""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from fallline.errors import ArgumentError, FalllineError, LandscapeWarning, LossError, StudyError
from fallline.lab.run.device import loss_of
from fallline.lab.tasks import Task
from fallline.landscape import Hessian, critical_sharpness, eigsh, trace

BATCHES = 4  # training batches, the same in every arm and at every point
TOLERANCE = 1e-2  # of eigenvalues; the difference between seeds is much larger
PRODUCTS = 15  # Hessian-vector products for the trace

Row = dict[str, float]


class Waypoints:
    """Measures a model after its first step, after half of its steps and after the last.

    Attributes:
        rows: one record per point: step, sharpness and lambda_min with their bounds, trace with its standard error, and
            critical_sharpness along the last update per unit of learning rate (nan if that update increased the loss
            of these batches).
    """

    def __init__(self, task: Task, factors: Sequence[float], seed: int, device: str = "cpu") -> None:
        found = task.batches("train", torch.Generator().manual_seed(seed))
        self._task, self._loss, self._batches = task, loss_of(task, device), list(itertools.islice(found, BATCHES))
        self._points = {1, len(factors) // 2, len(factors)}
        # A schedule may end at lr = 0, where parameters do not move: use the last step before the point with lr > 0.
        self._moves = {max((i for i in range(point) if factors[i]), default=0) for point in self._points}
        self._direction: list[torch.Tensor] = []
        self.rows: list[Row] = []

    def wants_update(self, step: int) -> bool:
        """Return whether `keep` must be called with the update of a step."""
        return step in self._moves

    def keep(self, model: torch.nn.Module, before: Sequence[torch.Tensor], lr: float) -> None:
        """Store the update from the parameters `before` to the current ones, divided by the learning rate."""
        scale = 1 / lr if lr else 0.0
        self._direction = [(p.detach() - old) * scale for p, old in zip(model.parameters(), before, strict=True)]

    def after(self, step: int, model: torch.nn.Module) -> None:
        """Measure the landscape if `step` is one of the points; the model is not changed.

        Raises:
            StudyError: the curvature of this task cannot be measured.
        """
        if step not in self._points or not all(bool(p.isfinite().all()) for p in model.parameters()):
            return
        try:
            self.rows.append({"step": step, **self._measure(model)})
        except LossError:  # the run is about to fail; this is recorded as its outcome and does not end the study
            return
        except FalllineError as error:
            raise StudyError(f"landscape: {error}; leave --landscape out for task {self._task.name}") from error
        except Exception as error:  # the run itself is valid
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(
                f"landscape: the curvature after {step} steps is omitted because measuring it raised {reason}",
                LandscapeWarning,
                stacklevel=2,
            )

    def _measure(self, model: torch.nn.Module) -> Row:
        hessian = Hessian(model, self._loss, self._batches, weight=self._task.size)
        ends = eigsh(hessian, 2, "BE", TOLERANCE)
        spread = trace(hessian, PRODUCTS)
        return {
            "sharpness": float(ends.values[1]),
            "sharpness_bound": float(ends.bound[1]),
            "lambda_min": float(ends.values[0]),
            "lambda_min_bound": float(ends.bound[0]),
            "trace": spread.estimate,
            "trace_stderr": spread.stderr,
            "critical_sharpness": self._critical(model),
        }

    def _critical(self, model: torch.nn.Module) -> float:
        trained = [d for d, p in zip(self._direction, model.parameters(), strict=True) if p.requires_grad]
        try:
            return critical_sharpness(model, self._loss, self._batches, trained, weight=self._task.size).value
        except ArgumentError:  # the update does not lower the loss of these batches
            return math.nan

    def state(self) -> Any:
        """Return the state for a checkpoint."""
        return self.rows, self._direction

    def load(self, state: Any) -> None:
        """Restore a state returned by `state`."""
        self.rows, self._direction = state

"""The training loop of the lab, the same for every task: schedule, evaluation, failure detection and checkpoints."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fallline.errors import StudyError
from fallline.lab.design.optimizers import needs_closure
from fallline.lab.design.outcome import Failure
from fallline.lab.isolation import generator_states, restore_generators
from fallline.lab.run.device import batch_loss, precision, to_device
from fallline.lab.run.divergence import Watch, window_of
from fallline.lab.run.eval_mode import evaluation_weights, switch_to_training
from fallline.lab.run.evaluation import evaluate, evaluate_items
from fallline.lab.storage.atomic_files import draft_prefix
from fallline.lab.tasks import Task
from fallline.loss_curves import count_spikes

if TYPE_CHECKING:
    from fallline.lab.run.landscape import Waypoints

TRACE = 100  # approximate number of rows of a trace
TRACE_EVERY = 8  # minimum steps between rows, because computing norms is slow relative to a short run


@dataclass(frozen=True)
class Checkpoint:
    """File to which a long run is saved, and the interval in steps; only the last checkpoint is kept."""

    path: Path
    every: int


@dataclass
class Clock:
    """Times of the parts of a run: milliseconds for every step, and the total seconds of evaluation."""

    step: list[float] = field(default_factory=list)
    optimizer: list[float] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    evaluation: float = 0.0
    passes: int = 0

    def costs(self) -> dict[str, float]:
        """Return the fields of `Costs` that the clock measures."""
        names = {"step_ms": self.step, "optimizer_ms": self.optimizer, "data_ms": self.data}
        medians = {name: sorted(times)[len(times) // 2] if times else 0.0 for name, times in names.items()}
        return {**medians, "evaluation_s": self.evaluation, "passes": self.passes / max(1, len(self.step))}


class Training:
    """A training run, from the first step to the last step or to a failure.

    Attributes:
        losses: the training loss of every step.
        curve, trace: see `Outcome`.
        clock: the times of the run.
        waypoints: measures the landscape during training; None if this was not requested.
        gradients: number of gradient evaluations, which equals the number of closure calls.
        counts_gradients: whether the schedule counts gradient evaluations instead of optimizer steps, which may take
            several each; the run then ends when another step could need more evaluations than are left.
    """

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterator[Any],
        factors: Sequence[float],
        warmup: float,
        evaluations: int,
        device: str = "cpu",
    ) -> None:
        self.task, self.model, self.optimizer, self.batches = task, model, optimizer, batches
        self.factors, self.device = factors, device
        self.losses: list[float] = []
        self.curve: list[dict[str, float]] = []
        self.trace: list[dict[str, float]] = []
        self.clock = Clock()
        self.waypoints: Waypoints | None = None
        self.gradients, self.counts_gradients = 0, False
        self._most_gradients = 0  # in one step
        steps = len(factors)
        self._rows = {round(steps * (i + 1) / evaluations) for i in range(evaluations)}
        self._watch = Watch(warmup=round(steps * warmup), window=window_of(steps))
        self._stride = max(TRACE_EVERY, math.ceil(steps / TRACE))
        self._parameters = list(model.parameters())  # walking the modules takes as long as computing the norms
        self._base = [group["lr"] for group in optimizer.param_groups]
        self._row_from = 0
        switch_to_training(optimizer)
        self._needs_closure = hasattr(optimizer, "first_step") or needs_closure(type(optimizer))

    def run(self, checkpoint: Checkpoint | None = None) -> Failure | None:
        """Train to the end of the schedule; return the failure if one ended the run early, else None."""
        if checkpoint is not None and checkpoint.path.exists():
            self._resume(checkpoint.path)
        while self._can_step():
            step = self.position
            failure = self.step(step)
            if failure is not None:
                return failure
            if checkpoint is not None and step // checkpoint.every < self.position // checkpoint.every:
                self._save(checkpoint.path)
        if self.counts_gradients and self.position < len(self.factors):
            if self.waypoints is not None:
                self.waypoints.after(len(self.factors), self.model)
            if not self.curve or self.curve[-1]["step"] < self.position:
                self._row(self.position - 1)
        return None

    @property
    def position(self) -> int:
        """Current position in the schedule, in steps or gradient evaluations."""
        return self.gradients if self.counts_gradients else len(self.losses)

    def _can_step(self) -> bool:
        needed = self._most_gradients if self.counts_gradients and self.losses else 1
        return self.position + needed <= len(self.factors)

    def step(self, step: int) -> Failure | None:
        """Make one step, and evaluate if a row of the curve is due; return the failure if the run failed, else None."""
        sampled = not self.trace or step // self._stride > self.trace[-1]["step"] // self._stride
        moves = self.waypoints is not None and (self.counts_gradients or self.waypoints.wants_update(step))
        before = [p.detach().clone() for p in self._parameters] if sampled or moves else []
        self.bare_step(step)
        if sampled:
            self.trace.append({"step": step, "loss": self.losses[-1], **self._norms(before)})
        failure = self._watch.step(len(self.losses) - 1, self.losses[-1])
        passed = range(step + 1, self.position + 1)
        if failure is None and not self._rows.isdisjoint(passed):
            self._row(step)
        if self.waypoints is not None and failure is None:
            if moves:
                self.waypoints.keep(self.model, before, self._base[0] * self.factors[step])
            began = time.perf_counter()
            for point in passed:
                self.waypoints.after(point, self.model)
            self.clock.evaluation += time.perf_counter() - began
        return failure

    def _row(self, step: int) -> None:
        """Add a row to the curve after the step that started at position `step`."""
        mean = math.fsum(self.losses[self._row_from :]) / (len(self.losses) - self._row_from)
        factor = self.factors[min(step, len(self.factors) - 1)]
        self.curve.append({"step": self.position, "lr_factor": factor, "train_loss": mean, **self.evaluate("val")})
        self._row_from = len(self.losses)

    def bare_step(self, step: int) -> None:
        """Make one step at the learning rate of this step, without evaluation or trace."""
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * self.factors[step]
        start = time.perf_counter()
        try:
            parts = [to_device(next(self.batches), self.device) for _ in range(self.task.accumulate)]
        except StopIteration:
            raise StudyError(
                f'task {self.task.name}: batches("train", …) must yield batches indefinitely, '
                f"got an end in step {step}; put while True: around the loop over the training set"
            ) from None
        self.clock.data.append(1e3 * (time.perf_counter() - start))
        before = self.gradients
        self.losses.append(self._update(parts))
        self._most_gradients = max(self._most_gradients, self.gradients - before)
        self.clock.step.append(1e3 * (time.perf_counter() - start))

    def spikes(self) -> int:
        """Return the number of spikes of the training loss."""
        return count_spikes([loss for loss in self.losses if math.isfinite(loss)])

    def evaluate(self, split: str) -> dict[str, float]:
        """Return loss and metrics over a split, computed with the evaluation weights."""
        with self._evaluated_weights():
            return evaluate(self.task, self.model, split, self.device)

    def test(self) -> tuple[dict[str, float], np.ndarray | None, str]:
        """Return the metrics of the test split and the selection metric of every item; see `evaluate_items`."""
        with self._evaluated_weights():
            return evaluate_items(self.task, self.model, "test", self.task.metric.removeprefix("val_"), self.device)

    @contextlib.contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        """Load the evaluation weights within a block, and add its duration to the clock.

        The evaluation weights are the averages if the optimizer keeps any. For a schedule-free optimizer, they are the
        weights that its method `eval` swaps in.
        """
        began = time.perf_counter()
        with evaluation_weights(self.optimizer):
            yield
        self.clock.evaluation += time.perf_counter() - began

    def _update(self, parts: Sequence[Any]) -> float:
        """Make an optimizer step with the average gradient of these batches; return the loss before the step."""
        inside = 0.0

        def closure() -> torch.Tensor:
            nonlocal inside
            began = time.perf_counter()
            self.clock.passes += 1
            self.gradients += 1
            self.optimizer.zero_grad()
            losses = []
            for part in parts:
                with precision(self.task, self.device):
                    mean = batch_loss(self.task, self.model, part)
                    mean = mean / len(parts) if len(parts) > 1 else mean
                mean.backward()
                losses.append(mean.detach())
            inside += time.perf_counter() - began
            return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

        if self._needs_closure:
            start = time.perf_counter()
            loss: Any = self.optimizer.step(closure)  # type: ignore[arg-type]
        else:
            loss = closure()
            start, inside = time.perf_counter(), 0.0
            self.optimizer.step()
        self.clock.optimizer.append(1e3 * (time.perf_counter() - start - inside))
        return float(loss)

    def _norms(self, before: Sequence[torch.Tensor]) -> dict[str, float]:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        updates = [p.detach() - old for p, old in zip(self._parameters, before, strict=True)]
        return {"grad_norm": _norm(grads), "update_norm": _norm(updates)}

    def _save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": generator_states(),
            "gradients": (self.gradients, self._most_gradients),
            "records": (self.losses, self.curve, self.trace, self._row_from, asdict(self._watch)),
            "waypoints": None if self.waypoints is None else self.waypoints.state(),
        }
        draft = path.with_name(draft_prefix() + path.name)
        try:
            with draft.open("wb") as file:  # given a path, torch.save does not report a full disk
                torch.save(state, file)
            draft.replace(path)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        finally:
            draft.unlink(missing_ok=True)

    def _resume(self, path: Path) -> None:
        """Resume a saved run; skip the batches it has already used, so that the next batches are the same."""
        saved = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.losses, self.curve, self.trace, self._row_from, watch = saved["records"]
        self._watch = Watch(**watch)
        self.gradients, self._most_gradients = saved["gradients"]
        if self.waypoints is not None:
            self.waypoints.load(saved["waypoints"])
        for _ in range(len(self.losses) * self.task.accumulate):
            next(self.batches)
        restore_generators(saved["rng"])


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm([t.float() for t in tensors]))))

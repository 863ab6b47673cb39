"""The lab's own training loop: it owns seeds, schedule, evaluation and the watch for failure, whatever the task."""

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
from fallline.lab.run.device import precision, to_device
from fallline.lab.run.divergence import Watch, window_of
from fallline.lab.run.eval_mode import evaluation_weights, switch_to_training
from fallline.lab.run.evaluation import evaluate, evaluate_items
from fallline.lab.storage.atomic_files import draft_prefix
from fallline.lab.tasks import Task
from fallline.loss_curves import count_spikes

if TYPE_CHECKING:
    from fallline.lab.run.landscape import Waypoints

TRACE = 100  # about how many rows a trace has
TRACE_EVERY = 8  # steps at least between them: norms cost time, and short runs have little of it


@dataclass(frozen=True)
class Checkpoint:
    """Where a long run is saved, and after how many steps each time; only the last one is kept."""

    path: Path
    every: int


@dataclass
class Clock:
    """What the parts of a run have taken, in milliseconds by step; evaluation in seconds in all."""

    step: list[float] = field(default_factory=list)
    optimizer: list[float] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    evaluation: float = 0.0
    passes: int = 0

    def costs(self) -> dict[str, float]:
        """Return the fields of `Costs` that come from here."""
        names = {"step_ms": self.step, "optimizer_ms": self.optimizer, "data_ms": self.data}
        medians = {name: sorted(times)[len(times) // 2] if times else 0.0 for name, times in names.items()}
        return {**medians, "evaluation_s": self.evaluation, "passes": self.passes / max(1, len(self.step))}


class Training:
    """A run from its first step to its last or to its failure.

    Attributes:
        losses: the training loss of every step.
        curve, trace: as in `Outcome`.
        clock: what it took.
        waypoints: measures the landscape on the way; None if that was not asked for.
        gradients: how many were evaluated, which is how often the closure was called.
        counts_gradients: whether the schedule's steps are evaluations of the gradient, of which a step of the
            optimizer takes several; the run ends when a further step could need more than are left.
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
        self._most_gradients = 0  # of a step
        steps = len(factors)
        self._rows = {round(steps * (i + 1) / evaluations) for i in range(evaluations)}
        self._watch = Watch(warmup=round(steps * warmup), window=window_of(steps))
        self._stride = max(TRACE_EVERY, math.ceil(steps / TRACE))
        self._parameters = list(model.parameters())  # walking the modules for them takes as long as their norms
        self._base = [group["lr"] for group in optimizer.param_groups]
        self._row_from = 0
        switch_to_training(optimizer)
        self._needs_closure = hasattr(optimizer, "first_step") or needs_closure(type(optimizer))

    def run(self, checkpoint: Checkpoint | None = None) -> Failure | None:
        """Train to the end of the schedule; return the failure that ended it early, if one did."""
        if checkpoint is not None and checkpoint.path.exists():
            self._resume(checkpoint.path)
        while self._goes_on():
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
        """How much of the schedule is behind: steps, or evaluations of the gradient."""
        return self.gradients if self.counts_gradients else len(self.losses)

    def _goes_on(self) -> bool:
        needed = self._most_gradients if self.counts_gradients and self.losses else 1
        return self.position + needed <= len(self.factors)

    def step(self, step: int) -> Failure | None:
        """Make one step, and evaluate where a row of the curve is due; return the failure, if it failed."""
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
        """Add a row to the curve after the step that began at `step`."""
        mean = math.fsum(self.losses[self._row_from :]) / (len(self.losses) - self._row_from)
        factor = self.factors[min(step, len(self.factors) - 1)]
        self.curve.append({"step": self.position, "lr_factor": factor, "train_loss": mean, **self.evaluate("val")})
        self._row_from = len(self.losses)

    def bare_step(self, step: int) -> None:
        """Make one step at the learning rate of this step, and nothing else."""
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * self.factors[step]
        start = time.perf_counter()
        try:
            parts = [to_device(next(self.batches), self.device) for _ in range(self.task.accumulate)]
        except StopIteration:
            raise StudyError(
                f'task {self.task.name}: batches("train", …) must go on without end, got an end in step {step}; '
                "put while True: around the loop over the training set"
            ) from None
        self.clock.data.append(1e3 * (time.perf_counter() - start))
        before = self.gradients
        self.losses.append(self._update(parts))
        self._most_gradients = max(self._most_gradients, self.gradients - before)
        self.clock.step.append(1e3 * (time.perf_counter() - start))

    def spikes(self) -> int:
        """Return how often the training loss has spiked."""
        return count_spikes([loss for loss in self.losses if math.isfinite(loss)])

    def evaluate(self, split: str) -> dict[str, float]:
        """Return loss and metrics over a split with the weights that would be used."""
        with self._evaluated_weights():
            return evaluate(self.task, self.model, split, self.device)

    def test(self) -> tuple[dict[str, float], np.ndarray | None, str]:
        """Return the metrics of the test split, and the deciding one of every item; see `evaluate_items`."""
        with self._evaluated_weights():
            return evaluate_items(self.task, self.model, "test", self.task.metric.removeprefix("val_"), self.device)

    @contextlib.contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        """Put the weights in place that would be used, and count the time.

        Those are the averages where the optimizer keeps some, and a schedule-free optimizer's own, which its method
        `eval` swaps in.
        """
        began = time.perf_counter()
        with evaluation_weights(self.optimizer, averages=bool(self.losses)):
            yield
        self.clock.evaluation += time.perf_counter() - began

    def _update(self, parts: Sequence[Any]) -> float:
        """Make the optimizer step on these batches, whose gradients are averaged; return the loss before it."""
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
                    mean = self.task.loss(self.model, part)
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
            with draft.open("wb") as file:  # given a path, torch.save would not say that the disk is full
                torch.save(state, file)
            draft.replace(path)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        finally:
            draft.unlink(missing_ok=True)

    def _resume(self, path: Path) -> None:
        """Take up a saved run; the batches it has seen are drawn again, so that the next ones are the same."""
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

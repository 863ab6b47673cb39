"""One training run: a resolved specification in, an outcome out; the same bits wherever and whenever it runs."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from fallline.lab.schedules import learning_rates
from fallline.lab.tasks import Task, get_task
from fallline.optimizers import create_optimizer

EVALUATIONS = 20  # points of a curve
MakeOptimizer = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Trial:
    """Everything that decides the numbers of one run.

    Attributes:
        stage: "tune" or "confirm"; only confirmation runs see the test split.
        arm: name in the report.
        index: number of the configuration within its arm and search; 0 is the documented default.
        options: constructor keywords of the optimizer.
        seed: from which initialisation, data order and dropout each get a stream of their own.
    """

    stage: str
    task: str
    arm: str
    optimizer: str
    schedule: str
    steps: int
    index: int
    seed: int
    options: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The hash of the specification; the name of the trial's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Outcome:
    """What a trial gave; decided by its specification alone.

    Attributes:
        failure: None, or {"state": "nonfinite" | "blown-up" | "not-learned", "step": …, "cause": …}.
        metrics: at the end of the schedule: train_loss, val_loss, val_accuracy …; test_* only when confirming.
        curve: rows of step, lr factor, train_loss (mean since the last row), val_loss, val_accuracy.
    """

    failure: dict[str, Any] | None
    metrics: dict[str, float]
    curve: list[dict[str, float]]


@dataclass
class Costs:
    """What a trial took on this machine: seconds in all, medians of milliseconds, and bytes of optimizer state."""

    seconds: float
    step_ms: float
    optimizer_ms: float
    state_bytes: int


@dataclass
class _Watch:
    """Recognises a run that has failed (LAB R5); most divergence is finite."""

    warmup: int
    start: float = math.nan
    lowest: float = math.inf
    above: int = field(default=0)

    def step(self, step: int, loss: float) -> dict[str, Any] | None:
        """Return the failure when one batch's loss is not finite."""
        if step == 0:
            self.start = loss
        if math.isfinite(loss):
            return None
        return {"state": "nonfinite", "step": step, "cause": f"training loss became {loss}"}

    def row(self, step: int, mean: float) -> dict[str, Any] | None:
        """Return the failure when the mean training loss of an interval has blown up."""
        self.lowest = min(self.lowest, mean)
        self.above = self.above + 1 if mean > 10 * self.lowest else 0
        if step >= self.warmup and mean > 3 * self.start:
            cause = f"training loss {mean:.3g} after warm-up is over 3 × its start {self.start:.3g}"
        elif self.above >= 3:
            cause = f"training loss {mean:.3g} stayed over 10 × its minimum {self.lowest:.3g}"
        else:
            return None
        return {"state": "blown-up", "step": step, "cause": cause}


def derive(seed: int, *names: object) -> int:
    """Return a seed for a stream of random numbers, independent of the streams of other names.

    Example:
        >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(0, "data")
        (True, False)
    """
    text = json.dumps([seed, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def run(trial: Trial, make_optimizer: MakeOptimizer = create_optimizer) -> tuple[Outcome, Costs]:
    """Train as the specification says and return what came of it.

    Args:
        trial: the specification.
        make_optimizer: `(name, params, **options)`; replaced to run the same trial with other implementations.
    """
    began = time.perf_counter()
    task = get_task(trial.task)
    torch.manual_seed(derive(trial.seed, "init"))
    model = task.model()
    optimizer = make_optimizer(trial.optimizer, list(model.parameters()), **trial.options)
    batches = task.batches("train", torch.Generator().manual_seed(derive(trial.seed, "data")))
    torch.manual_seed(derive(trial.seed, "dropout"))
    failure, curve, times = _train(task, model, optimizer, batches, trial)
    metrics = dict(curve[-1]) if curve else {}
    metrics = {k: v for k, v in metrics.items() if k.endswith(("loss", "accuracy"))}
    trivial = task.trivial_loss() or math.inf
    if failure is None and not metrics["val_loss"] < trivial:
        cause = f"validation loss {metrics['val_loss']:.4g} is no better than ignoring the input ({trivial:.4g})"
        failure = {"state": "not-learned", "step": trial.steps, "cause": cause}
    if trial.stage == "confirm" and failure is None:
        metrics |= evaluate(task, model, "test")
    state = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    costs = Costs(time.perf_counter() - began, *times, state_bytes=sum(t.nbytes for t in state))
    return Outcome(failure, metrics, curve), costs


def _train(
    task: Task, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Any], trial: Trial
) -> tuple[dict[str, Any] | None, list[dict[str, float]], tuple[float, float]]:
    factors = learning_rates(trial.schedule, trial.steps)
    rows = {round(trial.steps * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
    watch = _Watch(warmup=round(trial.steps * 0.05))
    base_lr, curve, losses = trial.options["lr"], [], []
    steps_ms, optimizer_ms = [], []
    failure = None
    for step, factor in enumerate(factors):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = base_lr * factor
        optimizer.zero_grad()
        loss = task.loss(model, next(batches))
        loss.backward()
        before = time.perf_counter()
        optimizer.step()
        end = time.perf_counter()
        steps_ms.append(1e3 * (end - start))
        optimizer_ms.append(1e3 * (end - before))
        losses.append(loss.item())
        failure = watch.step(step, losses[-1])
        if failure is None and step + 1 in rows:
            mean = math.fsum(losses) / len(losses)
            curve.append({"step": step + 1, "lr_factor": factor, "train_loss": mean, **evaluate(task, model, "val")})
            failure = watch.row(step + 1, mean)
            losses = []
        if failure is not None:
            break
    return failure, curve, (_median(steps_ms), _median(optimizer_ms))


def evaluate(task: Task, model: torch.nn.Module, split: str) -> dict[str, float]:
    """Return loss and further metrics over a split, in eval mode, averaged by items, keyed like `val_loss`."""
    model.eval()
    sums: dict[str, float] = {}
    items = 0
    with torch.no_grad():
        for batch in task.batches(split, torch.Generator()):
            size = task.size(batch)
            items += size
            for key, value in {"loss": task.loss(model, batch).item(), **task.evaluate(model, batch)}.items():
                sums[f"{split}_{key}"] = sums.get(f"{split}_{key}", 0.0) + size * value
    model.train()
    return {key: value / items for key, value in sums.items()}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]

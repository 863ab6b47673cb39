"""One training run: a resolved specification in, an outcome out; the same bits wherever and whenever it runs."""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from fallline.lab.optimizers import build_optimizer
from fallline.lab.schedules import WARMUP, learning_rates
from fallline.lab.tasks import get_task
from fallline.lab.training import Checkpoint, Training
from fallline.lab.waypoints import Waypoints
from fallline.wrappers import SAM

MakeOptimizer = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Trial:
    """Everything that decides the numbers of one run.

    Attributes:
        stage: "tune"; or "confirm" and "equal-steps", which alone see the test split.
        arm: name in the report.
        optimizer: as `build_optimizer` takes it.
        index: number of the configuration within its arm and search; 0 is the documented default.
        seed: from which initialisation, data order and dropout each get a stream of their own.
        options: constructor keywords of the optimizer.
        warmup: part of the steps in which the learning rate rises.
        settings: the task's settings that are not at their defaults.
        evaluations: points of the curve.
        device: where it runs.
        sources: hashes of the user's files that it depends on, by their paths.
        landscape: whether the curvature is measured on the way.
        versions: of the packages of which another version makes it another trial.
        data: the hash of the data.
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
    warmup: float = WARMUP
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluations: int = 20
    device: str = "cpu"
    sources: Mapping[str, str] = field(default_factory=dict)
    landscape: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    data: str = ""

    @functools.cached_property  # a report asks for it 100,000 times
    def id(self) -> str:
        """The hash of the specification; the name of the trial's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Outcome:
    """What a trial gave; decided by its specification alone.

    Attributes:
        failure: None, or {"state": "nonfinite" | "blown-up" | "not-learned", "step": …, "cause": …}.
        metrics: at the end of the schedule: train_loss, val_loss, val_accuracy …; test_* only when confirming; spikes.
        curve: rows of step, lr_factor, train_loss (mean since the last row), val_loss, val_accuracy.
        trace: rows of step, loss of one batch, grad_norm, update_norm, at some of the steps.
        landscape: rows of step, sharpness, lambda_min, trace, critical_sharpness …; see `Waypoints`.
    """

    failure: dict[str, Any] | None
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    trace: list[dict[str, float]] = field(default_factory=list)
    landscape: list[dict[str, float]] = field(default_factory=list)


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


def derive(seed: int, *names: object) -> int:
    """Return a seed for a stream of random numbers, independent of the streams of other names.

    Example:
        >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(0, "data")
        (True, False)
    """
    text = json.dumps([seed, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def start(trial: Trial, make_optimizer: MakeOptimizer = build_optimizer) -> Training:
    """Return the training of a trial before its first step."""
    task = get_task(trial.task, **trial.settings)
    torch.manual_seed(derive(trial.seed, "init"))
    model = task.model().to(trial.device)
    optimizer = make_optimizer(trial.optimizer, task.param_groups(model), **trial.options)
    if isinstance(optimizer, SAM):
        optimizer.model = model  # running statistics are updated by the first pass only
    batches = iter(task.batches("train", torch.Generator().manual_seed(derive(trial.seed, "data"))))
    torch.manual_seed(derive(trial.seed, "dropout"))
    factors = learning_rates(trial.schedule, trial.steps, trial.warmup)
    training = Training(task, model, optimizer, batches, factors, trial.warmup, trial.evaluations, trial.device)
    if trial.landscape:
        training.waypoints = Waypoints(task, factors, derive(trial.seed, "landscape"), trial.device)
    return training


def run(
    trial: Trial, make_optimizer: MakeOptimizer = build_optimizer, checkpoint: Checkpoint | None = None
) -> tuple[Outcome, Costs]:
    """Train as the specification says and return what came of it.

    Args:
        trial: the specification.
        make_optimizer: `(name, params, **options)`; replaced to run the same trial with other implementations.
        checkpoint: where the run is saved every so many steps, and taken up again if it is there.
    """
    began = time.perf_counter()
    training = start(trial, make_optimizer)
    trivial = training.task.trivial_loss()
    if trivial is None:
        trivial = training.evaluate("val")["val_loss"]
    failure = training.run(checkpoint)
    metrics = {k: v for k, v in (training.curve or [{}])[-1].items() if k.startswith(("train_", "val_"))}
    if failure is None and not metrics["val_loss"] < trivial:
        cause = f"validation loss {metrics['val_loss']:.4g} is no better than ignoring the input ({trivial:.4g})"
        failure = {"state": "not-learned", "step": trial.steps, "cause": cause}
    if trial.stage != "tune" and failure is None:
        metrics |= training.evaluate("test")
    failure = failure or _unusable(metrics, trial.steps)
    metrics["spikes"] = training.spikes()
    state = [t for s in training.optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    spent = training.clock.costs()
    costs = Costs(time.perf_counter() - began, state_bytes=sum(t.nbytes for t in state), **spent)
    landscape = [] if training.waypoints is None else training.waypoints.rows
    return Outcome(failure, metrics, training.curve, training.trace, landscape), costs


def _unusable(metrics: Mapping[str, float], step: int) -> dict[str, Any] | None:
    """Return the failure of a run that ended with a metric that is not finite: it must not win."""
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    return {"state": "nonfinite", "step": step, "cause": ", ".join(bad)} if bad else None

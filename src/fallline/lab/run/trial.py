"""Run one trial from a resolved specification to its outcome; repeated runs are bit-for-bit identical."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from fallline.lab.design.optimizers import build_optimizer, get_space
from fallline.lab.design.outcome import Costs, Failure, Outcome
from fallline.lab.design.param_groups import scale_groups
from fallline.lab.design.schedules import learning_rates
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import derive, seed_everything, seeded
from fallline.lab.run.divergence import has_risen
from fallline.lab.run.landscape import Waypoints
from fallline.lab.run.loop import Checkpoint, Training
from fallline.lab.tasks import Task, get_task
from fallline.landscape.loss.snapshot import tensors_in
from fallline.sam import SAM

MakeOptimizer = Callable[..., torch.optim.Optimizer]


def start(trial: Trial, make_optimizer: MakeOptimizer = build_optimizer) -> Training:
    """Return the training of a trial before its first step."""
    task = get_task(trial.task, split_seed=trial.split, **trial.settings)
    _load_once(task)
    # torch.compile disables this validation for the whole process at its first use. Without this line, whether a
    # distribution raises an error on NaN would depend on what the process did before.
    torch.distributions.Distribution.set_default_validate_args(__debug__)
    seed_everything(derive(trial.seed, "init"))
    model = task.model().to(trial.device)
    groups = scale_groups(task.param_groups(model), trial.options, get_space(trial.optimizer).defaults)
    optimizer = make_optimizer(trial.optimizer, groups, model=model, **trial.options)
    if isinstance(optimizer, SAM):
        optimizer.model = model  # so that running statistics are updated only in the first pass
    batches = iter(task.batches("train", torch.Generator().manual_seed(derive(trial.seed, "data"))))
    seed_everything(derive(trial.seed, "dropout"))
    factors = learning_rates(trial.schedule, trial.steps, trial.warmup)
    training = Training(task, model, optimizer, batches, factors, trial.warmup, trial.evaluations, trial.device)
    training.counts_gradients = trial.counts_gradients
    if trial.landscape:
        training.waypoints = Waypoints(task, factors, derive(trial.seed, "landscape"), trial.device)
    return training


_loaded: set[tuple[type[Task], str]] = set()


def _load_once(task: Task) -> None:
    """Run a task's one-time imports and cached functions in this process before a trial draws random numbers.

    Imports and cached functions that run only in the first trial of a process may draw from the global generators. The
    random numbers of that trial, and any data drawn from them, would then differ. Here they run with a fixed seed.
    """
    key = (type(task), repr({name: getattr(task, name) for name in task.settings}))
    if key in _loaded:
        return
    _loaded.add(key)
    with seeded(0), contextlib.suppress(Exception):  # the error is raised again later, where it can be reported
        task.model()
        for split in ("train", "val", "test"):
            next(iter(task.batches(split, torch.Generator().manual_seed(0))))


def run(
    trial: Trial, make_optimizer: MakeOptimizer = build_optimizer, checkpoint: Checkpoint | None = None
) -> tuple[Outcome, Costs]:
    """Train as specified, and return the outcome and the costs.

    Args:
        trial: the specification.
        make_optimizer: function `(name, params, **options)`; pass another one to test other implementations.
        checkpoint: file and interval for saving the run; if the file exists, the run resumes from it.
    """
    began = time.perf_counter()
    return finish(trial, start(trial, make_optimizer), checkpoint, began)


def finish(trial: Trial, training: Training, checkpoint: Checkpoint | None, began: float) -> tuple[Outcome, Costs]:
    """Run a training returned by `start`, and return its outcome and its costs since `began`."""
    untrained = _untrained(training)
    failure = training.run(checkpoint)
    metrics = last_metrics(training)
    failure = failure or _unusable(training.task, metrics, trial.steps) or _not_learned(training, metrics, untrained)
    items, test_set = None, {}
    if trial.stage != "tune" and failure is None:
        found, items, kind = training.test()
        metrics |= found
        test_set = {"items": 0 if items is None else len(items), "kind": kind, **(training.task.split_sizes or {})}
        failure = _unusable(training.task, metrics, trial.steps)
    made = replace(outcome(training, failure, metrics), test_set=test_set, items=items)
    return made, costs(training, began)


def last_metrics(training: Training) -> dict[str, float]:
    """Return the losses and metrics of the last evaluation; empty before the first evaluation."""
    return {k: v for k, v in (training.curve or [{}])[-1].items() if k.startswith(("train_", "val_"))}


def outcome(training: Training, failure: Failure | None, metrics: Mapping[str, float]) -> Outcome:
    """Return the outcome of a training up to its current step."""
    landscape = [] if training.waypoints is None else training.waypoints.rows
    return Outcome(failure, {**metrics, "spikes": training.spikes()}, training.curve, training.trace, landscape)


def costs(training: Training, began: float) -> Costs:
    """Return the costs of a training so far."""
    seconds = time.perf_counter() - began
    state = tensors_in([training.optimizer.state])
    return Costs(seconds, state_bytes=sum(t.nbytes for t in state), **training.clock.costs())


def _untrained(training: Training) -> float:
    """Return the selection metric of a model that has learned nothing; a worse run is reported as "not learned"."""
    task = training.task
    trivial = task.trivial_loss() if task.metric == "val_loss" else None
    return training.evaluate("val")[task.metric] if trivial is None else trivial


def _not_learned(training: Training, metrics: Mapping[str, float], untrained: float) -> Failure | None:
    """Return a failure if the selection metric of a run is no better than that of an untrained model, else None."""
    task = training.task
    value = metrics[task.metric]
    if math.isnan(untrained) or (value < untrained if task.mode == "min" else value > untrained):
        return None
    is_trivial = task.metric == "val_loss" and task.trivial_loss() is not None
    than = "ignoring the input" if is_trivial else "before training"
    name = task.metric.replace("val_", "validation ", 1).replace("_", " ")
    cause = f"{name} {value:.4g} is no better than {than} ({untrained:.4g})"
    if has_risen(training.losses):
        cause = f"{cause}; the training loss had risen to {max(training.losses):.3g} from {training.losses[0]:.3g}"
        return {"state": "blown-up", "step": len(training.losses), "cause": cause}
    return {"state": "not-learned", "step": len(training.losses), "cause": cause}


def _unusable(task: Task, metrics: Mapping[str, float], step: int) -> Failure | None:
    """Return a failure if the loss or the selection metric at the end of a run is not finite, else None."""
    deciding = {f"{split}_{name}" for split in ("train", "val", "test") for name in ("loss", task.metric[4:])}
    bad = [f"{name} is {metrics[name]}" for name in metrics if name in deciding and not math.isfinite(metrics[name])]
    return {"state": "nonfinite", "step": step, "cause": ", ".join(bad)} if bad else None

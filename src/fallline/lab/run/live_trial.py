"""The trial that a training script runs: what the study asks of the run, and what the run reports."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fallline.errors import ArgumentError, ArgumentTypeError, TrialStopped
from fallline.lab.design.optimizers import build_optimizer, get_space, keywords
from fallline.lab.design.outcome import Failure
from fallline.lab.design.param_groups import scale_groups
from fallline.lab.design.schedules import WARMUP, learning_rates, warmup_steps
from fallline.lab.isolation import derive, small_seed
from fallline.lab.run.divergence import Watch, window_of
from fallline.lab.run.run_record import RunRecord, RunRecordFile
from fallline.sam import SAM
from fallline.schedules import Scheduler
from fallline.schedules.base import Schedule

VARIABLE = "FALLLINE_TRIAL"  # environment variable with the path of the file that describes the run
_TOLERANCE = 1e-3  # relative difference between a test metric and the mean of its items


@dataclass(frozen=True)
class Factors(Schedule):
    """The learning rate factors of a run, one per step; the last one stays."""

    factors: tuple[float, ...]

    @property
    def length(self) -> int:
        """The number of factors."""
        return len(self.factors)

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`."""
        return base * self.factors[min(k, len(self.factors) - 1)]


class LiveTrial:
    """The trial that a script runs, from `fallline.trial`.

    Attributes:
        arm: name of the arm.
        seed: seed of this run, below 2³¹; seed every generator with it.
        steps: number of optimizer steps that the study asks for; None if the script decides.
        params: all values that the study has chosen, by name: lr, weight_decay …, and those of `--search`.
        optimizer_name, schedule_name: the optimizer and the schedule of the arm.
        warmup: fraction of the steps in which the learning rate rises.
        metric: name of the metric that the study compares.
        total_steps: number of steps of the schedule that `optimizer` has built; `steps` before.
        in_study: whether a study runs the script; False if the user has started it.
    """

    def __init__(self, description: Mapping[str, Any], record: RunRecord | None = None) -> None:
        self.arm: str = description["arm"]
        self.seed: int = small_seed(description["seed"])
        self._full_seed: int = description["seed"]
        self.steps: int | None = description.get("steps") or None
        self.params: dict[str, Any] = dict(description["options"])
        self.optimizer_name: str = description["optimizer"]
        self.schedule_name: str = description["schedule"]
        self.warmup: float = description["warmup"]
        self.in_study = record is not None
        self.metric: str = description.get("metric", "val_loss")
        self._record = record
        self._rank = int(os.environ.get("RANK", "0") or 0)
        self._watch: Watch | None = None
        self.total_steps = self.steps
        self._early: list[tuple[float, float]] = []  # steps and losses until the watch exists
        self._failure: Failure | None = None
        self._finished = False

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"<fallline trial: {self.optimizer_name}({values}), {self.schedule_name}, seed {self.seed}>"

    def stream(self, name: str) -> int:
        """Return the seed of a separate stream of random numbers; built-in tasks use "init", "data" and "dropout"."""
        return derive(self._full_seed, name)

    def optimizer(
        self, model: Any, total_steps: int | None = None
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return the optimizer and the schedule of the arm; call `scheduler.step()` after every optimizer step.

        Args:
            model: the model; or its parameters, or parameter groups, whose learning rates and weight decays keep their
                ratios.
            total_steps: number of optimizer steps of the run; by default `steps`.

        Raises:
            ArgumentError: the number of steps is unknown, or is not that of the study.
        """
        steps = total_steps if total_steps is not None else self.steps
        if self.steps is not None and steps != self.steps:
            raise ArgumentError(
                f"trial.optimizer: total_steps must be the {self.steps} steps that the study asks for, got {steps}; "
                "train for trial.steps steps, or compare without --steps"
            )
        if steps is None or steps < 1:
            raise ArgumentError(
                f"trial.optimizer: total_steps must be the number of optimizer steps of the run, got {total_steps}; "
                "pass total_steps=epochs * len(loader)"
            )
        self.total_steps = steps
        space = get_space(self.optimizer_name)
        known = {*keywords(self.optimizer_name), *space.options(space.defaults)}  # the others are of the script
        options = {name: value for name, value in self.params.items() if name in known}
        module = model if isinstance(model, torch.nn.Module) else None
        groups = list(model) if module is None else list(module.parameters())
        scaled = scale_groups(groups, options, space.defaults)
        made = build_optimizer(space.optimizer, scaled, model=module, **options)
        if isinstance(made, SAM) and module is not None:
            made.model = module  # so that running statistics are updated only in the first pass
        return made, Scheduler(made, Factors(tuple(learning_rates(self.schedule_name, steps, self.warmup))))

    def log(self, step: int, *, stop: bool = True, **values: Any) -> None:
        """Report metrics at a step: `train_loss` is watched for divergence, others make the curves of the report.

        A run that has failed ends at the next call. Outside a study, nothing happens. Of several processes, only that
        of rank 0 reports and ends; the program that has launched them ends the others.

        Args:
            step: number of optimizer steps made so far.
            stop: pass False to let a failed run continue.
            **values: numbers or tensors with one element, such as train_loss=loss, val_loss=found.

        Raises:
            TrialStopped: the run had failed at an earlier call; let it end the script.
        """
        numbers = {name: _number(f"trial.log: {name}", value) for name, value in values.items()}
        if not self._is_first():
            return  # the losses of the processes differ, and with them the step at which each would end
        if self._failure is not None and stop and self.in_study:
            raise TrialStopped(f"The run has failed at step {self._failure['step']}: {self._failure['cause']}")
        if self._record is not None:
            self._record.write({"log": {"step": int(step), **numbers}})
        if "train_loss" in numbers and self._failure is None:
            self._failure = self._judge(int(step), numbers["train_loss"])
            if self._failure is not None and self._record is not None:
                self._record.write({"failure": self._failure})

    def _is_first(self) -> bool:
        """Return whether this is the process of rank 0; not all programs that launch several set RANK."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._rank = torch.distributed.get_rank()
        return self._rank == 0

    def _judge(self, step: int, loss: float) -> Failure | None:
        """Return the failure of the run, if its training loss shows one."""
        if not math.isfinite(loss):
            return {"state": "nonfinite", "step": step, "cause": f"training loss became {loss}"}
        self._early.append((step, loss))
        if self._watch is None and len(self._early) > 1 and self.total_steps is not None:
            stride = max(1, self._early[1][0] - self._early[0][0])
            calls = max(1, self.total_steps // stride)
            self._watch = Watch(warmup_steps(calls, self.warmup), window_of(calls))
            for k, (_, earlier) in enumerate(self._early[:-1]):
                self._watch.step(k, earlier)
        if self._watch is None:
            return None
        found = self._watch.step(len(self._early) - 1, loss)
        return None if found is None else {**found, "step": step}

    def result(self, *, test_losses: Any = None, **metrics: Any) -> None:
        """Record the metrics at the end of the run. Outside a study, nothing happens.

        Args:
            test_losses: the test metric of every single test example (n,), always in the same order; with it, the
                verdict also covers new test examples.
            **metrics: numbers or tensors with one element: the metric of the study, and the same on test data
                (`test_loss` for `val_loss`).

        Raises:
            ArgumentError: the metric of the study is missing, the test metric is not the mean of `test_losses`, or the
                result has been reported before.
        """
        numbers = {name: _number(f"trial.result: {name}", value) for name, value in metrics.items()}
        if self._finished:
            raise ArgumentError("trial.result: must be called once per run, got a second call; remove one of them")
        if self.metric not in numbers:
            raise ArgumentError(
                f"trial.result: must have {self.metric}, the metric of the study, got {', '.join(numbers) or 'none'}; "
                f"pass {self.metric}=…, or compare with --metric {next(iter(numbers), 'val_loss')}"
            )
        test = "test_" + self.metric.removeprefix("val_")
        items = None if test_losses is None else _array(test_losses)
        if items is not None:
            mean = float(items.mean())
            numbers.setdefault(test, mean)
            if not math.isfinite(mean):  # the run has diverged, which is an outcome of its arm
                numbers[test], items = mean, None
            elif not math.isclose(numbers[test], mean, rel_tol=_TOLERANCE, abs_tol=1e-9):
                raise ArgumentError(
                    f"trial.result: {test} must be the mean of test_losses, got {numbers[test]:.6g} and a mean of "
                    f"{mean:.6g}; pass the values of the same metric for every test example"
                )
        self._finished = True
        if self._record is not None and self._is_first():
            self._record.write({"result": numbers})
            if items is not None:
                self._record.save(items)


def trial(
    optimizer: str = "adamw", schedule: str = "cosine", *, seed: int = 0, warmup: float = WARMUP, **params: Any
) -> LiveTrial:
    """Return the trial that this script runs; outside a study, one with the values that are given here.

    Args:
        optimizer, schedule: used outside a study; names as in `fallline list`.
        seed: seed outside a study.
        warmup: fraction of the steps in which the learning rate rises, outside a study.
        **params: hyperparameters outside a study, such as lr=3e-4; by default those of the optimizer's documentation.

    Raises:
        ArgumentError: the file of the study that FALLLINE_TRIAL names cannot be read.

    Example:
        >>> here = trial(lr=0.01)
        >>> here.in_study, here.seed, here.params["lr"]
        (False, 0, 0.01)
        >>> optimizer, scheduler = here.optimizer(torch.nn.Linear(2, 1), total_steps=10)
        >>> type(optimizer).__name__, len(scheduler.get_last_lr())
        ('AdamW', 1)
    """
    place = os.environ.get(VARIABLE)
    if place:
        try:
            description = json.loads(Path(place).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"trial: {VARIABLE} must name the file in which a study describes the run, got {place!r} ({error}); "
                f"unset {VARIABLE} to run the script outside a study"
            ) from None
        return LiveTrial(description, RunRecordFile(Path(place).parent))
    space = get_space(optimizer)
    values = {name: value for name, value in {**space.defaults, **params}.items() if name != "warmup"}
    given = {"arm": optimizer, "optimizer": optimizer, "schedule": schedule, "seed": seed, "warmup": warmup}
    return LiveTrial({**given, "options": space.options(values)})


def _number(where: str, value: Any) -> float:
    """Return a number, or a tensor with one element, as a float."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.detach().float().item()
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ArgumentTypeError(
            f"{where} must be a number or a tensor with one element, got {value!r}; pass a mean, such as loss.mean()"
        )
    return float(value)


def _array(values: Any) -> np.ndarray:
    """Return the values of single test examples as a float array (n,)."""
    found = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "fiu":
        raise ArgumentError(
            f"trial.result: test_losses must be numbers (n,), one per test example, got {found.dtype} of shape "
            f"{found.shape}; concatenate the losses of the batches, computed with reduction='none'"
        )
    return found.astype(np.float64)

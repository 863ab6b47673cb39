"""Check a training loop of the user before the first trial, by running it: its metric, its seed and its learning rate.

Every check is a run of the loop: two with the same seed, one with another seed, and one with a tenth of the learning
rate. If the study sets the number of steps, these runs take a fifth of it.
"""

import math
import time
from dataclasses import dataclass, replace

from fallline.errors import StudyError
from fallline.lab.contract.contract import Examination, Finding
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import as_in_a_worker, derive
from fallline.lab.run.attempt import attempt
from fallline.lab.search.trials import tune, tuning_trials
from fallline.lab.tasks.own_loop import CommandTask

_SHORT, _LEAST = 5, 20  # a check takes a fifth of the steps, but not fewer than 20
_LR_FACTOR = 0.1


@dataclass(frozen=True)
class LoopExamination(Examination):
    """The result of checking a training loop.

    Attributes:
        seconds: duration of a full run, as far as the checks show it.
    """

    seconds: float = 0.0


def examine_loop(spec: Spec) -> LoopExamination:
    """Run the checks on the first arm of a study, and return the findings.

    Raises:
        StudyError: the loop reports no usable metric, or uses neither the seed nor the learning rate.
    """
    searches = tune(spec, {})[1]
    trial = tuning_trials(spec, next(iter(searches.values())))[0]
    share = 1.0
    if trial.steps:
        short = max(_LEAST, trial.steps // _SHORT)
        share, trial = short / trial.steps, replace(trial, steps=short)
    metric, skipped = spec.learning.metric, spec.learning.skip_checks
    began = time.monotonic()
    first = _run(trial)
    seconds = (time.monotonic() - began) / share
    value = _value(first, metric, trial)
    findings: list[Finding] = []
    if "deterministic" not in skipped:
        noise = abs(_value(_run(trial), metric, trial) - value)
        if noise:
            text = (
                f"two runs with the same seed must give the same {metric}, got a difference of {noise:.3g} at "
                f"{value:.4g}; the study counts it as noise between seeds. To remove it, seed every generator with the "
                "seed of the run, and use deterministic kernels"
            )
            findings.append(Finding("deterministic", "warning", text))
    if "seed" not in skipped and _value(_run(replace(trial, seed=derive(trial.seed, "check"))), metric, trial) == value:
        raise StudyError(_unused(spec, "seed", value))
    if "lr" not in skipped and "lr" in trial.options and (slower := _slower(trial)) is not None:
        outcome = _run(slower)
        if outcome.failure is None and outcome.metrics[metric] == value:
            raise StudyError(_unused(spec, "lr", value))
    return LoopExamination(findings, seconds=seconds)


def _run(trial: Trial) -> Outcome:
    with as_in_a_worker():
        return attempt(trial).outcome


def _value(outcome: Outcome, metric: str, trial: Trial) -> float:
    """Return the metric of a run.

    Raises:
        StudyError: the run has failed or has no finite metric.
    """
    if outcome.failure is None and math.isfinite(outcome.metrics.get(metric, math.nan)):
        return outcome.metrics[metric]
    cause = outcome.failure["cause"] if outcome.failure else f"{metric} is {outcome.metrics.get(metric)}"
    raise StudyError(
        f"task {trial.task}: a run with the default values of {trial.arm} must succeed before the study starts, got "
        f"this: {cause}. Run it by hand with the same arguments"
    )


def _slower(trial: Trial) -> Trial | None:
    """Return the trial with a tenth of its learning rate; None if it has none."""
    rate = trial.options["lr"]
    if not isinstance(rate, float | int) or not rate:
        return None
    return replace(trial, options={**trial.options, "lr": rate * _LR_FACTOR})


def _unused(spec: Spec, name: str, value: float) -> str:
    """Return the sentence about a value of the study that the training loop does not use."""
    task = spec.learning
    what = {"seed": "two seeds", "lr": "two learning rates, one of them ten times smaller,"}[name]
    if isinstance(task, CommandTask):
        there = f"{{{name}}}" in task.command
        remedy = (
            f"check what the script does with its {{{name}}}"
            if there
            else f"write {{{name}}} into the command, or use fallline.trial() in the script"
        )
    else:
        remedy = "seed every generator with trial.seed" if name == "seed" else "train with trial.optimizer(model, …)"
    return (
        f"task {spec.task}: {what} must give different results, got {task.metric} {value:.6g} for both; {remedy}. To "
        f"compare anyway, pass skip_checks {name}"
    )

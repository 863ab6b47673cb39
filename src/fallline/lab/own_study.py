"""Specify a study of the user's own training loop, a function `train(trial)` or a command, and estimate its cost."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError, TaskWarning
from fallline.lab.contract.own_loop import LoopExamination, examine_loop
from fallline.lab.contract.preflight import has_trials
from fallline.lab.design.own_arms import make_own_arms
from fallline.lab.design.spec import Spec
from fallline.lab.tasks import is_own_loop
from fallline.lab.tasks.own_loop import CommandTask, OwnLoop
from fallline.lab.user_code.sources import imports_for

_examined: dict[str, LoopExamination] = {}  # a study that is specified several times checks its loop only once


# The settings of a training loop by the names of the arguments of `compare` and of its options.
_LOOP = {"metric": "metric_name", "mode": "goal", "search": "search", "skip_checks": "skip"}
_COMMAND = {
    "command": "command",
    "test_metric": "test_metric",
    "metric_regex": "metric_regex",
    "metric_file": "metric_file",
    "trial_timeout": "timeout",
    "inputs": "inputs",
}


def loop_settings(place: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training loop from the arguments of the user; those that are empty are left out.

    Args:
        place: the text that names the task.
        given: values by argument: metric, mode, search, skip_checks, and those of a command.

    Raises:
        ArgumentError: the task has no use for an argument.
    """
    known = {name: value for name, value in given.items() if value}
    usable = {} if not is_own_loop(place) else _LOOP if place != CommandTask.name else _LOOP | _COMMAND
    for name, value in known.items():
        if name not in usable:
            needs = "a command" if name in _COMMAND else "a command or a function train(trial)"
            raise ArgumentError(
                f"{name}: must be given with {needs}, got {value!r} with the task {place}; leave it out"
            )
    return {usable[name]: value for name, value in known.items()}


def specify_own(
    place: str,
    task: OwnLoop,
    optimizers: Sequence[str],
    schedules: Sequence[str],
    settings: Mapping[str, Any],
    *,
    variants: Mapping[str, str] | None = None,
    steps: int | None = None,
    equal: str = "grad-evals",
    **options: Any,
) -> Spec:
    """Return the specification of a study of the user's own training loop, before its contract is checked.

    If the study does not set the number of steps, arms are equal in the number of trials only.

    Args:
        place: the text that names the task.
        task: the task.
        optimizers, schedules, settings: as in `compare`.
        variants: further arms by name, see `make_own_arms`.
        steps: steps per run; None for those of the task.
        equal: as in `compare`.
        **options: other fields of `Spec`.

    Raises:
        ArgumentError: an argument is invalid.
    """
    command = task.command if isinstance(task, CommandTask) else None
    if variants and command is None:
        raise ArgumentError(
            "arm: is only for a command, got a function; pass the names of the optimizers as optimizers instead"
        )
    if options.pop("vary", None):
        raise ArgumentError(
            "vary: must be left out for a training loop of your own, got values; use --search NAME=A|B to search them, "
            "or --arm NAME='--option value' to compare them"
        )
    if options.get("landscape"):
        raise ArgumentError("landscape: needs a task with model, batches and loss, got a training loop; leave it out")
    length = task.steps if steps is None else steps
    with imports_for(place):
        arms = make_own_arms(optimizers, schedules, task.search, command, variants)
    return Spec(place, length, arms, settings=dict(settings), equal=equal if length else "trials", **options)


def examine_own(spec: Spec, folder: Path | None = None) -> LoopExamination:
    """Check the training loop of a study before its first trial, and issue warnings.

    Nothing is checked if the folder holds finished trials of the same task.

    Raises:
        StudyError: the loop breaks its contract.
    """
    key = json.dumps(replace(spec, sources={}).to_json(), sort_keys=True)
    if key not in _examined:
        if folder is not None and has_trials(folder, spec.task, dict(spec.settings)):
            return LoopExamination([])
        with imports_for(spec.task):
            _examined[key] = examine_loop(spec)
        for finding in _examined[key].findings:
            warnings.warn(f"task {spec.task}: {finding.message}", TaskWarning, stacklevel=3)
    return _examined[key]

"""What is tried before the first trial: the task's contract, and whether every arm takes the task's parameters."""

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import fallline.lab.contract.checks as checks
from fallline.errors import ArgumentError, StudyError, TaskWarning
from fallline.lab.contract.contract import TRAINING, Examination, check_task, examine, raise_errors
from fallline.lab.contract.probes import make
from fallline.lab.design.arms import Arm
from fallline.lab.design.optimizers import build_optimizer
from fallline.lab.design.param_groups import SCALED, own_options, scale_groups
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.storage.study_file import read_study
from fallline.lab.tasks import Task, get_task
from fallline.lab.user_code.import_path import folder_name, is_path
from fallline.lab.user_code.sources import changes, imports_for

RUNS = Path("fallline-runs")  # where studies are stored for which no folder was named

_Key = tuple[type[Task], str]
_examined: dict[_Key, Examination] = {}  # so that one study, specified several times, examines its task once
_taken: set[tuple[_Key, str]] = set()
EVALUATIONS = 20  # points of a curve, if they cost no more than
EVALUATION_SHARE = 0.15  # of the time of training


def examine_task(place: str, task: Task, settings: dict[str, Any], folder: Path | None) -> Examination:
    """Examine a task before anything else calls its methods; return what was found, and warn of it.

    Nothing is tried when a study of the same task in the folder already has finished trials.

    Args:
        place: the text that names the task.
        task: the task.
        settings: those that are not at their defaults.
        folder: of the study; None for one of those in RUNS.

    Raises:
        StudyError: the task breaks its contract.
    """
    key = _key(task)
    if key not in _examined:
        if any(_has_trials(found, place, settings) for found in _folders(place, folder)):
            return Examination([])
        found = raise_errors(task, examine(task))
        _warn(found)
        _examined[key] = found
    return _examined[key]


def check_training(place: str, task: Task) -> None:
    """Check what training alone needs of a user's task; what matters for comparisons only is not warned of.

    Raises:
        StudyError: the task breaks its contract.
    """
    if is_path(place):
        check_task(task, TRAINING)


def check_arms(place: str, settings: dict[str, Any], arms: Sequence[Arm]) -> None:
    """Check that every arm's optimizer takes the parameters of the task.

    Raises:
        ArgumentError: one does not, as `torch.optim.Muon`, which takes matrices only.
    """
    for arm in arms:
        task = get_task(place, **{**settings, **arm.settings})
        space = arm.space
        if (key := (_key(task), arm.name)) in _taken:
            continue
        options = space.options({**space.defaults, **arm.fixed})
        with as_in_a_worker():
            groups = scale_groups(task.param_groups(make(task)), options, space.defaults)
            try:
                build_optimizer(space.optimizer, groups, **options)
            # What constructors raise for parameters that they cannot take: Muon for vectors, LBFGS for several groups.
            except (TypeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise ArgumentError(
                    f"optimizers: {arm.name} must take the parameters of task {task.name}, got an error ({reason}); "
                    "write a class that gives it those it takes and another optimizer the rest, and name it as "
                    "FILE.py:CLASS (docs/lab.md has one)"
                ) from error
        _taken.add(key)


def count_validation(task: Task) -> int:
    """Return the items of the validation split, where the examination had too little time to read it to its end.

    Raises:
        StudyError: it has more batches than a split may have.
    """
    items = 0
    for count, batch in enumerate(task.batches("val", torch.Generator()), 1):
        if count > checks.ENDLESS:
            raise StudyError(
                f'task {task.name}: batches("val", …) must end after one pass, got over {checks.ENDLESS} batches; '
                'go round and round only if split == "train"'
            )
        items += task.size(batch)
    return items


def notes(task: Task) -> dict[str, Any]:
    """Return what the manifest of a study says of its task: the checks it skips, and options that groups have.

    A group is described by its learning rate and weight decay, and by the names of all options of its own.
    """
    groups: list[Any] = []
    if type(task).param_groups is not Task.param_groups:
        with as_in_a_worker():
            groups = [group for group in task.param_groups(make(task)) if isinstance(group, Mapping)]
    described = [
        {**{key: float(group[key]) for key in SCALED if key in group}, "own": own_options([group])} for group in groups
    ]
    return {"skipped_checks": list(task.skip_checks), "groups": described if own_options(groups) else []}


def _key(task: Task) -> _Key:
    return type(task), repr({name: getattr(task, name) for name in task.settings})


def _warn(found: Examination) -> None:
    for finding in found.findings:
        warnings.warn(finding.message, TaskWarning, stacklevel=4)


def _folders(place: str, folder: Path | None) -> Collection[Path]:
    return sorted(RUNS.glob(f"{folder_name(place)}-*")) if folder is None else [folder]


def _has_trials(folder: Path, place: str, settings: dict[str, Any]) -> bool:
    """Return whether a folder holds finished trials of this task, with these settings and from the same files."""
    try:
        spec = read_study(folder)["spec"]
    except StudyError:
        return False
    same = (spec.get("task"), spec.get("settings")) == (place, json.loads(json.dumps(settings)))
    return same and any((folder / "trials").glob("[!.]*/trial.json")) and not changes(spec["sources"].get(place, {}))


def check_anew(place: str, task: Task) -> None:
    """Check the contract of a task whose study is continued with other code or data, and warn of what was found.

    Raises:
        StudyError: the task breaks its contract.
    """
    if _key(task) not in _examined:
        with imports_for(place):
            _examined[_key(task)] = raise_errors(task, examine(task))
        _warn(_examined[_key(task)])


def count_evaluations(task: Task, steps: int, val_items: int | None = None) -> int:
    """Return how many times a run can be evaluated within EVALUATION_SHARE of its training, by counting items.

    A forward pass is taken for a third of a step, so that the number depends on no clock.

    Args:
        task, steps: what is run, and how long.
        val_items: items of the validation split; they are counted if they are not known.
    """
    generator = torch.Generator()
    a_step = task.accumulate * task.size(next(task.batches("train", generator)))
    a_pass = (count_validation(task) if val_items is None else val_items) / 3
    return max(2, min(EVALUATIONS, int(EVALUATION_SHARE * steps * a_step / a_pass)))

"""Checks before the first trial: the contract of the task, and whether every optimizer accepts its parameters."""

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

RUNS = Path("fallline-runs")  # parent of the folders of studies for which no folder was named

_Key = tuple[type[Task], str]
_examined: dict[_Key, Examination] = {}  # a study that is specified several times checks its task only once
_accepted: set[tuple[_Key, str]] = set()  # tasks and arms whose optimizer accepts the parameters
EVALUATIONS = 20  # largest number of points of a curve
EVALUATION_SHARE = 0.15  # largest time of all evaluations, as a fraction of the training time


def examine_task(place: str, task: Task, settings: dict[str, Any], folder: Path | None) -> Examination:
    """Check the contract of a task before anything else calls its methods; return the findings and issue warnings.

    The checks are skipped if the folder holds a study of the same task with finished trials.

    Args:
        place: the text that names the task.
        task: the task.
        settings: settings that differ from their defaults.
        folder: folder of the study; None to look in the default folders under RUNS.

    Raises:
        StudyError: the task breaks its contract.
    """
    key = _key(task)
    if key not in _examined:
        if any(has_trials(found, place, settings) for found in _folders(place, folder)):
            return Examination([])
        found = raise_errors(task, examine(task))
        _warn(found)
        _examined[key] = found
    return _examined[key]


def check_training(place: str, task: Task) -> None:
    """Check what training needs of a user's task, without the checks that matter only for comparisons.

    Raises:
        StudyError: the task breaks its contract.
    """
    if is_path(place):
        check_task(task, TRAINING)


def check_arms(place: str, settings: dict[str, Any], arms: Sequence[Arm]) -> None:
    """Check that the optimizer of every arm accepts the parameters of the task.

    Raises:
        ArgumentError: an optimizer does not, such as `torch.optim.Muon`, which accepts only matrices.
    """
    for arm in arms:
        task = get_task(place, **{**settings, **arm.settings})
        space = arm.space
        if (key := (_key(task), arm.name)) in _accepted:
            continue
        options = space.options({**space.defaults, **arm.fixed})
        with as_in_a_worker():
            model = make(task)
            groups = scale_groups(task.param_groups(model), options, space.defaults)
            try:
                build_optimizer(space.optimizer, groups, model=model, **options)
            # Constructors raise errors for parameters that they reject: Muon for vectors, LBFGS for several groups.
            except Exception as error:
                reason = " ".join(str(error).split())
                raise ArgumentError(
                    f"optimizers: {arm.name} must accept the parameters of task {task.name}, got an error ({reason}); "
                    "write a class that passes the accepted parameters to this optimizer and the others to a second "
                    "one, and name it as FILE.py:CLASS (see the example in docs/lab.md)"
                ) from error
        _accepted.add(key)


def count_validation(task: Task) -> int:
    """Return the number of validation items of a task whose split could not be read in the time of the checks.

    Raises:
        StudyError: the split has more batches than a split may have.
    """
    items = 0
    for count, batch in enumerate(task.batches("val", torch.Generator()), 1):
        if count > checks.ENDLESS:
            raise StudyError(
                f'task {task.name}: batches("val", …) must end after one pass, got over {checks.ENDLESS} batches; '
                'repeat the data only if split == "train"'
            )
        items += task.size(batch)
    return items


def notes(task: Task) -> dict[str, Any]:
    """Return the entries about the task in the manifest of a study: skipped checks and options of parameter groups.

    A group is described by its learning rate and weight decay, and by the names of all options that it sets.
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


def has_trials(folder: Path, place: str, settings: dict[str, Any]) -> bool:
    """Return whether a folder holds finished trials of this task, with these settings and from the same files."""
    try:
        spec = read_study(folder)["spec"]
    except StudyError:
        return False
    same = (spec.get("task"), spec.get("settings")) == (place, json.loads(json.dumps(settings)))
    return same and any((folder / "trials").glob("[!.]*/trial.json")) and not changes(spec["sources"].get(place, {}))


def check_anew(place: str, task: Task) -> None:
    """Check the contract of a task again if its study resumes with other code or data, and issue warnings.

    Raises:
        StudyError: the task breaks its contract.
    """
    if _key(task) not in _examined:
        with imports_for(place):
            _examined[_key(task)] = raise_errors(task, examine(task))
        _warn(_examined[_key(task)])


def count_evaluations(task: Task, steps: int, val_items: int | None = None) -> int:
    """Return how many times a run can be evaluated within EVALUATION_SHARE of its training time, by counting items.

    A forward pass is assumed to cost a third of a step, so that the number does not depend on measured times.

    Args:
        task: the task.
        steps: steps of the run.
        val_items: number of items of the validation split; None to count them.
    """
    generator = torch.Generator()
    a_step = task.accumulate * task.size(next(task.batches("train", generator)))
    a_pass = (count_validation(task) if val_items is None else val_items) / 3
    return max(2, min(EVALUATIONS, int(EVALUATION_SHARE * steps * a_step / a_pass)))

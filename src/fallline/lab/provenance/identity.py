"""The user's files, versions and data, which identify the trials of a study in addition to its specification."""

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fallline.lab.design.description import describe, factors_key
from fallline.lab.design.optimizers import get_space, split_wrapper
from fallline.lab.design.schedules import learning_rates
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.provenance.manifest import digest_of_data, versions
from fallline.lab.tasks import get_task
from fallline.lab.user_code.import_path import is_path
from fallline.lab.user_code.sources import forget_edited, imports_for, sources_of

VERSIONS = ("fallline", "torch")  # packages whose versions are part of the identity of a study


def identify(spec: Spec) -> Spec:
    """Return a specification with the current user files, versions and data on which its results depend.

    If the task is named by its location, a first batch is run, so that the files that are imported while the task is
    created and used are included.

    Raises:
        StudyError: a file was edited after this process had imported it.
    """
    data: dict[str, str] = {}
    for arm in spec.arms:
        settings = spec.settings_of(arm)
        if (key := spec.data_key(arm)) not in data:
            with as_in_a_worker():
                if is_path(spec.task):
                    _try_out(spec.task, settings)
                data[key] = digest_of_data(get_task(spec.task, **settings))
    installed = versions()
    return replace(
        spec,
        sources={place: sources_of(place) for place in places(spec)},
        versions={name: installed[name] for name in VERSIONS},
        data=data,
    )


def current(trial: Trial) -> Trial:
    """Return a stored trial with the current user files, versions and data."""
    with as_in_a_worker():
        if is_path(trial.task):
            _try_out(trial.task, trial.settings)
        data = digest_of_data(get_task(trial.task, **trial.settings))
    named = {trial.task, split_wrapper(trial.optimizer)[1], trial.schedule}
    sources = {file: h for place in sorted(filter(is_path, named)) for file, h in sources_of(place).items()}
    installed = versions()
    return replace(trial, sources=sources, versions={name: installed[name] for name in VERSIONS}, data=data)


def describe_study(spec: Spec) -> dict[str, Any]:
    """Return the parts of the user's files that a report of the study needs, see `describe`."""
    factors = {}
    for arm in spec.arms:
        searched = [
            d.choices for d in arm.space.dimensions_for(spec.trials, arm.fixed, arm.ranges) if d.name == "warmup"
        ]
        warmups = {{**arm.space.defaults, **arm.fixed}["warmup"], *(value for values in searched for value in values)}
        for stage, warmup in itertools.product(("tune", "confirm", "equal-steps"), sorted(warmups)):
            if is_path(arm.schedule):
                run = arm.schedule, spec.steps_of(arm, stage), warmup
                factors[factors_key(*run)] = learning_rates(*run)
    return describe(
        spec.learning, {arm.name: arm.known_space or get_space(arm.optimizer) for arm in spec.arms}, factors
    )


def import_edited_anew() -> None:
    """Make Python import the user's files again, among those that Fallline has imported, if any has been edited."""
    if forget_edited():
        get_space.cache_clear()  # it depends on the constructors of the user's optimizers


def places(spec: Spec) -> list[str]:
    """Return the task, optimizers and schedules of a study that are named by their location."""
    named = {spec.task, *(arm.schedule for arm in spec.arms)}
    named |= {split_wrapper(arm.space.optimizer)[1] for arm in spec.arms}
    return sorted(filter(is_path, named))


def _try_out(place: str, settings: Mapping[str, Any]) -> None:
    """Run a first batch so that the files it imports are found; errors are ignored here, the contract reports them."""
    with imports_for(place), contextlib.suppress(Exception):
        task = get_task(place, **settings)
        model = task.model()
        batch = next(iter(task.batches("train", torch.Generator().manual_seed(0))))
        task.loss(model, batch)
        held_out = next(iter(task.batches("val", torch.Generator().manual_seed(0))))
        with torch.no_grad():
            task.evaluate(model.eval(), held_out)

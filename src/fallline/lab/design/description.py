"""The description of a study's task, spaces and schedules in study.json, so that a report needs no user files."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from fallline.errors import StudyError
from fallline.lab.design.spaces import Dimension, Space
from fallline.lab.tasks import Task

_ATTRIBUTES = (
    "name",
    "steps",
    "summary",
    "metric",
    "mode",
    "unit",
    "network",
    "precision",
    "accumulate",
    "resplit",
    "own_loop",
    "study_settings",
)


def describe(task: Task, spaces: Mapping[str, Space], factors: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return plain data from which `described_task` and `read_space` restore a task and search spaces.

    Args:
        task: the task of a study, with the settings that all arms share.
        spaces: search spaces by the name of the arm.
        factors: learning rate factors of the user's schedules, by `factors_key`.
    """
    found = {name: getattr(task, name) for name in _ATTRIBUTES}
    size = getattr(task, "batch_size", None)
    found |= {"settings": dict(task.settings), "batch_size": size if isinstance(size, int) else None}
    found["trivial_loss"] = task.trivial_loss()
    return {"task": found, "spaces": {name: asdict(s) for name, s in spaces.items()}, "factors": dict(factors)}


def factors_key(schedule: str, steps: int, warmup: float) -> str:
    """Return the key under which the factors of a schedule are stored."""
    return f"{schedule} {steps} {warmup!r}"


def described_task(described: Mapping[str, Any], settings: Mapping[str, Any]) -> Task:
    """Return a task that has the attributes that a report needs, but cannot be trained."""
    stored = dict(described["task"])
    if "batch_size" in stored["settings"]:
        del stored["batch_size"]  # a setting of the task, which may differ between arms
    cls = type(stored["name"], (_DescribedTask,), {**stored, "trivial_loss": _DescribedTask.trivial_loss})
    task: Task = cls(**settings)
    vars(task)["_trivial"] = stored["trivial_loss"]
    return task


def read_space(stored: Mapping[str, Any] | None) -> Space | None:
    """Return the search space that `describe` stored."""
    if stored is None:
        return None
    dimensions = [Dimension(**{**d, "choices": tuple(_tupled(d["choices"]))}) for d in stored["dimensions"]]
    return Space(**{**stored, "dimensions": tuple(dimensions)})


def _tupled(choices: list[Any]) -> Iterator[Any]:
    return (tuple(choice) if isinstance(choice, list) else choice for choice in choices)


class _DescribedTask(Task):
    """A task of which only the description is available."""

    _trivial: float | None

    def model(self) -> torch.nn.Module:
        raise self._missing()

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Any]:
        raise self._missing()

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        raise self._missing()

    def trivial_loss(self) -> float | None:
        return self._trivial

    def _missing(self) -> StudyError:
        return StudyError(f"The study of {self.name} was read without its task. Run `fallline compare` to run trials.")

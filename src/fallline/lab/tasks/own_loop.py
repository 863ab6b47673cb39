"""Tasks whose training loop belongs to the user: a function `train(trial)`, or a command line."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

from fallline.errors import ArgumentError, StudyError, suggest
from fallline.lab.command import Command, Source
from fallline.lab.command.environment import find_sources, interpreter_versions
from fallline.lab.command.metrics import find_mode
from fallline.lab.tasks.base import Task
from fallline.lab.tasks.download import Progress

LOOP_CHECKS = ("deterministic", "seed", "lr")  # checks of a training loop that may be left out
_MARK = "fallline_task"  # attribute of a function with the arguments of its decorator


class OwnLoop(Task):
    """A task that the user trains and evaluates in their own code, which reports the metrics of a run.

    `metric_name` is the metric as the user's code reports it; `metric` is its name in tables, which begins with val_.
    `steps` is 0 if the user's code decides how long it trains.
    """

    own_loop: ClassVar[bool] = True
    steps: ClassVar[int] = 0
    unit: ClassVar[str] = ""
    study_settings: ClassVar[tuple[str, ...]] = ("search", "skip")
    settings: ClassVar[dict[str, Any]] = {"metric_name": "val_loss", "goal": "", "search": "", "skip": ""}
    metric_name: str
    goal: str
    search: str
    skip: str

    def __init__(self, **settings: Any) -> None:  # they are attributes already
        skipped = tuple(part.strip() for part in self.skip.split(",") if part.strip())
        for check in skipped:
            if check not in LOOP_CHECKS:
                raise ArgumentError(
                    f"skip_checks: must name checks among {', '.join(LOOP_CHECKS)}, got {check!r}; "
                    + suggest(check, LOOP_CHECKS, "leave it out")
                )
        named: dict[str, Any] = {"skip_checks": skipped}
        named |= {"metric": table_name(self.metric_name), "mode": find_mode(self.metric_name, self.goal or None)}
        vars(self).update(named)  # the base class declares them for classes

    def model(self) -> torch.nn.Module:
        """Raise an error: the lab does not see the model."""
        raise self._no_parts()

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Any]:
        """Raise an error: the lab does not see the data."""
        raise self._no_parts()

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Raise an error: the lab does not see the loss."""
        raise self._no_parts()

    def _no_parts(self) -> StudyError:
        return StudyError(
            f"task {self.name}: only `compare` can run a training loop of your own; for other commands, write a task "
            "with model, batches and loss (`fallline new-task` writes one)"
        )


class CommandTask(OwnLoop):
    """A command line that trains and evaluates a model and prints its metric."""

    name: ClassVar[str] = "command"
    summary: ClassVar[str] = "A training script, run as a command"
    settings: ClassVar[dict[str, Any]] = {
        **OwnLoop.settings,
        "command": "",
        "test_metric": "",
        "metric_regex": "",
        "metric_file": "",
        "timeout": 0.0,
        "inputs": "",
        "spelling": "",  # of the optimizer in the command, if it differs from Fallline's
    }
    command: str
    test_metric: str
    metric_regex: str
    metric_file: str
    timeout: float
    inputs: str
    spelling: str

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.template = Command(self.command)
        self.sources = {self.metric_name: Source(self.metric_name, self.metric_regex, self.metric_file)}
        if self.test_metric:
            place = self.metric_file.rpartition(":")[0]
            test = Source(self.test_metric, file=f"{place}:{self.test_metric}" if place else "")
            self.sources["test_" + self.metric_name.removeprefix("val_")] = test
        if self.metric_file and "{trial}" not in self.metric_file:
            raise ArgumentError(
                f"metric_file: must contain {{trial}}, so that no run reads the file of another, got "
                f"{self.metric_file!r}; write the file to a path with {{trial}} in the command too, or let the script "
                "print the metric"
            )
        if self.timeout < 0:
            raise ArgumentError(f"trial_timeout: must be at least 0 seconds, got {self.timeout:g}; 0 is no limit")

    def data_files(self, progress: Progress | None = None) -> list[Path]:
        """Return the files that identify a run: those that the command names, the sources around them, the inputs."""
        inputs = [path for pattern in self.inputs.split(",") if pattern for path in sorted(Path.cwd().glob(pattern))]
        return find_sources(self.template.files()) + [path for path in inputs if path.is_file()]

    def data_digest(self) -> str:
        """Return a hash of these files, and of the versions of the interpreter and its packages."""
        digest = hashlib.sha256(json.dumps(interpreter_versions(self.template.words[0])).encode())
        for path in self.data_files():
            try:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise StudyError(f"command: {str(path)!r} must be readable, got {error.strerror}") from None
            digest.update(f"{path}\0{content}\n".encode())
        return digest.hexdigest()[:16]


class FunctionTask(OwnLoop):
    """A function `train(trial)` that trains and evaluates a model."""

    function: ClassVar[Callable[[Any], Any]]

    def data_digest(self) -> str:
        """Return a constant: the lab does not see the data of a function."""
        return "unknown"


def is_function(thing: Any) -> bool:
    """Return whether an object is a function, and so a training loop."""
    return inspect.isfunction(thing)


def mark_function(function: Callable[[Any], Any], **given: Any) -> Callable[[Any], Any]:
    """Store the arguments of `fallline.task` with a function, and return the function."""
    vars(function)[_MARK] = given
    return function


def task_of_function(function: Callable[[Any], Any]) -> type[FunctionTask]:
    """Return the task of a function that takes a trial.

    Raises:
        ArgumentError: the function does not take one argument.
    """
    name = function.__name__
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise ArgumentError(
            f"task: a training function must take one argument, the trial, got {name}{inspect.signature(function)}; "
            f"write def {name}(trial)"
        ) from None
    given = vars(function).get(_MARK, {})
    metric = {"metric_name": given.get("metric") or "val_loss", "goal": given.get("mode") or ""}
    attributes = {
        "name": name,
        "summary": (function.__doc__ or name).strip().partition("\n")[0].rstrip("."),
        "steps": given.get("steps") or 0,
        "unit": given.get("unit") or "",
        "settings": {**OwnLoop.settings, **metric, **given.get("settings", {})},
        "function": staticmethod(function),
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
    }
    return type(name, (FunctionTask,), attributes)


def table_name(metric: str) -> str:
    """Return the name of a metric in tables: `val_loss` for val_loss, `val_eval_acc` for eval/acc.

    Example:
        >>> table_name("val_loss"), table_name("eval/acc")
        ('val_loss', 'val_eval_acc')
    """
    plain = "".join(c if c.isalnum() else "_" for c in metric)
    return plain if plain.startswith("val_") else f"val_{plain}"

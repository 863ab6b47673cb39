"""The user's own model as a task: a decorator, and how a worker process finds the class again."""

import inspect
import keyword
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from fallline.arguments import check_integer
from fallline.errors import ArgumentError, ArgumentTypeError, suggest
from fallline.lab.tasks import TASKS
from fallline.lab.tasks.base import CHECKS, Task
from fallline.lab.user_code.import_path import path_of

# The arguments that the lab passes to each method, self not counted.
_REQUIRED = {"model": "", "batches": "split, generator", "loss": "model, batch"}
_OPTIONAL = {
    "evaluate": "model, batch",
    "losses": "model, batch",
    "size": "batch",
    "param_groups": "model",
    "trivial_loss": "",
}
_PRECISIONS = ("float32", "bfloat16")
_SETTING = (bool, int, float, str)  # what a command line can say and a specification on disk can hold
_FEWEST_STEPS = 20  # as for a study: fewer make no curve


def task(
    cls: type | None = None,
    /,
    *,
    steps: int | None = None,
    metric: str = "val_loss",
    mode: str | None = None,
    precision: str = "float32",
    accumulate: int = 1,
    unit: str = "",
    summary: str | None = None,
    resplit: bool = False,
    skip_checks: Sequence[str] = (),
    **settings: Any,
) -> Callable[[type], type[Task]]:
    """Make a class with `model`, `batches` and `loss` a task, on which optimizers are compared.

    The class goes at the top level of a file, so that worker processes find it again.

    Args:
        cls: nothing; there to say so when the parentheses were forgotten.
        steps: optimizer steps of a full run, at least 20.
        metric: what configurations are selected by: "val_loss", or "val_" and a key of what `evaluate` returns.
        mode: "min" or "max", which values of the metric are better; "min" for "val_loss", to be given for any other.
        precision: "float32", or "bfloat16" to run model and loss under autocast.
        accumulate: batches whose gradients are averaged into one step.
        unit: of the loss, for axes and tables, such as "nats".
        summary: one line for people; the first line of the class's docstring, or its name, by default.
        resplit: the data are one pool without an official split, and `batches` takes its examples by
            `self.split_indices(count)`: every confirmation seed then draws a split of its own.
        skip_checks: checks of the contract that are not made, by name, such as `("overlap",)`; the report lists them.
        **settings: what a study may set or vary, with its default, such as `batch_size=64`; each is an attribute,
            there before `__init__` runs.

    Raises:
        ArgumentError: an argument cannot be used, or a method is missing or takes other arguments.
        ArgumentTypeError: `steps` was not given, or what is decorated is no class.

    Example:
        >>> @task(steps=100, batch_size=8)
        ... class Line:
        ...     def model(self):
        ...         return torch.nn.Linear(1, 1)
        ...
        ...     def batches(self, split, generator):
        ...         for _ in iter(int, 1 if split == "train" else 0):
        ...             yield torch.randn(self.batch_size, 1, generator=generator)
        ...
        ...     def loss(self, model, batch):
        ...         return (model(batch) - 2 * batch).square().mean()
        >>> import torch
        >>> Line().batch_size, Line(batch_size=4).batch_size
        (8, 4)
    """
    if cls is not None or steps is None:
        name = getattr(cls, "__name__", "Mine")
        raise ArgumentTypeError(
            f"task: steps must be given, got none; write @fallline.task(steps=2000) above class {name}"
        )
    better = mode if mode is not None or metric != "val_loss" else "min"
    given = {"steps": steps, "metric": metric, "mode": better, "precision": precision, "accumulate": accumulate}
    _check_arguments(given, settings)
    skipped = _known_checks(skip_checks)

    def decorate(cls: type) -> type[Task]:
        _check_class(cls, metric, settings)
        initialise = cls.__init__  # type: ignore[misc]  # the user's, which takes no settings
        first_line = (cls.__doc__ or cls.__name__).strip().partition("\n")[0].rstrip(".")
        inherited = cls.settings if issubclass(cls, Task) else {}
        attributes = {
            **given,
            "unit": unit,
            "summary": first_line if summary is None else summary,
            "skip_checks": skipped,
            "settings": {**inherited, **settings},
            "name": cls.__name__,
            "resplit": resplit or getattr(cls, "resplit", False),
            "__init__": lambda self, **settings: initialise(self),
            **{key: getattr(cls, key) for key in ("__module__", "__qualname__", "__doc__")},
        }
        return cast(type[Task], ABCMeta(cls.__name__, (cls, Task), attributes))

    return decorate


def name_of(task: str | type[Task]) -> str:
    """Return the text by which a worker finds a task: a built-in's name, FILE.py:NAME, or package.module:NAME.

    A class defined in a notebook is called `here:NAME`, which only this process knows.

    Args:
        task: that text, or a class that `fallline.task` made.

    Raises:
        ArgumentTypeError: it is neither.

    Example:
        >>> from fallline.lab.tasks import Digits
        >>> name_of(Digits)
        'digits'
    """
    if isinstance(task, str):
        return task
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise ArgumentTypeError(
            f"task: must be a name, FILE.py:NAME or a class decorated with @fallline.task, got {task!r}; decorate it"
        )
    return task.name if TASKS.get(task.name) is task else path_of(task)


def _check_arguments(given: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for key, least in (("steps", _FEWEST_STEPS), ("accumulate", 1)):
        check_integer("task", key, given[key], least, f"pass {least} or more")
    if not (isinstance(given["metric"], str) and given["metric"].removeprefix("val_").isidentifier()):
        raise ArgumentError(f'task: metric must be "val_" and a name, got metric={given["metric"]!r}; pass "val_loss"')
    if not given["metric"].startswith("val_"):
        raise ArgumentError(
            f"task: metric must be one of validation, got metric={given['metric']!r}; "
            f'pass "val_{given["metric"].removeprefix("test_")}"'
        )
    if given["mode"] not in ("min", "max"):
        raise ArgumentError(
            f'task: mode must be "min" or "max", got mode={given["mode"]!r} with metric={given["metric"]!r}; '
            'pass mode="max" if more is better'
        )
    if given["precision"] not in _PRECISIONS:
        raise ArgumentError(f"task: precision must be one of {', '.join(_PRECISIONS)}, got {given['precision']!r}")
    for key, value in settings.items():
        if key.startswith("_") or keyword.iskeyword(key) or hasattr(Task, key) or key in Task.__annotations__:
            raise ArgumentError(f"task: a setting must not be called as what every task has, got {key!r}; rename it")
        if type(value) not in _SETTING:
            raise ArgumentError(
                f"task: the default of a setting must be a bool, int, float or str, got {key}={value!r}; "
                "pass a number or a name, and make the object from it in a method"
            )


def _known_checks(names: Any) -> tuple[str, ...]:
    """Return the checks to skip."""
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if name not in CHECKS:
            raise ArgumentError(
                f"task: skip_checks must name checks among {', '.join(CHECKS)}, got {name!r}; "
                + suggest(name, CHECKS, "leave it out")
            )
    return tuple(check for check in CHECKS if check in given)


def _check_class(cls: type, metric: str, settings: Mapping[str, Any]) -> None:
    if not isinstance(cls, type):
        raise ArgumentTypeError(f"task: @fallline.task must stand above a class, got {cls!r}; write class Mine:")
    where = f"task {cls.__name__}"
    for name, arguments in _REQUIRED.items():
        if not hasattr(cls, name):
            raise ArgumentError(
                f"{where}: must have the methods {', '.join(_REQUIRED)}, got no {name}; "
                f"write def {name}({', '.join(filter(None, ('self', arguments)))})"
            )
    for name, arguments in {**_REQUIRED, **_OPTIONAL, "__init__": ""}.items():
        if name in dir(cls) and not _takes(cls, name, arguments):
            signature = ", ".join(filter(None, ("self", arguments)))
            raise ArgumentError(
                f"{where}: {name} must take ({signature}), got {name}{inspect.signature(getattr(cls, name))}; "
                "the lab passes these and no others"
            )
    if metric != "val_loss" and not hasattr(cls, "evaluate"):
        key = metric.removeprefix("val_")
        raise ArgumentError(
            f"{where}: metric={metric!r} must come from evaluate(self, model, batch), got no such method; "
            f'add one that returns {{"{key}": …}}'
        )

    for key in settings:
        if hasattr(cls, key):
            raise ArgumentError(
                f"{where}: a setting must not be defined in the class too, got {key!r}; keep @fallline.task({key}=…)"
            )


def _takes(cls: type, name: str, arguments: str) -> bool:
    """Return whether a method can be called as the lab calls it."""
    method = getattr(cls, name)
    if name == "__init__" and method is object.__init__:
        return True
    if not callable(method):
        return False
    bound = isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))
    values = [None] * (not bound) + [None for part in arguments.split(", ") if part]
    try:
        inspect.signature(method).bind(*values)
    except TypeError:
        return False
    return True

"""Turn a user's class into a task with a decorator, and name it so that worker processes find it."""

import inspect
import keyword
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fallline.arguments import check_integer
from fallline.errors import ArgumentError, ArgumentTypeError, suggest
from fallline.lab.tasks import TASKS, find_task
from fallline.lab.tasks.base import CHECKS, PRECISIONS, Task
from fallline.lab.tasks.own_loop import is_function, mark_function
from fallline.lab.user_code.import_path import path_of

# The arguments that the lab passes to each method, without self.
_REQUIRED = {"model": "", "batches": "split, generator", "loss": "model, batch"}
_OPTIONAL = {
    "evaluate": "model, batch",
    "losses": "model, batch",
    "size": "batch",
    "param_groups": "model",
    "trivial_loss": "",
}
_SETTING = (bool, int, float, str)  # types that the command line and study.json support
_FEWEST_STEPS = 20  # as in a study: fewer steps give no useful curve


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
) -> Callable[[Any], Any]:
    """Turn a class with methods `model`, `batches` and `loss` into a task on which optimizers can be compared.

    Define the class at the top level of a file, so that worker processes can find it. A function `train(trial)` can be
    decorated too; it stays a function.

    Args:
        cls: do not pass this; it is used to report missing parentheses after the decorator.
        steps: optimizer steps of a full run, at least 20; may be left out for a function `train(trial)`, which then
            decides itself.
        metric: metric by which configurations are selected: "val_loss", or "val_" followed by a key that `evaluate`
            returns.
        mode: "min" if smaller values of the metric are better, "max" if larger values are; "min" by default for
            "val_loss", required for any other metric.
        precision: "float32", or "bfloat16" to run model and loss under autocast.
        accumulate: number of batches whose gradients are averaged for one step.
        unit: unit of the loss for axes and tables, such as "nats".
        summary: one-line description; by default the first line of the class's docstring, or its name.
        resplit: set this if the data are one pool without an official split and `batches` selects its examples with
            `self.split_indices(count)`; every confirmation seed then draws a different split.
        skip_checks: names of the contract checks to skip, such as `("overlap",)`; the report lists them.
        **settings: settings that a study may set or vary, with their defaults, such as `batch_size=64`; each is set as
            an attribute before `__init__` runs.

    Raises:
        ArgumentError: an argument is invalid, or a method is missing or has the wrong arguments.
        ArgumentTypeError: `steps` is missing, or the decorated object is not a class.

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
    if cls is not None:
        raise _no_steps(cls)
    better = mode if mode is not None or metric != "val_loss" else "min"
    given: dict[str, Any] = {"metric": metric, "mode": better, "precision": precision, "accumulate": accumulate}
    given |= {"steps": _FEWEST_STEPS if steps is None else steps}
    _check_arguments(given, settings)
    skipped = _known_checks(skip_checks)

    def decorate(cls: Any) -> Any:
        if is_function(cls):
            return mark_function(cls, steps=steps, metric=metric, mode=better, unit=unit, settings=settings)
        if steps is None:
            raise _no_steps(cls)
        _check_class(cls, metric, settings)
        initialise = cls.__init__  # the user's __init__ takes no settings
        first_line = (cls.__doc__ or cls.__name__).strip().partition("\n")[0].rstrip(".")
        inherited = dict(cls.settings) if issubclass(cls, Task) else {}
        inherited.pop("precision", None)  # a setting of the built-in tasks, which this decorator fixes
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
        return ABCMeta(cls.__name__, (cls, Task), attributes)

    return decorate


def name_of(task: "str | type[Task] | Callable[[Any], Any]") -> str:
    """Return the text by which a worker finds a task: a built-in name, FILE.py:NAME, or package.module:NAME.

    A class defined in a notebook is named `here:NAME` and can be found only in this process.

    Args:
        task: such a text, a class decorated with `fallline.task`, or a function that takes a trial.

    Raises:
        ArgumentTypeError: the argument is neither.

    Example:
        >>> from fallline.lab.tasks import Digits
        >>> name_of(Digits)
        'digits'
    """
    if isinstance(task, str):
        return find_task(task)
    if is_function(task):
        return path_of(task)
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise ArgumentTypeError(
            "task: must be a name, FILE.py:NAME, a class decorated with @fallline.task or a function train(trial), got "
            f"{task!r}; decorate the class"
        )
    return task.name if TASKS.get(task.name) is task else path_of(task)


def _no_steps(cls: Any) -> ArgumentTypeError:
    name = getattr(cls, "__name__", "Mine")
    return ArgumentTypeError(
        f"task: steps must be given, got none; write @fallline.task(steps=2000) above class {name}"
    )


def _check_arguments(given: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for key, least in (("steps", _FEWEST_STEPS), ("accumulate", 1)):
        check_integer("task", key, given[key], least, f"pass {least} or more")
    if not (isinstance(given["metric"], str) and given["metric"].removeprefix("val_").isidentifier()):
        raise ArgumentError(
            f'task: metric must be "val_" followed by a name, got metric={given["metric"]!r}; pass "val_loss"'
        )
    if not given["metric"].startswith("val_"):
        raise ArgumentError(
            f"task: metric must be a validation metric, got metric={given['metric']!r}; "
            f'pass "val_{given["metric"].removeprefix("test_")}"'
        )
    if given["mode"] not in ("min", "max"):
        raise ArgumentError(
            f'task: mode must be "min" or "max", got mode={given["mode"]!r} with metric={given["metric"]!r}; '
            'pass mode="max" if larger values are better'
        )
    if given["precision"] not in PRECISIONS:
        raise ArgumentError(f"task: precision must be one of {', '.join(PRECISIONS)}, got {given['precision']!r}")
    for key, value in settings.items():
        if key.startswith("_") or keyword.iskeyword(key) or hasattr(Task, key) or key in Task.__annotations__:
            raise ArgumentError(f"task: a setting must not have the name of a task attribute, got {key!r}; rename it")
        if type(value) not in _SETTING:
            raise ArgumentError(
                f"task: the default of a setting must be a bool, int, float or str, got {key}={value!r}; "
                "pass a number or a name, and create the object from it in a method"
            )


def _known_checks(names: Any) -> tuple[str, ...]:
    """Check the names of the checks to skip, and return them in the order of CHECKS."""
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
        raise ArgumentTypeError(f"task: @fallline.task must decorate a class, got {cls!r}; write it above class Mine:")
    where = f"task {cls.__name__}"
    for name, arguments in _REQUIRED.items():
        if not hasattr(cls, name):
            raise ArgumentError(
                f"{where}: must have the methods {', '.join(_REQUIRED)}, got no {name}; "
                f"write def {name}({', '.join(filter(None, ('self', arguments)))})"
            )
    for name, arguments in {**_REQUIRED, **_OPTIONAL, "__init__": ""}.items():
        if name in dir(cls) and not _accepts(cls, name, arguments):
            signature = ", ".join(filter(None, ("self", arguments)))
            raise ArgumentError(
                f"{where}: {name} must take ({signature}), got {name}{inspect.signature(getattr(cls, name))}; "
                "the lab passes exactly these arguments"
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


def _accepts(cls: type, name: str, arguments: str) -> bool:
    """Return whether a method accepts the arguments that the lab passes."""
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

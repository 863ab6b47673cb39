"""Look up tasks: built-in tasks by name, the user's tasks by location."""

from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError, FalllineError, find_name, suggest
from fallline.lab.isolation import seeded
from fallline.lab.tasks.autoencoder import DigitsAutoencoder
from fallline.lab.tasks.base import Task
from fallline.lab.tasks.cifar10 import CIFAR10, CIFAR10ResNet, CIFAR10ViT
from fallline.lab.tasks.diffusion import DigitsDiffusion
from fallline.lab.tasks.digits import Digits, DigitsCNN
from fallline.lab.tasks.fashion_mnist import FashionMNIST
from fallline.lab.tasks.own_loop import CommandTask, is_function, task_of_function
from fallline.lab.tasks.tables import BreastCancer, Diabetes
from fallline.lab.tasks.text import Text, TextGRU, TextLarge, TextPost
from fallline.lab.user_code.import_path import describe, is_path, load_module, load_object

__all__ = [
    "CIFAR10",
    "TASKS",
    "CIFAR10ResNet",
    "CIFAR10ViT",
    "Digits",
    "DigitsCNN",
    "FashionMNIST",
    "Task",
    "Text",
    "TextPost",
    "find_task",
    "get_task",
    "open_task",
]

_BUILT_IN: tuple[type[Task], ...] = (
    Digits,
    DigitsCNN,
    DigitsAutoencoder,
    DigitsDiffusion,
    BreastCancer,
    Diabetes,
    FashionMNIST,
    CIFAR10,
    CIFAR10ResNet,
    CIFAR10ViT,
    Text,
    TextPost,
    TextGRU,
    TextLarge,
)
TASKS: dict[str, type[Task]] = {cls.name: cls for cls in _BUILT_IN}


def find_task(name: str) -> str:
    """Return the name of a task as in a study: a built-in name regardless of case, or the location of a class.

    FILE.py stands for its task if it defines only one.

    Raises:
        ArgumentError: the file FILE.py defines no task, or several.

    Example:
        >>> find_task("Digits-CNN")
        'digits-cnn'
    """
    if is_path(name) or not name.endswith(".py"):
        return name if is_path(name) else find_name(name, TASKS) or name
    module = load_module("task", f"{name}:")
    own = [
        f"{name}:{key}"
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        got, remedy = ("none", "`fallline new-task` writes one") if not own else (", ".join(own), f"pass {own[0]}")
        raise ArgumentError(f"task: {name} must define exactly one task, or FILE.py:NAME be given, got {got}; {remedy}")
    return own[0]


def is_own_loop(name: str) -> bool:
    """Return whether a name, as in a study, is that of a command or of a training function."""
    return name == CommandTask.name or (is_path(name) and is_function(load_object("task", name)))


def open_task(name: str, **settings: Any) -> Task:
    """Return a task like `get_task`; an error in the user's `__init__` is reported with its line.

    Raises:
        ArgumentError: as for `get_task`, or the task's `__init__` raised an error.
    """
    try:
        return get_task(name, **settings)
    except FalllineError:
        raise
    except Exception as error:
        raise ArgumentError(f"task: {name} must be created without an error, got {describe(error)}; fix it") from error


def get_task(name: str, *, split_seed: int | None = None, **settings: Any) -> Task:
    """Return a task: a built-in one by its name, or the class at FILE.py:NAME or package.module:NAME.

    Its `__init__` runs with the global generators seeded to a fixed value, so that random data are the same in every
    trial and every process.

    Args:
        name: name or location of the task.
        split_seed: seed of the split, for a task that splits its data itself; by default the split used for tuning.
        **settings: settings of the task that differ from its defaults.

    Raises:
        ArgumentError: the task does not exist, the object is not a task, or the task has no such setting.
    """
    own = {} if split_seed is None else {"split_seed": split_seed}  # a task's own __init__ may not accept it
    name = find_task(name)
    if is_path(name):
        cls = load_object("task", name)
        if is_function(cls):
            cls = task_of_function(cls)
        if not (isinstance(cls, type) and issubclass(cls, Task)):
            got = f"the class {cls.__name__}" if isinstance(cls, type) else f"a {type(cls).__name__}"
            raise ArgumentError(
                f"task: {name} must be a class decorated with @fallline.task or a function train(trial), got {got}; "
                "`fallline new-task` writes one"
            )
        with seeded(0):
            return cls(**own, **settings)
    if name == CommandTask.name:
        return CommandTask(**own, **settings)
    if name not in TASKS:
        raise ArgumentError(
            f"task: must be one of {', '.join(TASKS)} or FILE.py:NAME, got {name!r}; "
            + (
                f"did you mean {name}.py?"
                if Path(f"{name}.py").is_file()
                else suggest(name, TASKS, "see `fallline list`")
            )
        )
    with seeded(0):
        return TASKS[name](**own, **settings)

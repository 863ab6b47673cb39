"""Look up tasks: built-in tasks by name, the user's tasks by location."""

from typing import Any

from fallline.errors import ArgumentError, suggest
from fallline.lab.isolation import seeded
from fallline.lab.tasks.base import Task
from fallline.lab.tasks.cifar10 import CIFAR10, CIFAR10ViT
from fallline.lab.tasks.digits import Digits, DigitsCNN
from fallline.lab.tasks.fashion_mnist import FashionMNIST
from fallline.lab.tasks.own_loop import CommandTask, is_function, task_of_function
from fallline.lab.tasks.text import Text, TextPost
from fallline.lab.user_code.import_path import is_path, load_object

__all__ = [
    "CIFAR10",
    "TASKS",
    "CIFAR10ViT",
    "Digits",
    "DigitsCNN",
    "FashionMNIST",
    "Task",
    "Text",
    "TextPost",
    "get_task",
]

_BUILT_IN: tuple[type[Task], ...] = (Digits, DigitsCNN, FashionMNIST, CIFAR10, CIFAR10ViT, Text, TextPost)
TASKS: dict[str, type[Task]] = {cls.name: cls for cls in _BUILT_IN}


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
            + suggest(name, TASKS, "leave it out for digits")
        )
    with seeded(0):
        return TASKS[name](**own, **settings)

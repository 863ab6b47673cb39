"""The tasks: the built-in ones by name, the user's own by where they are."""

from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.loading import is_path, load_object
from fallline.lab.tasks.base import Task
from fallline.lab.tasks.digits import Digits, DigitsCNN
from fallline.lab.tasks.fashion_mnist import FashionMNIST

__all__ = ["TASKS", "Digits", "DigitsCNN", "FashionMNIST", "Task", "get_task"]

TASKS: dict[str, type[Task]] = {cls.name: cls for cls in (Digits, DigitsCNN, FashionMNIST)}


def get_task(name: str, **settings: Any) -> Task:
    """Return a task: a built-in one by its name, or the class at FILE.py:NAME or package.module:NAME.

    Args:
        name: which task.
        **settings: settings of the task that differ from its defaults.

    Raises:
        ArgumentError: there is none, it is no task, or it has no such setting.
    """
    if is_path(name):
        cls = load_object("task", name)
        if not (isinstance(cls, type) and issubclass(cls, Task)):
            raise ArgumentError(f"task: {name} must be a class decorated with @fallline.task, got {cls!r}")
        return cls(**settings)
    if name not in TASKS:
        raise ArgumentError(
            f"task: must be one of {', '.join(TASKS)} or FILE.py:NAME, got {name!r}; leave it out for digits"
        )
    return TASKS[name](**settings)

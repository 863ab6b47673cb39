"""The built-in tasks, by name."""

from fallline.errors import ArgumentError
from fallline.lab.tasks.base import Task
from fallline.lab.tasks.digits import Digits, DigitsCNN

__all__ = ["TASKS", "Digits", "DigitsCNN", "Task", "get_task"]

TASKS: dict[str, type[Task]] = {cls.name: cls for cls in (Digits, DigitsCNN)}


def get_task(name: str) -> Task:
    """Return the built-in task called `name`.

    Raises:
        ArgumentError: there is none of that name.
    """
    if name not in TASKS:
        raise ArgumentError(f"task: must be one of {', '.join(TASKS)}, got {name!r}; leave it out for digits")
    return TASKS[name]()

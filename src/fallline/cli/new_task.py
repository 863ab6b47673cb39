"""`fallline new-task`: write a commented task file and print the next command."""

import shlex
from pathlib import Path

from fallline.cli.show import console, path


def new_task(file: Path) -> None:
    """Write a task file that runs unchanged, and print the next command.

    Raises:
        ArgumentError: the file exists, cannot be written, or is not a .py file.
    """
    from fallline.lab.tasks.template import write_task

    name = write_task(file)
    path("task", file)
    words = ["fallline", "compare", name, "--quick", "--optimizers", "momentum,adam,adamw"]
    console.print(f"next: {shlex.join(words)}", soft_wrap=True)

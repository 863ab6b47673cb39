"""Write a commented task file as a starting point."""

import shlex
from importlib.resources import files
from pathlib import Path

from fallline.errors import ArgumentError


def write_task(path: str | Path) -> str:
    """Write a commented task file that runs unchanged, and return the name of its task: FILE.py:Mine.

    Args:
        path: path of the new file; an existing file is never replaced.

    Raises:
        ArgumentError: the name does not end in .py, the file exists, or it cannot be written.
    """
    target = Path(path)
    if target.suffix != ".py":
        raise ArgumentError(f"FILE: must end in .py, got {str(path)!r}; pass {str(target.with_suffix('.py'))!r}")
    text = (files("fallline.lab.tasks") / "template.py.txt").read_text(encoding="utf-8")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text.replace("FILE.py:Mine", shlex.quote(f"{target.as_posix()}:Mine")))
    except FileExistsError:
        raise ArgumentError(f"FILE: must not exist yet, got {str(path)!r}; choose another name") from None
    except OSError as error:
        raise ArgumentError(
            f"FILE: must be writable, got {str(path)!r} ({error.strerror}); choose another folder"
        ) from None
    return f"{target.as_posix()}:Mine"

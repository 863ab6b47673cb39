"""What identifies the run of a command besides its words: source files, and the interpreter with its packages."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fallline.lab.command.git import find_top, run_git

_CODE = (".py", ".pyx", ".sh", ".cu", ".cpp", ".h")
_SETTINGS = (".yaml", ".yml", ".toml", ".json", ".cfg", ".ini")  # only tracked ones, because scripts write such files
_NOT_SOURCES = ("pyvenv.cfg", "study.json")  # a folder with one of these is a virtual environment, or a study
_LARGEST = 1 << 20  # bytes; a larger file is data
_MOST, _WALKED = 5000, 50_000  # files that are hashed, and files that are looked at
_SECONDS = 30.0
_LIST = (
    "import importlib.metadata as m, json, sys;"
    "print(json.dumps([sys.version, sorted({(d.metadata['Name'] or '', d.version) for d in m.distributions()})]))"
)


def find_sources(named: Sequence[Path]) -> list[Path]:
    """Return the given files and the source files around them.

    In a git repository, these are the tracked files with code or settings, and the files with code that are neither
    tracked nor ignored. Elsewhere, they are the files with code below the folders of the given files. Files over 1 MB
    are left out, because they are data, and so are those after the first 5,000.

    Args:
        named: the files that a command names.
    """
    found = list(named)
    for folder in dict.fromkeys(path.parent.resolve() for path in named):
        tracked, others = _list_git(folder, "--cached"), _list_git(folder, "--others", "--exclude-standard")
        if tracked is None or others is None:
            tracked, others = [], _walk(folder)
        around = [path for path in tracked if path.suffix in _CODE + _SETTINGS]
        around += [path for path in others if path.suffix in _CODE]
        found += [path for path in around[:_MOST] if _is_small(path)]
    return sorted({path.resolve() for path in found})


def _list_git(folder: Path, *which: str) -> list[Path] | None:
    """Return files of the git repository that contains a folder; None if there is none."""
    top = find_top(folder)
    listed = run_git(folder, "ls-files", "-z", "--full-name", *which, ":/")
    if top is None or listed is None:
        return None
    return sorted(top / os.fsdecode(name) for name in set(listed.split(b"\0")) if name)


def _walk(folder: Path) -> list[Path]:
    """Return the files below a folder, without hidden folders, virtual environments and studies."""
    found = []
    for place, folders, files in os.walk(folder):
        if any(name in files for name in _NOT_SOURCES):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found += [Path(place) / name for name in sorted(files)]
        if len(found) > _WALKED:
            break
    return found


def _is_small(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= _LARGEST
    except OSError:
        return False


@functools.cache
def interpreter_versions(program: str) -> list[object]:
    """Return the version of the Python interpreter that a program runs on, and its packages with their versions.

    The list is empty if the program is not run by Python.

    Args:
        program: the first word of a command: python, or a script such as torchrun whose first line names Python.
    """
    python = _interpreter(program)
    if python is None:
        return []
    try:
        done = subprocess.run((python, "-c", _LIST), capture_output=True, text=True, timeout=_SECONDS, check=True)
        found: list[object] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return found


def _interpreter(program: str) -> str | None:
    """Return the Python interpreter that runs a program; None if it is not run by Python."""
    path = shutil.which(program)
    if path is None:
        return None
    if re.fullmatch(r"(python|pypy)[\d.]*(\.exe)?", Path(path).name) or path == sys.executable:
        return path
    try:
        with Path(path).open("rb") as file:
            first = file.readline(500).decode("utf-8", errors="replace")
    except OSError:
        return None
    words = first.removeprefix("#!").split() if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    return words[0] if words and Path(words[0]).name.startswith(("python", "pypy")) else None

"""`fallline lint`: load what a file defines, and print what the linter finds."""

import importlib.util
import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.text import Text

from fallline.cli.show import console
from fallline.errors import ArgumentError
from fallline.linting import Finding, lint

FIRST = ("model", "optimizer", "scheduler", "total_steps")
FIELDS = (*FIRST, "steps_per_epoch", "scheduler_per", "from_scratch", "previous")
COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def findings(target: str, ignore: Collection[str]) -> list[Finding]:
    """Return the findings on what FILE:OBJECT is or returns: `lint`'s arguments as a dict, or the first four.

    Raises:
        ArgumentError: the file or the object is not there, or is something else.
    """
    made = _load(target)
    if callable(made):
        made = made()
    if isinstance(made, (tuple, list)) and 2 <= len(made) <= 4:
        made = dict(zip(FIRST, made, strict=False))
    if not isinstance(made, Mapping) or "optimizer" not in made or made.keys() - set(FIELDS):
        raise ArgumentError(
            f"lint: {target} must be, or return, (model, optimizer, scheduler, total_steps) or a dict with keys among "
            f"{', '.join(FIELDS)}, got {made if isinstance(made, Mapping) else type(made).__name__}; return such a dict"
        )
    return lint(**{"model": None, **made}, ignore=list(ignore))


def _load(target: str) -> Any:
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise ArgumentError(f"lint: FILE:OBJECT must name a Python file, got {target!r}; for example train.py:setup")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"lint: FILE:OBJECT must name a Python file, got {target!r}; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        known = ", ".join(n for n in vars(module) if not n.startswith("_"))
        raise ArgumentError(f"lint: OBJECT must be defined in {file}, got {name!r}; it has {known}")
    return getattr(module, name)


def show(found: list[Finding], as_json: bool) -> None:
    """Print findings, for people or as JSON."""
    if as_json:
        print(json.dumps([finding.to_dict() for finding in found], indent=2, ensure_ascii=False))
        return
    for finding in found:
        console.print(f"[{COLOURS[finding.severity]}]{finding.severity}[/]  [bold]{finding.id}[/]")
        for label, text in (("", finding.message), ("fix: ", finding.fix), ("source: ", finding.source)):
            console.print(Padding(Text(label + text, style="dim" if label == "source: " else ""), (0, 0, 0, 2)))
    console.print(f"{len(found)} finding{'' if len(found) == 1 else 's'}")

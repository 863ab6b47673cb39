"""`fallline lint`: load a training set-up from a file, lint it, and print the findings."""

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.text import Text

from fallline.cli.show import console
from fallline.errors import ArgumentError, ArgumentTypeError, FalllineError
from fallline.linting import Finding, lint

FIRST = ("model", "optimizer", "scheduler", "total_steps")
FIELDS = (*FIRST, "steps_per_epoch", "scheduler_per", "from_scratch", "previous")
COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def findings(target: str, ignore: Collection[str]) -> list[Finding]:
    """Return the findings on FILE:OBJECT, which is or returns the arguments of `lint` as a dict, or the first four.

    Raises:
        ArgumentError: the file or the object does not exist, or the object has another type.
    """
    from fallline.lab.user_code.import_path import load_object  # requires the extra `lab`

    file, _, _ = target.rpartition(":")
    if target.endswith(".py") and Path(target).is_file():
        raise ArgumentError(
            f"lint: FILE:OBJECT must name the set-up in the file, got {target!r}; try {target}:setup, a function that "
            "returns (model, optimizer, scheduler, total_steps)"
        )
    if not file.endswith(".py") or not Path(file).is_file():
        raise ArgumentError(f"lint: FILE:OBJECT must name a Python file, got {target!r}; try train.py:setup")
    made = load_object("lint", target)
    _refuse_parts(made, target)
    if callable(made):
        made = _call(made, target)
        _refuse_parts(made, target)
    if isinstance(made, (tuple, list)) and 2 <= len(made) <= 4:
        made = dict(zip(FIRST, made, strict=False))
    if not isinstance(made, Mapping) or "optimizer" not in made or made.keys() - set(FIELDS):
        got = (
            f"a dict of {', '.join(map(str, made)) or 'nothing'}" if isinstance(made, Mapping) else type(made).__name__
        )
        raise ArgumentError(
            f"lint: {target} must be, or return, (model, optimizer, scheduler, total_steps) or a dict with keys among "
            f"{', '.join(FIELDS)}, got {got}; return such a dict"
        )
    return lint(**{"model": None, **made}, ignore=list(ignore))


def _refuse_parts(made: Any, target: str) -> None:
    """Raise ArgumentTypeError if the object is a model or an optimizer alone, or a class of one."""
    from torch import nn
    from torch.optim import Optimizer

    file, _, name = target.rpartition(":")
    kind = made if isinstance(made, type) else type(made)
    if issubclass(kind, (nn.Module, Optimizer)):
        part = "model" if issubclass(kind, nn.Module) else "optimizer"
        raise ArgumentTypeError(
            f"lint: {target} must be, or return, (model, optimizer, scheduler, total_steps), got the {part} alone "
            f"({kind.__name__}); write a function in {file} that returns these without training, and name it in "
            f"place of {name}"
        )


def _call(made: Callable[..., Any], target: str) -> Any:
    """Call the user's function or class without arguments and return the result."""
    from fallline.lab.user_code.import_path import describe

    file, _, name = target.rpartition(":")
    try:
        inspect.signature(made).bind()
    except TypeError as error:
        raise ArgumentError(
            f"lint: {name} of {file} must be callable without arguments, got {error}; give it a default"
        ) from None
    try:
        return made()
    except FalllineError:  # raised by Fallline, already a readable message
        raise
    except (Exception, SystemExit) as error:
        raise ArgumentError(
            f"lint: {name} of {file} must return without an error, got {describe(error, Path(file).resolve())}; "
            "it is called to build the set-up"
        ) from error


def show(found: list[Finding], as_json: bool) -> None:
    """Print findings as text or as JSON."""
    if as_json:
        print(json.dumps([finding.to_dict() for finding in found], indent=2, ensure_ascii=False))
        return
    for finding in found:
        severity = (finding.severity, COLOURS[finding.severity])
        console.print(Text.assemble(severity, "  ", (finding.id, "bold")))
        for label, text in (("", finding.message), ("fix: ", finding.fix), ("source: ", finding.source)):
            console.print(Padding(Text(label + text, style="dim" if label == "source: " else ""), (0, 0, 0, 2)))
    console.print(f"{len(found)} finding{'' if len(found) == 1 else 's'}")

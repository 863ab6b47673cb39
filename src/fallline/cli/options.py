"""Define the options that several commands share, and parse their values."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from fallline.errors import ArgumentError

TaskName: TypeAlias = Annotated[
    str, typer.Argument(help="A built-in task (see `fallline list`), FILE.py or FILE.py:NAME.")
]
Settings: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a task setting: batch_size=128.")
]
TextFile: TypeAlias = Annotated[Path | None, typer.Option(help="Text file for the tasks text and text-post.")]
DataDir: TypeAlias = Annotated[Path | None, typer.Option(help="Directory of the data sets.")]
Device: TypeAlias = Annotated[str, typer.Option(help="cpu, or cuda:N.")]
StudySteps: TypeAlias = Annotated[int | None, typer.Option(help="Steps per run; by default those of the task.")]
StudySeed: TypeAlias = Annotated[int, typer.Option(help="Seed of all random numbers of the study.")]
StudyFolder: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of the study; by default named after its specification.")
]
Jobs: TypeAlias = Annotated[
    int | None, typer.Option("--jobs", "-j", help="Worker processes, one per core by default; 0 uses this process.")
]
ModelSeed: TypeAlias = Annotated[int, typer.Option(help="Seed of the initial weights, batches and dropout.")]
Picture: TypeAlias = Annotated[Path | None, typer.Option(help="Also write a picture: .html, .svg, .png or .pdf.")]


@dataclass(frozen=True)
class Effort:
    """Tuning and confirmation budget per arm: search points, independent searches and seeds."""

    trials: int
    searches: int
    seeds: int | tuple[int, int]


QUICK, STANDARD, THOROUGH = Effort(8, 1, 5), Effort(16, 1, (4, 16)), Effort(32, 3, 10)


def keep_data_in(folder: Path | None) -> None:
    """Set the data folder of this process and its workers."""
    from fallline.folders import DATA_VARIABLE

    if folder is not None:
        os.environ[DATA_VARIABLE] = str(folder.resolve())


def resolve_task(name: str) -> str:
    """Return the name of a task as in a study, and say which task a file stands for."""
    from fallline.lab.tasks import find_task

    found = find_task(name)
    if name.endswith(".py"):
        print(f"fallline: the task is {found}, the only one in this file", file=sys.stderr)
    return found


def split(text: str) -> list[str]:
    """Return the comma-separated parts of a text."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_variations(texts: Sequence[str]) -> Mapping[str, list[Any]]:
    """Parse texts NAME=VALUE,VALUE to a mapping from names to values."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if len(split(values)) < 2:
            raise ArgumentError(
                f"vary: must be NAME=VALUE,VALUE… with two values or more, got {text!r}; try --vary warmup=0,0.05"
            )
        _check_new("vary", name, found)
        found[name] = [_value(part) for part in split(values)]
    return found


def parse_variants(texts: Sequence[str]) -> dict[str, str]:
    """Parse texts NAME=ARGUMENTS to a mapping from names to arguments."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ArgumentError(f"arm: must be NAME=ARGUMENTS, got {text!r}; try --arm 'rope=--rope'")
        _check_new("arm", name.strip(), found)
        found[name.strip()] = value.strip()
    return found


def parse_settings(texts: Sequence[str], file: Path | None) -> Mapping[str, Any]:
    """Parse texts NAME=VALUE to settings; --text sets the setting `text`."""
    found: dict[str, Any] = {} if file is None else {"text": str(file)}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ArgumentError(f"set: must be NAME=VALUE, got {text!r}; try --set batch_size=128")
        _check_new("set", name, found)
        found[name] = _value(value)
    return found


def _check_new(option: str, name: str, found: Mapping[str, Any]) -> None:
    if name in found:
        raise ArgumentError(f"{option}: each name must be given once, got {name} twice; leave one of them out")


def _value(text: str) -> Any:
    """Parse a value as an int, a float or a bool; return other texts unchanged."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

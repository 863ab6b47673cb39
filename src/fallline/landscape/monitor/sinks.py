"""Sinks for the scalars of a monitor: a function, a JSONL file or TensorBoard."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fallline.errors import ArgumentTypeError, MissingExtraError

Sink: TypeAlias = Callable[[Mapping[str, float]], Any]


def as_sink(given: Any) -> Sink:
    """Return a sink for rows of scalars: a function unchanged, or a `JSONL` for a path, or a `Writer`.

    Raises:
        ArgumentTypeError: `given` is not a function, a path or a SummaryWriter.
    """
    if isinstance(given, str | Path):
        return JSONL(Path(given))
    if callable(getattr(given, "add_scalar", None)):
        return Writer(given)
    if callable(given):
        return given  # type: ignore[no-any-return]
    raise ArgumentTypeError(
        f"Monitor: sinks must be functions, paths of JSONL files or SummaryWriters, got {given!r}; "
        "for example sinks=['monitor.jsonl']"
    )


def tensorboard(folder: str | Path) -> Sink:
    """Return a sink that writes TensorBoard event files into a folder.

    Args:
        folder: directory of the event files, which is created if it does not exist.

    Raises:
        MissingExtraError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            "tensorboard: the package tensorboard is not installed; run pip install tensorboard"
        ) from None
    return Writer(SummaryWriter(str(folder)))


class JSONL:
    """Appends each row to a file as a line of JSON and flushes it. Values that are not finite are written as null."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, row: Mapping[str, float]) -> None:
        """Append a row."""
        values = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Writer:
    """Writes rows to a `torch.utils.tensorboard.SummaryWriter` or another object with a method `add_scalar`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __call__(self, row: Mapping[str, float]) -> None:
        """Write a row."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"monitor/{name}", value, int(row["step"]))

    def close(self) -> None:
        """Flush the writer, but do not close it, because it belongs to the user."""
        if callable(flush := getattr(self._writer, "flush", None)):
            flush()

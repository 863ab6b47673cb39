"""Where the scalars of a monitor go: a function, a JSONL file, TensorBoard."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fallline.errors import ArgumentTypeError, MissingExtraError

Sink: TypeAlias = Callable[[Mapping[str, float]], Any]


def as_sink(given: Any) -> Sink:
    """Return what takes a row of scalars: a function as it is, a path as a JSONL file, a SummaryWriter as its writer.

    Raises:
        ArgumentTypeError: it is none of these.
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
        folder: where to; it is made if it is not there.

    Raises:
        MissingExtraError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            "tensorboard: the package tensorboard must be installed, and is not; pip install tensorboard"
        ) from None
    return Writer(SummaryWriter(str(folder)))


class JSONL:
    """A line of JSON for each row, there for others as soon as it is written; what is not finite is null."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, row: Mapping[str, float]) -> None:
        """Write a row."""
        values = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Writer:
    """The rows as scalars of a `torch.utils.tensorboard.SummaryWriter`, or of what has its `add_scalar`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __call__(self, row: Mapping[str, float]) -> None:
        """Write a row."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"monitor/{name}", value, int(row["step"]))

    def close(self) -> None:
        """Write down what is still in memory; the writer itself stays the user's."""
        if callable(flush := getattr(self._writer, "flush", None)):
            flush()

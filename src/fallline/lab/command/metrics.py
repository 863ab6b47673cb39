"""Find the metric of a run in its output, or in a JSON, JSONL or CSV file that it writes."""

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.command.process import Finished
from fallline.lab.command.template import fill_text

_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)\b"
_FORMATS = (".json", ".jsonl", ".csv")
_LOSSES = ("loss", "error", "err", "perplexity", "ppl", "bpb", "bpc", "nll", "mse", "rmse", "mae", "wer", "cer", "fid")
_SCORES = ("acc", "accuracy", "f1", "auc", "auroc", "bleu", "rouge", "map", "iou", "miou", "r2", "score", "reward")


@dataclass(frozen=True)
class Source:
    r"""Where the metric of a run stands.

    Attributes:
        metric: name of the metric, as the script prints it.
        regex: regular expression with one group, whose last match in the output is the metric; "" for the name of the
            metric followed by a number.
        file: FILE.json:KEY, FILE.jsonl:KEY or FILE.csv:COLUMN, whose last value is the metric; "" for the output. It
            may have placeholders, as the command does.

    Raises:
        ArgumentError: the expression is not valid or has not one group; or the file has another format.

    Example:
        >>> Source("val_loss").in_text("step 1 val_loss: 2.5 step 2 val_loss: 1.25")
        1.25
        >>> Source("loss", regex=r"eval/loss=(\S+)").in_text("eval/loss=0.5")
        0.5
    """

    metric: str
    regex: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if self.regex and self.file:
            raise ArgumentError("metric_regex: must be given without metric_file, got both; leave one of them out")
        try:
            groups = re.compile(self.regex).groups if self.regex else 1
        except re.error as error:
            raise ArgumentError(
                f"metric_regex: must be a regular expression, got {self.regex!r} ({error}); try 'val_loss: (\\S+)'"
            ) from None
        if groups != 1:
            raise ArgumentError(
                f"metric_regex: must have one group (…) around the number, got {groups} in {self.regex!r}; try "
                "'val_loss: (\\S+)'"
            )
        path, _, key = self.file.rpartition(":")
        if self.file and not (Path(path).suffix in _FORMATS and key):
            raise ArgumentError(
                f"metric_file: must be FILE:KEY with a file that ends in {', '.join(_FORMATS)}, got {self.file!r}; try "
                "out/metrics.json:val_loss"
            )

    def in_text(self, *outputs: str) -> float | None:
        """Return the number in the last match in the first output that has one; None if none has.

        A match that is not a number is NaN.
        """
        name = re.escape(self.metric)
        # transformers' Trainer prints the number in quotes, and Lightning prints a table.
        usual = rf"(?<![\w/.]){name}[\"']?\s*(?:[:=|│]|\bis\b)?\s*[\"']?({_NUMBER})"
        pattern = re.compile(self.regex or usual, re.IGNORECASE)
        for text in outputs:
            last = None
            for last in pattern.finditer(text):  # noqa: B007 -- the last one is used
                pass
            if last is not None:
                return to_number(last[1])
        return None

    def prepare(self, values: Mapping[str, Any], folder: Path | None = None) -> "Reading":
        """Return what reads the metric of a run that is about to start.

        Args:
            values: the values of the placeholders.
            folder: working folder of the run; the current one by default.
        """
        if not self.file:
            return Reading(self)
        place, _, key = self.file.rpartition(":")
        path = (folder or Path()) / fill_text(place, values)
        return Reading(self, path, key, _stamp(path))

    def in_file(self, path: Path, key: str) -> float | None:
        """Return the last value of a key in a JSON, JSONL or CSV file; None if the file or the key is missing."""
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".csv":
                values = [row[key] for row in csv.DictReader(text.splitlines()) if row.get(key)]
            elif path.suffix == ".jsonl":
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
                values = [found for row in rows if (found := _look_up(row, key)) is not None]
            else:
                values = [found for found in [_look_up(json.loads(text), key)] if found is not None]
        except (OSError, ValueError):
            return None
        return to_number(values[-1]) if values else None


_Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Reading:
    """Reads the metric of one run, after its end.

    Attributes:
        source: where the metric stands.
        path, key: the file and the key in it; None and "" for the output.
        before: the state of the file before the run, so that an old file is not taken for that of the run.
    """

    source: Source
    path: Path | None = None
    key: str = ""
    before: _Stamp = None

    def find(self, done: Finished) -> float | None:
        """Return the metric of a run that has ended; None if it has reported none."""
        if self.path is None:
            return self.source.in_text(done.stdout, done.stderr)
        return self.source.in_file(self.path, self.key) if _stamp(self.path) != self.before else None


def _stamp(path: Path) -> _Stamp:
    """Return what changes when a file is written; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _look_up(record: Any, key: str) -> Any:
    """Return the value of a key, or of a path of keys such as eval.loss, in nested mappings."""
    if not isinstance(record, Mapping):
        return None
    if key in record:
        return record[key]
    first, dot, rest = key.partition(".")
    return _look_up(record.get(first), rest) if dot else None


def to_number(value: Any) -> float:
    """Return a value as a float; NaN if it is not a number."""
    try:
        return float(str(value).replace("_", "").rstrip(","))
    except ValueError:
        return math.nan


def find_mode(metric: str, mode: str | None) -> str:
    """Return "min" or "max": the given mode, or the one that the name of the metric implies.

    Raises:
        ArgumentError: the name implies neither, or the mode is neither.

    Example:
        >>> find_mode("val_loss", None), find_mode("eval/accuracy", None)
        ('min', 'max')
    """
    if mode in ("min", "max"):
        return mode
    if mode is not None:
        raise ArgumentError(f"mode: must be min or max, got {mode!r}; pass max if larger values are better")
    words = {word for word in re.split(r"[^a-z0-9]+", metric.lower()) if word}
    if words & set(_LOSSES):
        return "min"
    if words & set(_SCORES):
        return "max"
    raise ArgumentError(
        f"mode: must be given for a metric whose name does not imply it, got metric={metric!r}; pass mode min or max"
    )

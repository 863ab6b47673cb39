"""What a run of a training script has reported, in memory or in a folder that another process reads."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

_ITEMS = "test_losses.npy"


class RunRecord:
    """What a run has reported: `entries` from `log` and `result`, and the `items` of single test examples (n,)."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.items: np.ndarray | None = None

    def write(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        self.entries.append(entry)

    def save(self, items: np.ndarray) -> None:
        """Store the values of the single test examples."""
        self.items = items


class RunRecordFile(RunRecord):
    """What a run in another process has reported, in a folder: one JSON entry per line, and an array."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry to the file."""
        with (self.folder / "record.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def save(self, items: np.ndarray) -> None:
        """Write the values of the single test examples to their file."""
        np.save(self.folder / _ITEMS, items, allow_pickle=False)

    def read(self) -> RunRecord:
        """Return everything that has been reported; a partial last line of a killed run is left out."""
        found = RunRecord()
        path = self.folder / "record.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                found.write(json.loads(line))
        if (self.folder / _ITEMS).exists():
            found.save(np.load(self.folder / _ITEMS, allow_pickle=False))
        return found

"""One study in shares: several processes on one folder, on one machine or on many, each with trials of its own."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError, StudyError
from fallline.lab.design.trial import Trial
from fallline.lab.executors.base import Executor
from fallline.lab.storage.store import Store

PATIENCE_S = 1800.0  # without a new outcome of another shard, before a shard stops waiting
_LONGEST = 3  # times the longest trial so far is waited too: the shard that runs such a one is alive
_POLL_S = 0.5


class Shard:
    """Runs one share of the trials on a pool, and waits for the other shards' outcomes; use as a context manager.

    Which share a trial belongs to follows from its id alone, so that shards need not be told of each other, may start
    at any time, and may be repeated. Shares are of about the same size, not of the same.
    """

    def __init__(self, pool: Executor, folder: Path, number: int, of: int, patience: float = PATIENCE_S) -> None:
        """Wrap a pool that runs trials of the study in a folder.

        Args:
            pool: runs this shard's trials.
            folder: of the study, common to all shards.
            number: of this shard, from 1.
            of: how many shards there are.
            patience: seconds that may pass without a new outcome of another shard; or three times as long as the
                longest trial so far took, if that is longer.
        """
        self.number, self.of = number, of
        self.patience = patience
        self._pool, self._store = pool, Store(folder)

    def __enter__(self) -> "Shard":
        self._pool.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.__exit__(*exception)

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run this shard's share of trials and yield each trial, of any shard, when its outcome is on disk.

        Raises:
            StudyError: the other shards have written nothing new for too long; or what the pool raises.
        """
        waiting = {t.id: t for t in trials if share_of(t.id, self.of) != self.number}
        longest = 0.0
        for trial in self._pool.run([t for t in trials if t.id not in waiting]):
            longest = max(longest, self._seconds(trial))
            yield trial
            yield from self._appeared(waiting)
        since = time.monotonic()
        while waiting:
            for trial in self._appeared(waiting):
                longest = max(longest, self._seconds(trial))
                yield trial
                since = time.monotonic()
            if waiting and time.monotonic() - since > max(self.patience, _LONGEST * longest):
                raise self._alone(waiting, time.monotonic() - since)
            if waiting:
                time.sleep(_POLL_S)

    def _appeared(self, waiting: dict[str, Trial]) -> Iterator[Trial]:
        """Yield the trials whose outcomes are there by now, and wait for them no longer."""
        # Listing costs one request, and makes a network file system look again for what it remembers as missing.
        there = {path.name for path in (self._store.folder / "trials").iterdir()}
        for key in sorted(waiting.keys() & there):
            if self._store.outcome(waiting[key]) is not None:
                yield waiting.pop(key)

    def _seconds(self, trial: Trial) -> float:
        costs = self._store.costs(trial)
        return costs.seconds if costs else 0.0

    def _alone(self, waiting: dict[str, Trial], seconds: float) -> StudyError:
        counts = Counter(share_of(key, self.of) for key in waiting)
        missing = ", ".join(f"{count} of shard {number}/{self.of}" for number, count in sorted(counts.items()))
        return StudyError(
            f"shard: the other shards must write their outcomes to {str(self._store.folder)!r}, got nothing new for "
            f"{seconds:.0f} s and {len(waiting)} trial{'s' * (len(waiting) > 1)} missing ({missing}); see that those "
            "shards run, and rerun this command to resume"
        )


def share_of(trial_id: str, of: int) -> int:
    """Return to which of `of` shards, counted from 1, a trial belongs.

    Args:
        trial_id: a hash in hexadecimal digits.
        of: how many shards there are.

    Example:
        >>> [share_of(trial_id, 3) for trial_id in ("00", "01", "02", "03")]
        [1, 2, 3, 1]
    """
    return int(trial_id, 16) % of + 1


def parse_shard(text: str) -> tuple[int, int]:
    """Return the number of a shard and how many there are: (2, 8) for "2/8".

    Raises:
        ArgumentError: it is no such text, or the number is not from 1 to how many there are.

    Example:
        >>> parse_shard("2/8")
        (2, 8)
    """
    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return int(number), int(of)
    raise ArgumentError(f"shard: must be I/N with 1 <= I <= N, got {text!r}; 2/8 is the second of eight")

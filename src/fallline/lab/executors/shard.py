"""Divide a study into shards: several processes, on one or several machines, run their shares in a common folder."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError, StudyError
from fallline.lab.design.trial import Trial
from fallline.lab.executors.base import Executor
from fallline.lab.storage.store import Store

PATIENCE_S = 1800.0  # a shard stops waiting after this time without a new outcome of another shard
_LONGEST = 3  # but it waits at least this many times as long as the longest trial, since another may be running
_POLL_S = 0.5


class Shard:
    """Runs one share of the trials on a pool and waits for the outcomes of other shards; use it as a context manager.

    The id of a trial alone determines its shard, so shards need not communicate, may start at any time, and may be
    started again. The sizes of the shares are similar but not equal.
    """

    def __init__(self, pool: Executor, folder: Path, number: int, of: int, patience: float = PATIENCE_S) -> None:
        """Wrap a pool that runs trials of the study in a folder.

        Args:
            pool: executor that runs the trials of this shard.
            folder: folder of the study, which all shards share.
            number: number of this shard, from 1.
            of: number of shards.
            patience: seconds to wait for a new outcome of another shard, or three times the duration of the longest
                trial so far if that is longer.
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
        """Run the trials of this shard, and yield each trial, of any shard, when its outcome is on disk.

        Raises:
            StudyError: the other shards have written no new outcome for too long, or the pool raised an error.
        """
        waiting = {t.id: t for t in trials if share_of(t.id, self.of) != self.number}
        longest = 0.0
        for trial in self._pool.run([t for t in trials if t.id not in waiting]):
            longest = max(longest, self._seconds(trial))
            yield trial
            yield from self._pop_finished(waiting)
        since = time.monotonic()
        while waiting:
            for trial in self._pop_finished(waiting):
                longest = max(longest, self._seconds(trial))
                yield trial
                since = time.monotonic()
            if waiting and time.monotonic() - since > max(self.patience, _LONGEST * longest):
                raise self._timeout(waiting, time.monotonic() - since)
            if waiting:
                time.sleep(_POLL_S)

    def _pop_finished(self, waiting: dict[str, Trial]) -> Iterator[Trial]:
        """Yield the trials whose outcomes exist now, and remove them from `waiting`."""
        # Listing takes one request, and makes a network file system check again for files that it cached as missing.
        existing = {path.name for path in (self._store.folder / "trials").iterdir()}
        for key in sorted(waiting.keys() & existing):
            if self._store.outcome(waiting[key]) is not None:
                yield waiting.pop(key)

    def _seconds(self, trial: Trial) -> float:
        costs = self._store.costs(trial)
        return costs.seconds if costs else 0.0

    def _timeout(self, waiting: dict[str, Trial], seconds: float) -> StudyError:
        counts = Counter(share_of(key, self.of) for key in waiting)
        missing = ", ".join(f"{count} of shard {number}/{self.of}" for number, count in sorted(counts.items()))
        return StudyError(
            f"The other shards have written no new outcome to {str(self._store.folder)!r} for {seconds:.0f} s, and "
            f"{len(waiting)} trial{'s are' if len(waiting) > 1 else ' is'} missing ({missing}). Make sure that these "
            "shards run, and rerun this command to resume."
        )


def share_of(trial_id: str, of: int) -> int:
    """Return the number of the shard, from 1 to `of`, to which a trial belongs.

    Args:
        trial_id: a hash in hexadecimal digits.
        of: number of shards.

    Example:
        >>> [share_of(trial_id, 3) for trial_id in ("00", "01", "02", "03")]
        [1, 2, 3, 1]
    """
    return int(trial_id, 16) % of + 1


def parse_shard(text: str) -> tuple[int, int]:
    """Parse the number of a shard and the number of shards: (2, 8) for "2/8".

    Raises:
        ArgumentError: the text has another form, or the number of the shard is out of range.

    Example:
        >>> parse_shard("2/8")
        (2, 8)
    """
    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return int(number), int(of)
    raise ArgumentError(f"shard: must be I/N with 1 <= I <= N, got {text!r}; 2/8 is the second of eight")

"""Run trials one after the other in the calling process, for tasks that workers cannot import (from a notebook)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fallline.lab.design.trial import Trial
from fallline.lab.executors.pool import run_and_save
from fallline.lab.isolation import as_in_a_worker


class CallingProcess:
    """Runs trials in the calling process, with bit-for-bit the same results as `LocalPool`.

    A trial that kills its process kills the caller too, and is not retried. Finished trials are on disk.

    Args:
        folder: folder of the study.
        checkpoint_every: number of steps between checkpoints of a run, as in `LocalPool`.
    """

    def __init__(self, folder: Path, checkpoint_every: int | None = None) -> None:
        self.folder, self.checkpoint_every = folder, checkpoint_every

    def __enter__(self) -> "CallingProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials, and yield each one when its outcome is on disk, in the given order.

        Raises:
            StudyError: the outcome of a trial cannot be written.
        """
        for trial in trials:
            with as_in_a_worker():
                error = run_and_save(trial, self.folder, self.checkpoint_every)
            if error is not None:
                raise error
            yield trial

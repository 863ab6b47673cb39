"""Trials in the calling process, one after the other: for what no worker can find, such as a notebook's task."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fallline.lab.design.trial import Trial
from fallline.lab.executors.pool import run_and_save
from fallline.lab.isolation import as_in_a_worker


class CallingProcess:
    """Runs trials where it was made; has the interface of `LocalPool` and gives the same numbers, to the bit.

    What kills a trial here kills the caller: nothing is retried. Finished trials are on disk.

    Args:
        folder: of the study.
        checkpoint_every: steps after which a run is saved each time, as for `LocalPool`.
    """

    def __init__(self, folder: Path, checkpoint_every: int | None = None) -> None:
        self.folder, self.checkpoint_every = folder, checkpoint_every

    def __enter__(self) -> "CallingProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is on disk, in the given order.

        Raises:
            StudyError: the outcome of a trial cannot be written.
        """
        for trial in trials:
            with as_in_a_worker():
                error = run_and_save(trial, self.folder, self.checkpoint_every)
            if error is not None:
                raise error
            yield trial

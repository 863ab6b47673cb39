"""Where trials run: on this machine, in shares of a cluster, or on Ray; the same numbers come out of each."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from fallline.errors import ArgumentError
from fallline.lab.executors.local import LocalPool
from fallline.lab.trial import Trial


class Executor(AbstractContextManager[Any], Protocol):
    """Runs trials, while it is entered."""

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is in the study's folder."""


def make_executor(
    folder: Path, *, jobs: int | None, shard: str | None, ray: str | None, checkpoint_every: int | None
) -> Executor:
    """Return what runs the trials of the study in a folder; the arguments are those of `compare`.

    Raises:
        ArgumentError: an argument cannot be used, or two of them not together.
    """
    if jobs is not None and jobs < 1:
        raise ArgumentError(f"jobs: must be at least 1, got jobs={jobs}; leave it out for one a core")
    return LocalPool(folder, jobs or os.cpu_count() or 1)

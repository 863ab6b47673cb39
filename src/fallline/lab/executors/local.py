"""A pool of worker processes, one thread each, that stay for the whole study."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from fallline.errors import StudyError
from fallline.lab.store import Store
from fallline.lab.trial import Trial

RETRIES = (
    2  # for a trial whose worker was killed (out of memory, say); one that diverged has an outcome and is not retried
)


class LocalPool:
    """Runs trials on `jobs` workers; use as a context manager.

    Every trial runs on one thread of a worker, whatever `jobs` is, so its numbers do not depend on it.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is on disk, in the order in which they finish.

        Raises:
            StudyError: a trial killed its worker three times, or raised an error of its own.
        """
        killed: dict[str, int] = {}
        waiting = list(trials)
        while waiting:
            pool = self._start()
            futures: dict[Future[None], Trial] = {}
            try:
                for trial in waiting:
                    futures[pool.submit(_run, trial, self.folder)] = trial
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                        waiting.remove(futures[future])
                        yield futures[future]
            except BrokenProcessPool:
                self._stop()
                self._count(killed, waiting[: self.jobs])
            except OSError as error:
                raise StudyError(
                    f"out: finished trials must be written to {str(self.folder)!r}, got {error.strerror or error}; "
                    "make room and repeat the command, it goes on where it stopped"
                ) from None

    def _count(self, killed: dict[str, int], suspects: Sequence[Trial]) -> None:
        """Count the trials that may have been running when a worker died."""
        for trial in suspects:
            killed[trial.id] = killed.get(trial.id, 0) + 1
            if killed[trial.id] > RETRIES:
                raise StudyError(
                    f"jobs: worker processes must survive a trial, got {killed[trial.id]} killed near trial {trial.id} "
                    f"({trial.arm}); is memory short? pass a smaller -j. What is finished is kept"
                )

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a forked child cannot use its parent's threads
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_prepare)
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # a trial that nobody waits for must not keep a core busy
                process.terminate()
            for process in processes:
                process.join()
            self._pool = None


def _prepare() -> None:
    """Set up a worker: one thread, Ctrl-C left to the parent, and an end when the parent ends."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _run(trial: Trial, folder: Path) -> None:
    from fallline.lab.trial import run

    Store(folder).save(trial, *run(trial))

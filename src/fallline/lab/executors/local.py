"""A pool of worker processes, one thread each, that stay for the whole study.

Each worker has a pipe of its own and no lock in common with the others, so that any of them, or the parent, may be
killed at any moment without the rest waiting for ever; `concurrent.futures` can hang when a worker is stopped.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fallline.errors import StudyError
from fallline.lab.store import Store
from fallline.lab.trial import Trial

RETRIES = 2  # for a trial whose worker was killed (out of memory, say); one that diverged has an outcome instead


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    trial: Trial | None = None


class LocalPool:
    """Runs trials on `jobs` workers; use as a context manager.

    Every trial runs on one thread of a worker, whatever `jobs` is, so its numbers do not depend on it.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self._workers: list[_Worker] = []

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:  # a trial that nobody waits for must not keep a core busy
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is on disk, in the order in which they finish.

        Raises:
            StudyError: the outcome of a trial cannot be written, or a trial killed its worker three times.
        """
        waiting = list(reversed(trials))
        killed: dict[str, int] = {}
        while waiting or any(worker.trial for worker in self._workers):
            self._hand_out(waiting)
            busy = {worker.pipe: worker for worker in self._workers if worker.trial}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                trial, worker.trial = worker.trial, None
                assert trial is not None  # only busy workers are waited for
                try:
                    error = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._bury(worker, trial, killed)
                    waiting.append(trial)
                    continue
                if error is not None:
                    raise error
                yield trial

    def _hand_out(self, waiting: list[Trial]) -> None:
        """Give every idle worker a trial, starting workers while there are fewer than jobs."""
        while waiting and len(self._workers) < self.jobs and all(worker.trial for worker in self._workers):
            self._start(waiting.pop())
        for worker in self._workers:
            if waiting and worker.trial is None:
                self._give(worker, waiting.pop())

    def _start(self, trial: Trial) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child cannot use its parent's threads
        pipe, other = context.Pipe()
        process = context.Process(target=_work, args=(other, self.folder), daemon=True)
        process.start()
        other.close()
        self._workers.append(_Worker(process, pipe))
        self._give(self._workers[-1], trial)

    @staticmethod
    def _give(worker: _Worker, trial: Trial) -> None:
        worker.trial = trial
        with contextlib.suppress(BrokenPipeError):  # it has died; waiting for its answer will tell
            worker.pipe.send(trial)

    def _bury(self, worker: _Worker, trial: Trial, killed: dict[str, int]) -> None:
        """Remove a worker that died in a trial, and give up on a trial that has killed too many."""
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        killed[trial.id] = killed.get(trial.id, 0) + 1
        if killed[trial.id] > RETRIES:
            raise StudyError(
                f"jobs: a trial must not kill its worker process, got {killed[trial.id]} killed in trial {trial.id} "
                f"({trial.arm}); if memory is short, pass a smaller -j; in a script, call fallline.compare under "
                "if __name__ == '__main__'. What is finished is kept"
            )


def _work(pipe: Connection, folder: Path) -> None:
    """Run the trials that come through the pipe; answer None, or the error that ends the study."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            trial = pipe.recv()
        except EOFError:
            return
        pipe.send(run_and_save(trial, folder))


def run_and_save(trial: Trial, folder: Path) -> Exception | None:
    """Run a trial and write its outcome; return the error that must end the study, if there is one."""
    from fallline.lab.trial import run

    try:
        Store(folder).save(trial, *run(trial))
    except OSError as error:
        return StudyError(
            f"out: finished trials must be written to {str(folder)!r}, got {error.strerror or error}; "
            "make room and repeat the command, it goes on where it stopped"
        )
    except Exception as error:  # raised again by the parent, where somebody sees it
        return error
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)

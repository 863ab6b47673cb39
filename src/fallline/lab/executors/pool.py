"""A pool of worker processes, one thread each, that stay for the whole study.

Each worker has a pipe of its own and no lock in common with the others, so that any of them, or the parent, may be
killed at any moment without the rest waiting for ever; `concurrent.futures` can hang when a worker is stopped.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fallline.errors import FalllineError, StudyError
from fallline.lab.design.trial import Trial
from fallline.lab.provenance.verification import as_specified
from fallline.lab.run.attempt import DISK_FULL, Attempt, attempt
from fallline.lab.run.loop import Checkpoint
from fallline.lab.storage.store import Store, unwritten
from fallline.lab.user_code.import_path import describe

# NOTE [children]: a task may start processes, such as the workers of a DataLoader. They must not outlive the worker
# that started them, however it ends, so each worker leads a process group that is killed as a whole: by the pool, and
# by the worker itself when its parent is gone. Forked children close their copy of the worker's pipe; otherwise the
# pool would not notice a worker's death before theirs. They are started as the user's own process would start them: a
# spawned process spawns by default, and functions of a FILE.py cannot be pickled for that.

RETRIES = 2  # for a trial whose worker was killed (out of memory, say); one that diverged has an outcome instead
_POLL_S = 1.0  # between two looks at whether the parent is still there


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    trial: Trial | None = None
    ready: bool = False  # has imported what it needs; until then it is given nothing, so that no trial waits for it


class LocalPool:
    """Runs trials on `jobs` workers; use as a context manager.

    Every trial runs on one thread of a worker, whatever `jobs` is, so its numbers do not depend on it.

    Args:
        folder: of the study.
        jobs: how many workers.
        checkpoint_every: steps after which a run is saved each time, so that an interrupted run resumes there.
    """

    def __init__(self, folder: Path, jobs: int, checkpoint_every: int | None = None) -> None:
        self.folder = folder
        self.jobs = jobs
        self.checkpoint_every = checkpoint_every
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:  # a trial that nobody waits for must not keep a core busy
            _kill(worker.process)
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is on disk, in the order in which they finish.

        Raises:
            StudyError: the outcome of a trial cannot be written, a trial killed its worker three times, or workers do
                not start.
        """
        waiting = list(reversed(trials))
        killed: Counter[str] = Counter()
        while waiting or any(worker.trial for worker in self._workers):
            self._hand_out(waiting)
            listened = {worker.pipe: worker for worker in self._workers if worker.trial or not worker.ready}
            for pipe in wait(list(listened)):
                worker = listened[pipe]  # type: ignore[index]
                trial, worker.trial = worker.trial, None
                try:
                    error = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._bury(worker)
                    if trial is not None:
                        waiting.append(trial)
                    self._count(trial, killed)
                    continue
                if error is not None:
                    raise error
                worker.ready = True
                if trial is not None:
                    yield trial

    def _hand_out(self, waiting: list[Trial]) -> None:
        """Give every idle worker a trial; start workers while there are fewer than jobs and than trials."""
        for worker in self._workers:
            if waiting and worker.ready and worker.trial is None:
                self._give(worker, waiting.pop())
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self.jobs - len(self._workers), len(waiting) - starting)):
            self._workers.append(self._start())

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a forked child cannot use its parent's threads
        pipe, other = context.Pipe()
        # Daemonic processes may not have children, which a DataLoader with workers needs. See NOTE [children].
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        work = (other, self.folder, self.checkpoint_every, method)
        process = context.Process(target=_work, args=work, daemon=False)
        process.start()
        other.close()
        return _Worker(process, pipe)

    @staticmethod
    def _give(worker: _Worker, trial: Trial) -> None:
        worker.trial = trial
        with contextlib.suppress(BrokenPipeError):  # it has died; waiting for its answer will tell
            worker.pipe.send(trial)

    def _bury(self, worker: _Worker) -> None:
        _kill(worker.process)  # its children may have outlived it
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)

    def _count(self, trial: Trial | None, killed: "Counter[str]") -> None:
        """Count the death of a worker in a trial, or before its first; give up after too many."""
        if trial is not None:
            killed[trial.id] += 1
            check_killed(trial, killed[trial.id])
            return
        self._failed_starts += 1
        if self._failed_starts > RETRIES:
            raise StudyError(
                f"jobs: worker processes must start, got {self._failed_starts} that ended before their first trial; in "
                "a script, call fallline.compare under if __name__ == '__main__'; if memory is short, pass a smaller -j"
            )


def check_killed(trial: Trial, times: int) -> None:
    """Raise a StudyError when a trial has killed its process more often than it is retried."""
    if times > RETRIES:
        raise StudyError(
            f"jobs: a trial must not kill its worker process, got {times} killed in trial {trial.id} ({trial.arm}); "
            "if memory is short, run fewer at a time (-j) or a smaller model. Finished trials are kept; rerun the "
            "same command to resume"
        )


def _work(pipe: Connection, folder: Path, checkpoint_every: int | None, start_method: str) -> None:
    """Run the trials that come through the pipe; answer None, or the error that ends the study."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    multiprocessing.set_start_method(start_method, force=True)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # see NOTE [children]
        os.register_at_fork(after_in_child=pipe.close)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    import fallline.lab.run.trial  # noqa: F401 - what takes long is done before the worker says that it is ready

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    pipe.send(None)
    while True:
        try:
            trial = pipe.recv()
        except EOFError:
            return
        pipe.send(run_and_save(trial, folder, checkpoint_every))


def run_and_save(trial: Trial, folder: Path, checkpoint_every: int | None = None) -> Exception | None:
    """Run a trial and write its outcome; return the error that must end the study, if there is one."""
    try:
        Store(folder).save(trial, *run_from_checkpoint(trial, folder, checkpoint_every))
    except Exception as error:
        return sendable(error, trial, folder)
    return None


def run_from_checkpoint(trial: Trial, folder: Path, checkpoint_every: int | None) -> Attempt:
    """Run a trial, from where the study's folder says that it has come to if it is saved every so many steps.

    Raises:
        StudyError: the user's files, the data or the versions are, before or after, not those of the specification.
    """
    with as_specified(trial):
        if checkpoint_every is None:
            return attempt(trial)
        return attempt(trial, Checkpoint(Store(folder).checkpoint(trial), checkpoint_every))


def sendable(error: Exception, trial: Trial, folder: Path) -> Exception:
    """Return the error of a trial as the process that conducts the study can read and raise it.

    A full disk is told as such. An error that is none of ours is the user's: it is told by its words and its line,
    since neither its class nor its traceback need survive the way.
    """
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return unwritten(folder, error)
    if isinstance(error, FalllineError):
        return error
    files = [Path(file).resolve() for file in trial.sources]
    told = StudyError(
        f"trial: must run without an error, got {describe(error, *files)} in trial {trial.id} ({trial.arm}); mend it "
        "and repeat the command"
    )
    told.__cause__ = error  # for whoever ran it in this process
    return told


def _kill(process: SpawnProcess) -> None:
    """Kill a worker and its children, see NOTE [children]; it may be dead already, but not waited for."""
    if process.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has not made its group yet, or all are gone
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _end_with_parent() -> None:
    """Kill this worker and its children when the process that conducts the study is gone."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        parent.join(_POLL_S)  # ends at once when the parent does, unless a child of its holds the pipe open
        if not parent.is_alive():
            break
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)

"""A pool of single-threaded worker processes that run for the whole study.

Each worker has its own pipe and shares no lock with the others, so any of them, or the parent, may be killed at any
moment without the others waiting forever; `concurrent.futures` can hang when a worker is stopped.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
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
from fallline.notices import notify, receive_notices

# NOTE [children]: a task may start processes, such as the workers of a DataLoader. They must not outlive the worker
# that started them, however it ends. Each worker therefore leads a process group that is killed as a whole: by the
# pool, or by the worker itself when its parent is gone. Forked children close their copy of the worker's pipe;
# otherwise the pool would notice a worker's death only after the death of its children. Children are started with the
# start method of the user's process: the default in a spawned process would be to spawn, but functions of a FILE.py
# cannot be pickled for that.

RETRIES = 2  # of a trial whose worker was killed, for example out of memory; a diverged trial has an outcome instead
_POLL_S = 1.0  # interval at which a worker checks that its parent is alive


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    trial: Trial | None = None
    gpu: str | None = None
    ready: bool = False  # imports are done; a worker gets no trial before, so that no trial waits for the imports


class LocalPool:
    """Runs trials on `jobs` worker processes; use it as a context manager.

    Every trial runs on one thread of a worker, so its results do not depend on `jobs`.

    Args:
        folder: folder of the study.
        jobs: number of workers.
        checkpoint_every: number of steps between checkpoints of a run, from which an interrupted run can resume.
        gpus: numbers of the GPUs, one per worker; a worker and the commands that it runs see only its own.
    """

    def __init__(self, folder: Path, jobs: int, checkpoint_every: int | None = None, gpus: Sequence[str] = ()) -> None:
        self.folder = folder
        self.gpus = gpus
        self.jobs = jobs
        self.checkpoint_every = checkpoint_every
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:  # an abandoned trial must not keep a core busy
            _kill(worker.process)
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials, and yield each one when its outcome is on disk, in the order in which they finish.

        Raises:
            StudyError: the outcome of a trial cannot be written, a trial killed its worker three times, or workers do
                not start.
        """
        waiting = list(reversed(trials))
        killed: Counter[str] = Counter()
        while waiting or any(worker.trial for worker in self._workers):
            self._assign(waiting)
            listened = {worker.pipe: worker for worker in self._workers if worker.trial or not worker.ready}
            for pipe in wait(list(listened)):
                worker = listened[pipe]  # type: ignore[index]
                trial = worker.trial
                try:
                    answer = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._remove(worker)
                    if trial is not None:
                        waiting.append(trial)
                    self._count_death(trial, killed)
                    continue
                if isinstance(answer, str):
                    notify(answer)
                    continue
                if answer is not None:
                    raise answer
                worker.ready, worker.trial = True, None
                if trial is not None:
                    yield trial

    def _assign(self, waiting: list[Trial]) -> None:
        """Send a trial to every idle worker; start workers while there are fewer than `jobs` and than trials."""
        for worker in self._workers:
            if waiting and worker.ready and worker.trial is None:
                self._send(worker, waiting.pop())
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self.jobs - len(self._workers), len(waiting) - starting)):
            self._workers.append(self._start())

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a forked child cannot use its parent's threads
        pipe, other = context.Pipe()
        # A daemonic process may not have children, but a DataLoader with workers needs them. See NOTE [children].
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        used = {worker.gpu for worker in self._workers}
        gpu = next((number for number in self.gpus if number not in used), None)
        work = (other, self.folder, self.checkpoint_every, method, gpu)
        process = context.Process(target=_work, args=work, daemon=False)
        process.start()
        other.close()
        return _Worker(process, pipe, gpu=gpu)

    @staticmethod
    def _send(worker: _Worker, trial: Trial) -> None:
        worker.trial = trial
        with contextlib.suppress(BrokenPipeError):  # the worker has died; `run` notices it when it waits for the answer
            worker.pipe.send(trial)

    def _remove(self, worker: _Worker) -> None:
        _kill(worker.process)  # the children of the worker may still be running
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)

    def _count_death(self, trial: Trial | None, killed: "Counter[str]") -> None:
        """Count the death of a worker during a trial or before its first one; raise an error after too many."""
        if trial is not None:
            killed[trial.id] += 1
            check_killed(trial, killed[trial.id])
            return
        self._failed_starts += 1
        if self._failed_starts > RETRIES:
            raise StudyError(
                f"{self._failed_starts} worker processes ended before their first trial. In a script, call "
                "fallline.compare under if __name__ == '__main__'. If memory is short, pass a smaller -j."
            )


def check_killed(trial: Trial, times: int) -> None:
    """Raise a StudyError if a trial has killed its process more often than it is retried."""
    if times > RETRIES:
        raise StudyError(
            f"Trial {trial.id} ({trial.arm}) killed its worker process {times} times, possibly out of memory. Run "
            "fewer trials at a time (-j) or use a smaller model. Finished trials are kept; rerun the same command to "
            "resume."
        )


def _work(
    pipe: Connection, folder: Path, checkpoint_every: int | None, start_method: str, gpu: str | None = None
) -> None:
    """Run the trials received from the pipe; answer each with None, or with the error that ends the study.

    Notices are sent in between, as text.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA starts, and inherited by commands
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    multiprocessing.set_start_method(start_method, force=True)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # see NOTE [children]
        os.register_at_fork(after_in_child=pipe.close)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    import fallline.lab.run.trial  # noqa: F401 - slow imports are done before the worker reports that it is ready

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    pipe.send(None)
    with receive_notices(pipe.send):
        while True:
            try:
                trial = pipe.recv()
            except EOFError:
                return
            error = run_and_save(trial, folder, checkpoint_every)
            if error is not None:  # pickling loses the traceback, but keeps notes, which Python prints below it
                vars(error)["__notes__"] = ["".join(traceback.format_exception(error))]
            pipe.send(error)


def run_and_save(trial: Trial, folder: Path, checkpoint_every: int | None = None) -> Exception | None:
    """Run a trial and write its outcome; return the error that must end the study, or None."""
    try:
        Store(folder).save(trial, *run_from_checkpoint(trial, folder, checkpoint_every))
    except Exception as error:
        return sendable(error, trial, folder)
    return None


def run_from_checkpoint(trial: Trial, folder: Path, checkpoint_every: int | None) -> Attempt:
    """Run a trial; with `checkpoint_every`, save checkpoints in the study's folder and resume from the last one.

    Raises:
        StudyError: before or after the run, the user's files, the data or the versions differ from the specification.
    """
    with as_specified(trial):
        if checkpoint_every is None:
            return attempt(trial)
        return attempt(trial, Checkpoint(Store(folder).checkpoint(trial), checkpoint_every))


def sendable(error: Exception, trial: Trial, folder: Path) -> Exception:
    """Return the error of a trial as an exception that the main process of the study can unpickle and raise.

    A full disk becomes the error of `unwritten`. An error that is not Fallline's comes from the user's code. It becomes
    a StudyError with its message and its line, because its class and its traceback may not survive pickling.
    """
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return unwritten(folder, error)
    if isinstance(error, FalllineError):
        return error
    files = [Path(file).resolve() for file in trial.sources]
    sent = StudyError(
        f"Trial {trial.id} ({trial.arm}) raised an error: {describe(error, *files)}. Fix it and rerun the command."
    )
    sent.__cause__ = error  # lost in pickling, but kept if the trial ran in this process
    return sent


def _kill(process: SpawnProcess) -> None:
    """Kill a worker and its children, see NOTE [children]; the worker may be dead but must not have been joined."""
    if process.pid is not None and hasattr(os, "killpg"):
        # The worker may not have created its group yet, or all processes of the group may be gone.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _end_with_parent() -> None:
    """Kill this worker and its children when the main process of the study is gone."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        parent.join(_POLL_S)  # returns as soon as the parent ends, unless a child of the parent holds the pipe open
        if not parent.is_alive():
            break
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)

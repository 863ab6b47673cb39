"""Run trials on a Ray cluster: each worker is an actor that runs for the whole study and sends outcomes through Ray."""

import contextlib
import os
import platform
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError, MissingExtraError, StudyError
from fallline.lab.design.trial import Trial
from fallline.lab.executors.pool import RETRIES, check_killed, run_from_checkpoint, sendable
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.provenance.manifest import versions
from fallline.lab.run.attempt import Attempt
from fallline.lab.storage.store import Store
from fallline.lab.user_code.imports import digest_of

_PATIENCE_S = 5.0  # timeout of the head node; Ray itself tries for five minutes and then ends the process


@dataclass
class _Busy:
    actor: Any
    trial: Trial | None = None  # None while the actor starts


class RayCluster:
    """Runs trials on the cores of a Ray cluster; use it as a context manager.

    Workers return outcomes, and only this process writes, so the nodes need not share the study's folder. They need
    the same versions as this process, and the user's files at the same paths with the same content; both are checked.

    Args:
        folder: folder of the study.
        address: address for `ray.init`: "auto", "HOST:PORT", "ray://HOST:PORT". An existing connection is reused.
        jobs: number of workers; by default one per core of the cluster, or one per accelerator if trials run on those.
        checkpoint_every: as in `LocalPool`. A trial can resume on another node only if the nodes share the study's
            folder.
    """

    def __init__(
        self, folder: Path, address: str, jobs: int | None = None, checkpoint_every: int | None = None
    ) -> None:
        self._ray = _import_ray()
        self._store, self._jobs, self._checkpoint_every = Store(folder), jobs, checkpoint_every
        self.address = address
        self._connected = False
        self._idle: list[Any] = []
        self._busy: dict[Any, _Busy] = {}  # by the Ray reference to the answer
        self._failed_starts = 0

    def __enter__(self) -> "RayCluster":
        if not self._ray.is_initialized():
            _connect(self._ray, self.address)
            self._connected = True
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in [*self._idle, *(busy.actor for busy in self._busy.values())]:
            with contextlib.suppress(self._ray.exceptions.RayError):  # the cluster may be gone
                self._ray.kill(actor)
        self._idle.clear()
        self._busy.clear()
        if self._connected:
            self._ray.shutdown()

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials, and yield each one when its outcome is on disk, in the order in which they finish.

        Raises:
            StudyError: an outcome cannot be written, a trial killed its worker three times, workers do not start, or a
                node has other versions or files.
        """
        waiting = list(reversed(trials))
        killed: Counter[str] = Counter()
        while waiting or any(busy.trial for busy in self._busy.values()):
            self._assign(waiting)
            (done,), _ = self._ray.wait(list(self._busy), num_returns=1)
            busy = self._busy.pop(done)
            try:
                answer = self._ray.get(done)
            except self._ray.exceptions.RayError as error:  # the worker or its node is gone
                if busy.trial is not None:
                    waiting.append(busy.trial)
                self._count_death(busy.trial, killed, error)
                continue
            if isinstance(answer, Exception):
                raise answer
            self._idle.append(busy.actor)
            if busy.trial is not None:
                self._store.save(busy.trial, *answer)
                yield busy.trial

    def _assign(self, waiting: list[Trial]) -> None:
        """Send a trial to every idle worker; start workers while there are fewer than `jobs` and than trials."""
        while waiting and self._idle:
            actor, trial = self._idle.pop(), waiting.pop()
            self._busy[actor.run.remote(trial)] = _Busy(actor, trial)
        if not waiting:
            return
        starting = sum(busy.trial is None for busy in self._busy.values())
        needs = {"num_cpus": 1} if waiting[-1].device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
        jobs = self._jobs or _size(self._ray, waiting[-1].device)
        remote = self._ray.remote(**needs)(Worker)
        for _ in range(min(jobs - len(self._busy), len(waiting) - starting)):
            settings = {name: value for name, value in os.environ.items() if name.startswith("FALLLINE_")}
            actor = remote.remote(str(self._store.folder.resolve()), self._checkpoint_every)
            self._busy[actor.begin.remote(str(Path.cwd()), settings, versions())] = _Busy(actor)

    def _count_death(self, trial: Trial | None, killed: "Counter[str]", error: Exception) -> None:
        """Count the death of a worker during a trial or before its first one; raise an error after too many."""
        if trial is not None:
            killed[trial.id] += 1
            check_killed(trial, killed[trial.id])
            return
        self._failed_starts += 1
        if self._failed_starts > RETRIES:
            reason = " ".join(str(error).split())
            raise StudyError(
                f"{self._failed_starts} Ray workers ended before their first trial ({reason}). Make sure that fallline "
                "is installed on every node."
            )


def cluster_size(address: str, device: str = "cpu") -> int:
    """Return the default number of workers on a cluster: one per core, or one per accelerator.

    Raises:
        ArgumentError: no cluster answers at the address.
        MissingExtraError: Ray is not installed.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return _size(ray, device)
    _connect(ray, address)
    try:
        return _size(ray, device)
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            'ray: --ray needs the package ray; install it with: pip install "fallline[lab,ray]"'
        ) from None
    return ray


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal() and "//" not in host:
            socket.create_connection((host, int(port)), _PATIENCE_S).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ArgumentError(
            f"ray: must be the address of a running Ray cluster, got {address!r} ({reason}); "
            "`ray start --head` starts one and prints its address"
        ) from error


def _size(ray: Any, device: str) -> int:
    return max(1, int(ray.cluster_resources().get("CPU" if device == "cpu" else "GPU", 0)))


class Worker:
    """The actor on a node, which runs one trial after the other like the workers of a pool."""

    def __init__(self, folder: str, checkpoint_every: int | None) -> None:
        self._folder, self._checkpoint_every = Path(folder), checkpoint_every

    def begin(self, here: str, settings: Mapping[str, str], expected: Mapping[str, str]) -> StudyError | None:
        """Change to the folder where the study was started; return an error if this node has other versions."""
        os.environ.update(settings)
        with contextlib.suppress(OSError):  # only trials that name files need it, and they report missing files
            os.chdir(here)
        found = versions()
        different = [f"{name} {found.get(name)} instead of {v}" for name, v in expected.items() if found.get(name) != v]
        if not different:
            return None
        return StudyError(
            "A node has other versions than the process that started the study, so its results would differ: "
            f"{', '.join(different)} on {platform.node()}. Install the same versions there."
        )

    def run(self, trial: Trial) -> Attempt | Exception:
        """Run a trial and return its result, or the error that ends the study."""
        for file, digest in trial.sources.items():
            if digest_of(Path(file)) == digest:
                continue
            return StudyError(
                f"{file} is missing on {platform.node()}, or differs from the file on the node where the study was "
                "started. Start the study in a folder that all nodes share."
            )
        try:
            with as_in_a_worker():
                return run_from_checkpoint(trial, self._folder, self._checkpoint_every)
        except Exception as error:
            return sendable(error, trial, self._folder)

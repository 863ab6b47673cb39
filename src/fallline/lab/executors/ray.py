"""Trials on a Ray cluster: an actor a worker, which stays for the whole study; outcomes come back through Ray."""

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

_PATIENCE_S = 5.0  # for the head node to answer; Ray itself tries for five minutes, and then ends the process


@dataclass
class _Busy:
    actor: Any
    trial: Trial | None = None  # None while it starts


class RayCluster:
    """Runs trials on the cores of a Ray cluster; use as a context manager.

    Workers answer with outcomes, and only this process writes: the nodes need not share the study's folder. They need
    the versions that this process has, and the user's files at the same places with the same content; both are checked.

    Args:
        folder: of the study.
        address: as `ray.init` takes it: "auto", "HOST:PORT", "ray://HOST:PORT". A process that is connected stays so.
        jobs: workers, one a core of the cluster by default (one an accelerator where trials run on those).
        checkpoint_every: as for `LocalPool`; the nodes must share the study's folder for it to help on another node.
    """

    def __init__(
        self, folder: Path, address: str, jobs: int | None = None, checkpoint_every: int | None = None
    ) -> None:
        self._ray = _import_ray()
        self._store, self._jobs, self._checkpoint_every = Store(folder), jobs, checkpoint_every
        self.address = address
        self._connected = False
        self._idle: list[Any] = []
        self._busy: dict[Any, _Busy] = {}  # by what will be its answer
        self._failed_starts = 0

    def __enter__(self) -> "RayCluster":
        if not self._ray.is_initialized():
            _connect(self._ray, self.address)
            self._connected = True
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in [*self._idle, *(busy.actor for busy in self._busy.values())]:
            with contextlib.suppress(self._ray.exceptions.RayError):  # the cluster may be what is gone
                self._ray.kill(actor)
        self._idle.clear()
        self._busy.clear()
        if self._connected:
            self._ray.shutdown()

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is on disk, in the order in which they finish.

        Raises:
            StudyError: an outcome cannot be written, a trial killed its worker three times, workers do not start, or a
                node has other versions or files.
        """
        waiting = list(reversed(trials))
        killed: Counter[str] = Counter()
        while waiting or any(busy.trial for busy in self._busy.values()):
            self._hand_out(waiting)
            (done,), _ = self._ray.wait(list(self._busy), num_returns=1)
            busy = self._busy.pop(done)
            try:
                answer = self._ray.get(done)
            except self._ray.exceptions.RayError as error:  # the worker is gone, or its node
                if busy.trial is not None:
                    waiting.append(busy.trial)
                self._count(busy.trial, killed, error)
                continue
            if isinstance(answer, Exception):
                raise answer
            self._idle.append(busy.actor)
            if busy.trial is not None:
                self._store.save(busy.trial, *answer)
                yield busy.trial

    def _hand_out(self, waiting: list[Trial]) -> None:
        """Give every idle worker a trial; start workers while there are fewer than jobs and than trials."""
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

    def _count(self, trial: Trial | None, killed: "Counter[str]", error: Exception) -> None:
        """Count the death of a worker in a trial, or before its first; give up after too many."""
        if trial is not None:
            killed[trial.id] += 1
            check_killed(trial, killed[trial.id])
            return
        self._failed_starts += 1
        if self._failed_starts > RETRIES:
            reason = " ".join(str(error).split())
            raise StudyError(
                f"ray: workers must start, got {self._failed_starts} that ended before their first trial ({reason}); "
                "see that fallline is installed on every node"
            )


def cluster_size(address: str, device: str = "cpu") -> int:
    """Return how many workers a study has on a cluster by default: one a core, or one an accelerator.

    Raises:
        ArgumentError: nothing answers at the address.
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
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ArgumentError(
            f"ray: must be the address of a running Ray cluster, got {address!r} ({said}); "
            "`ray start --head` starts one and prints it"
        ) from error


def _size(ray: Any, device: str) -> int:
    return max(1, int(ray.cluster_resources().get("CPU" if device == "cpu" else "GPU", 0)))


class Worker:
    """What runs on a node: one trial after the other, as in any other worker."""

    def __init__(self, folder: str, checkpoint_every: int | None) -> None:
        self._folder, self._checkpoint_every = Path(folder), checkpoint_every

    def begin(self, here: str, settings: Mapping[str, str], expected: Mapping[str, str]) -> StudyError | None:
        """Go where the study was started, and return the error when this node would give other numbers."""
        os.environ.update(settings)
        with contextlib.suppress(OSError):  # only trials that name files need it, and they will tell
            os.chdir(here)
        found = versions()
        different = [f"{name} {found.get(name)} instead of {v}" for name, v in expected.items() if found.get(name) != v]
        if not different:
            return None
        return StudyError(
            "ray: every node must have the versions of the process that starts the study, or numbers differ, got "
            f"{', '.join(different)} on {platform.node()}; install the same there"
        )

    def run(self, trial: Trial) -> Attempt | Exception:
        """Return what came of a trial, or the error that ends the study."""
        for file, digest in trial.sources.items():
            if digest_of(Path(file)) == digest:
                continue
            return StudyError(
                f"ray: {file} must be there on every node as where the study was started, got none or another on "
                f"{platform.node()}; start it in a folder that all nodes share"
            )
        try:
            with as_in_a_worker():
                return run_from_checkpoint(trial, self._folder, self._checkpoint_every)
        except Exception as error:
            return sendable(error, trial, self._folder)

"""Run trials on a Ray cluster: each worker is an actor that runs for the whole study and sends outcomes through Ray."""

import contextlib
import os
import platform
import re
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

_CORE: Mapping[str, float] = {"CPU": 1.0}
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
        jobs: number of workers; by default as many as the cluster has resources for.
        checkpoint_every: as in `LocalPool`. A trial can resume on another node only if the nodes share the study's
            folder.
        resources: amount of each resource of Ray that a worker occupies, as from `parse_resources`.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        jobs: int | None = None,
        checkpoint_every: int | None = None,
        resources: Mapping[str, float] = _CORE,
    ) -> None:
        self._ray = _import_ray()
        self._resources = dict(resources)
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
        try:
            if self._jobs is None:
                _size(self._ray, self._resources)
        except ArgumentError:
            self.__exit__()
            raise
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
        jobs = self._jobs or max(1, _room(self._ray, self._resources))  # a lost node may come back
        remote = self._ray.remote(**_remote_options(self._resources))(Worker)
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


def cluster_size(address: str, resources: Mapping[str, float] = _CORE) -> int:
    """Return the default number of workers on a cluster: as many as it has resources for.

    Raises:
        ArgumentError: no cluster answers at the address, or none of its nodes has the resources.
        MissingExtraError: Ray is not installed.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return _size(ray, resources)
    _connect(ray, address)
    try:
        return _size(ray, resources)
    finally:
        ray.shutdown()


def parse_resources(text: str, device: str = "cpu") -> dict[str, float]:
    """Return what a trial occupies: {"CPU": 4.0, "GPU": 1.0} for "CPU=4,GPU=1"; by default a core.

    Args:
        text: amounts by the names that `ray status` shows; "" for the default.
        device: device of the trials; on an accelerator the default is a core and a GPU.

    Raises:
        ArgumentError: the text has another form.

    Example:
        >>> parse_resources("CPU=4,GPU=1")
        {'CPU': 4.0, 'GPU': 1.0}
    """
    found = {"CPU": 1.0} if device == "cpu" else {"CPU": 1.0, "GPU": 1.0}
    for part in filter(None, text.split(",")):
        name, _, amount = (piece.strip() for piece in part.partition("="))
        if not name or not re.fullmatch(r"\d+(\.\d+)?", amount):
            raise ArgumentError(
                f"ray_resources: must be NAME=AMOUNT,NAME=AMOUNT, got {text!r}; CPU=4,GPU=1 is four cores and a GPU"
            )
        found[name] = float(amount)
    return found


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


def _size(ray: Any, resources: Mapping[str, float]) -> int:
    """Return how many workers with these resources the nodes have room for.

    Raises:
        ArgumentError: no node has room for one, so Ray would wait forever.
    """
    room = _room(ray, resources)
    if room:
        return room
    needs = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
    raise ArgumentError(
        f"ray_resources: a trial must fit on a node of the cluster, got {needs}, which no node has; ask for less, or "
        "pass jobs (-j) if the cluster adds nodes on demand"
    )


def _room(ray: Any, resources: Mapping[str, float]) -> int:
    """Return how many workers with these resources the nodes have room for, each worker on one node."""
    needs = {name: amount for name, amount in resources.items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min((int(node.get(name, 0) / amount) for name, amount in needs.items()), default=1) for node in nodes)


def _remote_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Return the resources as arguments of `ray.remote`."""
    others = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0), "resources": others}


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

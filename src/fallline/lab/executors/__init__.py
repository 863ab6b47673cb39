"""Where trials run: on this machine, in shares of a cluster, or on Ray; the same numbers come out of each."""

import os
from pathlib import Path

from fallline.errors import ArgumentError
from fallline.lab.executors.base import Executor
from fallline.lab.executors.here import CallingProcess
from fallline.lab.executors.local import LocalPool
from fallline.lab.executors.ray import RayCluster
from fallline.lab.executors.shard import Shard, parse_shard

__all__ = ["Executor", "make_executor"]


def make_executor(
    folder: Path, *, jobs: int | None, shard: str | None, ray: str | None, checkpoint_every: int | None
) -> Executor:
    """Return what runs the trials of the study in a folder; the arguments are those of `compare`.

    Raises:
        ArgumentError: an argument cannot be used, or two of them not together.
    """
    if jobs is not None and jobs < 0:
        raise ArgumentError(f"jobs: must be at least 0, got jobs={jobs}; leave it out for one a core")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ArgumentError(f"checkpoint-every: must be at least 1 step, got {checkpoint_every}; leave it out for none")
    share = parse_shard(shard) if shard is not None else None
    if ray is not None:
        if share or jobs == 0:
            other = f"shard={shard!r}" if share else "jobs=0 (this process, as a notebook's task needs it)"
            raise ArgumentError(f"ray: runs trials on a cluster, got {other} too; leave one of them out")
        return RayCluster(folder, ray, jobs, checkpoint_every)
    workers = jobs or os.cpu_count() or 1
    pool = CallingProcess(folder) if jobs == 0 else LocalPool(folder, workers, checkpoint_every)
    return Shard(pool, folder, *share) if share else pool

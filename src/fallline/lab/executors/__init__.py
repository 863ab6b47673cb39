"""Executors run trials on this machine, in shards of a cluster, or on Ray, with the same results."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from fallline.arguments import check_integer
from fallline.errors import ArgumentError
from fallline.lab.executors.base import Executor
from fallline.lab.executors.in_process import CallingProcess
from fallline.lab.executors.pool import LocalPool
from fallline.lab.executors.ray import RayCluster, cluster_size, parse_resources
from fallline.lab.executors.shard import Shard, parse_shard

__all__ = ["Executor", "Workers", "count_workers", "make_executor"]


class Workers(TypedDict):
    """Where trials run and how many run at a time; the keys are arguments of `compare`."""

    jobs: int | None
    shard: str | None
    ray: str | None
    checkpoint_every: int | None
    device: str
    devices: Sequence[str]
    ray_resources: str


def make_executor(
    folder: Path,
    *,
    jobs: int | None,
    shard: str | None,
    ray: str | None,
    checkpoint_every: int | None,
    device: str = "cpu",
    devices: Sequence[str] = (),
    ray_resources: str = "",
) -> Executor:
    """Return the executor for the trials of the study in a folder; the arguments are those of `compare`.

    Raises:
        ArgumentError: an argument is invalid, or two of them cannot be combined.
    """
    numbers = _check_devices(devices, jobs, ray, device) if devices else []
    _check(jobs, shard, ray, checkpoint_every, device, ray_resources)
    if numbers:
        devices_pool = LocalPool(folder, len(numbers), checkpoint_every, numbers)
        return Shard(devices_pool, folder, *parse_shard(shard)) if shard is not None else devices_pool
    if ray is not None:
        return RayCluster(folder, ray, jobs, checkpoint_every, parse_resources(ray_resources, device))
    pool = (
        CallingProcess(folder, checkpoint_every)
        if jobs == 0
        else LocalPool(folder, _workers_here(jobs, device), checkpoint_every)
    )
    return Shard(pool, folder, *parse_shard(shard)) if shard is not None else pool


def count_workers(
    *,
    jobs: int | None,
    shard: str | None,
    ray: str | None,
    checkpoint_every: int | None = None,
    device: str = "cpu",
    devices: Sequence[str] = (),
    ray_resources: str = "",
) -> int:
    """Return how many trials will run at a time; the arguments are those of `compare`.

    A Ray cluster is asked for its size. Other shards are assumed to have as many workers as this one.

    Raises:
        ArgumentError: an argument is invalid, or two of them cannot be combined.

    Example:
        >>> count_workers(jobs=3, shard="2/8", ray=None)
        24
    """
    if devices:
        return len(_check_devices(devices, jobs, ray, device))
    _check(jobs, shard, ray, checkpoint_every, device, ray_resources)
    if ray is not None:
        return jobs or cluster_size(ray, parse_resources(ray_resources, device))
    return _workers_here(jobs, device) * (parse_shard(shard)[1] if shard is not None else 1)


def _check(
    jobs: int | None,
    shard: str | None,
    ray: str | None,
    checkpoint_every: int | None,
    device: str,
    ray_resources: str,
) -> None:
    if checkpoint_every is not None:
        check_integer("compare", "checkpoint_every", checkpoint_every, 1, "leave it out for no checkpoints")
    if jobs is not None:
        check_integer("compare", "jobs", jobs, 0, "leave it out for one per core")
    if shard is not None:
        parse_shard(shard)
    if ray is not None and (shard is not None or jobs == 0):
        in_process = "jobs=0 (which runs trials in this process, as the task of a notebook requires)"
        other = f"shard={shard!r}" if shard is not None else in_process
        raise ArgumentError(f"ray: must be given without shard and jobs=0, got {other} too; leave one of them out")
    if ray is None and ray_resources:
        raise ArgumentError(f"ray_resources: must be given with ray, got {ray_resources!r} alone; leave it out")
    if ray is None and device != "cpu" and jobs is not None and jobs > 1:
        raise ArgumentError(f"jobs: must be 1 on an accelerator, got jobs={jobs} with device={device!r}; leave it out")


def _check_devices(devices: Sequence[str], jobs: int | None, ray: str | None, device: str) -> list[str]:
    """Return the numbers of the given GPUs.

    Raises:
        ArgumentError: a name is not cuda:N or is given twice, or another argument also sets the workers.
    """
    numbers = [name.removeprefix("cuda:") for name in devices]
    if len(set(numbers)) < len(numbers) or not all(
        name.startswith("cuda:") and number.isdigit() for name, number in zip(devices, numbers, strict=True)
    ):
        raise ArgumentError(
            f"devices: must be cuda:N, each once, got {', '.join(devices)}; pass cuda:0,cuda:1 for the first two GPUs"
        )
    others = {"jobs": jobs, "ray": ray, "device": None if device in ("cpu", "cuda:0") else device}
    for name, value in others.items():
        if value is not None:
            raise ArgumentError(
                f"devices: must be given without {name}, got {name}={value!r}; a worker is started for each device"
            )
    return numbers


def _workers_here(jobs: int | None, device: str) -> int:
    if jobs is not None:
        return max(1, jobs)
    return (os.cpu_count() or 1) if device == "cpu" else 1

"""Run a function in several processes that talk over gloo on this machine."""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path

from support.processes import prepared_context

SECONDS = 300  # what a run may take, and one process wait for another, on a machine that is busy besides


def on_ranks(count, function, *args):
    """Return what `function(*args)` returned on each of `count` processes of one group, by rank."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(count, prepared_context()) as pool:
        store = str(Path(folder, "store"))
        futures = [pool.submit(_as_rank, rank, count, store, function, args) for rank in range(count)]
        return [future.result(timeout=SECONDS) for future in futures]


def killed_on_ranks(count, function, *args):
    """Run a function as `on_ranks` does, which kills its processes; return their exit codes."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "store"))
        context = prepared_context()
        workers = [context.Process(target=_as_rank, args=(rank, count, store, function, args)) for rank in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
        return [worker.exitcode for worker in workers]


def _as_rank(rank, count, store, function, args):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=SECONDS)
    )
    try:
        return function(*args)
    finally:
        dist.destroy_process_group()

"""Run one function on several threads at once, without a pool that spins.

A kernel takes its work by an atomic ticket, so it does not matter which thread runs how much of it, or whether a
thread comes at all: on a busy machine the caller does the work itself instead of waiting for a core (decision 0002).
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_pools: dict[int, ThreadPoolExecutor] = {}  # by process: a forked child has none of its parent's threads


def run_on_threads(work: Callable[[], None]) -> None:
    """Call `work` here and on up to `torch.get_num_threads() − 1` other threads; return when all have returned."""
    helpers: list[Future[None]] = [_pool().submit(work) for _ in range(torch.get_num_threads() - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():  # one that has not begun by now would find nothing left to do
                helper.result()


def _pool() -> ThreadPoolExecutor:
    process = os.getpid()
    if process not in _pools:
        _pools.clear()
        _pools[process] = ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="fallline")
    return _pools[process]

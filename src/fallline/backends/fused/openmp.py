"""Call a kernel on several threads at once: PyTorch's own.

After each of its operations PyTorch's OpenMP workers spin for a while, on the cores that a pool of ours would want. So
a kernel is handed to that very pool, by the function that compilers call for a parallel region (decision 0002).

A kernel takes its work by an atomic ticket, so it does not matter which thread runs how much of it, or whether a
thread comes at all.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

_process = os.getpid()  # a forked child has none of its parent's threads; OpenMP would wait for them forever
_pools: dict[int, ThreadPoolExecutor] = {}  # by process, for the same reason


class Call:
    """A kernel and the tables it is called with, packed: a ticket, then address, rows and columns of each."""

    def __init__(self, kernel: Any, *tables: np.ndarray) -> None:
        """Pack the call.

        Args:
            kernel: a Numba cfunc of the type `intrinsics.entry`.
            tables: two-dimensional, contiguous; kept alive as long as the call.
        """
        self._kernel, self._tables = kernel.address, tables
        self._packed = np.array([0, *(n for table in tables for n in (table.ctypes.data, *table.shape))], np.int64)

    def run(self) -> None:
        """Do the work, or what other threads leave of it."""
        _function(self._kernel)(self._packed.ctypes.data)

    def run_on_threads(self) -> None:
        """Do the work on `torch.get_num_threads()` threads, this one among them."""
        region = _parallel_region() if os.getpid() == _process else None
        if region is not None:
            region(self._kernel, self._packed.ctypes.data, torch.get_num_threads(), 0)
        else:
            _run_in_pool(self.run)


def _run_in_pool(work: Callable[[], None]) -> None:
    """Call `work` here and on Python threads; return when all have returned."""
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


@functools.cache
def _function(kernel: int) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)


@functools.cache
def _parallel_region() -> Callable[[int, int, int, int], None] | None:
    """Return `GOMP_parallel(function, argument, threads, flags)` of the OpenMP that PyTorch uses; None if it has none.

    GNU's, Intel's and LLVM's libraries for Linux all have it; it is part of what GCC compiles OpenMP to.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        region = library.GOMP_parallel  # also found in what the library was linked to
    except (OSError, AttributeError):
        return None
    region.argtypes, region.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return region

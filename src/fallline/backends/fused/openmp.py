"""Call a kernel on PyTorch's own threads.

After each operation, PyTorch's OpenMP workers spin for a while, on the cores that a separate thread pool would need. So
kernels run on PyTorch's pool, through the function that compilers call for a parallel region (decision 0002).

Threads fetch work with an atomic ticket, so the result does not depend on how many threads run, or on how much work
each of them does.
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

_process = os.getpid()  # a forked child has none of the threads of its parent; OpenMP would wait for them forever
_pools: dict[int, ThreadPoolExecutor] = {}  # by process, for the same reason


class Call:
    """A kernel and its tables, packed into one array: a ticket, then address, rows and columns of each table."""

    def __init__(self, kernel: Any, *tables: np.ndarray) -> None:
        """Pack the call.

        Args:
            kernel: a Numba cfunc of the type `intrinsics.entry`.
            tables: two-dimensional contiguous arrays; the call keeps them alive.
        """
        self._kernel, self._tables = kernel.address, tables
        self._packed = np.array([0, *(n for table in tables for n in (table.ctypes.data, *table.shape))], np.int64)

    def run(self) -> None:
        """Do the work that other threads have not taken yet."""
        _function(self._kernel)(self._packed.ctypes.data)

    def run_on_threads(self) -> None:
        """Do the work on `torch.get_num_threads()` threads, including this one."""
        region = _parallel_region() if os.getpid() == _process else None
        if region is not None:
            region(self._kernel, self._packed.ctypes.data, torch.get_num_threads(), 0)
        else:
            _run_in_pool(self.run)


def _run_in_pool(work: Callable[[], None]) -> None:
    """Call `work` on this thread and on Python threads, and wait for all of them."""
    helpers: list[Future[None]] = [_pool().submit(work) for _ in range(torch.get_num_threads() - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():  # a helper that has not started yet would find no work left
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
    """Return `GOMP_parallel(function, argument, threads, flags)` of PyTorch's OpenMP library, or None if it has none.

    The GNU, Intel and LLVM libraries for Linux all have this function, because code compiled by GCC calls it.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        region = library.GOMP_parallel  # the lookup includes the libraries that it is linked to
    except (OSError, AttributeError):
        return None
    region.argtypes, region.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return region

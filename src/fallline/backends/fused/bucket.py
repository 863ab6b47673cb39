"""The fused backend: one compiled kernel runs over all tensors of a bucket, in chunks."""

import functools
import weakref
from collections.abc import Sequence
from itertools import chain
from operator import is_, itemgetter
from types import ModuleType
from typing import Any

import numpy as np
import torch

from fallline.backends.fused.cache import load_module
from fallline.backends.fused.codegen import compile_update
from fallline.backends.fused.openmp import Call
from fallline.backends.fused.pointers import Addresses
from fallline.backends.ir import Pass
from fallline.backends.ir_runner import Numbers, TracedBucket
from fallline.backends.layout import dtype_name, one_memory

# Elements of a tensor that a thread processes at a time. With chunks of 64 Ki, SGD took 1.06 and AdamW 1.03 times as
# long (two cores of a Zen 4); with chunks of 256 Ki, 0.98 and 1.00, but they are harder to distribute evenly.
CHUNK = 131072
# Elements of small tensors that a thread processes at a time. With one ticket for each of a thousand tensors, SGD was a
# third and AdamW a sixth slower: two threads that alternate between neighboring tensors defeat hardware prefetching.
SHARE = 65536
# Bytes read and written below which a second thread costs more than it saves: 25 MB of small tensors took 0.41 ms on
# one thread and 0.30 ms on two; waking a sleeping PyTorch worker takes 0.05 ms (2 cores of a Zen 4).
PARALLEL = 16 << 20


def can_serve(param: torch.Tensor, grad: torch.Tensor, state: Sequence[torch.Tensor]) -> bool:
    """Return whether the fused backend supports this parameter with the states that the update uses."""
    tensors = [param, grad, *state]
    return param.device.type == "cpu" and grad.dtype == param.dtype and one_memory(tensors)


class FusedBucket(TracedBucket):
    """Runs a generated kernel over a table of addresses."""

    _kernels: tuple[Any, ...] = ()
    _dtype: torch.dtype
    _grads: list[weakref.ref[torch.Tensor]]  # weak references, so that zero_grad() frees the memory at once
    _grad_addresses: Addresses

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether the kernel can still be used; update the table if gradients have new addresses.

        This runs before every step. A check costs up to 0.1 us per tensor, as much as the update of a small tensor. So
        each check is a single loop in C, and the layout of gradients is not checked again if they are the objects of
        the last step at the same addresses.
        """
        if not self._kernels:
            self._prepare(grads)
        try:
            if not self._unmoved():
                return False
            kept = all(map(is_, grads, [ref() for ref in self._grads]))
            if kept and [g for g in grads if g is None]:  # a dead reference also returns None
                return False
            moved = None if kept and self._grad_addresses.hold(grads) else Addresses(grads)
        except (RuntimeError, TypeError, KeyError):  # sparse gradient, no gradient, no state
            return False
        if moved is not None:
            if not (moved.values.all() and self._layout_fits(grads)):  # a ZeroTensor has no memory
                return False
            self._table[:, 1] = moved.values
            self._grad_addresses = moved
            self._grads = list(map(weakref.ref, grads))
        return True

    def sums(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray) -> np.ndarray:
        """Run a pass that sums squares."""
        squares = np.empty((len(self._work), len(sweep.norms)))
        self._run(sweep, scalars, squares)
        return np.add.reduceat(squares, self._starts, axis=0)

    def write(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray, numbers: Numbers) -> None:
        """Run the pass that writes the results."""
        if self.rounded():
            self._table[:, -2] = self.rounding_keys(numbers)
        self._run(sweep, scalars, np.empty((1, 1)))
        torch.autograd.graph.increment_version(self.params)

    def put_back(self, key: str) -> None:
        """Copy the state `key` of every parameter to the parameter; large copies bypass the cache, in half the time."""
        if self._traffic >= PARALLEL and self._unmoved() and self._layout_fits([state[key] for state in self.states]):
            column, size = 2 + self.update.tensors.index(key), self.params[0].element_size()
            self._share(Call(_copies().put_back, *self._tables, np.array([[column, size]])))
            torch.autograd.graph.increment_version(self.params)
        else:
            super().put_back(key)

    def _run(self, sweep: Pass, scalars: np.ndarray, squares: np.ndarray) -> None:
        """Run one pass over all chunks; the sums of squares of each chunk are written to `squares`."""
        real = np.float64 if self.params[0].dtype == torch.float64 else np.float32
        with np.errstate(over="ignore", under="ignore"):  # a number too large for float32 becomes Inf, as in torch
            scalars = np.ascontiguousarray(scalars, dtype=real)
        kernel = self._kernels[self.traced.passes.index(sweep)]
        self._share(Call(kernel, *self._tables, scalars, squares))

    def _share(self, call: Call) -> None:
        """Make a call, on all threads if the amount of data makes this faster."""
        if self._traffic >= PARALLEL and torch.get_num_threads() > 1:
            call.run_on_threads()
        else:
            call.run()

    def _unmoved(self) -> bool:
        """Return whether parameters and states are the tensors of the table, at the same addresses."""
        columns = [list(map(itemgetter(key), self.states)) for key in self.update.tensors]
        same = all(map(is_, chain(self.params, *columns), self._tensors))
        return same and self._addresses.hold(self._tensors)

    def _prepare(self, grads: Sequence[torch.Tensor]) -> None:
        columns = [[state[key] for state in self.states] for key in self.update.tensors]
        tensors = [self.params, list(grads), *columns]
        self._dtype = self.params[0].dtype
        dtypes = tuple(dtype_name(column[0]) for column in tensors[: 2 + len(self.update.state)])
        self._kernels = compile_update(self.update, dtypes)
        addresses = [[t.data_ptr() for t in column] for column in tensors]
        # The last two columns are for rounding: the key, and the position of the first element.
        self._table = np.array([*addresses, self.scalar_rows, [0] * len(self.rows), self.origins]).T.copy()
        self._sizes = sizes = [p.numel() for p in self.params]
        self._work = np.array(
            [(t, start, min(CHUNK, n - start)) for t, n in enumerate(sizes) for start in range(0, n, CHUNK)]
        )
        self._starts = np.flatnonzero(self._work[:, 1] == 0)
        self._tables = (self._table, self._work, _shares(self._work))
        written = sum(column[0].element_size() for column in (self.params, *columns[: len(self.update.state)]))
        self._traffic = sum(sizes) * (2 * written + grads[0].element_size())
        self._contiguous = all(p.is_contiguous() for p in self.params)
        self._strides = [p.stride() for p in self.params]
        self._tensors = list(chain(self.params, *columns))
        self._addresses, self._grad_addresses = Addresses(self._tensors), Addresses(grads)
        self._grads = list(map(weakref.ref, grads))

    def _layout_fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether new gradients and their parameters have the same layout as when the bucket was built.

        A new gradient has the shape of its parameter, so its size reveals that `param.data` was replaced by a shorter
        tensor at the same address.
        """
        if list(map(torch.Tensor.numel, grads)) != self._sizes:
            return False
        if self._contiguous:
            if not all(map(torch.Tensor.is_contiguous, [*grads, *self.params])):
                return False
        elif not [g.stride() for g in grads] == [p.stride() for p in self.params] == self._strides:
            return False
        return {g.dtype for g in grads} == {self._dtype} and not any(map(torch.Tensor.is_neg, grads))


def _shares(work: np.ndarray) -> np.ndarray:
    """Return the rows of the work of each ticket as half-open ranges [start, stop), int64[tickets, 2]."""
    begun = np.cumsum(work[:, 2]) - work[:, 2]
    first = np.flatnonzero(np.diff(begun // SHARE, prepend=-1))
    return np.stack([first, [*first[1:], len(work)]], axis=1)


_COPIES = '''"""Generated by fallline; do not edit."""

from numba import cfunc
from fallline.backends.fused.intrinsics import *


@cfunc(entry, cache=True)
def put_back(call):
    table, work, shares = table_of(call, 0, int64_at), table_of(call, 1, int64_at), table_of(call, 2, int64_at)
    column, size = table_of(call, 3, int64_at)[0]
    while True:
        ticket = take_ticket(call)
        if ticket >= shares.shape[0]:
            return
        for w in range(shares[ticket, 0], shares[ticket, 1]):
            t, start = work[w, 0], size * work[w, 1]
            copy_past_cache(table[t, 0] + start, table[t, column] + start, size * work[w, 2])
'''


@functools.cache
def _copies() -> ModuleType:
    return load_module("copies", _COPIES)

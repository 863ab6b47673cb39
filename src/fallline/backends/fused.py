"""The fused backend: one compiled kernel over all tensors of a bucket, cut into chunks."""

import math
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch

from fallline.backends.addresses import Addresses
from fallline.backends.bucket import Bucket
from fallline.backends.kernels import DTYPES, Kernel, compile_update
from fallline.backends.threads import run_on_threads
from fallline.backends.trace import trace
from fallline.rule import ALL, TENSOR

# Elements; 64 Ki of four float32 arrays are 1 MiB, large enough to hide a ticket and small enough to share out evenly.
CHUNK = 65536
# Bytes read and written below which waking another thread costs more than it saves: 25 MB of small tensors took
# 0.41 ms on one thread and 0.43 ms on two, 41 MB took 0.60 and 0.45 ms (2 cores, 32 MB of last-level cache).
PARALLEL = 32 << 20
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def can_serve(param: torch.Tensor, grad: torch.Tensor, state: Mapping[str, Any]) -> bool:
    """Return whether the kernels can update this parameter: plain dense CPU memory in one common order."""
    tensors = [param, grad, *(value for key, value in state.items() if key != "step")]
    return (
        type(param) in _PLAIN
        and param.numel() > 0
        and param.device.type == "cpu"
        and grad.dtype == param.dtype
        and all(
            str(t.dtype).removeprefix("torch.") in DTYPES
            and t.device == param.device
            and t.layout is torch.strided
            and not t.is_neg()
            and t.shape == param.shape
            for t in tensors
        )
        and (param.dtype == torch.float64) == any(t.dtype == torch.float64 for t in tensors)
        and _one_order(tensors)
    )


def _one_order(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether element i of the memory is the same element of every tensor, with no gaps."""
    if all(t.is_contiguous() for t in tensors):
        return True
    first = tensors[0]
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    return first.permute(order).is_contiguous() and all(t.stride() == first.stride() for t in tensors)


class FusedBucket(Bucket):
    """Runs a generated kernel over a table of addresses."""

    _kernels: tuple[Kernel, ...] = ()
    _grads: list[weakref.ref[torch.Tensor]]  # weak, or zero_grad() would free nothing before the next step
    _grad_addresses: Addresses

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether addresses and layouts allow the kernel; refreshes the table where gradients have moved.

        This runs before every step; a check costs up to 0.1 us a tensor, as much as the update of a small one. So
        each is one pass in C, and gradients that are the objects of the last step, at the same addresses, keep
        their layout.
        """
        if not self._kernels:
            self._prepare(grads)
        try:
            columns = [list(map(itemgetter(key), self.states)) for key in self.update.state]
            kept = all(map(is_, grads, [ref() for ref in self._grads]))
            moved = None if kept and self._grad_addresses.hold(grads) else Addresses(grads)
        except (RuntimeError, TypeError, KeyError):  # sparse gradient, no gradient, no state
            return False
        same = all(map(is_, chain(self.params, *columns), self._tensors))
        if not (same and self._addresses.hold(self._tensors)):
            return False
        if moved is not None:
            if not self._layout_fits(grads):
                return False
            self._table[:, 1] = moved.values
            self._grad_addresses = moved
            self._grads = list(map(weakref.ref, grads))
        return True

    def sum_of_squares(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> float:
        """Run the pass that sums what the next norm over all parameters is taken of."""
        kernel = [k for k in self._kernels if k.sweep.scope == ALL][len(norms)]
        squares = self._run(kernel, numbers, dict(zip(self._norms, norms, strict=False)))
        return math.fsum(squares[:, 0].tolist())

    def step(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> None:
        """Run the passes that take norms of single tensors, then the one that writes."""
        known: dict[str, Any] = dict(zip(self._norms, norms, strict=False))
        for kernel in self._kernels:
            if kernel.sweep.scope == TENSOR:
                squares = np.add.reduceat(self._run(kernel, numbers, known), self._starts, axis=0)
                known |= zip(kernel.sweep.norms, np.sqrt(squares).T, strict=True)
        self._run(self._kernels[-1], numbers, known)
        torch.autograd.graph.increment_version(self.params)

    def _run(self, kernel: Kernel, numbers: Sequence[Mapping[str, float]], norms: Mapping[str, Any]) -> np.ndarray:
        """Run one pass over all chunks; return the sums of squares of each chunk, in the order of the chunks."""
        real = np.float64 if self.params[0].dtype == torch.float64 else np.float32
        scalars = self._scalars(kernel, numbers, norms)
        squares = np.empty((len(self._work) if kernel.sweep.scope else 1, max(1, len(kernel.sweep.norms))))
        with np.errstate(over="ignore", under="ignore"):  # a number beyond float32 is Inf there, as in torch
            scalars = np.ascontiguousarray(scalars, dtype=real)
        work = partial(kernel.run, self._table, self._work, scalars, np.zeros(1, dtype=np.int64), squares)
        if self._traffic >= PARALLEL and torch.get_num_threads() > 1:
            run_on_threads(work)
        else:
            work()
        return squares

    def _scalars(self, kernel: Kernel, numbers: Sequence[Mapping[str, float]], norms: Mapping[str, Any]) -> np.ndarray:
        """Return the numbers that the loop reads: a row for each of `numbers`, or a tensor where norms differ."""
        names = self.update.scalars
        if not self._per_tensor:
            rows = [kernel.scalars(**{name: row[name] for name in names}, **norms) for row in numbers]
            return np.array(rows, dtype=np.float64).reshape(len(rows), len(kernel.sweep.scalars))
        arrays = {name: np.array([row[name] for row in numbers], dtype=np.float64)[self.rows] for name in names}
        with np.errstate(all="ignore"):
            columns = kernel.scalars(**arrays, **norms)
        table = [np.broadcast_to(column, len(self.rows)) for column in columns]
        return np.stack(table, axis=1) if table else np.empty((len(self.rows), 0))

    def _prepare(self, grads: Sequence[torch.Tensor]) -> None:
        columns = [[state[key] for state in self.states] for key in self.update.state]
        tensors = [self.params, list(grads), *columns]
        self._kernels = compile_update(self.update, tuple(str(c[0].dtype).removeprefix("torch.") for c in tensors))
        self._norms = trace(self.update).norms
        self._per_tensor = trace(self.update).per_tensor
        rows = range(len(self.rows)) if self._per_tensor else self.rows
        self._table = np.array([[t.data_ptr() for t in column] for column in tensors] + [list(rows)]).T.copy()
        self._sizes = sizes = [p.numel() for p in self.params]
        self._work = np.array(
            [(t, start, min(CHUNK, n - start)) for t, n in enumerate(sizes) for start in range(0, n, CHUNK)]
        )
        self._starts = np.flatnonzero(self._work[:, 1] == 0)
        written = sum(column[0].element_size() for column in (self.params, *columns))
        self._traffic = sum(sizes) * (2 * written + grads[0].element_size())
        self._contiguous = all(p.is_contiguous() for p in self.params)
        self._strides = [p.stride() for p in self.params]
        self._tensors = list(chain(self.params, *columns))
        self._addresses, self._grad_addresses = Addresses(self._tensors), Addresses(grads)
        self._grads = list(map(weakref.ref, grads))

    def _layout_fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether new gradients, and their parameters, are stored as when the bucket was made.

        A new gradient has the shape of its parameter, so its size tells when `param.data` was cut at its old address.
        """
        if list(map(torch.Tensor.numel, grads)) != self._sizes:
            return False
        if self._contiguous:
            if not all(map(torch.Tensor.is_contiguous, [*grads, *self.params])):
                return False
        elif not [g.stride() for g in grads] == [p.stride() for p in self.params] == self._strides:
            return False
        return {g.dtype for g in grads} == {self.params[0].dtype} and not any(map(torch.Tensor.is_neg, grads))

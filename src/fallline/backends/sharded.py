"""Buckets of parameters that are spread over processes: each process updates its part, norms are of the whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fallline.backends.bucket import Bucket
from fallline.backends.foreach import ForeachBucket
from fallline.backends.ir import Pass
from fallline.backends.ir_runner import Numbers, TracedBucket
from fallline.dtensor import local, local_like, numbering, sum_over_shards
from fallline.rules.update import Update


@dataclass
class _Part:
    """Local parts that one bucket updates: which parameters of the whole they are of, by number."""

    bucket: TracedBucket
    members: list[int] = field(default_factory=list)


def key_of(backend: str, update: Update, param: Any, grad: Any) -> tuple[Any, ...]:
    """Return the key of the bucket that a parameter belongs into: the same on every process.

    Norms are summed over processes bucket by bucket, so a process must not sort by what it alone sees: that its part
    is empty, say, or lies differently in memory. Inside the bucket it may.
    """
    return update, "sharded", backend, param.device_mesh, param.placements, grad.placements, param.dtype


@dataclass
class ShardedBucket(TracedBucket):
    """DTensors of one mesh and placement; buckets of the other backends update their local parts.

    Where `backend` or its reference cannot serve a part, the foreach backend does, which takes any layout. Complex
    parts are seen as pairs of reals.
    """

    backend: str = "auto"
    bucket_for: Callable[..., tuple[Any, Callable[[Update], Bucket]]] = field(kw_only=True)
    _parts: dict[Any, _Part] = field(default_factory=dict)
    _locals: list[dict[str, torch.Tensor]] = field(default_factory=list)
    _places: tuple[Any, ...] = ()

    def add(
        self, param: torch.Tensor, state: dict[str, Any], row: int, place: int, origin: int | torch.Tensor = 0
    ) -> None:
        """Append one parameter, and its local part to a bucket that can serve it."""
        super().add(param, state, row, place, origin)
        here = {"param": local(param), **{key: local(state[key]) for key in self.update.state}}
        self._locals.append(here)
        self._places = param.grad.placements  # type: ignore[union-attr]
        seen = {key: _real(tensor) for key, tensor in here.items()}
        states = {key: seen[key] for key in self.update.state}
        own = numbering(param) if self.update.rounds else 0
        key, bucket = self._bucket_of(param, states, seen["param"], own)
        part = self._parts.setdefault(key, _Part(bucket))
        part.bucket.add(seen["param"], states, row, place, own)
        part.members.append(len(self.params) - 1)

    def _bucket_of(
        self, param: Any, states: Mapping[str, torch.Tensor], part: torch.Tensor, origin: int | torch.Tensor
    ) -> tuple[Any, TracedBucket]:
        """Return a new bucket that can serve a local part, and the key of all that it can serve."""
        backend = self.backend
        if isinstance(origin, torch.Tensor) or origin + part.numel() >= 2**32 or (backend == "compile" and origin):
            backend = "foreach"  # the others count the elements that they round from 0, or in 32 bits
        if backend != "reference" and self._places == param.placements:
            key, make = self.bucket_for(backend, self.update, part, _real(local(param.grad)), states)
            bucket = make(self.update)
            if isinstance(bucket, TracedBucket):
                return key, bucket
        return ("foreach", *(tensor.dtype for tensor in (part, *states.values()))), ForeachBucket(self.update)

    def fits(self, grads: Sequence[Any]) -> bool:
        """Return whether every gradient, parameter and state is spread as before, and the local parts still fit."""
        if any(grad is None or getattr(grad, "placements", None) != self._places for grad in grads):
            return False
        for param, state, here in zip(self.params, self.states, self._locals, strict=True):
            if local(param) is not here["param"]:
                return False
            if any(state.get(key) is None or local(state[key]) is not here[key] for key in self.update.state):
                return False
        if self._places != self.params[0].placements:  # type: ignore[attr-defined]
            return True  # gradients that must be sent around first; their parts are served in any layout
        parts = self._split(grads)
        return all(part.bucket.fits(own) for part, own in zip(self._parts.values(), parts, strict=True))

    def sums(self, sweep: Pass, grads: Sequence[Any], scalars: np.ndarray) -> np.ndarray:
        """Run a pass that sums squares, over the whole of each parameter; a collective call."""
        total = np.zeros((len(self.params), len(sweep.outputs)))
        for part, own in zip(self._parts.values(), self._split(grads), strict=True):
            total[part.members] = part.bucket.sums(sweep, own, self._own(part, scalars))
        return sum_over_shards(total, self.params[0])

    def write(self, sweep: Pass, grads: Sequence[Any], scalars: np.ndarray, numbers: Numbers) -> None:
        """Run the pass that writes, on the local parts."""
        for part, own in zip(self._parts.values(), self._split(grads), strict=True):
            part.bucket.write(sweep, own, self._own(part, scalars), numbers)
        torch.autograd.graph.increment_version(self.params)

    def put_back(self, key: str) -> None:
        """Give every parameter the value of its state `key`."""
        for part in self._parts.values():
            part.bucket.put_back(key)

    def _split(self, grads: Sequence[Any]) -> list[list[torch.Tensor]]:
        """Return the local gradients of each part."""
        here = [_real(local_like(grad, param)) for grad, param in zip(grads, self.params, strict=True)]
        return [[here[member] for member in part.members] for part in self._parts.values()]

    def _own(self, part: _Part, scalars: np.ndarray) -> np.ndarray:
        return scalars[part.members] if self.traced.per_tensor else scalars


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor

"""Buckets of sharded parameters: each process updates its local parts, and norms are computed over all shards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fallline.backends.bucket import Bucket
from fallline.backends.foreach import ForeachBucket
from fallline.backends.ir import Pass
from fallline.backends.ir_runner import Numbers, TracedBucket
from fallline.dtensor import local, local_like, local_part, numbering, sum_over_shards
from fallline.rules.update import Update


@dataclass
class _Part:
    """A bucket of local parts, and the indices of their parameters in the `ShardedBucket`."""

    bucket: TracedBucket
    members: list[int] = field(default_factory=list)


def key_of(backend: str, update: Update, param: Any, grad: Any) -> tuple[Any, ...]:
    """Return the key of the bucket of a parameter, which is the same on every process.

    Norms are summed over processes bucket by bucket, so the key must not depend on properties of the local part, such
    as whether it is empty or how it is stored. Inside the bucket, each process may group its parts by them.
    """
    return update, "sharded", backend, param.device_mesh, param.placements, grad.placements, param.dtype


@dataclass
class ShardedBucket(TracedBucket):
    """DTensors of one mesh and placement; buckets of the other backends update their local parts.

    If `backend` does not support a part, the foreach backend updates it, which supports any layout. Complex parts are
    viewed as pairs of real numbers.
    """

    backend: str = "auto"
    bucket_for: Callable[..., tuple[Any, Callable[[Update], Bucket]]] = field(kw_only=True)
    _parts: dict[Any, _Part] = field(default_factory=dict)
    _locals: list[dict[str, torch.Tensor]] = field(default_factory=list)
    _places: tuple[Any, ...] = ()

    def add(
        self, param: torch.Tensor, state: dict[str, Any], row: int, place: int, origin: int | torch.Tensor = 0
    ) -> None:
        """Append one parameter, and add its local part to a bucket that supports it."""
        super().add(param, state, row, place, origin)
        shards = {"param": local(param), **{key: local_part(state[key]) for key in self.update.tensors}}
        self._locals.append(shards)
        self._places = param.grad.placements  # type: ignore[union-attr]
        reals = {key: _real(tensor) for key, tensor in shards.items()}
        states = {key: reals[key] for key in self.update.tensors}
        own = numbering(param) if self.update.rounds else 0
        key, bucket = self._bucket_of(param, states, reals["param"], own)
        part = self._parts.setdefault(key, _Part(bucket))
        part.bucket.add(reals["param"], states, row, place, own)
        part.members.append(len(self.params) - 1)

    def _bucket_of(
        self, param: Any, states: Mapping[str, torch.Tensor], part: torch.Tensor, origin: int | torch.Tensor
    ) -> tuple[Any, TracedBucket]:
        """Return a new bucket that supports a local part, and the key of all parts that can share the bucket."""
        backend = self.backend
        if isinstance(origin, torch.Tensor) or origin + part.numel() >= 2**32 or (backend == "compile" and origin):
            backend = "foreach"  # the other backends number the elements to round from 0, or with 32 bits
        if backend != "reference" and self._places == param.placements:
            key, make = self.bucket_for(backend, self.update, part, _real(local(param.grad)), states)
            bucket = make(self.update)
            if isinstance(bucket, TracedBucket):
                return key, bucket
        return ("foreach", *(tensor.dtype for tensor in (part, *states.values()))), ForeachBucket(self.update)

    def fits(self, grads: Sequence[Any]) -> bool:
        """Return whether all tensors have the same placements and local parts, and their buckets are still valid."""
        if any(grad is None or getattr(grad, "placements", None) != self._places for grad in grads):
            return False
        for param, state, known in zip(self.params, self.states, self._locals, strict=True):
            if local(param) is not known["param"]:
                return False
            if any(state.get(key) is None or local_part(state[key]) is not known[key] for key in self.update.tensors):
                return False
        if self._places != self.params[0].placements:  # type: ignore[attr-defined]
            return True  # gradients have to be redistributed first; the foreach backend supports any layout
        parts = self._split(grads)
        return all(part.bucket.fits(own) for part, own in zip(self._parts.values(), parts, strict=True))

    def sums(self, sweep: Pass, grads: Sequence[Any], scalars: np.ndarray) -> np.ndarray:
        """Run a pass that sums squares over all shards of each parameter; a collective operation."""
        total = np.zeros((len(self.params), len(sweep.outputs)))
        for part, own in zip(self._parts.values(), self._split(grads), strict=True):
            total[part.members] = part.bucket.sums(sweep, own, self._own(part, scalars))
        return sum_over_shards(total, self.params[0])

    def write(self, sweep: Pass, grads: Sequence[Any], scalars: np.ndarray, numbers: Numbers) -> None:
        """Run the pass that writes the results on the local parts."""
        for part, own in zip(self._parts.values(), self._split(grads), strict=True):
            part.bucket.write(sweep, own, self._own(part, scalars), numbers)
        torch.autograd.graph.increment_version(self.params)

    def put_back(self, key: str) -> None:
        """Copy the state `key` of every parameter to the parameter."""
        for part in self._parts.values():
            part.bucket.put_back(key)

    def _split(self, grads: Sequence[Any]) -> list[list[torch.Tensor]]:
        """Return the local gradients of each part."""
        shards = [_real(local_like(grad, param)) for grad, param in zip(grads, self.params, strict=True)]
        return [[shards[member] for member in part.members] for part in self._parts.values()]

    def _own(self, part: _Part, scalars: np.ndarray) -> np.ndarray:
        return scalars[part.members] if self.traced.per_tensor else scalars


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor

"""The reference backend: torch operations on one tensor after the other; any dtype, layout and device, and autograd."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from fallline.backends.blocks import read
from fallline.backends.bucket import Bucket
from fallline.backends.layout import HALF
from fallline.backends.rounding import round_columns
from fallline.backends.split import join, split
from fallline.dtensor import is_sharded, local, local_like, numbering, on_parts, place_like
from fallline.rules.rule import MASTER, TENSOR
from fallline.rules.update import codes_key


class ReferenceBucket(Bucket):
    """Runs the update directly on each tensor; the other backends are tested against its results."""

    def sum_of_squares(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> float:
        """Run the update of each tensor up to the first norm over all parameters that is not in `norms`."""
        total = 0.0
        for tensors in zip(self.params, grads, self.states, self.rows, strict=True):
            try:
                self._new(*tensors, numbers, norms)
            except _NormNeeded as needed:
                total += needed.square
        return total

    def step(
        self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]], norms: Sequence[float]
    ) -> None:
        """Update every parameter and state in place; half precision is computed in float32."""
        names, keys = ("param", *self.update.state), self.rounding_keys(numbers).tolist()
        for index, (param, grad, state, row) in enumerate(zip(self.params, grads, self.states, self.rows, strict=True)):
            new = dict(zip(names, self._new(param, grad, state, row, numbers, norms), strict=True))
            targets, rounded = {"param": param, **state}, self.rounded(index)
            if bits := self.update.remainder_bits:
                new |= zip(("param", MASTER), on_parts(partial(split, bits=bits), new[MASTER]), strict=True)
            origin: int | torch.Tensor = 0
            if is_sharded(param) and self.update.rule.shapes is not None:  # all processes have computed the whole
                new |= round_columns(rounded, new, keys[index])
                new, rounded = {name: local(place_like(value, targets[name])) for name, value in new.items()}, []
                targets = {name: local(targets[name]) for name in names}
                torch.autograd.graph.increment_version([param])
            elif is_sharded(param):  # each process rounds and writes its own part
                new = {name: local_like(value, targets[name]) for name, value in new.items()}
                targets = {name: local(targets[name]) for name in names}
                origin = numbering(param) if rounded else 0
                torch.autograd.graph.increment_version([param])
            codes = {key: state[codes_key(key)] for key in self.update.in_blocks}
            new |= round_columns(rounded, new, keys[index], origin, codes)
            new = {name: value for name, value in new.items() if name not in codes}
            for name, value in new.items():
                target = targets[name]
                if target.is_conj():  # the real view of a conjugated tensor is a copy
                    target.copy_(torch.view_as_complex(value.contiguous()))
                else:
                    _real(target).copy_(value)

    def _new(
        self,
        param: torch.Tensor,
        grad: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        row: int,
        numbers: Sequence[Mapping[str, float]],
        norms: Sequence[float],
    ) -> tuple[torch.Tensor, ...]:
        """Return the new parameter and states.

        If states have other shapes than the parameter, each process gathers the whole tensors and computes all.
        """
        dtype = torch.float32 if param.dtype in HALF else _real(param).dtype
        # Autograd saves the tensors that a differentiable step reads, so they must not be overwritten in place.
        tensors = [param, *(read(state, key) for key in self.update.state)]
        if self.update.remainder_bits:
            tensors[-1] = on_parts(join, param.detach(), state[MASTER])
        if self.update.rule.shapes is not None:
            grad, *tensors = map(_whole, (grad, *tensors))
        old = [_real(t).to(dtype, copy=torch.is_grad_enabled()) for t in tensors]
        known = iter(norms)

        def norm(values: torch.Tensor, scope: str) -> torch.Tensor | float:
            square = _whole(values.double().square().sum())
            if scope == TENSOR:
                return square.sqrt()
            for value in known:
                return value
            raise _NormNeeded(square.item())

        new = self.update(old[0], _real(grad).to(dtype), old[1:], numbers[row], norm)
        # Clone outputs that are inputs, because they would change while other outputs are written.
        return tuple(value.clone() if any(value is tensor for tensor in old) else value for value in new)


class _NormNeeded(Exception):
    """Stops an update at an unknown norm over all parameters; carries the sum of squares of this tensor."""

    def __init__(self, square: float) -> None:
        self.square = square


def _whole(tensor: Any) -> torch.Tensor:
    gathered: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return gathered


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """View a complex tensor as pairs of real numbers, which every rule updates independently, as in PyTorch."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor

"""The reference backend: torch operations, a tensor at a time; any dtype, layout and device, and autograd."""

from collections.abc import Mapping, Sequence

import torch

from fallline.backends.bucket import Bucket

HALF = (torch.float16, torch.bfloat16)


class ReferenceBucket(Bucket):
    """Runs the update as it stands on each tensor; the other backends are held to its results."""

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether every parameter still has a dense gradient and its state; nothing else was assumed."""
        dense = all(g is not None and g.layout is torch.strided for g in grads)
        return dense and all(state.get(key) is not None for state in self.states for key in self.update.state)

    def step(self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]]) -> None:
        """Update every parameter and state in place, computing half precision in float32."""
        for param, grad, state, row in zip(self.params, grads, self.states, self.rows, strict=True):
            old = [param, *(state[key] for key in self.update.state)]
            dtype = torch.float32 if param.dtype in HALF else _real(param).dtype
            # Autograd keeps what a differentiable step reads, so that must not be what it writes to.
            wide = [_real(t).to(dtype, copy=torch.is_grad_enabled()) for t in old]
            new = self.update(wide[0], _real(grad).to(dtype), wide[1:], numbers[row])
            for target, value in zip(old, new, strict=True):
                if target.is_conj():  # its real view is a copy
                    target.copy_(torch.view_as_complex(value.contiguous()))
                else:
                    _real(target).copy_(value)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """View a complex tensor as pairs of reals: every rule treats the two parts alike, as PyTorch's do."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor

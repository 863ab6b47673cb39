"""The reference backend: torch operations, a tensor at a time; any dtype, layout and device, and autograd."""

from collections.abc import Mapping, Sequence

import torch

from fallline.backends.bucket import Bucket

HALF = (torch.float16, torch.bfloat16)


class ReferenceBucket(Bucket):
    """Runs the update as it stands on each tensor; the other backends are held to its results."""

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether every parameter still has a dense gradient; nothing else was assumed."""
        return all(g is not None and g.layout is torch.strided for g in grads)

    def step(self, grads: Sequence[torch.Tensor], numbers: Sequence[Mapping[str, float]]) -> None:
        """Update every parameter and state in place, computing half precision in float32."""
        for param, grad, state, row in zip(self.params, grads, self.states, self.rows, strict=True):
            old = [_real(t) for t in (param, *(state[key] for key in self.update.state))]
            dtype = torch.float32 if param.dtype in HALF else old[0].dtype
            wide = [t.to(dtype) for t in old]
            new = self.update(wide[0], _real(grad).to(dtype), wide[1:], numbers[row])
            for target, value in zip(old, new, strict=True):
                target.copy_(value)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """View a complex tensor as pairs of reals: every rule treats the two parts alike, as PyTorch's do."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor

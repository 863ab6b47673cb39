"""Compute the Hessian of a small network with LayerNorm in four ways, of which one is wrong.

python examples/landscape/layernorm_hessian.py

The reference is a central difference of gradients in float64, which needs no second derivative.
"""

from collections.abc import Callable

import torch
from torch import nn

import fallline as fl


def differences(gradient: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor) -> torch.Tensor:
    """Return the matrix of central differences of a gradient."""
    steps = 1e-5 * torch.eye(len(point), dtype=point.dtype)
    return torch.stack([(gradient(point + step) - gradient(point - step)) / 2e-5 for step in steps])


def main() -> dict[str, float]:
    """Return the largest error of each way."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.randint(2, (10,))
    params = dict(model.named_parameters())
    point = torch.cat([p.detach().reshape(-1) for p in params.values()])

    def value(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([p.numel() for p in params.values()])
        named = {name: part.view(p.shape) for part, (name, p) in zip(parts, params.items(), strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    H = fl.landscape.Hessian(model, lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]), (x, y))
    found = {
        "torch.func.hessian": torch.func.hessian(value)(point),
        "torch.func.jacfwd(torch.func.grad)": torch.func.jacfwd(torch.func.grad(value))(point),
        "torch.autograd.functional.hessian": torch.autograd.functional.hessian(value, point),
        "fl.landscape.Hessian": H @ torch.eye(H.shape[0], dtype=torch.float64),
    }
    reference = differences(torch.func.grad(value), point)
    print(f"torch {torch.__version__}; the largest element is {reference.abs().max():.3f}")
    errors = {name: (matrix - reference).abs().max().item() for name, matrix in found.items()}
    for name, error in errors.items():
        skew = (found[name] - found[name].T).abs().max()
        print(f"{name:36} largest error {error:.1e}, largest asymmetry {skew:.1e}")
    return errors


if __name__ == "__main__":
    main()

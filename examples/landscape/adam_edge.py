"""Full-batch Adam drives its preconditioned sharpness to 38/lr (Cohen et al. 2022, arXiv:2207.14484).

python examples/landscape/adam_edge.py

Gradient descent that steps along a running mean of the gradients (β1 = 0.9) is stable up to a curvature of
2(1 + β1)/(1 − β1)/lr = 38/lr. For Adam this applies to the preconditioned curvature, that of the Hessian divided by
√v̂ + eps; the sharpness of the plain Hessian does not determine the stability of Adam.
"""

import torch
from digits_mlp import data, network, squared_error

import fallline as fl

LR, STEPS, EVERY = 2e-3, 4000, 250


def along(seed: int = 0) -> list[float]:
    """Train from a seed; print and return the preconditioned sharpness, as a fraction of its limit."""
    batch, model, found = data(), network(seed), []
    opt = fl.Adam(model.parameters(), lr=LR, eps=1e-7)
    curvature = fl.landscape.Hessian(model, squared_error, [batch])
    for step in range(1, STEPS + 1):
        opt.zero_grad()
        loss = squared_error(model, batch)
        loss.backward()
        opt.step()
        if step % EVERY == 0:
            found.append(fl.landscape.sharpness(curvature, opt).ratio)
    print(f"Adam, lr {LR}: loss {loss.item():.6f}; preconditioned sharpness · lr / 38 every {EVERY} steps:")
    print("  " + " ".join(f"{x:.2f}" for x in found))
    return found


def main() -> list[float]:
    """Print and return the preconditioned sharpness during training, as a fraction of its limit."""
    torch.set_num_threads(1)
    return along()


if __name__ == "__main__":
    main()

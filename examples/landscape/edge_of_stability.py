"""Full-batch gradient descent drives the sharpness to 2/lr and keeps it there (Cohen et al. 2021, arXiv:2103.00065).

python examples/landscape/edge_of_stability.py

On a quadratic with a curvature above 2/lr, gradient descent diverges. On a network, the sharpness rises while the loss
falls (progressive sharpening) until it reaches 2/lr. It then stays near this value, and the loss continues to fall,
although not in every step.
"""

import torch
from digits_mlp import data, network, squared_error

import fallline as fl

RATES, STEPS, EVERY = (0.3, 0.5), 3000, 250


def along(lr: float, seed: int = 0) -> list[float]:
    """Train from a seed, print the final loss, and return sharpness · lr every EVERY steps."""
    batch, model, found = data(), network(seed), []
    opt = fl.SGD(model.parameters(), lr=lr)
    curvature = fl.landscape.Hessian(model, squared_error, [batch])
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            found.append(lr * fl.landscape.sharpness(curvature).value)
        opt.zero_grad()
        loss = squared_error(model, batch)
        loss.backward()
        opt.step()
    print(f"lr {lr}: loss {loss.item():.4f}; sharpness · lr every {EVERY} steps, edge at 2:")
    print("  " + " ".join(f"{x:.2f}" for x in found))
    return found


def main() -> dict[float, list[float]]:
    """Print sharpness · lr during training, and return it by learning rate; the limit of stability is 2."""
    torch.set_num_threads(1)
    return {lr: along(lr) for lr in RATES}


if __name__ == "__main__":
    main()

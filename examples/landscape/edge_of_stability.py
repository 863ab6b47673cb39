"""Full-batch gradient descent drives the sharpness to 2/lr, and stays there (Cohen et al. 2021, arXiv:2103.00065).

python examples/landscape/edge_of_stability.py

A quadratic of curvature above 2/lr would throw gradient descent out. A network gives way instead: sharpness rises
while the loss falls (progressive sharpening), up to the edge, and hovers there, the loss falling on, not in every step.
"""

import torch
from digits_mlp import data, network, squared_error

import fallline as fl

RATES, STEPS, EVERY = (0.3, 0.5), 3000, 250


def main() -> dict[float, list[float]]:
    """Print sharpness · lr along the training, and return it by learning rate; the edge is at 2."""
    torch.set_num_threads(1)
    batch, found = data(), {}
    for lr in RATES:
        model = network()
        opt = fl.SGD(model.parameters(), lr=lr)
        curvature = fl.landscape.Hessian(model, squared_error, [batch])
        found[lr] = []
        for step in range(STEPS + 1):
            if step % EVERY == 0:
                found[lr].append(lr * fl.landscape.sharpness(curvature).value)
            opt.zero_grad()
            loss = squared_error(model, batch)
            loss.backward()
            opt.step()
        print(f"lr {lr}: loss {loss.item():.4f}; sharpness · lr every {EVERY} steps, edge at 2:")
        print("  " + " ".join(f"{x:.2f}" for x in found[lr]))
    return found


if __name__ == "__main__":
    main()

"""SAM ends at points of lower curvature than its base optimizer (Foret et al. 2020, arXiv:2010.01412).

python examples/landscape/sam_is_flatter.py

The script trains with momentum alone and with SAM for several ρ, with the same number of steps on the same batches. The
final loss is higher for a larger ρ, so lower curvature comes at a cost. It does not follow that the result generalizes
better: see docs/landscape/sharp-and-flat.md.
"""

import statistics

import torch
from digits_mlp import data, network, squared_error

import fallline as fl

RADII, SEEDS, STEPS, BATCH = (0.0, 0.05, 0.1, 0.2), 3, 1500, 64


def train(rho: float, seed: int) -> tuple[float, float]:
    """Train, and return the loss over all examples and its sharpness."""
    (inputs, targets), model = data(), network(seed)
    opt = fl.SGD(model.parameters(), lr=0.05, momentum=0.9)
    opt = fl.SAM(opt, rho=rho) if rho else opt
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randperm(len(inputs), generator=generator)[:BATCH]

        def closure(rows: torch.Tensor = rows) -> torch.Tensor:
            opt.zero_grad()
            loss = squared_error(model, (inputs[rows], targets[rows]))
            loss.backward()
            return loss

        opt.step(closure)
    curvature = fl.landscape.Hessian(model, squared_error, [(inputs, targets)])
    return squared_error(model, (inputs, targets)).item(), fl.landscape.sharpness(curvature).value


def main() -> dict[float, list[float]]:
    """Print the mean loss and sharpness over the seeds for each ρ, and return the sharpness of every run."""
    torch.set_num_threads(1)
    found: dict[float, list[float]] = {}
    print(f"{'ρ':>6} {'loss':>8} {'sharpness':>10}")
    for rho in RADII:
        losses, found[rho] = zip(*(train(rho, seed) for seed in range(SEEDS)), strict=True)
        print(f"{rho:6g} {statistics.mean(losses):8.4f} {statistics.mean(found[rho]):10.2f}")
    return found


if __name__ == "__main__":
    main()

"""Measure the number of steps by condition number κ: it grows like κ for plain SGD, like √κ with the best momentum.

python examples/landscape/conditioning.py

The function is a quadratic with curvatures from 1 to κ. Gradient descent with its best constant learning rate,
2/(κ + 1), multiplies the distance to the minimum by (κ − 1)/(κ + 1) per step. The best heavy-ball momentum multiplies
it by (√κ − 1)/(√κ + 1) (Polyak 1964).
"""

import math

import torch

import fallline as fl

CONDITIONS = (10.0, 100.0, 1000.0, 10_000.0)
CLOSER = 1e-6  # final distance relative to the initial one


def measured(curvatures: torch.Tensor, lr: float, momentum: float) -> int:
    """Return the steps until the distance to the minimum is CLOSER times the initial distance."""
    point = torch.nn.Parameter(torch.ones_like(curvatures))
    opt = fl.SGD([point], lr=lr, momentum=momentum)
    first, steps = point.detach().norm(), 0
    while point.detach().norm() > CLOSER * first:
        point.grad = curvatures * point.detach()
        opt.step()
        steps += 1
    return steps


def slope(steps: list[float]) -> float:
    """Return the exponent of κ from the last two numbers of steps."""
    return math.log(steps[-1] / steps[-2]) / math.log(CONDITIONS[-1] / CONDITIONS[-2])


def main() -> dict[str, float]:
    """Print the measured and the theoretical numbers of steps, and return the exponents of κ."""
    plain, ball = [], []
    print(f"steps until {CLOSER:g} of the distance is left")
    print(f"{'κ':>8} {'SGD':>8} {'theory':>8} {'momentum':>9} {'theory':>8}")
    for kappa in CONDITIONS:
        curvatures = torch.logspace(0, math.log10(kappa), 20, dtype=torch.float64)
        root = math.sqrt(kappa)
        plain.append(measured(curvatures, 2 / (kappa + 1), 0.0))
        ball.append(measured(curvatures, 4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2))
        expected = [math.log(CLOSER) / math.log((r - 1) / (r + 1)) for r in (kappa, root)]
        print(f"{kappa:8g} {plain[-1]:8d} {expected[0]:8.0f} {ball[-1]:9d} {expected[1]:8.0f}")
    found = {"SGD": slope(plain), "momentum": slope(ball)}
    print(f"exponent of κ: SGD {found['SGD']:.2f} (theory 1), momentum {found['momentum']:.2f} (theory 1/2)")
    return found


if __name__ == "__main__":
    main()

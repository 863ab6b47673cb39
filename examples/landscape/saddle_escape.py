"""Measure how long SGD with and without momentum takes to leave a saddle, and compare with theory.

python examples/landscape/saddle_escape.py

Near a saddle the function is −y²/2 along the direction of descent. Plain SGD multiplies y by 1 + lr per step. With
momentum β, y grows by the larger root r of r² − (1 + β + lr)·r + β = 0, which is 1.092 instead of 1.01 here. The number
of steps grows with log(1/y), so a start close to the ridge costs few extra steps. A start exactly on the ridge never
leaves it.
"""

import math

import torch

import fallline as fl
from fallline.problems import PROBLEMS

LR, MOMENTUM, AWAY = 0.01, 0.9, 0.1
STARTS = (1e-2, 1e-4, 1e-8)


def measured(momentum: float, start: float, most: int = 20_000) -> float:
    """Return the steps until |y| exceeds AWAY on the surface `saddle`, or infinity if it does not within `most`."""
    point = torch.nn.Parameter(torch.tensor([1.0, start], dtype=torch.float64))
    opt = fl.SGD([point], lr=LR, momentum=momentum)
    for step in range(most):
        if abs(point[1].item()) > AWAY:
            return step
        opt.zero_grad()
        PROBLEMS["saddle"](point).backward()
        opt.step()
    return math.inf


def theory(momentum: float, start: float) -> float:
    """Return the same number of steps by the closed form of the recursion, with curvature −1 along y."""
    total = 1 + momentum + LR
    root = math.sqrt(total**2 - 4 * momentum)
    fast, slow = (total + root) / 2, (total - root) / 2
    share = (1 + LR - slow) / (fast - slow)  # the part of the start that grows: y_1 = (1 + lr)·y_0
    return math.log(AWAY / (share * start)) / math.log(fast)


def main() -> list[tuple[float, float, float, float]]:
    """Print and return momentum, start, measured steps and theoretical steps."""
    rows = [(m, y, measured(m, y), theory(m, y)) for m in (0.0, MOMENTUM) for y in STARTS]
    print(f"steps from y to |y| > {AWAY} at lr {LR}\n{'momentum':>8} {'y':>7} {'measured':>9} {'theory':>7}")
    for momentum, start, steps, expected in rows:
        print(f"{momentum:8g} {start:7g} {steps:9.0f} {expected:7.1f}")
    print(f"on the ridge itself, y = 0, with momentum: {measured(MOMENTUM, 0.0)} steps")
    return rows


if __name__ == "__main__":
    main()

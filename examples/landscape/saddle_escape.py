"""How long a saddle holds plain SGD, and SGD with momentum: measured against the roots of the linear recursion.

python examples/landscape/saddle_escape.py

Near a saddle the height is −y²/2 along the way down. Plain SGD multiplies y by 1 + lr a step. With momentum β, y grows
by the larger root r of r² − (1 + β + lr)·r + β = 0: 1.092 instead of 1.01 here. Both need a number of steps that grows
with log(1/y): closeness to the ridge is forgiven, but on it no rule leaves.
"""

import math

import torch

import fallline as fl
from fallline.problems import PROBLEMS

LR, MOMENTUM, AWAY = 0.01, 0.9, 0.1
STARTS = (1e-2, 1e-4, 1e-8)


def measured(momentum: float, start: float, most: int = 20_000) -> float:
    """Return the steps until |y| exceeds AWAY on the surface `saddle`, infinite if it does not within `most`."""
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
    """Return the same steps from the closed form of the recursion, the curvature being −1 along y."""
    total = 1 + momentum + LR
    root = math.sqrt(total**2 - 4 * momentum)
    fast, slow = (total + root) / 2, (total - root) / 2
    share = (1 + LR - slow) / (fast - slow)  # of the start that grows: y_1 = (1 + lr)·y_0
    return math.log(AWAY / (share * start)) / math.log(fast)


def main() -> list[tuple[float, float, float, float]]:
    """Print and return momentum, start, steps measured and steps by theory."""
    rows = [(m, y, measured(m, y), theory(m, y)) for m in (0.0, MOMENTUM) for y in STARTS]
    print(f"steps from y to |y| > {AWAY} at lr {LR}\n{'momentum':>8} {'y':>7} {'measured':>9} {'theory':>7}")
    for momentum, start, steps, expected in rows:
        print(f"{momentum:8g} {start:7g} {steps:9.0f} {expected:7.1f}")
    print(f"on the ridge itself, y = 0, with momentum: {measured(MOMENTUM, 0.0)} steps")
    return rows


if __name__ == "__main__":
    main()

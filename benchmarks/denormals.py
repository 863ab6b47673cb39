"""Measure how much longer a step takes with denormals.  python benchmarks/denormals.py [--rounds N]

Every contender makes steps on ordinary numbers, on denormal states with ordinary gradients, and on denormal gradients
and states. They take turns, and a time is the minimum of the CPU time over the rounds, which other processes affect
least.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

import fallline

ELEMENTS = 1 << 20
TINY = 1e-40
# Gradients and states of each kind of step.
KINDS = {"ordinary": (1e-3, 1e-3), "denormal states": (1e-3, TINY), "denormal gradients and states": (TINY, TINY)}
HALF_STATE = {"state_dtype": torch.bfloat16}
CONTENDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "AdamW": (fallline.AdamW, {}),
    "AdamW, bfloat16 state": (fallline.AdamW, HALF_STATE),
    "SGD, momentum": (fallline.SGD, {"momentum": 0.9}),
    "Lion": (fallline.Lion, {}),
    "RMSprop": (fallline.RMSprop, {}),
    "AdamW, foreach backend": (fallline.AdamW, {"backend": "foreach"}),
    "AdamW, compile backend": (fallline.AdamW, {"backend": "compile"}),
    "AdamW, reference backend": (fallline.AdamW, {"backend": "reference"}),
    "torch AdamW, fused": (torch.optim.AdamW, {"fused": True}),
    "torch AdamW, foreach": (torch.optim.AdamW, {"foreach": True}),
    "torch SGD, momentum, fused": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
}


def prepared_step(cls: Any, options: dict[str, Any], grad: float, state: float) -> Callable[[], float]:
    """Return a call that sets the states, makes a step and returns its CPU time in seconds."""
    generator = torch.Generator().manual_seed(0)
    param = torch.nn.Parameter(torch.randn(ELEMENTS, generator=generator))
    param.grad = grad * (1 + torch.rand(ELEMENTS, generator=generator))
    optimizer = cls([param], lr=1e-4, **options)
    optimizer.step()

    def call() -> float:
        for value in optimizer.state[param].values():
            if value.shape == param.shape:
                value.fill_(state)
        began = time.process_time()
        optimizer.step()
        return time.process_time() - began

    return call


def measure(cls: Any, options: dict[str, Any], rounds: int) -> dict[str, float]:
    """Return the milliseconds of a step of each kind."""
    steps = {kind: prepared_step(cls, options, *values) for kind, values in KINDS.items()}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, step in steps.items():
            times[kind].append(step())
    return {kind: 1e3 * min(taken) for kind, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=51, help="steps of each kind (default 51)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)  # threads that wait for others spin, and so take CPU time
    print(
        f"{platform.machine()}, 1 thread, torch {torch.__version__}, {ELEMENTS:,} elements, "
        f"{rounds} rounds; CPU time, and its ratio to ordinary numbers (target for the fused backend: 1.2)\n"
    )
    print("| optimizer | ordinary, ms | denormal states | denormal gradients and states |\n|---|--:|--:|--:|")
    for name, (cls, options) in CONTENDERS.items():
        ms = list(measure(cls, options, rounds).values())
        print(f"| {name} | {ms[0]:.1f} | {ms[1] / ms[0]:.2f} | {ms[2] / ms[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""The peak of memory of a training with ordinary steps, and with steps in the backward pass, measured.

python examples/step_in_backward.py

Each training runs in a process of its own; what counts is its resident memory at most, as the operating system tells.
"""

import re
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import nn

import fallline as fl

# 288 MB of float32 parameters, and as much of gradients. A matrix has more than 32 MB: what is smaller, glibc may keep
# in its heap when it is freed (MALLOC_MMAP_THRESHOLD_=1000000 makes it give that back as well).
WIDTH, LAYERS = 3072, 8
MB = 2**20


def train(in_backward: bool) -> tuple[float, float]:
    """Return the peak of resident memory in MB, and a loss that shows that both trainings are the same."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    opt = fl.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if in_backward:
        fl.step_in_backward(model, opt)
    x = torch.randn(4, WIDTH)
    for _ in range(3):
        loss = (model(x) - x).square().mean()
        loss.backward()
        opt.step()  # finds no gradients after step_in_backward; schedulers count it
        opt.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MB if sys.platform == "darwin" else 1024), loss.item()


def numbers(output: str) -> tuple[float, float]:
    """Return from what this script prints how many MB were saved, and how many can be."""
    saved, gradients, one = re.findall(r"(\d+) MB less; the gradients are (\d+) MB, the largest (\d+) MB", output)[0]
    return float(saved), float(gradients) - float(one)


def main() -> None:
    """Print both peaks."""
    results = []
    for in_backward in (False, True):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            results.append(pool.submit(train, in_backward).result())
    (before, loss), (after, same) = results
    print(f"ordinary steps: peak {before:.0f} MB; steps in backward: peak {after:.0f} MB")
    one = WIDTH * WIDTH * 4 / MB  # is there while it is used
    print(f"{before - after:.0f} MB less; the gradients are {one * LAYERS:.0f} MB, the largest {one:.0f} MB")
    print(f"last losses {loss:.9f} and {same:.9f}: {'the same' if loss == same else 'NOT the same'}")


if __name__ == "__main__":
    main()

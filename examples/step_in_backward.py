"""Measure the peak memory of a training with ordinary steps and with steps in the backward pass.

python examples/step_in_backward.py

Each training runs in a separate process. The script prints the peak resident memory that the operating system reports.
"""

import re
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import nn

import fallline as fl

# 288 MB of float32 parameters and 288 MB of gradients. A matrix has more than 32 MB, because glibc may keep smaller
# blocks in its heap when they are freed (MALLOC_MMAP_THRESHOLD_=1000000 makes it return those as well).
WIDTH, LAYERS = 3072, 8
MB = 2**20


def train(in_backward: bool) -> tuple[float, float]:
    """Return the peak resident memory in MB, and the last loss, which is the same for both ways of training."""
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
        opt.step()  # after step_in_backward there are no gradients left; schedulers count the call
        opt.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MB if sys.platform == "darwin" else 1024), loss.item()


def numbers(output: str) -> tuple[float, float]:
    """Return, from the output of this script, how many MB were saved and how many could be saved."""
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
    one = WIDTH * WIDTH * 4 / MB  # exists while it is used
    print(f"{before - after:.0f} MB less; the gradients are {one * LAYERS:.0f} MB, the largest {one:.0f} MB")
    print(f"last losses {loss:.9f} and {same:.9f}: {'the same' if loss == same else 'NOT the same'}")


if __name__ == "__main__":
    main()

"""Measure the cost of Hessian products relative to a gradient.  python benchmarks/products.py

Every round times a gradient (forward and backward pass) and a product by each method, so that a slow moment of the
machine affects all of them. A cell is the median over the rounds of the ratio to the gradient of the same round.
"""

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from peers import FOLDER
from torch import nn

from fallline.errors import LandscapeWarning
from fallline.lab.tasks import get_task
from fallline.landscape import Hessian

MODELS = {"digits": 256, "digits-cnn": 256, "fashion-mnist": 256, "text": 16}


def timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def torch_vhp(model: nn.Module, loss: Any, batch: Any, vector: torch.Tensor) -> Callable[[], Any]:
    """Use `torch.autograd.functional.vhp` as documented, with a new graph for each product."""
    names, params = zip(*model.named_parameters(), strict=True)
    parts = tuple(v.view(p.shape) for v, p in zip(vector.split([p.numel() for p in params]), params, strict=True))
    call = _Call(model, loss)

    def value(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip((f"model.{name}" for name in names), values, strict=True))
        return torch.func.functional_call(call, named, (batch,))

    point = tuple(p.detach() for p in params)
    return lambda: torch.autograd.functional.vhp(value, point, parts)


class _Flat(nn.Module):
    """A classifier whose outputs are always rows, as the other packages require."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).flatten(0, -2)


def pyhessian(model: nn.Module, batch: Any, vector: torch.Tensor) -> Callable[[], Any]:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    made = hessian(
        model, nn.CrossEntropyLoss(), data=batch, cuda=False
    )  # it keeps the graph of one batch, like Fallline
    parts = [v.view(p.shape) for v, p in zip(vector.split([p.numel() for p in made.params]), made.params, strict=True)]
    return lambda: hessian_vector_product(made.gradsH, made.params, parts)


def curvlinops(model: nn.Module, batch: Any, vector: torch.Tensor) -> Callable[[], Any]:
    from curvlinops import HessianLinearOperator

    params = list(model.parameters())
    made = HessianLinearOperator(model, nn.CrossEntropyLoss(), params, [batch], check_deterministic=False)
    return lambda: made @ vector


def hessian_eigenthings(model: nn.Module, batch: Any, vector: torch.Tensor) -> Callable[[], Any]:
    from hessian_eigenthings import HessianOperator

    made = HessianOperator(model, [batch], lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]))
    return lambda: made.matvec(vector)


def peers(model: nn.Module, batch: Any, vector: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return a product by every other package that is installed (`make bench` installs them into .peers)."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    flat, rows = _Flat(model), (batch[0], batch[1].flatten())
    found = {}
    for make in (pyhessian, curvlinops, hessian_eigenthings):
        try:
            found[make.__name__] = make(flat, rows, vector)
        except ImportError as error:
            print(f"{make.__name__}: must be installed to be compared with, got {error}", file=sys.stderr)
    return found


class _Call(nn.Module):
    def __init__(self, model: nn.Module, loss: Any) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> torch.Tensor:
        return self.loss(self.model, batch)


def in_block(H: Hessian, vector: torch.Tensor) -> Callable[[], Any]:
    """Return a product within a `keep_graph` block that ends with the process, as every product of a solver is."""
    block = H.keep_graph()
    block.__enter__()
    return lambda: (H @ vector, block)  # the block would end when it is garbage-collected


def contenders(name: str, size: int) -> dict[str, Callable[[], Any]]:
    """Return a gradient and the methods for a product, all on one batch."""
    task = get_task(name, batch_size=size)
    torch.manual_seed(0)
    model = task.model().eval()
    batch = next(iter(task.batches("train", torch.Generator().manual_seed(0))))
    params = list(model.parameters())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        kept, alone = (Hessian(model, task.loss, batch, weight=task.size) for _ in range(2))
        vector = torch.randn(kept.shape[0])
        found: dict[str, Callable[[], Any]] = {
            "gradient": lambda: torch.autograd.grad(task.loss(model, batch), params),
            "in a solver, with a kept graph": in_block(kept, vector),
            "single product": lambda: alone @ vector,
        }
        halves = [tuple(part[: len(part) // 2] for part in batch), tuple(part[len(part) // 2 :] for part in batch)]
        split = Hessian(model, task.loss, halves, weight=task.size)
        found["two batches, no graph kept"] = lambda: split @ vector
        for hvp in ("jvp", "finite-difference"):
            other = Hessian(model, task.loss, batch, weight=task.size, hvp=hvp)
            found[hvp] = lambda other=other: other @ vector
        found["torch.autograd.functional.vhp"] = torch_vhp(model, task.loss, batch, vector)
        found |= peers(model, batch, vector)
    return found


def measure(name: str, size: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Return ratio to the gradient, and milliseconds, by contender."""
    ways = contenders(name, size)
    times: dict[str, list[float]] = {way: [] for way in ways}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for function in ways.values():
            function()
        for _ in range(rounds):
            for way, function in ways.items():
                times[way].append(timed(function))
    gradient = times["gradient"]
    return {
        way: (
            statistics.median(t / g for t, g in zip(taken, gradient, strict=True)),
            1e3 * statistics.median(taken),
        )
        for way, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", LandscapeWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, {rounds} rounds; in gradients (ms)")
    rows = {name: measure(name, size, rounds) for name, size in MODELS.items()}
    width = max(map(len, rows["digits"]))
    print(" " * width, *(f"{name:>16}" for name in rows))
    for way in rows["digits"]:
        cells = (f"{rows[name][way][0]:7.2f} {f'({rows[name][way][1]:.1f})':>8}" for name in rows)
        print(f"{way:{width}}", *cells)


if __name__ == "__main__":
    main()

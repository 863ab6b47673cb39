"""What the contract checks look at: models, batches and examples of a task, and how fast one batch is learned."""

import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fallline.lab.tasks import Task
from fallline.optimizers import create_optimizer

# A task must pass in a second or two; what the time runs out for is not held against it.
SECONDS = 2.0  # for reading each split
HASHING_SECONDS = 1.0  # for its examples
OVERFIT_SECONDS = 6.0
OVERFIT_STEPS = 200
GOOD_DROP = 0.5  # of one batch's loss: it has been learned
LEARNING_RATES = (1e-3, 1e-2, 1e-4)  # of Adam, the likeliest first
COMPARED = 4  # batches that must come out the same twice
EXAMPLES = 100_000  # of a split at most


def make(task: Task) -> torch.nn.Module:
    """Return the task's model from the same seed every time."""
    torch.manual_seed(0)
    return task.model()


def forward(task: Task, model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Return the loss in the precision of the task."""
    with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bfloat16"):
        return task.loss(model, batch)


def read(task: Task, split: str, seed: int = 0) -> Iterator[Any]:
    """Return a split's batches for a seed of the generator."""
    return iter(task.batches(split, torch.Generator().manual_seed(seed)))


def digests(task: Task, seed: int) -> list[bytes]:
    """Return the content of the first training batches."""
    return [content(batch) for batch in itertools.islice(read(task, "train", seed), COMPARED)]


def content(batch: Any) -> bytes:
    """Return all that a batch holds, as bytes."""
    return b"|".join(as_bytes(leaf) for leaf in _leaves(batch))


def as_bytes(value: Any) -> bytes:
    """Return a tensor's dtype, shape and bits, or a text of anything else."""
    if not isinstance(value, torch.Tensor):
        return repr(value).encode()
    return f"{value.dtype}{tuple(value.shape)}".encode() + _rows(value.unsqueeze(0)).tobytes()


def examples(task: Task, split: str) -> set[int]:
    """Return the hashes of the examples of a split, inputs and targets together, as many as time allows.

    An example is a row of all tensors that are as long as the first one. Training is read for as long as a run does.
    """
    found: set[int] = set()
    began, most = time.monotonic(), task.steps * task.accumulate
    for batch in itertools.islice(read(task, split), most if split == "train" else None):
        tensors = [leaf for leaf in _leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.dim()]
        rows = [_rows(tensor) for tensor in tensors if len(tensor) == len(tensors[0])]
        found.update(hash(row.tobytes()) for row in np.concatenate(rows, 1)) if rows else None
        if len(found) > EXAMPLES or time.monotonic() - began > HASHING_SECONDS:
            break
    return found


def memorise(task: Task, trivial: float) -> tuple[float, float, int]:
    """Train on one batch alone until its loss is halved and below `trivial`.

    Returns:
        The loss at the start, the lowest one, and the most steps that were made at a learning rate.
    """
    batch = next(read(task, "train"))
    began, start, best, longest = time.monotonic(), math.nan, math.inf, 0
    for lr in LEARNING_RATES:
        model = make(task).train()
        optimizer = create_optimizer("adam", task.param_groups(model), lr=lr, backend="reference")
        for step in range(OVERFIT_STEPS + 1):
            loss = forward(task, model, batch)
            value = loss.item()
            start = value if math.isnan(start) else start
            longest = max(longest, step)
            if not math.isfinite(value):
                break
            best = min(best, value)
            learned = start - best > GOOD_DROP * abs(start) and best < trivial
            if learned or time.monotonic() - began > OVERFIT_SECONDS:
                return start, best, longest
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return start, best, longest


def source(task: Task) -> Path | None:
    """Return the file that defines a task, or None."""
    file = getattr(sys.modules.get(type(task).__module__), "__file__", None)
    return Path(file).resolve() if file else None


def _leaves(batch: Any) -> Iterator[Any]:
    """Yield what a batch holds, through containers and objects, in order."""
    if isinstance(batch, np.ndarray):
        yield torch.as_tensor(batch)
    elif isinstance(batch, (torch.Tensor, str, bytes, int, float, complex)) or batch is None:
        yield batch
    elif isinstance(batch, Mapping):
        yield from itertools.chain.from_iterable(map(_leaves, batch.values()))
    elif isinstance(batch, (list, tuple)):
        yield from itertools.chain.from_iterable(map(_leaves, batch))
    elif hasattr(batch, "__dict__"):
        yield from _leaves(vars(batch))


def _rows(tensor: torch.Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the bytes of each row: (n, bytes a row)."""
    dense = tensor.detach().cpu().to_dense() if tensor.is_sparse else tensor.detach().cpu()
    width = dense[0].numel() * dense.element_size() if len(dense) else 0
    return dense.contiguous().reshape(-1).view(torch.uint8).numpy().reshape(len(dense), width)

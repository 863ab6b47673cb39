"""The global random number generators of torch, NumPy and Python: seeded together, saved and restored."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch on every device, of NumPy and of `random`.

    Example:
        >>> seed_everything(3)
        >>> first = torch.rand(1).item(), np.random.rand(), random.random()
        >>> seed_everything(3)
        >>> first == (torch.rand(1).item(), np.random.rand(), random.random())
        True
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # it takes no larger one
    random.seed(seed)


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators as plain values and tensors, which a checkpoint can hold."""
    state: Any = np.random.get_state()
    kind, keys, *position = state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(kind), keys.tolist(), *position),
        "python": random.getstate(),
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Set the global generators to states that `generator_states` returned."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *position = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *position))
    random.setstate(states["python"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU for a block, and restore them afterwards.

    Example:
        >>> before = random.getstate()
        >>> with seeded(0):
        ...     first = random.random()
        >>> with seeded(0):
        ...     first == random.random()
        True
        >>> random.getstate() == before
        True
    """
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])

"""Random number generators and process settings, which affect results besides the specification of a trial."""

import hashlib
import json
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
    np.random.seed(seed % 2**32)  # NumPy accepts only 32-bit seeds
    random.seed(seed)


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators as plain values and tensors, which a checkpoint can store."""
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


def small_seed(seed: int) -> int:
    """Return the seed that the scripts of users get, below 2³¹, because some generators accept no larger ones."""
    return seed % 2**31


def derive(seed: int, *names: object) -> int:
    """Return the seed of a named stream of random numbers, which is independent of the streams with other names.

    Example:
        >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(0, "data")
        (True, False)
    """
    text = json.dumps([seed, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@contextmanager
def as_in_a_worker() -> Iterator[None]:
    """Run a block with the process settings of a worker on which results depend, and restore the settings afterwards.

    In the block torch has one thread, float32 as the default dtype, the highest precision for float32 matrix products,
    and gradients enabled. Afterwards these settings, the argument validation of `torch.distributions` and the states
    of torch's CPU generator, NumPy's generator and `random` are restored.

    Example:
        >>> before = torch.get_rng_state()
        >>> with as_in_a_worker():
        ...     torch.get_num_threads(), torch.randn(2).dtype
        (1, torch.float32)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    threads, dtype, precision = torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    streams = random.getstate(), np.random.get_state()
    validates = torch.distributions.Distribution._validate_args
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.distributions.Distribution.set_default_validate_args(validates)
        random.setstate(streams[0])
        np.random.set_state(streams[1])

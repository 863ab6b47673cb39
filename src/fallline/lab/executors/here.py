"""Trials in the calling process, one after the other: for what no worker can find, such as a notebook's task."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from fallline.lab.executors.local import run_and_save
from fallline.lab.trial import Trial


class CallingProcess:
    """Runs trials where it was made; has the interface of `LocalPool` and gives the same numbers, to the bit.

    What kills a trial here kills the caller: nothing is retried. Finished trials are on disk.

    Args:
        folder: of the study.
        checkpoint_every: steps after which a run is saved each time, as for `LocalPool`.
    """

    def __init__(self, folder: Path, checkpoint_every: int | None = None) -> None:
        self.folder, self.checkpoint_every = folder, checkpoint_every

    def __enter__(self) -> "CallingProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is on disk, in the given order.

        Raises:
            StudyError: the outcome of a trial cannot be written.
        """
        for trial in trials:
            with as_in_a_worker():
                error = run_and_save(trial, self.folder, self.checkpoint_every)
            if error is not None:
                raise error
            yield trial


@contextmanager
def as_in_a_worker() -> Iterator[None]:
    """Set what a process has of its own and numbers depend on as a worker has it, and restore it afterwards.

    Restored are torch's threads, default dtype, precision of float32 products, validation of distributions, and the
    random numbers of torch's CPU generator, NumPy and `random`; gradients are on within.

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

"""The manifest of a study: the versions, machine, code and data with which it ran. It does not affect the results."""

import hashlib
import itertools
import os
import platform
import random
import subprocess
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from fallline.lab.tasks import Task
from fallline.landscape.loss.batches import as_bytes, leaves, row_bytes, shape_of

PACKAGES = ("fallline", "torch", "numpy", "numba", "scipy", "scikit-learn")
_TRAINING_BATCHES = 20  # training batches that are hashed, since training batches never end


def manifest() -> dict[str, Any]:
    """Return versions, hardware and git commit."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "commit": _commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def digest_of_data(task: Task) -> str:
    """Return the task's own hash of its data, or else `data_digest`; the random number generators are restored."""
    streams = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            return task.data_digest() or data_digest(task)
    finally:
        random.setstate(streams[0])
        np.random.set_state(streams[1])


def data_digest(task: Task) -> str:
    """Return a hash of validation data, test data and the first training batches, for a task without its own hash."""
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        batches = task.batches(split, torch.Generator().manual_seed(0))
        for batch in itertools.islice(batches, _TRAINING_BATCHES if split == "train" else None):
            for leaf in leaves(batch):
                if isinstance(leaf, torch.Tensor):  # the same hash as in manifests of earlier versions
                    digest.update(str((split, leaf.dtype, shape_of(leaf))).encode())
                    digest.update(row_bytes(leaf if leaf.dim() else leaf[None]).tobytes())
                else:
                    digest.update(split.encode() + as_bytes(leaf))
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Return the model name of the processor from /proc/cpuinfo if available, else the machine type."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - not a file of the study
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """Return the commit of the current folder, with a + if files differ from it; None outside a repository."""
    git = ("git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    try:
        done = subprocess.run(git, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

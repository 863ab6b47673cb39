"""Where a task runs, and in which precision."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from fallline.errors import ArgumentError
from fallline.lab.tasks import Task
from fallline.landscape.loss.batches import move


def check_device(device: str) -> None:
    """Check that a model can be trained on a device of this machine.

    Raises:
        ArgumentError: it cannot.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, and a PyTorch that was built without it
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        told = "" if reason.startswith("Expected one of") else f" ({reason})"  # a list of 20 kinds of device
        raise ArgumentError(
            f"device: must be cpu or cuda:N of this machine, got {device!r}{told}; leave it out for cpu"
        ) from None


def precision(task: Task, device: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the task's model and loss run: autocast, or nothing."""
    if task.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, task.precision))


def to_device(batch: Any, device: str) -> Any:
    """Return a batch with all its tensors on a device, in containers of the same types."""
    return batch if device == "cpu" else move(batch, device)


def loss_of(task: Task, device: str) -> Callable[[torch.nn.Module, Any], torch.Tensor]:
    """Return the loss of a task as a function of model and batch, computed as in training: there, and so precisely."""

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        with precision(task, device):
            return task.loss(model, to_device(batch, device))

    return loss

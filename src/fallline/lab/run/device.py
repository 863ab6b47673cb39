"""Device and precision of a task."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from fallline.errors import ArgumentError
from fallline.lab.tasks import Task
from fallline.landscape.loss.averaging import check_loss
from fallline.landscape.loss.batches import move


def check_device(device: str) -> None:
    """Check that this machine has a device on which a model can be trained.

    Raises:
        ArgumentError: the device does not exist or PyTorch was built without support for it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, or PyTorch was built without support for it
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        detail = "" if reason.startswith("Expected one of") else f" ({reason})"  # PyTorch lists 20 device types
        raise ArgumentError(
            f"device: must be cpu or cuda:N of this machine, got {device!r}{detail}; leave it out for cpu"
        ) from None


def precision(task: Task, device: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the task's model and loss run: autocast, or a null context for float32."""
    if task.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, task.precision))


def to_device(batch: Any, device: str) -> Any:
    """Return a batch with all its tensors moved to a device; container types are preserved."""
    return batch if device == "cpu" else move(batch, device)


def batch_loss(task: Task, model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Return the loss of a task on a batch.

    Raises:
        LossError: the task returned something else than a tensor with one real number.
    """
    return check_loss(f"task {task.name}", task.loss(model, batch))


def loss_of(task: Task, device: str) -> Callable[[torch.nn.Module, Any], torch.Tensor]:
    """Return the loss of a task as a function of model and batch, with the same device and precision as in training."""

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        with precision(task, device):
            return batch_loss(task, model, to_device(batch, device))

    return loss

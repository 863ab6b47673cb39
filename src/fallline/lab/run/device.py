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


def choose_precision(device: str) -> str:
    """Return "bfloat16" if a device multiplies matrices of bfloat16 in hardware, otherwise "float32".

    Of processors, those with AVX-512 BF16 do, which includes all with AMX. Others are not known to gain from bfloat16.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if kind != "cpu":
        return "float32"
    if hasattr(torch.cpu, "get_capabilities"):
        return "bfloat16" if torch.cpu.get_capabilities().get("avx512_bf16") else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"  # older releases


def resolve_precision(name: str, value: Any, device: str) -> Any:
    """Return the value of a task's setting, with the precision that suits the device instead of "auto".

    A study stores the resolved value, so that trials of two kinds of processors are never mixed without an error.
    """
    return choose_precision(device) if (name, value) == ("precision", "auto") else value


def precision(task: Task, device: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the task's model and loss run: autocast, or a null context for float32."""
    chosen = choose_precision(device) if task.precision == "auto" else task.precision
    if chosen == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, chosen))


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

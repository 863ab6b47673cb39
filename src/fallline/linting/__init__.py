"""The linter finds known mistakes in a training set-up before the training starts."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fallline.arguments import check_integer
from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.linting import decay, muon, parameters, precision, schedule, unseen, warmup
from fallline.linting.finding import CHECKS, SEVERITIES, Check, Finding
from fallline.linting.running import RUN_CHECKS
from fallline.linting.setup import Setup
from fallline.linting.watch import Watch, watch
from fallline.wrappers import calls_per_step, unwrap_optimizer, unwrap_scheduler

__all__ = ["CHECKS", "FAMILIES", "RUN_CHECKS", "SEVERITIES", "Check", "Finding", "Watch", "lint", "watch"]

FAMILIES = (parameters, schedule, warmup, decay, precision, muon, unseen)  # importing a module declares its checks


def lint(
    model: nn.Module | None,
    optimizer: Optimizer,
    scheduler: Any = None,
    total_steps: int | None = None,
    *,
    steps_per_epoch: int | None = None,
    scheduler_per: str = "step",
    from_scratch: bool = True,
    previous: Optimizer | Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
) -> list[Finding]:
    """Return the known mistakes in a training set-up, the most severe first. Nothing is trained or changed.

    To know the learning rates of the whole training, the checks run a copy of the scheduler. They look into SAM, DDP,
    FSDP, `torch.compile`, and the objects that accelerate prepares; what they cannot look into is a finding.

    Args:
        model: the model to train; None skips the checks that compare its parameters with the optimizer's.
        optimizer: any `torch.optim.Optimizer`.
        scheduler: any `LRScheduler`, or None.
        total_steps: number of optimizer steps of the whole training, including those before a checkpoint; None skips
            the checks that need it.
        steps_per_epoch: number of optimizer steps per epoch, required with `scheduler_per="epoch"`.
        scheduler_per: "step" or "epoch", how often `scheduler.step()` is called.
        from_scratch: False for fine-tuning, which needs no warm-up and little decay.
        previous: optimizer of an earlier set-up, or its {"lr": …, "weight_decay": …}, to compare with.
        ignore: ids of the checks to skip.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is invalid.

    Example:
        >>> import torch
        >>> import fallline as fl
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.1)
        >>> [(finding.id, finding.severity) for finding in fl.lint(model, optimizer)]
        [('coupled-decay', 'error')]
    """
    optimizer = unwrap_optimizer(optimizer)
    _check_arguments(model, optimizer, total_steps, steps_per_epoch, scheduler_per, ignore)
    if isinstance(previous, Optimizer):
        group = previous.param_groups[0]
        previous = {"lr": group.get("initial_lr", group["lr"]), "weight_decay": group.get("weight_decay", 0)}
    elif previous is not None and "lr" not in previous:
        raise ArgumentError(f"lint: previous must have lr and weight_decay, got {previous=!r}; pass the old optimizer")
    setup = Setup(
        model,
        optimizer,
        unwrap_scheduler(scheduler),
        total_steps,
        steps_per_epoch,
        scheduler_per == "epoch",
        from_scratch,
        previous,
        calls_per_step(scheduler),
    )
    found = [finding for name, check in CHECKS.items() if name not in ignore for finding in check(setup)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _check_arguments(
    model: Any, optimizer: Any, total_steps: Any, steps_per_epoch: Any, scheduler_per: str, ignore: Collection[str]
) -> None:
    if model is not None and not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"lint: model must be a torch.nn.Module or None, got {type(model).__name__}; pass the model itself"
        )
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(
            f"lint: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; pass one"
        )
    for name, value in (("total_steps", total_steps), ("steps_per_epoch", steps_per_epoch)):
        if value is not None:
            check_integer("lint", name, value, 1)
    if scheduler_per not in ("step", "epoch"):
        raise ArgumentError(f"lint: scheduler_per must be step or epoch, got {scheduler_per=}; the default is step")
    if scheduler_per == "epoch" and steps_per_epoch is None:
        raise ArgumentError(
            "lint: steps_per_epoch must be given with scheduler_per='epoch', got None; pass len(loader), for example"
        )
    for name in [ignore] if isinstance(ignore, str) else ignore:
        if isinstance(ignore, str) or name not in CHECKS:
            raise ArgumentError(
                f"lint: ignore must be a list of ids among {', '.join(CHECKS)}, got {name!r}; check the spelling"
            )

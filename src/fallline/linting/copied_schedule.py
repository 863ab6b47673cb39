"""Run a copy of a scheduler on an optimizer without parameters."""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fallline.errors import StateError
from fallline.wrappers import single_schedulers, wrapped_optimizers


def run_copy(
    scheduler: LRScheduler, optimizer: Optimizer, steps: Sequence[int], start: int, done: int | None = None
) -> list[list[float]] | None:
    """Return the learning rates of all groups at the given calls of a scheduler; None if it cannot be copied and run.

    Args:
        scheduler: it is not changed.
        optimizer: the optimizer of the scheduler.
        steps: the calls, in increasing order.
        start: the calls that the copy has made when it starts to run.
        done: run the copy from the start of the training (`start` is 0), and return None unless it has the present
            learning rates after this many calls.
    """
    stub = _Stub(optimizer)
    found: dict[int, list[float]] = {}
    wanted = {*steps, *([] if done is None else [done])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a copied scheduler warns that its optimizer has not stepped
        try:
            scheduler = copy.deepcopy(scheduler, {id(one): stub for one in wrapped_optimizers(optimizer)})
            if done is not None:
                _rewind(scheduler, stub)
            for k in range(start, max(wanted) + 1):
                if k in wanted:
                    found[k] = [float(group["lr"]) for group in stub.param_groups]
                stub.step()
                scheduler.step()
        except StateError:  # two schedulers of Fallline in a ChainedScheduler
            return None
        except ValueError:  # raised by torch's OneCycleLR after its end
            pass
        except (TypeError, RuntimeError, AttributeError, KeyError):
            return None
    present = [float(group["lr"]) for group in optimizer.param_groups]
    if done is not None and not all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
        for a, b in zip(found.get(done, [math.nan]), present, strict=False)
    ):
        return None
    last = found[max(found)] if found else present
    return [found.get(k, last) for k in steps]


def _rewind(scheduler: Any, stub: Optimizer) -> None:
    """Put a copied scheduler back to the start of its training, as after its construction."""
    for group in stub.param_groups:
        group["lr"] = group["initial_lr"]
    single = single_schedulers(scheduler)
    for one in single:
        one.last_epoch, one._step_count = -1, 0
    if hasattr(scheduler, "_milestones"):  # SequentialLR starts its first part alone
        scheduler.last_epoch = 0
        single = single[:1]
    for one in single:
        one._initial_step()


class _Stub(Optimizer):
    """An optimizer with the same groups and options, and dummy parameters."""

    def __init__(self, optimizer: Optimizer) -> None:
        groups = optimizer.param_groups
        super().__init__([{"params": [nn.Parameter(torch.zeros(()))]} for _ in groups], {})
        for own, group in zip(self.param_groups, groups, strict=True):
            own.update({key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else copy.deepcopy(value)

"""Batches and their weights: averages over data are weighted by items or tokens, never by batches."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape.loss.batches import count_rows

LossFn: TypeAlias = Callable[[Any, Any], torch.Tensor]
Weight: TypeAlias = Callable[[Any], float]


class ModelLoss(nn.Module):
    """The loss of a model as a module, so that `functional_call` can run the model with other weights."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> torch.Tensor:
        """Return the loss of a batch, computed by `loss_fn`."""
        loss: torch.Tensor = self.loss_fn(self.model, batch)
        return loss


def as_batches(where: str, data: Any) -> Iterable[Any]:
    """Return data as batches: a loader or a list unchanged, a tensor, tuple, dict or dataclass as one batch.

    Raises:
        ArgumentTypeError: the data are neither batches nor a batch.
    """
    if isinstance(data, torch.Tensor | tuple | Mapping) or dataclasses.is_dataclass(data):
        return [data]
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise ArgumentTypeError(
            f"{where}: data must be a batch (a tensor, tuple or dict), a list of batches or a loader, "
            f"got data={data!r}; pass a DataLoader"
        )
    if isinstance(data, list) and all(isinstance(batch, torch.Tensor) for batch in data):
        kinds = list(dict.fromkeys(f"{t.dim()}-d {t.dtype}".replace("torch.", "") for t in data))
        if len(kinds) > 1:
            raise ArgumentTypeError(
                f"{where}: data must be a list of batches of one kind, got tensors of {' and '.join(kinds)}, as in one "
                "batch of a DataLoader; pass tuple(batch)"
            )
    batches: Iterable[Any] = data
    return batches


def check_functions(where: str, loss_fn: Any, weight: Any) -> None:
    """Raise unless `loss_fn` is callable and `weight` is callable or None.

    Raises:
        ArgumentTypeError: one of them is not.
    """
    if not callable(loss_fn):
        raise ArgumentTypeError(
            f"{where}: loss_fn must be a function of model and batch, got {describe_value(loss_fn)}; "
            "pass a function that returns the mean loss"
        )
    if weight is not None and not callable(weight):
        raise ArgumentTypeError(
            f"{where}: weight must be a function of a batch, got {describe_value(weight)}; "
            "pass a function that returns the number of items"
        )


def describe_value(value: Any) -> str:
    """Return the text of a value for an error message: its repr if it is short and simple, otherwise its type."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value) if plain else f"a {type(value).__name__}"


def batches_of(where: str, data: Any) -> Iterator[Any]:
    """Yield the batches of data, as `as_batches` defines them.

    Args:
        where: name of the caller, for error messages.
        data: a batch, a list of batches or a loader.

    Raises:
        ArgumentTypeError: the data are neither batches nor a batch.
        LossError: there is no batch.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(3, 2), torch.zeros(3)
        >>> len(list(batches_of("surface", (x, y)))), len(list(batches_of("surface", [(x, y), (x, y)])))
        (1, 2)
    """
    empty = True
    for batch in as_batches(where, data):
        empty = False
        yield batch
    if empty:
        raise LossError(f"{where}: data must have a batch, got none; pass a loader that is not exhausted")


def items(batch: Any) -> int:
    """Return the number of rows of the first tensor that has rows; without one, the number of texts.

    Raises:
        ArgumentTypeError: the batch has nothing to count.
    """
    rows = count_rows(batch)
    if rows is None:
        raise ArgumentTypeError(
            f"weight: must be given for batches without a tensor, got a batch of {type(batch).__name__}; "
            "pass weight=, a function that returns the number of items or tokens of a batch"
        )
    return rows


def weight_of(where: str, batch: Any, weight: Weight | None) -> float:
    """Return the weight of a batch in an average: its number of rows, or the value of the user's function.

    Raises:
        ArgumentError: the batch has no rows, or the function does not return a finite number above 0.
    """
    found = items(batch) if weight is None else weight(batch)
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError):  # also raised for tensors with several elements
        value = math.nan
    if math.isfinite(value) and value > 0:
        return value
    if weight is None:
        raise ArgumentError(f"{where}: every batch must have a row, got an empty one; leave it out of the data")
    raise ArgumentError(
        f"{where}: weight must return a finite number > 0 for every batch, got {describe_value(found)}; "
        "count its items or tokens"
    )


def check_loss(where: str, loss: Any) -> torch.Tensor:
    """Return a loss as a scalar; raise unless it is a real tensor with one element.

    Raises:
        LossError: the loss is something else.
    """
    if not isinstance(loss, torch.Tensor):
        raise LossError(f"{where}: the loss must be a tensor, got {describe_value(loss)}; {remedy_for(loss)}")
    if loss.numel() != 1 or not loss.is_floating_point():
        raise LossError(
            f"{where}: the loss must be one real number, got a tensor of shape {tuple(loss.shape)} and dtype "
            f"{loss.dtype}; return the mean over the batch"
        )
    return loss if loss.dim() == 0 else loss.reshape(())


def remedy_for(loss: Any) -> str:
    """Return what to do about a loss that is not a tensor."""
    number = isinstance(loss, Real | np.ndarray)
    return "return the tensor, not loss.item()" if number else "return only the mean loss of the batch"


def check_graph(where: str, loss: torch.Tensor, number: int) -> None:
    """Raise unless a loss can be differentiated.

    Raises:
        LossError: the loss has no graph.
    """
    if not loss.requires_grad:
        raise LossError(
            f"{where}: loss must depend on the parameters, got one without a graph for batch {number}; "
            "remove .detach(), .item(), torch.no_grad() and torch.inference_mode()"
        )


def check_finite(where: str, loss: torch.Tensor, number: int, model: nn.Module) -> None:
    """Raise unless a loss is finite, with the likely cause in the message.

    Raises:
        LossError: the loss is NaN or Inf.
    """
    if bool(loss.isfinite()):
        return
    broken = [f"parameter {name} is not finite" for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    why = broken[0] if broken else "every parameter is finite, so check that batch"
    raise LossError(f"{where}: loss must be finite, got {loss.item()} for batch {number}; {why}")


def updater_of(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that updates the parameters: the one inside a wrapper, or the optimizer itself."""
    inner = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return updater_of(inner[0]) if inner else optimizer

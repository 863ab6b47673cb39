"""Directions in the parameter space of a model, along which the loss is evaluated."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from fallline.errors import ArgumentError, ArgumentTypeError

Direction: TypeAlias = list[torch.Tensor]  # a tensor for each parameter
VECTORS = ("zero", "element", "tensor")


def select_parameters(where: str, model: nn.Module, params: Iterable[Any] | None) -> dict[str, torch.Tensor]:
    """Return the selected parameters by name; by default all trainable ones.

    Raises:
        ArgumentTypeError, ArgumentError: `model` is not a module, it does not have a selected parameter, or there are
            no parameters.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"{where}: model must be a torch.nn.Module, got {model=!r}; pass the model itself")
    every = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    if params is None:
        imaginary = [name for name, p in model.named_parameters() if p.requires_grad and p.is_complex()]
        if imaginary:
            raise ArgumentError(
                f"{where}: parameters must be real, got {imaginary[0]} of {model.get_parameter(imaginary[0]).dtype}; "
                "pass params= without it"
            )
        found: dict[str, torch.Tensor] = {name: p for name, p in every.items() if p.requires_grad}
    else:
        wanted = list(params)
        names = {id(p): name for name, p in every.items()}
        asked = [w if isinstance(w, str) else names.get(id(w), f"a tensor of shape {tuple(w.shape)}") for w in wanted]
        unknown = [name for name in asked if name not in every]
        if unknown:
            raise ArgumentError(
                f"{where}: params must be names or parameters of the model, got {unknown[0]}; "
                "see model.named_parameters()"
            )
        found = {name: every[name] for name in every if name in asked}
    if not found:
        raise ArgumentError(f"{where}: params must have a parameter, got none; pass the parameters to vary")
    return found


def filter_normalised(
    params: Mapping[str, torch.Tensor], generator: torch.Generator, vectors: str = "zero"
) -> Direction:
    """Return a random direction, filter-normalized as in Li et al. 2018, arXiv:1712.09913.

    Each filter of the direction is scaled to the norm of the corresponding filter of the parameters. A filter is the
    slice of a tensor of two or more dimensions at one index of its first dimension: the weights into one unit.

    Args:
        params: the parameters by name.
        generator: random number generator.
        vectors: treatment of tensors of at most one dimension (biases, norms): "zero" does not move them; "element"
            treats each element as a filter, so that it moves by its own size; "tensor" normalizes the whole tensor.
    """
    direction = []
    for param in params.values():
        kind = torch.float64 if param.dtype == torch.float64 else torch.float32
        noise = torch.randn(param.shape, generator=generator, dtype=kind).to(param.device)
        values = param.detach().to(kind)
        if param.dim() > 1:
            noise, values = noise.flatten(1), values.flatten(1)
        elif vectors == "tensor":
            noise, values = noise.reshape(1, -1), values.reshape(1, -1)
        else:
            noise, values = noise.reshape(-1, 1), values.reshape(-1, 1)
            noise = noise * (vectors != "zero")
        length = torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        scale = torch.linalg.vector_norm(values, dim=1, keepdim=True) / torch.where(length > 0, length, 1)
        direction.append((noise * scale).reshape(param.shape))  # float32 for half precision: only the sum is rounded
    return direction


def as_direction(where: str, given: Any, params: Mapping[str, torch.Tensor]) -> Direction:
    """Return a direction, or a point of a path, as a list with a tensor for each parameter.

    Args:
        where: name of the caller, for error messages.
        given: a dict by name (a state dict), a sequence of tensors in the order of the parameters, or one flat tensor.
        params: the parameters by name.

    Raises:
        ArgumentError: names, number or shapes do not match the parameters, or a value is not finite.
    """
    if isinstance(given, torch.Tensor):
        size = sum(p.numel() for p in params.values())
        if given.numel() != size:
            raise ArgumentError(
                f"{where}: a flat direction must have {size} elements, as many as the parameters, got {given.numel()}; "
                "flatten all parameters in their order"
            )
        flat = given.detach().reshape(-1).split([p.numel() for p in params.values()])
        found = [part.reshape(p.shape) for part, p in zip(flat, params.values(), strict=True)]
    elif isinstance(given, Mapping):
        missing = [name for name in params if name not in given]
        if missing:
            raise ArgumentError(f"{where}: a direction must have every parameter, got none for {missing[0]}; add it")
        found = [given[name].detach() for name in params]
    else:
        tensors = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
        if strange := [tensor for tensor in tensors if not isinstance(tensor, torch.Tensor)]:
            raise ArgumentTypeError(
                f"{where}: a direction, or a point of a path, must be a state dict, a list of tensors or a flat "
                f"tensor, got a {type(strange[0]).__name__}; pass, for example, list(model.parameters())"
            )
        found = [tensor.detach() for tensor in tensors]
    shapes = [tuple(tensor.shape) for tensor in found]
    if shapes != [tuple(p.shape) for p in params.values()]:
        raise ArgumentError(
            f"{where}: a direction must have a tensor for each of {', '.join(params)}, in this order and of their "
            f"shapes, got shapes {shapes}; list(model.parameters()) has them"
        )
    if broken := [name for name, tensor in zip(params, found, strict=True) if not bool(tensor.isfinite().all())]:
        raise ArgumentError(
            f"{where}: a direction, or a point of a path, must be finite, got NaN or Inf in {broken[0]}; "
            "check how it was computed"
        )
    return [t.to(p.device, torch.promote_types(t.dtype, p.dtype)) for t, p in zip(found, params.values(), strict=True)]


def dot(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Return the dot product of two directions, computed in float64."""
    return math.fsum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


def norm(direction: Sequence[torch.Tensor]) -> float:
    """Return the Euclidean norm of a direction."""
    return math.sqrt(dot(direction, direction))


def principal(path: Sequence[Direction]) -> tuple[list[Direction], list[float]]:
    """Return the first two principal directions of a path, of norm 1, and the share of the variance along each.

    The computation uses the T × T inner products of the T points, so that it never forms a matrix of all parameters.

    Args:
        path: at least three points.
    """
    products = torch.zeros(len(path), len(path), dtype=torch.float64)
    for tensors in zip(*path, strict=True):
        centred = _centred(tensors)
        products += (centred @ centred.T).cpu()
    values, vectors = torch.linalg.eigh(products)
    total = float(values.clamp_min(0).sum())
    directions: list[Direction] = [[], []]
    for tensors in zip(*path, strict=True):
        combined = vectors[:, [-1, -2]].T.to(tensors[0].device) @ _centred(tensors)
        for direction, part in zip(directions, combined, strict=True):
            direction.append(part.reshape(tensors[0].shape))
    lengths = [norm(direction) for direction in directions]
    directions = [[t / (length or 1.0) for t in d] for d, length in zip(directions, lengths, strict=True)]
    return directions, [max(float(values[k]), 0.0) / total if total > 0 else 0.0 for k in (-1, -2)]


def _centred(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    rows = torch.stack([tensor.double().reshape(-1) for tensor in tensors])
    return rows - rows.mean(0)

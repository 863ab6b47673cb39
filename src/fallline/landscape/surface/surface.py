"""The loss on a plane through the weights: one value per cell, with the weights exactly at the center."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.formatting import format_measurement
from fallline.landscape.loss.averaging import (
    LossFn,
    ModelLoss,
    Weight,
    batches_of,
    check_finite,
    check_functions,
    check_loss,
    weight_of,
)
from fallline.landscape.loss.directions import (
    VECTORS,
    Direction,
    as_direction,
    dot,
    filter_normalised,
    norm,
    principal,
    select_parameters,
)
from fallline.landscape.loss.preserve import restored_generators, restoring
from fallline.landscape.operators.base import seeded
from fallline.landscape.operators.checks import check_same
from fallline.landscape.operators.hessian import Hessian
from fallline.landscape.progress import Clock, Progress
from fallline.landscape.spectrum.eigsh import eigsh

Pair: TypeAlias = tuple[Direction, Direction]
KINDS = ("filter", "eig", "pca")
MODES = ("eval", "train")


@dataclass(frozen=True, eq=False)
class Surface:
    """The mean loss at weights + x·directions[0] + y·directions[1].

    Attributes:
        x, y: coordinates of the cells, (n,) each, symmetric about an exact 0.
        values: the loss, (n, n): `values[i, j]` is at `x[j]`, `y[i]`; NaN where it was not finite.
        mask: (n, n), True where the loss was not finite.
        directions: two directions, each a tensor for each parameter in the order of `names`.
        names: names of the parameters that move.
        kind: "filter", "eig", "pca" or "given".
        vectors: treatment of tensors of at most one dimension under "filter", otherwise "as given".
        cosine: cosine of the angle between the two directions; random directions are nearly but not exactly orthogonal.
        mode: "eval" or "train", the mode of the model during the measurement.
        weight: total weight of all batches: the number of items, or the sum of the user's weights.
        evaluations: number of forward passes over a batch.
    """

    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    directions: Pair = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    kind: str
    vectors: str
    cosine: float
    mode: str
    weight: float
    evaluations: int

    @property
    def centre(self) -> float:
        """The loss at the weights themselves."""
        return float(self.values[len(self.y) // 2, len(self.x) // 2])

    def __str__(self) -> str:
        low, high = (format_measurement(float(f(self.values))) for f in (np.nanmin, np.nanmax))
        lost = f", {self.mask.sum()} not finite" if self.mask.any() else ""
        return f"loss {format_measurement(self.centre)} at the weights, {low} to {high} on {self.mask.size} cells{lost}"

    def plot(self, path: Any = None, log: bool | None = None) -> Any:
        """Return an Altair chart with a colored cell for each loss, for a notebook. Requires the extra `lab`.

        Args:
            path: a `Trajectory` along the same directions, to draw on top.
            log: whether to use a logarithmic color scale; by default if all losses are above 0 and span a factor of 20.
        """
        from fallline.plotting import plot_surface  # imported here because altair is an optional dependency

        return plot_surface(self, path, log)


def surface(
    model: nn.Module,
    loss_fn: LossFn,
    data: Any,
    directions: Any = "filter",
    span: float | tuple[float, float] | None = None,
    n: int = 25,
    *,
    params: Iterable[Any] | None = None,
    weight: Weight | None = None,
    mode: str = "eval",
    vectors: str = "zero",
    path: Sequence[Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Surface:
    """Return the mean loss over data on n × n cells of a plane through the weights. The model is left unchanged.

    Every cell is computed from the original weights, with its own copy of weights and buffers, so that errors do not
    accumulate. Each batch is drawn once and evaluated at all cells with the same random numbers, so that cells differ
    only by their weights. This takes n² + 1 forward passes per batch.

    Args:
        model: the model.
        loss_fn: `loss_fn(model, batch)` returns the mean loss of the batch.
        data: a batch (tensor, tuple, dict), a list of batches, or a loader.
        directions: "filter", two random filter-normalized directions; "eig", the Hessian's two eigenvectors of largest
            curvature; "pca", the principal directions of `path`; a pair of directions, each a dict by name, a list of
            tensors or a flat tensor; or a function without arguments that returns such a pair. The directions of "eig"
            and "pca" have norm 1; a pair is used as it is.
        span: half-width of the plane in units of the directions, or one number for each direction; by default 1, or for
            "pca" the extent of the path.
        n: number of cells per side, odd, so that the weights are the center of a cell.
        params: names or parameters to move; by default all that require a gradient.
        weight: `weight(batch)` returns the weight of a batch in the average, for example its number of tokens; by
            default its number of rows.
        mode: "eval", or "train" for batch statistics and dropout.
        vectors: treatment of tensors of at most one dimension under "filter": "zero" does not move them, "element"
            moves each element by its size, "tensor" normalizes the whole tensor.
        path: for "pca": at least three sets of weights, oldest first.
        seed: seed of the random directions.
        progress: callback that receives a `Step` after every forward pass, and before the first cell, after a forward
            pass at the weights has been timed. The total counts all batches if their number is known.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is invalid.
        LossError: the loss is not one number, not finite at the weights or not deterministic; or there is no batch.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> found = surface(layer, lambda m, x: m(x).square().mean(), torch.eye(2), n=5)
        >>> found.values.shape, found.centre >= 0, found.x.tolist()
        ((5, 5), True, [-1.0, -0.5, 0.0, 0.5, 1.0])
    """
    check_functions("surface", loss_fn, weight)
    _check(directions, n, mode, vectors, path)
    model = getattr(model, "_orig_mod", model)  # a compiled model would recompile for every cell
    moved = select_parameters("surface", model, params)
    with restoring(model, data=data):
        model.train(mode == "train")
        kind = directions if isinstance(directions, str) else "given"
        if kind == "eig":
            data = list(data) if isinstance(data, Iterator) else data  # it is read again below
            directions = functools.partial(_eigenvectors, model, loss_fn, data, moved, weight, mode, seed)
        pair = _pair(directions, moved, vectors, path, seed)
    x, y = _axes(span, n, kind, pair, moved, path)
    with restoring(model, data=data), torch.no_grad():
        model.train(mode == "train")
        values, total, batches = _measured(ModelLoss(model, loss_fn), data, moved, pair, (x, y), weight, progress)
    mask = ~np.isfinite(values)
    lengths = norm(pair[0]) * norm(pair[1])
    return Surface(
        x,
        y,
        np.where(mask, np.nan, values),
        mask,
        directions=pair,
        names=tuple(moved),
        kind=kind,
        vectors=vectors if kind == "filter" else "as given",
        cosine=dot(*pair) / lengths if lengths > 0 else 0.0,
        mode=mode,
        weight=total,
        evaluations=batches * n * n,
    )


def _measured(
    loss: ModelLoss,
    data: Any,
    moved: Mapping[str, torch.Tensor],
    pair: Pair,
    axes: tuple[np.ndarray, np.ndarray],
    weight: Weight | None,
    progress: Progress | None,
) -> tuple[np.ndarray, float, int]:
    """Return the mean losses of all cells, the weight of all batches, and the number of batches."""
    x, y = axes
    cells = [(float(b), float(a)) for a in y for b in x]
    losses: list[list[float]] = []
    weights: list[float] = []
    batches = len(data) if isinstance(data, list) or hasattr(data, "dataset") else 1
    size = sum(t.numel() * t.element_size() for t in (*moved.values(), *pair[0], *pair[1]))
    clock = Clock(len(cells) * batches, size, "forward passes", progress)
    for batch in batches_of("surface", data):
        weights.append(weight_of("surface", batch, weight))
        losses.append([])
        with restored_generators():
            centre = check_loss("surface", functional_call(loss, _state(loss.model, moved, pair, (0.0, 0.0)), (batch,)))
        check_finite("surface", centre, len(losses) - 1, loss.model)
        if len(losses) == 1:  # the time of this pass is the first estimate
            clock.report(0, 1)
        for cell in cells:
            with restored_generators():
                value = functional_call(loss, _state(loss.model, moved, pair, cell), (batch,))
            losses[-1].append(float(check_loss("surface", value)))
            done = (len(losses) - 1) * len(cells) + len(losses[-1])
            clock.report(done, done + len(losses), len(cells) * max(batches, len(losses)))
        check_same("surface", float(centre), losses[-1][len(cells) // 2], centre.dtype)
    total = math.fsum(weights)
    with np.errstate(invalid="ignore"):  # a cell with Inf − Inf is masked
        means = (np.asarray(weights)[:, None] * np.asarray(losses, dtype=np.float64)).sum(0) / total
    return means.reshape(len(y), len(x)), total, len(weights)


def _check(directions: Any, n: Any, mode: str, vectors: str, path: Any) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 3 or n % 2 == 0:
        raise ArgumentError(
            f"surface: n must be an odd int >= 3, got {n=!r}; an odd number puts the weights at the center"
        )
    if isinstance(directions, str) and directions not in KINDS:
        raise ArgumentError(
            f"surface: directions must be {', '.join(KINDS)}, a pair or a function, got {directions!r}; leave it out"
        )
    for name, value, known in (("mode", mode, MODES), ("vectors", vectors, VECTORS)):
        if value not in known:
            raise ArgumentError(f"surface: {name} must be one of {', '.join(known)}, got {value!r}; leave it out")
    if directions == "pca" and (path is None or len(path) < 3):
        raise ArgumentError("surface: path must have at least 3 points for directions='pca', got fewer; record more")


def _pair(given: Any, moved: Mapping[str, torch.Tensor], vectors: str, path: Sequence[Any] | None, seed: int) -> Pair:
    """Return the two directions."""
    if isinstance(given, str) and given == "filter":
        generator = seeded("surface", seed)
        return filter_normalised(moved, generator, vectors), filter_normalised(moved, generator, vectors)
    if isinstance(given, str):
        found, _ = principal([as_direction("surface", point, moved) for point in path or ()])
        return found[0], found[1]
    given = given() if callable(given) else given
    if not isinstance(given, Sequence) or len(given) != 2:
        raise ArgumentTypeError(f"surface: directions must be a pair, got {type(given).__name__}; pass (first, second)")
    return as_direction("surface", given[0], moved), as_direction("surface", given[1], moved)


def _eigenvectors(
    model: nn.Module,
    loss_fn: LossFn,
    data: Any,
    moved: Mapping[str, torch.Tensor],
    weight: Weight | None,
    mode: str,
    seed: int,
) -> Sequence[Any]:
    params: Any = list(moved.values())
    hessian = Hessian(model, loss_fn, data, params=params, weight=weight, mode=mode)
    vectors = eigsh(hessian, 2, which="LA", seed=seed).vectors
    return vectors[:, 0], vectors[:, 1]


def _axes(
    span: Any,
    n: int,
    kind: str,
    pair: Pair,
    moved: Mapping[str, torch.Tensor],
    path: Sequence[Any] | None,
) -> tuple[np.ndarray, np.ndarray]:
    if span is None and kind == "pca":
        origin = [w.detach().double() for w in moved.values()]
        points = [as_direction("surface", point, moved) for point in path or ()]
        away = [[p - w for p, w in zip(point, origin, strict=True)] for point in points]
        span = tuple(1.1 * max(abs(dot(point, direction)) for point in away) or 1.0 for direction in pair)
    both = (1.0, 1.0) if span is None else span if isinstance(span, tuple | list) else (span, span)
    if len(both) != 2 or not all(isinstance(s, int | float) and math.isfinite(s) and s > 0 for s in both):
        raise ArgumentError(f"surface: span must be a finite number > 0 or two of them, got {span=!r}; try span=1")
    # Scaling these steps gives an exact 0 in the middle and exactly symmetric coordinates.
    steps = np.arange(-(n // 2), n // 2 + 1) / (n // 2)
    return float(both[0]) * steps, float(both[1]) * steps


def _state(
    model: nn.Module, moved: Mapping[str, torch.Tensor], pair: Pair, cell: tuple[float, float]
) -> dict[str, torch.Tensor]:
    """Return copies of the weights and buffers for a cell."""
    state = {f"model.{name}": buffer.clone() for name, buffer in model.named_buffers()}
    for (name, param), first, second in zip(moved.items(), *pair, strict=True):
        state[f"model.{name}"] = (param.detach() + (cell[0] * first + cell[1] * second)).to(param.dtype)
    return state

"""Measure the curvature of a task's model at initialization, after some training steps, or at a checkpoint."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fallline.arguments import check_integer
from fallline.errors import ArgumentError, LandscapeWarning, StateError
from fallline.lab.design.arms import Arm
from fallline.lab.design.optimizers import build_optimizer
from fallline.lab.design.param_groups import scale_groups
from fallline.lab.isolation import derive, seed_everything
from fallline.lab.run.device import check_device, loss_of
from fallline.lab.run.eval_mode import switch_to_evaluation, switch_to_training
from fallline.lab.tasks import Task
from fallline.landscape import (
    Density,
    Hessian,
    Point,
    Sharpness,
    Step,
    Surface,
    Trace,
    classify_point,
    sharpness,
    spectral_density,
    surface,
    trace,
)
from fallline.landscape.progress import Clock

Report = Callable[[str, Step], None]  # (name of the measurement, its progress)
TRACE, PROBES, STEPS = 30, 4, 30  # matvecs for the trace; probes and matvecs per probe for the density
CELLS = 21  # cells per side of a surface


@dataclass(frozen=True)
class Curvature:
    """The measured curvature of a task's model, and the weights at which it was measured.

    Attributes:
        task: name of the task.
        place: description of the weights.
        items, batches: number of items and batches over which the loss is averaged.
        parameters: number of parameters, which is the side of the Hessian.
        loss: the mean loss.
        mode: mode of the model, "eval".
        hvp: method used for Hessian-vector products.
        point, trace, density: the measurements.
        surfaces: the loss around the weights: "eigenvectors" along the eigenvectors of λmax and λmin, and "random"
            along two filter-normalised directions. Empty if no surfaces were requested.
        sharpness: the sharpness, with the optimizer's limit if it has one; None without an optimizer.
        optimizer: name of the arm, including fixed hyperparameters; "" without an optimizer.
        lr: learning rate of the optimizer; None without an optimizer.
        matvecs: total number of Hessian-vector products.
    """

    task: str
    place: str
    items: int
    batches: int
    parameters: int
    loss: float
    mode: str
    hvp: str
    point: Point
    trace: Trace
    density: Density
    surfaces: dict[str, Surface]
    sharpness: Sharpness | None
    optimizer: str
    lr: float | None
    matvecs: int

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        found = self.sharpness
        if found is None or found.limit is None or self.lr is None:
            return f"{self.point.sentence}."
        name = "preconditioned sharpness" if found.preconditioned else "sharpness"
        edge = f"{name} × lr = {found.value * self.lr:.2g} of {found.limit * self.lr:.3g}"
        return f"{self.point.sentence}; {edge}."


def measure_curvature(
    task: Task,
    *,
    arm: Arm | None = None,
    checkpoint: Path | None = None,
    steps: int = 0,
    items: int = 1024,
    cells: int = CELLS,
    seed: int = 0,
    device: str = "cpu",
    report: Report = lambda what, step: None,
) -> Curvature:
    """Return the curvature of a task's training loss.

    Args:
        task: the task.
        arm: the optimizer that makes the steps and whose stability limit the sharpness is compared with.
        checkpoint: a file written by `torch.save` that holds the model's state dict, or a dict with the key "model" and
            optionally "optimizer".
        steps: number of optimizer steps to make first, at the optimizer's learning rate.
        items: minimum number of training items; whole batches are used.
        cells: cells per side of the surfaces, an odd number; 0 omits the surfaces.
        seed: seed of the initial weights, the batches and dropout.
        device: device of the model.
        report: called for every step of the training, every Hessian-vector product and every forward pass of the
            surfaces.

    Raises:
        ArgumentError, StateError: an argument is invalid, or the checkpoint does not fit the model.
        LossError: the loss cannot be measured.
    """
    check_integer("landscape", "items", items, 1, "a typical value is 1024")
    check_integer("landscape", "steps", steps, 0, "a typical value is 0")
    if steps and arm is None:
        raise ArgumentError(f"landscape: steps need an optimizer, got {steps=} without one; pass --optimizer momentum")
    if cells and (cells < 3 or cells % 2 == 0):
        raise ArgumentError(
            f"landscape: cells must be odd and at least 3, or 0 for no surface, got {cells=}; a typical value is 21"
        )
    check_device(device)
    seed_everything(derive(seed, "init"))
    model = task.model().to(device)
    optimizer = None
    if arm is not None:
        options = arm.space.options({**arm.space.defaults, **arm.fixed})
        groups = scale_groups(task.param_groups(model), options, arm.space.defaults)
        optimizer = build_optimizer(arm.space.optimizer, groups, model=model, **options)
    if checkpoint is not None:
        _load(checkpoint, model, optimizer)
    seed_everything(derive(seed, "dropout"))
    batches = iter(task.batches("train", torch.Generator().manual_seed(derive(seed, "data"))))
    loss = loss_of(task, device)
    if optimizer is not None and steps:
        _train(model, optimizer, loss, batches, steps, lambda step: report("training", step))
    data: list[Any] = []
    while sum(map(task.size, data)) < items:
        data.append(next(batches))
    H = Hessian(model, loss, data, weight=task.size)
    point = classify_point(H, progress=lambda step: report("eigenvalues", step))
    found = None
    if optimizer is not None:
        found = _sharpness(H, optimizer, lambda step: report("sharpness", step))
    return Curvature(
        task=task.name,
        place=_place(checkpoint, steps, arm),
        items=sum(map(task.size, data)),
        batches=len(data),
        parameters=H.shape[0],
        loss=H.loss,
        mode=H.mode,
        hvp=H.hvp,
        point=point,
        trace=trace(H, TRACE, progress=lambda step: report("trace", step)),
        density=spectral_density(H, PROBES, STEPS, progress=lambda step: report("spectrum", step)),
        surfaces=_surfaces(H, point, data, task.size, cells, seed, report) if cells else {},
        sharpness=found,
        optimizer="" if arm is None else arm.name,
        lr=None if optimizer is None else float(optimizer.param_groups[0]["lr"]),
        matvecs=H.matvecs,
    )


def _place(checkpoint: Path | None, steps: int, arm: Arm | None) -> str:
    """Return a description of the weights."""
    if checkpoint is None and not steps:
        return "the initial weights"
    found = "the weights" if checkpoint is None else f"the weights of {checkpoint.name}"
    return found + (f" after {steps} step{'s' * (steps != 1)} of {arm.name}" if steps and arm is not None else "")


def _surfaces(
    H: Hessian, point: Point, data: Any, weight: Callable[[Any], float], cells: int, seed: int, report: Report
) -> dict[str, Surface]:
    """Return the loss on two planes through the weights."""
    objective, found = H.objective, point.eigen
    length = math.sqrt(sum(float(p.detach().double().square().sum()) for p in objective.params))
    farthest = max(length, 1.0)  # the weights may all be 0

    def reach(curvature: float) -> float:
        """Return the distance at which this curvature alone changes the loss by |loss|, capped at `farthest`."""
        alone = math.sqrt(2 * abs(H.loss / curvature)) if curvature else math.inf
        return min(alone, farthest) or farthest

    planes: dict[str, dict[str, Any]] = {"random": {"directions": "filter", "seed": seed}}
    if len(found.values) > 1:
        values, vectors = found.values.tolist(), found.vectors
        pair, span = (vectors[:, -1], vectors[:, 0]), (reach(values[-1]), reach(values[0]))
        planes = {"eigenvectors": {"directions": pair, "span": span}, **planes}
    return {
        name: surface(
            objective.model,
            objective.loss_fn,
            data,
            n=cells,
            params=objective.params,
            weight=weight,
            progress=functools.partial(report, f"surface {k} of {len(planes)}"),
            **options,
        )
        for k, (name, options) in enumerate(planes.items(), 1)
    }


def _sharpness(H: Hessian, optimizer: Any, progress: Callable[[Step], None]) -> Sharpness | None:
    """Return the sharpness and the optimizer's limit; None if its rule has no limit or it has not made a step yet."""
    try:
        return sharpness(H, optimizer, progress=progress)
    except (ArgumentError, StateError) as error:
        warnings.warn(f"{error}; the stability limit is not shown", LandscapeWarning, stacklevel=2)
        return None


def _train(
    model: torch.nn.Module, optimizer: Any, loss: Any, batches: Any, steps: int, progress: Callable[[Step], None]
) -> None:
    clock = Clock(steps, 0, "steps", progress)
    switch_to_training(optimizer)
    for k in range(steps):
        batch = next(batches)

        def closure(batch: Any = batch) -> torch.Tensor:
            optimizer.zero_grad()
            value: torch.Tensor = loss(model, batch)
            value.backward()
            return value

        optimizer.step(closure)
        clock.report(k + 1, k)
        if k == 0:  # the first step takes longer: it loads kernels and creates the state
            clock.start()
    switch_to_evaluation(optimizer)
    optimizer.zero_grad()


def _load(path: Path, model: torch.nn.Module, optimizer: Any) -> None:
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise ArgumentError(
            f"checkpoint: must be a file of torch.save, got {str(path)!r} ({reason}); save model.state_dict()"
        ) from None
    except Exception:  # pickle raises many types, and PyTorch's message suggests weights_only=False, which is unsafe
        raise ArgumentError(
            f"checkpoint: must hold only tensors and plain numbers, got {str(path)!r}, which holds other objects "
            "or is not a file of torch.save; save model.state_dict()"
        ) from None
    if not isinstance(saved, Mapping):
        raise ArgumentError(
            f"checkpoint: must hold a state dict, got {type(saved).__name__} in {str(path)!r}; save model.state_dict()"
        )
    weights = next((saved[key] for key in ("model", "state_dict", "model_state_dict") if key in saved), saved)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = " ".join(str(error).split())
        raise StateError(
            f"checkpoint: weights must fit the task's model, got {path.name}: {lines[:200]}; pass its task settings too"
        ) from None
    state = next((saved[key] for key in ("optimizer", "optimizer_state_dict") if key in saved), None)
    if optimizer is not None and state is not None:
        optimizer.load_state_dict(state)

"""`fallline lr-range`: run the learning rate range test on a task and draw it in the terminal."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fallline.cli import options
from fallline.cli.show import PICTURES, blocks, console, measurement_progress, save_chart
from fallline.errors import ArgumentError

if TYPE_CHECKING:
    from fallline.lab.design.arms import Arm
    from fallline.lab.tasks import Task
    from fallline.landscape import LRRange, Step

_WIDTH, _HEIGHT, _LEFT = 64, 8, 9  # characters: size of the curve, and left margin

_CAPTION = (
    "Points: the loss on the batch of each update, before the update; line: the smoothed loss. Shaded: the range in "
    "which the loss decreases; dashed: the suggested learning rate. The learning rate axis is logarithmic."
)


def lr_range(
    task: options.TaskName = "digits",
    optimizer: Annotated[str, typer.Option(help="As in compare: adamw, momentum, adamw@weight_decay=0.1.")] = "adamw",
    low: Annotated[float, typer.Option(help="The first learning rate.")] = 1e-7,
    high: Annotated[float, typer.Option(help="The last learning rate.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Updates; each raises lr by the same factor.")] = 100,
    accumulate: Annotated[int | None, typer.Option(help="Batches per update; by default that of the task.")] = None,
    settings: options.Settings = None,
    text: options.TextFile = None,
    data_dir: options.DataDir = None,
    seed: options.ModelSeed = 0,
    device: options.Device = "cpu",
    out: options.Picture = None,
) -> None:
    """Train briefly at an increasing learning rate, and report which rates reduce the loss.

    The test makes --steps updates, and stops early if the loss diverges.
    """
    from fallline.lab.contract.preflight import check_training
    from fallline.lab.design.arms import make_single
    from fallline.lab.tasks import open_task

    options.keep_data_in(data_dir)
    task = options.resolve_task(task)
    if out is not None and out.suffix not in PICTURES:
        raise ArgumentError(f"--out: must end in one of {', '.join(PICTURES)}, got {out}; for example lr-range.html")
    found = open_task(task, **options.parse_settings(settings or [], text))
    (arm,) = make_single([optimizer])
    if "lr" in arm.fixed:
        raise ArgumentError(f"--optimizer: lr must not be fixed, got {optimizer}; set --low and --high instead")
    with measurement_progress() as report:
        check_training(task, found)
        result = _measure(found, arm, low, high, steps, accumulate, seed, device, report)
    console.print(f"{found.name} with {arm.name}: {steps} updates from lr {low:g} to {high:g}", style="bold")
    for line in picture(result, low, high):
        console.print(line, markup=False)
    console.print()
    verdict = result.verdict[0].upper() + result.verdict[1:]
    console.print(f"suggestion: lr {result.suggestion:.2g}; range {result.low:.2g} to {result.high:.2g}", style="bold")
    console.print(f"{verdict}.")
    if out is not None:
        headline = f"Learning rate {result.suggestion:.2g}, from {result.low:.2g} to {result.high:.2g}"
        subject = f"lr-range of {found.name} with {arm.name}, {steps} updates at most"
        save_chart(result.plot(), out, headline, subject, (f"{verdict}.",), _CAPTION)


def _measure(
    task: "Task",
    arm: "Arm",
    low: float,
    high: float,
    steps: int,
    accumulate: int | None,
    seed: int,
    device: str,
    report: "Callable[[str, Step], None]" = lambda what, step: None,
) -> "LRRange":
    """Run the test on a new model that is initialized and trained like a trial of a study."""
    import torch

    from fallline.lab.design.optimizers import build_optimizer
    from fallline.lab.design.param_groups import scale_groups
    from fallline.lab.isolation import derive, seed_everything
    from fallline.lab.run.device import check_device, loss_of
    from fallline.landscape import lr_range as measure

    check_device(device)
    seed_everything(derive(seed, "init"))
    model = task.model().to(device)
    values = arm.space.options({**arm.space.defaults, **arm.fixed})
    groups = scale_groups(task.param_groups(model), values, arm.space.defaults)
    optimizer = build_optimizer(arm.space.optimizer, groups, model=model, **values)
    seed_everything(derive(seed, "dropout"))
    loss = loss_of(task, device)
    batches = iter(task.batches("train", torch.Generator().manual_seed(derive(seed, "data"))))
    return measure(
        model,
        optimizer,
        loss,
        batches,
        low=low,
        high=high,
        steps=steps,
        accumulate=task.accumulate if accumulate is None else accumulate,
        weight=task.size,
        progress=lambda step: report("range test", step),
    )


def picture(found: "LRRange", low: float, high: float) -> list[str]:
    """Return the smoothed curve as lines of characters, with axes, and the range and the suggestion below.

    Args:
        found: result of the test.
        low, high: ends of the learning rate axis.
    """
    decades = math.log10(high / low)

    def column(lr: float) -> int:
        return round((_WIDTH - 1) * math.log10(lr / low) / decades)

    bottom, top = _bounds(found)
    heights = _heights(found, low, decades, bottom, top)
    labels = {0: f"{top:.3g}", _HEIGHT - 1: f"{bottom:.3g}"}
    lines = [f"{labels.get(k, ''):>{_LEFT - 2}} │{row}" for k, row in enumerate(blocks(heights, _HEIGHT))]
    wide = math.ceil(decades / 8)  # decades between labels, which take six characters each
    exponents = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1, wide)
    axis, names = ["─"] * _WIDTH, [" "] * (_WIDTH + 6)
    for exponent in exponents:
        at = column(10.0**exponent)
        axis[at] = "┬"
        names[at : at + 6] = f"1e{exponent}".ljust(6)
    span = [" "] * _WIDTH
    first, best, last = column(max(found.low, low)), column(max(found.suggestion, low)), column(found.high)
    span[first : last + 1] = "─" * (last + 1 - first)
    span[first], span[last], span[best] = "├", "┤", "▲"
    margin = " " * (_LEFT - 1)
    lines += [f"{margin}└{''.join(axis)}", f"{margin} {''.join(names).rstrip()}"]
    return [*lines, f"{'range':>{_LEFT - 2}}  {''.join(span).rstrip()}"]


def _bounds(found: "LRRange") -> tuple[float, float]:
    """Return the losses at the bottom and the top of the picture."""
    start = float(found.smooth[0])  # smoothed, because a single batch is noisy
    lowest = float(found.smooth.min())
    ceiling = start + max(start - lowest, 0.05 * abs(start))
    return lowest, min(float(found.smooth.max()), ceiling)


def _heights(found: "LRRange", low: float, decades: float, bottom: float, top: float) -> Sequence[float]:
    """Return the height of every column, from 0 to 1; 0 for learning rates that were not tried."""
    import numpy as np

    rates = low * 10 ** (decades * np.arange(_WIDTH) / (_WIDTH - 1))
    smooth = np.interp(np.log10(rates), np.log10(found.lrs), found.smooth)
    foot = bottom - 0.05 * (top - bottom)
    heights = np.clip((smooth - foot) / ((top - foot) or 1.0), 0, 1)
    return [float(h) if rate <= found.lrs[-1] * 1.001 else 0.0 for h, rate in zip(heights, rates, strict=True)]

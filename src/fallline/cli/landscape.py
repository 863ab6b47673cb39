"""`fallline landscape`: measure the curvature of a task's model and classify the current point."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fallline.cli import options
from fallline.cli.show import blocks, console, measurement_progress, path, say
from fallline.errors import ArgumentError

if TYPE_CHECKING:
    from fallline.lab.run.curvature import Curvature
    from fallline.landscape import Surface

_WIDTH, _HEIGHT, _LEFT = 64, 6, 9  # characters: size of the spectrum, and left margin
_SHADES = " ·:░▒▓█"  # from the lowest loss to the highest
_COLUMNS = 32  # maximum number of columns of a surface


def landscape(
    task: options.TaskName = "digits",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File written by torch.save: a state dict, or a dict that holds one under the key 'model'."),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Arm whose stability limit to compare with: momentum@lr=0.1, adam …")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to train with that optimizer first.")] = 0,
    items: Annotated[int, typer.Option(help="Minimum number of training items to average the loss over.")] = 1024,
    cells: Annotated[
        int, typer.Option(help="Grid cells per side of each plot of the loss surface, an odd number; 0 for no plots.")
    ] = 21,
    settings: options.Settings = None,
    text: options.TextFile = None,
    data_dir: options.DataDir = None,
    seed: options.ModelSeed = 0,
    device: options.Device = "cpu",
    out: Annotated[Path, typer.Option(help="Output page, .html.")] = Path("landscape.html"),
) -> None:
    """Classify the current point (minimum or saddle, sharpness, conditioning), with error bounds.

    The current point is the initial weights, the weights of a checkpoint, or the weights after --steps of training. The
    results are printed and saved as an HTML page.
    """
    import warnings

    from fallline.errors import LandscapeWarning
    from fallline.lab.contract.preflight import check_training
    from fallline.lab.design.arms import make_single
    from fallline.lab.report.curvature import write_curvature
    from fallline.lab.run.curvature import measure_curvature
    from fallline.lab.tasks import open_task

    options.keep_data_in(data_dir)
    task = options.resolve_task(task)
    if out.suffix != ".html":
        raise ArgumentError(f"--out: must end in .html, got {out}; landscape.html is the usual name")
    arm = None if optimizer is None else make_single([optimizer])[0]
    learning = open_task(task, **options.parse_settings(settings or [], text))
    with measurement_progress() as report, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LandscapeWarning)
        check_training(task, learning)
        found = measure_curvature(
            learning,
            arm=arm,
            checkpoint=checkpoint,
            steps=steps,
            items=items,
            cells=cells,
            seed=seed,
            device=device,
            report=report,
        )
    for warning in caught:
        say(str(warning.message), "! ", style="yellow")
    _show(found)
    command = _command(task, checkpoint, optimizer, steps, items, cells, seed, settings, text)
    path("page", write_curvature(found, out, command))


def _command(task: str, *values: Any) -> str:
    """Return the command line that reproduces the page."""
    from fallline.lab.run.curvature import CELLS

    checkpoint, optimizer, steps, items, cells, seed, settings, text = values
    paths = {"checkpoint": checkpoint, "optimizer": optimizer, "text": text}
    numbers = {"steps": steps or None, "seed": seed or None, "cells": None if cells == CELLS else cells, "items": items}
    given = [(name, value) for name, value in (paths | numbers).items() if value is not None]
    given += [("set", setting) for setting in settings or []]
    return shlex.join(["fallline", "landscape", task, *(word for n, v in given for word in (f"--{n}", str(v)))])


def _show(found: "Curvature") -> None:
    from fallline.lab.report.curvature import AXES, list_caveats, table

    items = f"{found.parameters:,} parameters, loss {found.loss:.4g} over {found.items:,} items"
    console.print(f"{found.task} at {found.place}: {items}, {found.mode} mode", style="bold", markup=False)
    say(found.sentence)
    for caveat in list_caveats(found):
        say(caveat, "! ", style="yellow")
    console.print()
    shown = Table(box=None, pad_edge=False, header_style="dim")
    numbers = table(found)
    for column in numbers.columns[:3]:
        shown.add_column(column.title, justify="left" if column.kind == "text" else "right", overflow="fold")
    for row in numbers.visible_records:
        shown.add_row(*(column(row).text for column in numbers.columns[:3]))
    console.print(shown)
    console.print()
    for line in picture(found):
        console.print(line, markup=False)
    if found.surfaces:
        console.print()
        for line in beside([relief(surface, AXES[name]) for name, surface in found.surfaces.items()]):
            console.print(line, markup=False)


def relief(found: "Surface", axes: Sequence[str]) -> list[str]:
    """Return a surface as lines of characters, darker for higher loss; only every second row, as characters are tall.

    Args:
        found: the surface; "+" in the middle marks the weights, and "?" a cell that is not finite.
        axes: names of the horizontal and the vertical direction.
    """
    import numpy as np

    middle = len(found.y) // 2
    every = -(-len(found.x) // _COLUMNS)  # skip cells if there are too many, but keep the middle
    columns, rows = range(middle % every, len(found.x), every), range(middle % (2 * every), len(found.y), 2 * every)
    seen = found.values[~found.mask]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)
    ranks = np.sort(seen)  # shades by rank, because one cliff would make all other cells white

    def shade(i: int, j: int) -> str:
        if (i, j) == (middle, middle):
            return "+"
        if found.mask[i, j]:
            return "?"
        part = np.searchsorted(ranks, found.values[i, j]) / max(np.searchsorted(ranks, high), 1)
        return _SHADES[min(int(part * len(_SHADES)), len(_SHADES) - 1)]

    lines = ["".join(shade(i, j) for j in columns) for i in reversed(rows)]
    width = len(lines[0])
    across, up = (
        f"{way} {axis}, ±{axis_span:.2g}"
        for way, axis, axis_span in zip("→↑", axes, (found.x[-1], found.y[-1]), strict=True)
    )
    return [
        f"┌{'─' * width}┐",
        *(f"│{line}│" for line in lines),
        f"└{'─' * width}┘",
        across,
        up,
        f"loss {low:.3g} to {high:.3g}, + {found.centre:.3g}",
    ]


def beside(blocks: Sequence[Sequence[str]]) -> list[str]:
    """Return blocks of lines side by side, or below each other if they are too wide for 80 columns."""
    widths = [max(map(len, block)) for block in blocks]
    if sum(widths) + 3 * (len(blocks) - 1) > 79:
        return [line for block in blocks for line in (*block, "")][:-1]
    padded = zip(
        *([line.ljust(width) for line in block] for block, width in zip(blocks, widths, strict=True)), strict=True
    )
    return ["   ".join(lines).rstrip() for lines in padded]


def picture(found: "Curvature") -> list[str]:
    """Return the spectrum as lines of characters: log density over eigenvalues, with zero marked on the axis."""
    import torch

    grid, density = found.density.grid, found.density.density
    floor = 0.1 / found.parameters / found.density.width
    cells = torch.stack([part.max() for part in density.tensor_split(_WIDTH)]).clamp(min=floor).log()
    heights = ((cells - cells.min()) / (cells.max() - cells.min()).clamp(min=1e-9)).tolist()
    low, high = float(grid[0]), float(grid[-1])
    axis = ["─"] * _WIDTH
    zero = round((_WIDTH - 1) * -low / (high - low))
    if 0 <= zero < _WIDTH:
        axis[zero] = "0"
    margin = " " * (_LEFT - 1)
    labels = {0: "log", 1: "density"}
    lines = [f"{labels.get(k, ''):>{_LEFT - 2}} │{row}" for k, row in enumerate(blocks(heights, _HEIGHT))]
    ends = f"{low:.3g}".ljust(_WIDTH - 8) + f"{high:.3g}".rjust(8)
    return [*lines, f"{margin}└{''.join(axis)}", f"{margin} {ends}"]

"""The path of an optimizer on the ravine as a small SVG, beside plain SGD's at the same budget."""

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fallline.core.optimizer import Optimizer
from fallline.lab.design.spaces import SPACES
from fallline.lab.race.runs import descend
from fallline.lab.report.style import ArmStyle, arm_styles
from fallline.optimizers import OPTIMIZERS
from fallline.problems import PROBLEMS, Problem

STEPS = 60
LRS = tuple(10 ** (k / 8) for k in range(-24, 5))  # 0.001 to 3.2, eight a decade
LEVELS = tuple(7.2 * 2.0**-k for k in range(8))  # of the contour lines; each twice the one inside
SCALE, LINE, MARGIN = 94, 22, 16  # pixels: of a unit, of a line of the legend, around it
PAPER, RIM, INK, DIM, CONTOUR = "#ffffff", "#d0d7de", "#1c2024", "#5b6570", "#c3ccd6"
FONT = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Path:
    """A descent: who, at which learning rate, along which points, down to which value."""

    label: str
    lr: float
    points: list[tuple[float, float]]
    end: float


def paths(cls: type[Optimizer]) -> list[Path]:
    """Return the descent of plain SGD and of every arm of an optimizer on the ravine, learning rates tuned."""
    spaces = [space for space in SPACES.values() if space.optimizer == cls.rule.name]
    tuned = [space.options({**space.defaults, "weight_decay": 0.0}) for space in spaces] or [{}]
    options = [{k: v for k, v in chosen.items() if k not in ("lr", "weight_decay")} for chosen in tuned]
    runs = [_plain(), *(_descend(cls, chosen) for chosen in options)]
    return list({run.label: run for run in runs}.values())


@functools.cache
def _plain() -> Path:
    return _descend(OPTIMIZERS["sgd"], {})


def _descend(cls: type[Optimizer], options: Mapping[str, Any]) -> Path:
    """Return the run whose value, averaged over its steps, is the lowest of the learning rates tried."""
    ravine = PROBLEMS["ravine"]
    still = {**options, "weight_decay": 0.0}  # decay would move the minimum
    tracks = torch.from_numpy(descend(ravine, cls.rule.name, still, LRS, STEPS))
    values = ravine(tracks)
    best = int(values.mean(1).nan_to_num(math.inf).argmin())
    points = [(x, y) for x, y in tracks[best].tolist()]
    return Path(_label(cls, options), LRS[best], points, values[best, -1].item())


def _label(cls: type[Optimizer], options: Mapping[str, Any]) -> str:
    plain = inspect.signature(cls).parameters
    more = {k: v for k, v in options.items() if plain[k].default not in (v, None)}
    return ", ".join([cls.__name__, *(k if v is True else f"{k} {v:g}" for k, v in more.items())])


def svg(cls: type[Optimizer]) -> str:
    """Return the picture of an optimizer's path."""
    problem, runs = PROBLEMS["ravine"], paths(cls)
    (left, right), (low, high) = problem.domain
    width, height = round(SCALE * (right - left)), round(SCALE * (high - low))
    total = height + LINE * len(runs) + MARGIN
    styles = dict(zip((run.label for run in runs), _styles(len(runs)), strict=True))
    plot = [*_contours(problem), *(part for run in runs for part in _drawn(run, styles[run.label], problem))]
    plot += [_cross(*_pixel(minimum, problem)) for minimum in problem.minima]
    legend = [_entry(run, styles[run.label], height + LINE * (i + 1)) for i, run in enumerate(runs)]
    title = f"Descent of {', '.join(run.label for run in runs)} on the ravine, {STEPS} steps each"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}"'
            f' role="img" font-family="{FONT}" font-size="14">',
            f"<title>{title}</title>",
            # A card of its own, so that a dark page changes nothing.
            f'<rect x=".5" y=".5" width="{width - 1}" height="{total - 1}" rx="8" fill="{PAPER}" stroke="{RIM}"/>',
            f'<svg x="1" y="1" width="{width - 2}" height="{height}" viewBox="1 1 {width - 2} {height}">',
            *plot,
            "</svg>",
            *legend,
            "</svg>",
            "",
        ]
    )


def _styles(count: int) -> Sequence[ArmStyle]:
    """Return styles for the runs; plain SGD, the first, steps back."""
    arms = [str(i) for i in range(count)]
    first, *others = arm_styles(arms).values()
    return [ArmStyle(DIM, (4, 3), first.mark), *(ArmStyle(c.colour, (1, 0), c.mark) for c in (first, *others))][:count]


def _pixel(point: tuple[float, float], problem: Problem) -> tuple[float, float]:
    (left, _), (_, high) = problem.domain
    return SCALE * (point[0] - left), SCALE * (high - point[1])


def _contours(problem: Problem) -> list[str]:
    """Return the level lines, ellipses because the ravine is quadratic."""
    centre = torch.tensor(problem.minima[0], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(problem.function, centre)
    (flat, steep), axes = torch.linalg.eigh(hessian)
    angle = math.degrees(math.atan(-axes[1, 0] / axes[0, 0]))
    x, y = _pixel(problem.minima[0], problem)
    radii = [(SCALE * math.sqrt(2 * level / flat), SCALE * math.sqrt(2 * level / steep)) for level in LEVELS]
    place = f'transform="translate({x:.1f} {y:.1f}) rotate({angle:.2f})"'
    ellipses = [f'<ellipse rx="{rx:.1f}" ry="{ry:.1f}"/>' for rx, ry in radii]
    return [f'<g {place} fill="none" stroke="{CONTOUR}">', *ellipses, "</g>"]


def _drawn(run: Path, style: ArmStyle, problem: Problem) -> list[str]:
    pixels = [_pixel(point, problem) for point in run.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in pixels[1:])
    x, y = pixels[0]
    return [
        f'<polyline points="{line}" fill="none" stroke="{style.colour}" stroke-width="1.6"{_dash(style)}/>',
        f'<g fill="{style.colour}">{dots}</g>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{PAPER}" stroke="{INK}" stroke-width="2"/>',
    ]


def _dash(style: ArmStyle) -> str:
    return f' stroke-dasharray="{style.dash[0]} {style.dash[1]}"' if style.dash[1] else ""


def _cross(x: float, y: float) -> str:
    arms = f"M{x - 6:.1f},{y:.1f}h12M{x:.1f},{y - 6:.1f}v12"
    return f'<path d="{arms}" stroke="{PAPER}" stroke-width="5"/><path d="{arms}" stroke="{INK}" stroke-width="2"/>'


def _entry(run: Path, style: ArmStyle, y: int) -> str:
    text = f"{run.label}: lr {run.lr:.2g}, value {run.end:.2g} after {STEPS} steps"
    return (
        f'<path d="M{MARGIN},{y}h30" stroke="{style.colour}" stroke-width="1.6"{_dash(style)}/>'
        f'<circle cx="{MARGIN + 15}" cy="{y}" r="2.6" fill="{style.colour}"/>'
        f'<text x="{MARGIN + 42}" y="{y + 5}" fill="{INK}">{text}</text>'
    )

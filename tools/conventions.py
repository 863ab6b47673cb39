"""Write docs/schedules.md and its picture: warm-up + cosine as PyTorch, transformers and timm count it, beside ours.

python tools/conventions.py [--check]
"""

import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import altair as alt
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from fallline.schedules import Schedule, cosine, warmup_cosine

FOLDER = Path(__file__).parents[1] / "docs"
WARMUP, TOTAL, SHOWN = 3, 10, 14


def torchs(make: Callable[[torch.optim.Optimizer], LRScheduler]) -> list[float]:
    """Return what one of PyTorch's schedulers gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls itself as it warns others not to
        scheduler = make(optimizer)
        values = []
        for _ in range(SHOWN):
            values.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
    return values


def transformers(k: int) -> float:
    """Follow transformers 5.23, optimization.py, `get_cosine_schedule_with_warmup` with its defaults."""
    if k < WARMUP:
        return k / WARMUP
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (k - WARMUP) / (TOTAL - WARMUP))))


def timm(k: int) -> float:
    """Follow timm 1.0.31, `CosineLRScheduler(t_initial=10, warmup_t=3)`, the rest by default; it counts epochs."""
    if k < WARMUP:
        return k / WARMUP
    return 0.5 * (1 + math.cos(math.pi * k / TOTAL)) if k < TOTAL else 0.0


def sequence(optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Return PyTorch's two parts, as its documentation joins them."""
    parts = [LinearLR(optimizer, 1 / WARMUP, total_iters=WARMUP), CosineAnnealingLR(optimizer, TOTAL - WARMUP)]
    return SequentialLR(optimizer, parts, milestones=[WARMUP])


def ours(schedule: Schedule) -> list[float]:
    """Return what a schedule gives."""
    return [schedule(k) for k in range(SHOWN)]


COLUMNS = {
    f"fallline warmup_cosine({WARMUP}, {TOTAL})": ours(warmup_cosine(WARMUP, TOTAL)),
    f"fallline cosine({TOTAL})": ours(cosine(TOTAL)),
    f"PyTorch CosineAnnealingLR({TOTAL})": torchs(lambda optimizer: CosineAnnealingLR(optimizer, TOTAL)),
    f"PyTorch LinearLR({WARMUP}) then CosineAnnealingLR({TOTAL - WARMUP})": torchs(sequence),
    f"transformers cosine_with_warmup({WARMUP}, {TOTAL})": [transformers(k) for k in range(SHOWN)],
    f"timm CosineLRScheduler({TOTAL}, warmup_t={WARMUP})": [timm(k) for k in range(SHOWN)],
}


def picture() -> alt.FacetChart:
    """Return a panel for each convention; ours in grey behind the others."""
    first = next(iter(COLUMNS.values()))
    rows = [
        {"k": k, "lr": column[k], "ours": first[k], "name": name}
        for name, column in COLUMNS.items()
        for k in range(SHOWN)
    ]
    x = alt.X("k:O", title="k, calls of scheduler.step() so far", axis=alt.Axis(labelAngle=0))
    base = alt.Chart().encode(x=x).properties(width=300, height=110)
    grey = base.mark_bar(color="#d0d7de", width=16).encode(y=alt.Y("ours:Q", title="learning rate"))
    theirs = base.mark_bar(color="#1f6feb", width=8).encode(y="lr:Q")
    header = alt.Header(title=None, labelFontSize=12, labelAnchor="start", labelLimit=320)
    layers = alt.layer(grey, theirs, data=alt.Data(values=rows))
    return layers.facet(alt.Facet("name:N", sort=list(COLUMNS), header=header), columns=2)


PAGE = """# Whose convention is which

A warm-up of {warmup} steps and a cosine, {total} steps in all, base learning rate 1: the learning rate of the step
after `k` calls of `scheduler.step()`. Written by `make pages`.

![The columns of the table as bars, a panel each; in grey behind them ours](schedules.svg)

| k | {names} |
|--:|{rules}|
{rows}

- **fallline** counts the steps from 1, `s = k + 1`: the first step is not wasted at 0, the peak is reached at step
  {warmup}, step {total} has `min_lr` exactly, and there it stays. `cosine` alone starts at the peak and reaches
  `min_lr` after {total} calls.
- **PyTorch**'s `CosineAnnealingLR` rises again after `T_max`; behind a `LinearLR` it repeats no step, but its end is
  one call later.
- **transformers** starts at 0, so that the first step moves nothing, and rises again after its end.
- **timm** starts at 0 too, does not shift the cosine by the warm-up (unless `warmup_prefix=True`), so that it jumps
  from {jump} to {after} and never reaches the base, and stays at its end.
"""


def render() -> str:
    """Return the text of the page."""
    rows = [f"| {k} | " + " | ".join(f"{column[k]:.3f}" for column in COLUMNS.values()) + " |" for k in range(SHOWN)]
    return PAGE.format(
        warmup=WARMUP,
        total=TOTAL,
        names=" | ".join(COLUMNS),
        rules="--:|" * (len(COLUMNS) - 1) + "--:",
        rows="\n".join(rows),
        jump=f"{timm(WARMUP - 1):.3f}",
        after=f"{timm(WARMUP):.3f}",
    )


if __name__ == "__main__":
    page = FOLDER / "schedules.md"
    if "--check" not in sys.argv:
        page.write_text(render(), encoding="utf-8")
        picture().save(str(FOLDER / "schedules.svg"))
    elif not page.exists() or page.read_text(encoding="utf-8") != render():
        sys.exit("docs/schedules.md is stale; run: make pages")

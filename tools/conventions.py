"""Write docs/schedules.md and its picture: how Fallline, PyTorch, transformers and timm count the steps of a cosine.

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
    """Return the learning rates of one of PyTorch's schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls its parts in a way that it warns users about
        scheduler = make(optimizer)
        values = []
        for _ in range(SHOWN):
            values.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
    return values


def transformers(k: int) -> float:
    """Compute `get_cosine_schedule_with_warmup` of transformers 5.23, optimization.py, with its defaults."""
    if k < WARMUP:
        return k / WARMUP
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (k - WARMUP) / (TOTAL - WARMUP))))


def timm(k: int) -> float:
    """Compute timm 1.0.31's `CosineLRScheduler(t_initial=10, warmup_t=3)` with its other defaults; it counts epochs."""
    if k < WARMUP:
        return k / WARMUP
    return 0.5 * (1 + math.cos(math.pi * k / TOTAL)) if k < TOTAL else 0.0


def sequence(optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Return PyTorch's warm-up and cosine, joined as in its documentation."""
    parts = [LinearLR(optimizer, 1 / WARMUP, total_iters=WARMUP), CosineAnnealingLR(optimizer, TOTAL - WARMUP)]
    return SequentialLR(optimizer, parts, milestones=[WARMUP])


def ours(schedule: Schedule) -> list[float]:
    """Return the learning rates of a schedule."""
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
    """Return a panel for each convention, with Fallline's in grey behind the others."""
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


PAGE = """# How schedules count steps

Libraries disagree on the learning rate of the first and the last step. The table shows a warm-up of {warmup} steps
and a cosine, {total} steps in all, with a base learning rate of 1: the learning rate of the step after `k` calls of
`scheduler.step()`. This page is written by `make pages`.

![The columns of the table as bars, one panel per column, with the first column in grey behind them](schedules.svg)

| k | {names} |
|--:|{rules}|
{rows}

- **fallline** counts the steps from 1, `s = k + 1`. The first step has a learning rate above 0, step {warmup} has the
  base learning rate, and step {total} has exactly `min_lr`. The learning rate then stays there. `cosine` alone starts
  at the base learning rate and reaches `min_lr` after {total} calls.
- **PyTorch**'s `CosineAnnealingLR` rises again after `T_max`. After a `LinearLR` it repeats no step, but it ends one
  call later.
- **transformers** starts at 0, so the first step does not change the parameters. It rises again after its end.
- **timm** also starts at 0. It does not shift the cosine by the warm-up (unless `warmup_prefix=True`), so it jumps from
  {jump} to {after} and never reaches the base learning rate. It stays at its last value.
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

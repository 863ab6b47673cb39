"""Each recipe against the defaults of PyTorch's class of the same name: equal searches of the rate, fresh seeds.

python examples/recipes_against_defaults.py        (about five minutes on two cores; needs the extra `lab`)

Both get the same 8 learning rates, each tried once (seed 0) and judged on validation at the end of the run. Then both
run on 8 fresh seeds at their best, and the recipe also at its published rate. Losses are those of the test split, in
nats; the interval is that of the paired ratio over the seeds.
"""

import statistics
import sys
import sysconfig
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fallline import recipes
from fallline.lab.statistics import Comparison, compare
from fallline.lab.tasks.digits import load

STEPS, SEEDS, CONTEXT = 300, range(1, 9), 64
GRIDS = {"AdamW": [10 ** (-4 + 2.5 * i / 7) for i in range(8)], "SGD": [10 ** (-2 + 2.5 * i / 7) for i in range(8)]}


class Transformer(nn.Module):
    """Two pre-norm blocks of width 48 over embedded tokens."""

    def __init__(self, embedding, tokens, outputs, causal):
        super().__init__()
        self.embedding, self.causal = embedding, causal
        self.pos_embed = nn.Parameter(0.02 * torch.randn(tokens, 48))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, outputs)

    def forward(self, x):
        """Return logits, for every token if causal, else for their mean."""
        x = self.embedding(x) + self.pos_embed
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        for block in self.blocks:
            x = block(x, src_mask=mask)
        x = self.norm(x)
        return self.head(x if self.causal else x.mean(1))


class Patches(nn.Module):
    """Sixteen patches of 2 × 2 pixels, projected."""

    def __init__(self):
        super().__init__()
        self.project = nn.Conv2d(1, 48, 2, stride=2)

    def forward(self, images):
        """Return the patches of images (n, 1, 8, 8) as tokens (n, 16, 48)."""
        return self.project(images).flatten(2).transpose(1, 2)


def convolutions():
    """Return two convolutions with batch normalisation, and a linear layer."""

    def stage(before, after):
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*stage(1, 16), *stage(16, 32), nn.Flatten(), nn.Linear(128, 10))


def text(split):
    """Return the bytes of a part of Python's standard library."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    chosen = [file for number, file in enumerate(files) if {0: "val", 1: "test"}.get(number % 10, "train") == split]
    return torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in chosen)), dtype=torch.uint8).long()


def windows(split, count, generator):
    """Return random pieces of a text, and the same shifted by a byte."""
    data = text(split)
    starts = torch.randint(len(data) - CONTEXT - 1, (count,), generator=generator)
    rows = torch.stack([data[start : start + CONTEXT + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


TASKS = {  # recipe: model, whether on text, the class of the optimizer
    "vision_transformer": (lambda: Transformer(Patches(), 16, 10, causal=False), False, "AdamW"),
    "convnet": (convolutions, False, "SGD"),
    "language_model": (lambda: Transformer(nn.Embedding(256, 48), CONTEXT, 256, causal=True), True, "AdamW"),
}


def run(job):
    """Train once; return the validation and the test loss."""
    task, arm, lr, seed = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    make, on_text, kind = TASKS[task]
    model, generator = make(), torch.Generator().manual_seed(seed)
    if arm == "recipe":
        optimizer, scheduler = getattr(recipes, task)(model, STEPS, lr=lr)
    else:
        optimizer, scheduler = getattr(torch.optim, kind)(model.parameters(), lr=lr), None
    fixed = torch.Generator().manual_seed(0)
    parts = [windows(s, 256, fixed) if on_text else load(s) for s in ("val", "test")]
    every = windows("train", 16 * STEPS, generator) if on_text else load("train")
    for step in range(STEPS):
        if on_text:
            x, y = (t[16 * step : 16 * (step + 1)] for t in every)
        else:
            chosen = torch.randint(len(every[1]), (64,), generator=generator)
            x, y = every[0][chosen], every[1][chosen]
        optimizer.zero_grad()
        cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    model.eval()
    with torch.no_grad():
        return [cross_entropy(model(x).flatten(0, -2), y.flatten()).item() for x, y in parts]


def main(names):
    """Print what comes out for each of the recipes named, or for all."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for task in names or TASKS:
            grid = GRIDS[TASKS[task][2]]
            published = getattr(recipes, task)(nn.Linear(2, 2), STEPS).optimizer.param_groups[0]["initial_lr"]
            best, tests = {}, {}
            for arm in ("recipe", "default"):
                found = list(pool.map(run, [(task, arm, lr, 0) for lr in grid]))
                tried = [val if val == val else float("inf") for val, _ in found]
                best[arm] = grid[tried.index(min(tried))]
                tests[arm] = [test for _, test in pool.map(run, [(task, arm, best[arm], seed) for seed in SEEDS])]
            tests["published"] = [test for _, test in pool.map(run, [(task, "recipe", published, s) for s in SEEDS])]
            c = compare(tests["recipe"], tests["default"], log_ratio=True)
            print(f"{task}: {STEPS} steps, 8 seeds")
            for arm, lr in (*best.items(), ("published", published)):
                edge = " (at the edge of the search)" if lr in (grid[0], grid[-1]) else ""
                spread = statistics.stdev(tests[arm])
                print(f"  {arm:<9}  lr {lr:.2g}{edge}  test loss {statistics.mean(tests[arm]):.4f} ± {spread:.4f}")
            low, mean, high = (Comparison.percent(v) for v in (c.low, c.difference, c.high))
            verdict = "at most 2 % worse" if high <= 2 else "not shown to be at most 2 % worse"
            print(f"  recipe against default: {mean:+.1f} % [{low:+.1f}, {high:+.1f}]: {verdict}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Compare each recipe with the defaults of PyTorch's optimizer of the same class, with equal learning rate searches.

python examples/recipes_against_defaults.py        (needs the extra `lab`)

The images are those of Fashion-MNIST if its files are present (`fallline data fashion-mnist`; about twenty minutes on
two cores). Otherwise they are handwritten digits (about five minutes), whose 360 test images are too few to conclude
much. Recipe and defaults are run once (seed 0) with each of the same 8 learning rates, and the best is selected by the
validation loss at the end of the run. Then both run on 8 fresh seeds with their best learning rate, and the recipe also
with its published one. The script prints the loss on the test split, in nats, and the accuracy. The interval is that of
the ratio of losses, paired by seed; it holds for new seeds and new test examples (images or windows of text).
"""

import functools
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
from fallline.errors import FalllineError
from fallline.lab.analysis.statistics import Comparison, compare
from fallline.lab.analysis.variance import FixedTestSet
from fallline.lab.tasks import Digits, FashionMNIST

SEEDS, CONTEXT = range(1, 9), 64
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
        """Return the logits of every token if causal, otherwise those of the mean over the tokens."""
        x = self.embedding(x) + self.pos_embed
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        for block in self.blocks:
            x = block(x, src_mask=mask)
        x = self.norm(x)
        return self.head(x if self.causal else x.mean(1))


class Patches(nn.Module):
    """Split images into square patches and project them."""

    def __init__(self, size):
        super().__init__()
        self.project = nn.Conv2d(1, 48, size, stride=size)

    def forward(self, images):
        """Return the patches of images (n, 1, height, width) as tokens (n, patches, 48)."""
        return self.project(images).flatten(2).transpose(1, 2)


def vision_transformer(side):
    """Return a vision transformer for images of side × side pixels, with patches of 2 pixels, or 4 if side > 8."""
    patch = 2 if side == 8 else 4
    return Transformer(Patches(patch), (side // patch) ** 2, 10, causal=False)


def convolutions(side):
    """Return a network of two convolutions with batch normalization and a linear layer, for side × side pixels."""

    def stage(before, after):
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*stage(1, 16), *stage(16, 32), nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 10))


def text(split):
    """Return the bytes of the files of Python's standard library that belong to a split."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    chosen = [file for number, file in enumerate(files) if {0: "val", 1: "test"}.get(number % 10, "train") == split]
    return torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in chosen)), dtype=torch.uint8).long()


def windows(split, count, generator):
    """Return random windows of the text, and the same windows shifted by one byte."""
    data = text(split)
    starts = torch.randint(len(data) - CONTEXT - 1, (count,), generator=generator)
    rows = torch.stack([data[start : start + CONTEXT + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


@functools.cache
def images():
    """Return the task that provides the images, and the number of steps of a run on it."""
    try:
        FashionMNIST().load("test")
    except FalllineError:
        return Digits(), 300
    return FashionMNIST(), 600


@functools.cache
def pictures(split):
    """Return images (n, 1, side, side) and labels (n,) of a split; training images are not prepared yet."""
    task, _ = images()
    data, labels = task.load(split)
    return (data if split == "train" else task.prepare(data)), labels


TASKS = {  # name of the recipe: (function from the side of the images to the model, class of the optimizer)
    "vision_transformer": (vision_transformer, "AdamW"),
    "convnet": (convolutions, "SGD"),
    "language_model": (lambda side: Transformer(nn.Embedding(256, 48), CONTEXT, 256, causal=True), "AdamW"),
}


def steps_of(task):
    """Return the steps of a run."""
    return 300 if task == "language_model" else images()[1]


def run(job):
    """Train once, and return validation loss, the loss of each test example (n,) and test accuracy."""
    task, arm, lr, seed = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    make, kind = TASKS[task]
    on_text, steps = task == "language_model", steps_of(task)
    model = make(0 if on_text else images()[0].load("val")[0].shape[-1])
    generator = torch.Generator().manual_seed(seed)
    if arm == "recipe":
        optimizer, scheduler = getattr(recipes, task)(model, steps, lr=lr)
    else:
        optimizer, scheduler = getattr(torch.optim, kind)(model.parameters(), lr=lr), None
    fixed = torch.Generator().manual_seed(0)
    parts = [windows(s, 256, fixed) if on_text else pictures(s) for s in ("val", "test")]
    every = windows("train", 16 * steps, generator) if on_text else pictures("train")
    for step in range(steps):
        if on_text:
            x, y = (t[16 * step : 16 * (step + 1)] for t in every)
        else:
            chosen = torch.randint(len(every[1]), (64,), generator=generator)
            x, y = images()[0].prepare(every[0][chosen]), every[1][chosen]
        optimizer.zero_grad()
        cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    model.eval()
    (val, _), (test, right) = (score(model, x, y) for x, y in parts)
    return float(val.mean()), test, right


def score(model, x, y):
    """Return the loss of each example (n,), averaged over the bytes of a window, and the accuracy."""
    with torch.no_grad():
        logits = torch.cat([model(part).flatten(0, -2) for part in x.split(500)])
    losses = cross_entropy(logits, y.flatten(), reduction="none").view(len(y), -1).mean(1)
    return losses.double().numpy(), (logits.argmax(1) == y.flatten()).double().mean().item()


def main(names):
    """Run the comparison for the named recipes, or for all, and print the results."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for task in names or TASKS:
            grid, steps = GRIDS[TASKS[task][1]], steps_of(task)
            published = getattr(recipes, task)(nn.Linear(2, 2), steps).optimizer.param_groups[0]["initial_lr"]
            best, tests, rights = {}, {}, {}
            for arm in ("recipe", "default"):
                found = list(pool.map(run, [(task, arm, lr, 0) for lr in grid]))
                tried = [val if val == val else float("inf") for val, *_ in found]
                best[arm] = grid[tried.index(min(tried))]
            for name, arm, lr in [(arm, arm, lr) for arm, lr in best.items()] + [("published", "recipe", published)]:
                _, tests[name], rights[name] = zip(*pool.map(run, [(task, arm, lr, s) for s in SEEDS]), strict=True)
            means = {name: [float(items.mean()) for items in runs] for name, runs in tests.items()}
            design = FixedTestSet(tests["recipe"], tests["default"])
            c = compare(means["recipe"], means["default"], log_ratio=True, design=design)
            data = "text" if task == "language_model" else images()[0].name
            print(f"{task} on {data}: {steps} steps, 8 seeds")
            for arm, lr in (*best.items(), ("published", published)):
                edge = " (at the edge of the search)" if arm != "published" and lr in (grid[0], grid[-1]) else ""
                spread = statistics.stdev(means[arm])
                mean, right = statistics.mean(means[arm]), statistics.mean(rights[arm])
                print(f"  {arm:<9}  lr {lr:.2g}{edge}  test loss {mean:.4f} ± {spread:.4f}  accuracy {right:.2%}")
            low, mean, high = (Comparison.percent(v) for v in (c.low, c.difference, c.high))
            verdict = "at most 2 % worse" if high <= 2 else "not shown to be at most 2 % worse"
            share = (
                f"{100 * c.variance.examples_share:.0f} % of the variance from the {len(tests['recipe'][0])} examples"
            )
            print(f"  recipe against default: {mean:+.1f} % [{low:+.1f}, {high:+.1f}], {share}: {verdict}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

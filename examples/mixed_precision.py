"""Compare five ways to train in half precision with float32, by their test loss on text over 8 paired seeds.

python examples/mixed_precision.py [STEPS] [SEEDS] [LR]     (needs the extra `lab`; 15 minutes on two cores)

The model is the byte-level transformer of the lab's task `text` (the source of Python's standard library). All ways use
the same batches, the same AdamW and the same schedule. The test loss, in nats per byte, is computed in float32. The
interval is that of the ratio to the loss of float32, paired by seed.
"""

import copy
import functools
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import nn

import fallline as fl
from fallline.lab.analysis.statistics import Comparison, compare
from fallline.lab.tasks import Text

STEPS, SEEDS, LR = Text.steps, 8, 1e-3  # the default learning rate of AdamW
OVERFLOWS = (0.1, 0.4, 0.41, 0.8)  # fractions of the training at which a gradient is set to Inf


def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the mean cross-entropy, computed in float32 from logits of any dtype."""
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())


def plainly(model: nn.Module, opt: fl.AdamW, batches: Iterator, steps: int) -> Iterator[None]:
    """Train without autocast."""
    for _ in range(steps):
        opt.zero_grad()
        loss_of(model, next(batches)).backward()
        opt.step()
        yield


def under_autocast(model: nn.Module, opt: fl.AdamW, batches: Iterator, steps: int) -> Iterator[None]:
    """Train float32 parameters with bfloat16 activations."""
    for _ in range(steps):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, next(batches))
        loss.backward()
        opt.step()
        yield


def scaled(model: nn.Module, opt: fl.AdamW, batches: Iterator, steps: int) -> Iterator[None]:
    """Train float32 parameters with float16 activations and scaled losses; at some steps a gradient overflows."""
    scaler = torch.amp.GradScaler("cpu")
    overflows = {int(part * steps) for part in OVERFLOWS}
    for step in range(steps):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_of(model, next(batches))
        scaler.scale(loss).backward()
        if step in overflows:
            next(p.grad for p in model.parameters() if p.grad is not None).view(-1)[0] = math.inf
        scaler.step(opt)  # unscales as part of the update; skips the step if a gradient overflowed
        scaler.update()
        yield


# Name: dtype of the parameters, options of the optimizer, the loop.
WAYS: dict[str, tuple[torch.dtype, dict, Callable[..., Iterator[None]]]] = {
    "float32": (torch.float32, {}, plainly),
    "float16 autocast, GradScaler, Infs": (torch.float32, {}, scaled),
    "bfloat16 autocast": (torch.float32, {}, under_autocast),
    "bfloat16, master weights": (torch.bfloat16, {"master_weights": True}, plainly),
    "bfloat16, stochastic rounding": (torch.bfloat16, {"stochastic_rounding": True}, plainly),
    "bfloat16, plain": (torch.bfloat16, {}, plainly),
}


def trained(steps: int, lr: float, job: tuple[str, int]) -> float:
    """Train in one way on one seed, and return the test loss."""
    way, seed = job
    dtype, options, loop = WAYS[way]
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task = Text()
    model = task.model().to(dtype)
    opt = fl.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, rounding_seed=seed, **options)
    schedule = fl.WarmupCosine(opt, warmup_steps=steps // 20, total_steps=steps)
    for _ in loop(model, opt, task.batches("train", torch.Generator().manual_seed(seed)), steps):
        schedule.step()
    wide = copy.deepcopy(model).float().eval()
    with torch.no_grad():
        losses = [loss_of(wide, batch).item() for batch in task.batches("test", torch.Generator())]
    return statistics.fmean(losses)


def main(steps: int = STEPS, seeds: int = SEEDS, lr: float = LR) -> None:
    """Print the table."""
    jobs = [(way, seed) for seed in range(seeds) for way in WAYS]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        results = dict(zip(jobs, pool.map(functools.partial(trained, steps, lr), jobs), strict=True))
    losses = {way: [results[way, seed] for seed in range(seeds)] for way in WAYS}
    print(f"{'way':36}{'test loss':>10}{'against float32':>18}   95 % interval")
    for way, found in losses.items():
        line = f"{way:36}{statistics.fmean(found):10.4f}"
        if way != "float32":
            against = compare(found, losses["float32"], log_ratio=True)
            low, mean, high = (Comparison.percent(v) for v in (against.low, against.difference, against.high))
            within = "within 2 %" if low >= -2 and high <= 2 else "not within 2 %"
            line += f"{mean:+16.2f} %   {low:+.2f} to {high:+.2f} %: {within}"
        print(line)


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, int, float), sys.argv[1:], strict=False)))

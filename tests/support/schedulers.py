"""Optimizers to schedule and every scheduler with its pure schedule: what the tests of schedules share."""

import pytest
import torch

from fallline import schedules as fs
from support.variants import through_a_file

# The same formula in another order of operations; a few roundings apart.
close = pytest.approx


def parameter():
    return torch.nn.Parameter(torch.ones(2))


def sgd(*lrs, **options):
    """Return an SGD with one group per learning rate (0.1 by default)."""
    return torch.optim.SGD([{"params": [parameter()], "lr": lr} for lr in lrs or (0.1,)], **options)


def lrs(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


def train(optimizer, scheduler, steps):
    """Return the learning rates that each of `steps` updates used."""
    used = []
    for _ in range(steps):
        used.append(lrs(optimizer))
        optimizer.step()
        scheduler.step()
    return used


def saved(optimizer, scheduler):
    """Return the states of both, written to a file and read again."""
    return through_a_file({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})


BUILDERS = {
    "Constant": (lambda opt, **kw: fs.Constant(opt, **kw), fs.constant()),
    "StepDecay": (lambda opt, **kw: fs.StepDecay(opt, 2, 0.3, **kw), fs.step_decay(2, 0.3)),
    "milestones": (lambda opt, **kw: fs.StepDecay(opt, milestones=[1, 5], **kw), fs.step_decay(milestones=[1, 5])),
    "Cosine": (lambda opt, **kw: fs.Cosine(opt, 7, 0.01, **kw), fs.cosine(7, 0.01)),
    "WarmupCosine": (lambda opt, **kw: fs.WarmupCosine(opt, 3, 10, 0.01, **kw), fs.warmup_cosine(3, 10, 0.01)),
    "Linear": (lambda opt, **kw: fs.Linear(opt, 9, 0.01, 2, **kw), fs.linear(9, 0.01, 2)),
    "Polynomial": (lambda opt, **kw: fs.Polynomial(opt, 9, 2.0, 0.01, 2, **kw), fs.polynomial(9, 2.0, 0.01, 2)),
    "InverseSqrt": (lambda opt, **kw: fs.InverseSqrt(opt, 3, **kw), fs.inverse_sqrt(3)),
    "WarmupStableDecay": (
        lambda opt, **kw: fs.WarmupStableDecay(opt, 2, 3, 4, 0.01, "1-sqrt", **kw),
        fs.warmup_stable_decay(2, 3, 4, 0.01, "1-sqrt"),
    ),
    "OneCycle": (lambda opt, **kw: fs.OneCycle(opt, 12, cycle_momentum=False, **kw), fs.one_cycle(12)),
    "CosineRestarts": (
        lambda opt, **kw: fs.CosineRestarts(opt, 4, 2, 0.01, 2, 0.5, **kw),
        fs.cosine_restarts(4, 2, 0.01, 2, 0.5),
    ),
    "Warmup": (lambda opt, **kw: fs.Warmup(opt, 3, **kw), fs.warmup(3)),
    "Then": (
        lambda opt, **kw: fs.Scheduler(opt, fs.warmup(3).then(fs.cosine(6)), **kw),
        fs.warmup(3).then(fs.cosine(6)),
    ),
}
EVERY_SCHEDULE = pytest.mark.parametrize(("build", "pure"), BUILDERS.values(), ids=BUILDERS)

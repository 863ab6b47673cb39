"""A small training that every library of tests/clients repeats, and the loop that it must equal."""

import copy

import torch
from torch import nn

import fallline as fl

STEPS = 8
WEIGHTS = {"lr": 0.05, "weight_decay": 0.1, "clip_grad_norm": 1.0}


def batches(count=STEPS, size=4):
    """Return inputs and classes, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 5, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def network():
    """Return a classifier without dropout, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def optimizer_of(params, cls=fl.AdamW):
    return cls(params, **WEIGHTS)


def scheduler_of(optimizer):
    return fl.WarmupCosine(optimizer, warmup_steps=2, total_steps=STEPS)


def loop(model, data, loss_of, optimizer=None):
    """Train in plain PyTorch and return the learning rates."""
    optimizer = optimizer or optimizer_of(model.parameters())
    scheduler, rates = scheduler_of(optimizer), []
    for batch in data:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def classes_loss(model, batch):
    inputs, classes = batch
    return nn.functional.cross_entropy(model(inputs), classes)


def expected(data=None):
    """Return the weights of `network` after the plain loop."""
    model = network()
    loop(model, batches() if data is None else data, classes_loss)
    return weights(model)


def weights(model):
    return copy.deepcopy(model.state_dict())


def equal(a, b):
    """Return whether two state dicts are bit-for-bit equal."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)

"""Base optimizers for SAM, and an objective that it is run on."""

import pytest
import torch

import fallline as fl
from support.variants import parameter

BASES = {
    "torch-sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "sgd": lambda params: fl.SGD(params, lr=0.05, momentum=0.9),
    "adamw": lambda params: fl.AdamW(params, lr=0.05, weight_decay=0.1),
    "torch-fused": lambda params: torch.optim.AdamW(params, lr=0.05, fused=True),
    "lamb": lambda params: fl.LAMB(params, lr=0.05, clip_grad_norm=0.5, ema_decay=0.9),
}
EVERY_BASE = pytest.mark.parametrize("base", BASES.values(), ids=BASES)
ADAPTIVE = pytest.mark.parametrize("adaptive", [False, True], ids=["sam", "asam"])


def params_of(dtype=torch.float32):
    return [parameter(3, 4, seed=1, dtype=dtype), parameter(5, seed=2, dtype=dtype), parameter(seed=3, dtype=dtype)]


def objective(params):
    total = sum(p.sum() for p in params)
    return sum((p**4 / 4 - p**2 / 2).sum() for p in params) + total**2 / 100


def closure_of(opt, params):
    def closure():
        opt.zero_grad()
        loss = objective(params)
        loss.backward()
        return loss

    return closure


def trained(base, steps=5, params=None, **options):
    params = params or params_of()
    opt = fl.SAM(base(params), **options)
    for _ in range(steps):
        opt.step(closure_of(opt, params))
    return params, opt

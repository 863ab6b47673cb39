"""Optimizers whose state has every shape that other packages use, and that no observer may stumble over."""

import random
from collections import deque
from types import SimpleNamespace

import numpy as np
import torch


class Slots:
    __slots__ = ("later", "mean", "steps")

    def __init__(self, param):
        self.mean, self.steps = torch.zeros_like(param), [0]


def slots(opt, param):
    found = opt.state[param].setdefault("held", Slots(param))
    found.mean += 1
    found.steps[0] += 1
    found.later = found.steps[0]


def nested_lists(opt, param):
    held = opt.state[param].setdefault("Q", [[torch.zeros(2)], []])
    held[0][0] += 1
    held[1].append(torch.ones(1))


def nested_dicts(opt, param):
    held = opt.state[param].setdefault("trac", {"by": {1: {"mean": torch.zeros(2)}}, "seen": {0}, "tuple": ([0],)})
    held["by"][1]["mean"] += 1
    held["by"][len(held["by"]) + 1] = 0
    held["seen"].add(len(held["seen"]))
    held["tuple"][0][0] += 1


def objects(opt, param):
    held = opt.state[param].setdefault("projector", SimpleNamespace(inner=SimpleNamespace(basis=torch.eye(2)), calls=0))
    held.inner.basis *= 2
    held.calls += 1
    held.inner.last = held.calls


def attributes(opt, param):
    opt.history = getattr(opt, "history", deque(maxlen=3))
    opt.history.append(torch.ones(1))
    opt.buffer = getattr(opt, "buffer", torch.zeros(2))
    opt.buffer += 1
    opt.defaults["steps"] = opt.defaults.get("steps", 0) + 1


def generators(opt, param):
    held = opt.state[param].setdefault(
        "generators", [torch.Generator().manual_seed(0), random.Random(0), np.random.default_rng(0), np.zeros(2)]
    )
    torch.rand(1, generator=held[0]), held[1].random(), held[2].random()
    held[3] += 1


def none(opt, param):
    opt.state[param] |= {"exp_avg_sq": None, "step": None}


def no_dict(opt, param):
    opt.state[param] = None


def no_step(opt, param):
    opt.state[param].setdefault("exp_avg_sq", torch.zeros_like(param)).add_(1)


def nan(opt, param):
    opt.state[param] |= {"exp_avg_sq": torch.full_like(param, torch.nan), "step": torch.tensor(torch.nan)}


def half_step(opt, param):
    step = opt.state[param].setdefault("step", torch.zeros((), dtype=torch.float16))
    step += 1
    opt.state[param]["exp_avg_sq"] = torch.ones_like(param)


def two_steps(opt, param):
    opt.state[param] |= {"exp_avg_sq": torch.ones_like(param), "step": torch.ones(2)}


def step_zero(opt, param):
    opt.state[param] |= {"exp_avg_sq": torch.ones_like(param), "step": 0}


def other_shape(opt, param):
    opt.state[param] |= {"exp_avg_sq": torch.ones(param.numel(), 1, 1), "step": 1}


def shape_that_grows(opt, param):
    held = opt.state[param].setdefault("history", torch.zeros(1))
    held.data = torch.cat([held, torch.ones(1)])


def sparse(opt, param):
    held = opt.state[param].setdefault("sparse", torch.eye(3).to_sparse())
    held.mul_(2)


def eight_bits(opt, param):
    held = opt.state[param].setdefault("codes", [torch.zeros(2, dtype=torch.uint8), torch.zeros(2, dtype=torch.bool)])
    held[0] += 1
    held[1].logical_not_()
    opt.state[param].setdefault("float8", torch.zeros(2).to(torch.float8_e4m3fn)).copy_(held[0])


def other_keys(opt, param):
    opt.state["shared"] = {"k": opt.state.get("shared", {"k": 0})["k"] + 1}
    opt.state[0] = torch.ones(2)
    opt.state[torch.Size([1])] = [torch.ones(1)]


def no_lists_of_betas(opt, param):
    opt.param_groups[0]["betas"] = (0.9, 0.99, 0.999)
    opt.state[param] |= {"exp_avg_sq": torch.ones_like(param), "step": 1}


def itself(opt, param):
    opt.state[param]["self"] = [opt.state, opt, opt.state[param]]


# All that change something by which a second run could be told from the first, and all others.
RESTORED = [slots, nested_lists, nested_dicts, objects, attributes, generators, shape_that_grows, sparse, eight_bits]
RESTORED += [no_step, half_step, other_keys]
STATES = [*RESTORED, none, no_dict, nan, two_steps, step_zero, other_shape, no_lists_of_betas, itself]


class Strange(torch.optim.Optimizer):
    """Gradient descent that keeps something in its state."""

    def __init__(self, params, change, lr=0.1):
        self.change = change
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_(param.grad, alpha=float(group.get("lr", 0.1)))
                    self.change(self, param)
        return loss


def content(value, seen=None):
    """Return all that an object holds, as values that can be compared; Adam's hooks and functions left out."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense()
        dense = dense.float() if dense.is_floating_point() and dense.dtype != torch.float64 else dense
        return str(value.dtype), tuple(value.shape), dense.numpy().tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if id(value) in seen or callable(value):
        return type(value).__name__
    if (
        isinstance(value, set | dict | list | tuple | deque)
        or hasattr(value, "__dict__")
        or hasattr(value, "__slots__")
    ):
        seen[id(value)] = value  # kept, so that its id is not used again
    if isinstance(value, dict):
        return [(repr(k) if not isinstance(k, torch.Tensor) else id(k), content(v, seen)) for k, v in value.items()]
    if isinstance(value, list | tuple | deque):
        return [type(value).__name__, *(content(one, seen) for one in value)]
    names = [*getattr(value, "__dict__", ()), *getattr(value, "__slots__", ())]
    if names and not isinstance(value, torch.nn.Module):
        kept = [name for name in sorted(names) if hasattr(value, name) and not name.endswith("_hooks")]
        return [(name, content(getattr(value, name), seen)) for name in kept]
    return repr(value)

"""SGD with momentum, dampening and Nesterov's look-ahead, as PyTorch defines it."""

from oracles.formula import decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-3
TORCH = {"l2": "SGD"}


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter after one step."""
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    if momentum == 0.0:
        return p - lr * g
    b = g  # undampened at a parameter's first step
    if "momentum_buffer" in state:
        b = momentum * state["momentum_buffer"] + (1 - dampening) * g
    state["momentum_buffer"] = b
    d = g + momentum * b if nesterov else b
    return p - lr * d


_M = {"lr": 0.05, "momentum": 0.9}
CASES = [
    Case("sgd_default", "SGD"),
    Case("sgd_weight_decay", "SGD", {"lr": 0.05, "weight_decay": 0.1}),
    Case("sgd_momentum", "SGD", _M),
    Case("sgd_dampening", "SGD", _M | {"dampening": 0.5}),
    Case("sgd_nesterov", "SGD", _M | {"nesterov": True}),
    Case("sgd_nesterov_weight_decay", "SGD", _M | {"nesterov": True, "weight_decay": 0.1}),
    Case("sgd_maximize", "SGD", _M | {"maximize": True, "weight_decay": 0.1}),
    Case("sgd_decoupled", "SGD", _M | {"weight_decay": 0.1, "weight_decay_mode": "decoupled"}),
    Case("sgd_independent", "SGD", _M | {"weight_decay": 0.1, "weight_decay_mode": "independent"}, lrs=ramp(0.1)),
    Case("sgd_clip_norm", "SGD", {"lr": 0.05, "momentum": 0.9, "clip_grad_norm": 8.0}),
    Case("sgd_clip_value_ema", "SGD", {"lr": 0.05, "clip_grad_value": 0.25, "ema_decay": 0.9}),
    Case(
        "sgd_cautious_decay",
        "SGD",
        _M | {"weight_decay": 0.1, "weight_decay_mode": "independent", "cautious_weight_decay": True},
        lrs=ramp(0.1),
    ),
    Case("sgd_late", "SGD", _M | {"dampening": 0.5, "weight_decay": 0.1}, late=True),
    Case("sgd_zero_lr", "SGD", _M | {"weight_decay": 0.1}, lrs=zero_first(0.05)),
]

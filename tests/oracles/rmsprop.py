"""RMSprop, plain, centered and with momentum, as PyTorch defines it, and with eps under the root, as Hinton does."""

import numpy as np

from oracles.formula import decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-2
TORCH = {"l2": "RMSprop"}


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
    eps_inside_sqrt: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter after one step."""
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    zero = np.zeros_like(p)
    state["step"] = state.get("step", np.zeros(())) + 1
    v = state["square_avg"] = alpha * state.get("square_avg", zero) + (1 - alpha) * g * g
    if centered:
        a = state["grad_avg"] = alpha * state.get("grad_avg", zero) + (1 - alpha) * g
        v = v - a * a
    d = g / np.sqrt(v + eps) if eps_inside_sqrt else g / (np.sqrt(v) + eps)
    if momentum == 0.0:
        return p - lr * d
    b = state["momentum_buffer"] = momentum * state.get("momentum_buffer", zero) + d
    return p - lr * b


_WD = {"weight_decay": 0.1}
_CM = {"centered": True, "momentum": 0.9}
CASES = [
    Case("rmsprop_default", "RMSprop"),
    Case("rmsprop_alpha_eps", "RMSprop", {"alpha": 0.9, "eps": 1e-3}),
    Case("rmsprop_weight_decay", "RMSprop", _WD),
    Case("rmsprop_momentum", "RMSprop", {"lr": 3e-3, "momentum": 0.9}),
    Case("rmsprop_centered", "RMSprop", {"centered": True}),
    Case("rmsprop_centered_momentum", "RMSprop", _CM | _WD),
    Case("rmsprop_eps_inside_sqrt", "RMSprop", {"eps": 1e-3, "eps_inside_sqrt": True}),
    Case("rmsprop_eps_inside_sqrt_all", "RMSprop", _CM | _WD | {"eps": 1e-3, "eps_inside_sqrt": True}),
    Case("rmsprop_maximize", "RMSprop", _WD | {"maximize": True}),
    Case("rmsprop_decoupled", "RMSprop", _WD | {"momentum": 0.9, "weight_decay_mode": "decoupled"}),
    Case("rmsprop_independent", "RMSprop", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("rmsprop_late", "RMSprop", _CM | _WD, late=True),
    Case("rmsprop_zero_lr", "RMSprop", _WD | {"momentum": 0.9}, lrs=zero_first(0.01)),
]

"""Adagrad: Duchi et al. 2011, figure 1, composite mirror descent with diagonal matrices, as PyTorch defines it.

The paper divides by delta + sqrt(sum of squares). PyTorch lets the sum start above zero, and the step length decay.
"""

import numpy as np

from oracles.formula import decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-2
TORCH = {"l2": "Adagrad"}


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter after one step."""
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    t = state["step"] = state.get("step", np.zeros(())) + 1
    s = state["sum"] = state.get("sum", np.full_like(p, initial_accumulator_value)) + g * g
    return p - lr / (1 + (float(t) - 1) * lr_decay) * g / (np.sqrt(s) + eps)


_WD = {"lr": 0.05, "weight_decay": 0.1}
CASES = [
    Case("adagrad_default", "Adagrad", {"lr": 0.05}),
    Case("adagrad_eps", "Adagrad", {"lr": 0.05, "eps": 0.1}),
    Case("adagrad_lr_decay", "Adagrad", {"lr": 0.05, "lr_decay": 0.1}),
    Case("adagrad_initial", "Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.5}),
    Case("adagrad_weight_decay", "Adagrad", _WD),
    Case("adagrad_maximize", "Adagrad", _WD | {"maximize": True}),
    Case("adagrad_decoupled", "Adagrad", _WD | {"weight_decay_mode": "decoupled"}),
    Case("adagrad_independent", "Adagrad", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.05)),
    Case("adagrad_late", "Adagrad", _WD | {"lr_decay": 0.1, "initial_accumulator_value": 0.5}, late=True),
    Case("adagrad_zero_lr", "Adagrad", _WD, lrs=zero_first(0.05)),
]

"""Adamax: Kingma & Ba 2015, algorithm 2, with PyTorch's eps inside the maximum."""

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 2e-3
TORCH = {"l2": "Adamax"}


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter after one step."""
    beta1, beta2 = betas
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    zero = np.zeros_like(p)
    t = state["step"] = state.get("step", np.zeros(())) + 1
    m = state["exp_avg"] = beta1 * state.get("exp_avg", zero) + (1 - beta1) * g
    u = state["exp_inf"] = np.maximum(beta2 * state.get("exp_inf", zero), np.abs(g) + eps)
    return p - lr / bias_correction(beta1, float(t)) * m / u


_WD = {"lr": 0.01, "weight_decay": 0.1}
CASES = [
    Case("adamax_default", "Adamax"),
    Case("adamax_betas_eps", "Adamax", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-2}),
    Case("adamax_weight_decay", "Adamax", _WD),
    Case("adamax_maximize", "Adamax", _WD | {"maximize": True}),
    Case("adamax_decoupled", "Adamax", _WD | {"weight_decay_mode": "decoupled"}),
    Case("adamax_independent", "Adamax", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("adamax_late", "Adamax", _WD, late=True),
    Case("adamax_zero_lr", "Adamax", _WD, lrs=zero_first(0.01)),
]

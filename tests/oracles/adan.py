"""Adan, from the paper, with the bias corrections and the betas of the authors' code.

Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", arXiv:2208.06677v4,
algorithm 1 (each beta is 1 minus that of the paper, as in sail-sg/Adan):

    m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) (g - g_prev)
    n = beta3 n + (1 - beta3) (g + beta2 (g - g_prev))^2
    theta = (theta - eta (m + beta2 v) / (sqrt(n) + eps)) / (1 + lambda eta)

with m, v and n corrected for their bias, and g_prev = g in the first step. The authors' `no_prox` multiplies theta by
1 - lambda eta before the step instead.
"""

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-3


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    no_prox: bool = False,
    maximize: bool = False,
    weight_decay_mode: str = "in_update",
) -> Array:
    """Return the parameter after one step."""
    beta1, beta2, beta3 = betas
    mode = "decoupled" if no_prox else weight_decay_mode
    g = -g if maximize else g
    if mode != "in_update":
        p, g = decayed(p, g, mode, weight_decay, lr, lr0)
    t = float(state.get("step", np.zeros(()))) + 1
    state["step"] = np.asarray(t)
    zero = np.zeros_like(p)
    difference = g - state.get("previous_grad", g)
    state["previous_grad"] = np.asarray(g)
    m = state["exp_avg"] = np.asarray(beta1 * state.get("exp_avg", zero) + (1 - beta1) * g)
    v = state["exp_avg_diff"] = np.asarray(beta2 * state.get("exp_avg_diff", zero) + (1 - beta2) * difference)
    ahead = g + beta2 * difference
    n = state["exp_avg_sq"] = np.asarray(beta3 * state.get("exp_avg_sq", zero) + (1 - beta3) * ahead * ahead)
    direction = m / bias_correction(beta1, t) + beta2 * v / bias_correction(beta2, t)
    p = p - lr * direction / (np.sqrt(n / bias_correction(beta3, t)) + eps)
    return p / (1 + lr * weight_decay) if mode == "in_update" else p


_WD = {"lr": 0.01, "weight_decay": 0.1}
CASES = [
    Case("adan_default", "Adan"),
    Case("adan_betas_eps", "Adan", {"lr": 0.01, "betas": (0.8, 0.7, 0.95), "eps": 1e-3}),
    Case("adan_weight_decay", "Adan", _WD),
    Case("adan_no_prox", "Adan", {"lr": 0.1, "weight_decay": 0.5, "no_prox": True}),
    Case("adan_l2", "Adan", _WD | {"weight_decay_mode": "l2"}),
    Case("adan_independent", "Adan", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("adan_maximize", "Adan", _WD | {"maximize": True}),
    Case("adan_late", "Adan", _WD, late=True),
    Case("adan_zero_lr", "Adan", _WD, lrs=zero_first(0.01)),
]

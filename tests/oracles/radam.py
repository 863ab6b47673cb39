"""RAdam: Liu et al. 2020, algorithm 2, with PyTorch's threshold (5 instead of 4) and PyTorch's place of eps.

The length rho is what remains of two numbers near 2 / (1 - beta2). At the default beta2 the last bit of a platform's
`pow` is 1e-11 of a step, so the cases have a beta2 whose first powers are exact; other tests have the default.
"""

import math

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-3
TORCH = {"l2": "RAdam"}


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
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter after one step."""
    beta1, beta2 = betas
    g = -g if maximize else g
    p, g = decayed(p, g, "decoupled" if decoupled_weight_decay else weight_decay_mode, weight_decay, lr, lr0)
    zero = np.zeros_like(p)
    state["step"] = state.get("step", np.zeros(())) + 1
    t = float(state["step"])
    m = state["exp_avg"] = beta1 * state.get("exp_avg", zero) + (1 - beta1) * g
    v = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", zero) + (1 - beta2) * g * g
    m_hat = m / bias_correction(beta1, t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * (1 - bias_correction(beta2, t)) / bias_correction(beta2, t)
    if rho <= 5:  # the variance of the adaptive learning rate is not tractable
        return p - lr * m_hat
    r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return p - lr * r * m_hat * math.sqrt(bias_correction(beta2, t)) / (np.sqrt(v) + eps)


_LR = {"lr": 0.01, "betas": (0.9, 0.96875)}
_WD = _LR | {"weight_decay": 0.1}
CASES = [
    Case("radam_plain", "RAdam", _LR),
    Case("radam_betas_eps", "RAdam", {"lr": 0.01, "betas": (0.8, 0.875), "eps": 1e-3}),
    Case("radam_never_rectified", "RAdam", {"lr": 0.01, "betas": (0.9, 0.5)}),
    Case("radam_weight_decay", "RAdam", _WD),
    Case("radam_maximize", "RAdam", _WD | {"maximize": True}),
    Case("radam_decoupled", "RAdam", _WD | {"weight_decay_mode": "decoupled"}),
    Case("radam_independent", "RAdam", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("radam_late", "RAdam", _WD, late=True),
    Case("radam_zero_lr", "RAdam", _WD, lrs=zero_first(0.01)),
]

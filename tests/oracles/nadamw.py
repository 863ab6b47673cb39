"""NAdamW: NAdam of Dozat 2016 with a constant momentum, and decay that bypasses the gradient.

Dozat, "Incorporating Nesterov momentum into Adam", ICLR 2016 workshop, algorithm 2. With mu_t = mu for all t its
product of the first t momenta is mu^t, and the paper's lines are

    g_hat = g / (1 - mu^t);  m = mu m + (1 - mu) g;  m_hat = m / (1 - mu^(t+1));  n = nu n + (1 - nu) g^2
    n_hat = n / (1 - nu^t);  m_bar = (1 - mu) g_hat + mu m_hat;  theta = theta - eta m_bar / (sqrt(n_hat) + eps)
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
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    maximize: bool = False,
    weight_decay_mode: str = "decoupled",
) -> Array:
    """Return the parameter after one step."""
    mu, nu = betas
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    t = state["step"] = state.get("step", np.zeros(())) + 1
    zero = np.zeros_like(p)
    m = state["exp_avg"] = mu * state.get("exp_avg", zero) + (1 - mu) * g
    n = state["exp_avg_sq"] = nu * state.get("exp_avg_sq", zero) + (1 - nu) * g * g
    g_hat = g / bias_correction(mu, float(t))
    m_hat = m / bias_correction(mu, float(t) + 1)
    n_hat = n / bias_correction(nu, float(t))
    m_bar = (1 - mu) * g_hat + mu * m_hat
    return p - lr * m_bar / (np.sqrt(n_hat) + eps)


_WD = {"lr": 0.01, "weight_decay": 0.1}
CASES = [
    Case("nadamw_default", "NAdamW"),
    Case("nadamw_weight_decay", "NAdamW", _WD),
    Case("nadamw_betas_eps", "NAdamW", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}),
    Case("nadamw_no_momentum", "NAdamW", {"lr": 0.01, "betas": (0.0, 0.95)}),
    Case("nadamw_maximize", "NAdamW", _WD | {"maximize": True}),
    Case("nadamw_l2", "NAdamW", _WD | {"weight_decay_mode": "l2"}),
    Case("nadamw_independent", "NAdamW", {**_WD, "weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("nadamw_late", "NAdamW", _WD, late=True),
    Case("nadamw_zero_lr", "NAdamW", _WD, lrs=zero_first(0.01)),
]

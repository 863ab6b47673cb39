"""NAdam, as PyTorch defines it: Dozat's momentum grows with the age of each parameter.

Dozat, "Incorporating Nesterov momentum into Adam", ICLR 2016 workshop, algorithm 2, with the paper's m kept as a
running mean of constant decay beta1 and mu_t = beta1 (1 - 0.96^(t psi) / 2) in everything else:

    m_bar = (1 - mu_t) g / (1 - prod_{i<=t} mu_i) + mu_{t+1} m / (1 - prod_{i<=t+1} mu_i)
"""

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 2e-3
TORCH = {"l2": "NAdam"}


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
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter after one step."""
    beta1, beta2 = betas
    mode = "decoupled" if decoupled_weight_decay else weight_decay_mode
    g = -g if maximize else g
    p, g = decayed(p, g, mode, weight_decay, lr, lr0)
    t = state["step"] = state.get("step", np.zeros(())) + 1
    mu, mu_next = (beta1 * (1 - 0.96 ** (k * momentum_decay) / 2) for k in (float(t), float(t) + 1))
    product = state["mu_product"] = state.get("mu_product", np.ones(())) * mu
    zero = np.zeros_like(p)
    m = state["exp_avg"] = beta1 * state.get("exp_avg", zero) + (1 - beta1) * g
    n = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", zero) + (1 - beta2) * g * g
    m_bar = (1 - mu) * g / (1 - product) + mu_next * m / (1 - product * mu_next)
    n_hat = n / bias_correction(beta2, float(t))
    return p - lr * m_bar / (np.sqrt(n_hat) + eps)


_WD = {"lr": 0.01, "weight_decay": 0.1}
CASES = [
    Case("nadam_default", "NAdam"),
    Case("nadam_weight_decay", "NAdam", _WD),
    Case("nadam_betas_eps", "NAdam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}),
    Case("nadam_momentum_decay", "NAdam", {"lr": 0.01, "momentum_decay": 0.5}),
    Case("nadam_maximize", "NAdam", _WD | {"maximize": True}),
    Case("nadam_decoupled", "NAdam", _WD | {"decoupled_weight_decay": True}),
    Case("nadam_independent", "NAdam", {**_WD, "weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("nadam_late", "NAdam", _WD, late=True),
    Case("nadam_zero_lr", "NAdam", _WD, lrs=zero_first(0.01)),
]

"""LAMB: You et al. 2020, algorithm 2, both moments bias-corrected, phi the identity (PyTorch has no LAMB)."""

import math

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-3


def norm(values: Array) -> float:
    """Return the Euclidean norm, summed exactly so that it is the same everywhere."""
    return math.sqrt(math.fsum(float(x) ** 2 for x in np.ravel(values)))


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 1e-2,
    trust_ratio: bool = True,
    trust_clip: float | None = None,
    maximize: bool = False,
    weight_decay_mode: str = "in_update",
) -> Array:
    """Return the parameter after one step; `state` is updated in place."""
    beta1, beta2 = betas
    t = float(state.get("step", 0)) + 1
    g = -g if maximize else g
    if weight_decay_mode != "in_update":
        p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    m = state["exp_avg"] = beta1 * state.get("exp_avg", np.zeros_like(p)) + (1 - beta1) * g
    v = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", np.zeros_like(p)) + (1 - beta2) * g**2
    state["step"] = np.asarray(t)
    m_hat, v_hat = m / bias_correction(beta1, t), v / bias_correction(beta2, t)
    u = m_hat / (np.sqrt(v_hat) + eps)
    if weight_decay_mode == "in_update":
        u = u + weight_decay * p
    r = norm(p) / norm(u) if norm(p) > 0 and norm(u) > 0 else 1.0
    r = 1.0 if not trust_ratio else r if trust_clip is None else min(r, trust_clip)
    return p - lr * r * u


_WD = {"lr": 0.01, "weight_decay": 0.1}
CASES = [
    Case("lamb_default", "LAMB", {"lr": 0.01}),
    Case("lamb_weight_decay", "LAMB", _WD),
    Case("lamb_betas_eps", "LAMB", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}),
    Case("lamb_no_trust_ratio", "LAMB", _WD | {"trust_ratio": False}),
    Case("lamb_trust_clip", "LAMB", _WD | {"trust_clip": 0.7}),
    Case("lamb_maximize", "LAMB", _WD | {"maximize": True}),
    Case("lamb_decoupled", "LAMB", _WD | {"weight_decay_mode": "decoupled"}),
    Case("lamb_l2", "LAMB", _WD | {"weight_decay_mode": "l2"}),
    Case("lamb_independent", "LAMB", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("lamb_late", "LAMB", _WD, late=True),
    Case("lamb_zero_lr", "LAMB", _WD, lrs=zero_first(0.01)),
    Case("lamb_clip_norm_ema", "LAMB", _WD | {"clip_grad_norm": 2.0, "ema_decay": 0.9}, late=True),
]

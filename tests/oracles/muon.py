"""Muon: Jordan et al. 2024 for matrices, with products in float64; AdamW, Loshchilov & Hutter 2019, for vectors.

With norm="neuron" it is NorMuon: Li et al. 2025, arXiv:2510.05491, algorithm 1, scaled as in the authors' code:

    v_t = norm_beta v_{t-1} + (1 - norm_beta) mean_columns(O * O)      O_hat = O / (sqrt(v_t) + 1e-10)
    step = lr s O_hat ||O|| / ||O_hat||
"""

import math

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
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    adamw_lr: float | None = None,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_eps: float = 1e-8,
    adamw_weight_decay: float | None = None,
    norm: str | None = None,
    norm_beta: float = 0.95,
    ns_dtype: str = "float64",
    maximize: bool = False,
    weight_decay_mode: str = "decoupled",
) -> Array:
    """Return the parameter after one step; `state` is updated in place. A vector never uses lr."""
    g = -g if maximize else g
    if p.ndim < 2:
        adamw_lr = min(lr0, 3e-4) if adamw_lr is None else adamw_lr
        decay = weight_decay if adamw_weight_decay is None else adamw_weight_decay
        p, g = decayed(p, g, weight_decay_mode, decay, adamw_lr, adamw_lr)
        beta1, adamw_beta2 = adamw_betas
        t = state["step"] = np.asarray(state.get("step", np.zeros(())) + 1)
        m = state["exp_avg"] = beta1 * state.get("exp_avg", np.zeros_like(p)) + (1 - beta1) * g
        old = state.get("exp_avg_sq", np.zeros_like(p))
        v = state["exp_avg_sq"] = adamw_beta2 * old + (1 - adamw_beta2) * g * g
        root = np.sqrt(v) / math.sqrt(bias_correction(adamw_beta2, float(t))) + adamw_eps
        return p - adamw_lr / bias_correction(beta1, float(t)) * m / root
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    m = state["momentum_buffer"] = momentum * state.get("momentum_buffer", np.zeros_like(p)) + (1 - momentum) * g
    u = momentum * m + (1 - momentum) * g if nesterov else m
    a, b, c = ns_coefficients
    x = u.reshape(u.shape[0], -1)
    rows, columns = x.shape
    x = x / max(math.sqrt(math.fsum(np.ravel(x) ** 2)), eps)
    for _ in range(ns_steps):
        gram = _product(x, x.T)
        x = a * x + _product(b * gram + c * _product(gram, gram), x)
    if norm == "neuron":
        means = np.array([[math.fsum(row**2) / columns] for row in x])
        shape = (rows, *(1 for _ in p.shape[1:]))
        old = state.get("second_momentum_buffer", np.zeros(shape))
        state["second_momentum_buffer"] = norm_beta * old + (1 - norm_beta) * means.reshape(shape)
        even = x / (np.sqrt(state["second_momentum_buffer"].reshape(rows, 1)) + 1e-10)
        x = even * math.sqrt(math.fsum(np.ravel(x) ** 2)) / math.sqrt(math.fsum(np.ravel(even) ** 2))
    matched = adjust_lr_fn == "match_rms_adamw"
    scale = 0.2 * math.sqrt(max(rows, columns)) if matched else math.sqrt(max(1, rows / columns))
    return p - lr * scale * x.reshape(p.shape)


def _product(a: Array, b: Array) -> Array:
    """Return the product of two matrices; BLAS would sum in another order on another machine."""
    return np.array([[math.fsum(row * column) for column in b.T] for row in a])


# Only the products in float64 are exact enough to compare; those in bfloat16 are compared with torch in the tests.
EXACT = {"ns_dtype": "float64"}
_EXACT = {"lr": 0.01, **EXACT}
CASES = [
    Case("muon_default", "Muon", _EXACT),
    Case("muon_match_rms_adamw", "Muon", _EXACT | {"adjust_lr_fn": "match_rms_adamw"}),
    Case("muon_momentum", "Muon", _EXACT | {"momentum": 0.8, "nesterov": False}),
    Case("muon_coefficients", "Muon", _EXACT | {"ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 9}),
    Case("muon_adamw", "Muon", _EXACT | {"adamw_lr": 0.02, "adamw_betas": (0.8, 0.9), "adamw_eps": 1e-3}),
    Case("muon_weight_decay", "Muon", _EXACT | {"weight_decay": 1.0, "adamw_weight_decay": 0.5, "adamw_lr": 0.02}),
    Case("muon_l2", "Muon", _EXACT | {"weight_decay_mode": "l2"}),
    Case("muon_independent", "Muon", _EXACT | {"weight_decay_mode": "independent"}, lrs=ramp(0.01)),
    Case("muon_maximize", "Muon", _EXACT | {"maximize": True}),
    Case("muon_neuron", "Muon", _EXACT | {"norm": "neuron"}, late=True),
    Case("muon_neuron_beta2", "Muon", _EXACT | {"norm": "neuron", "norm_beta": 0.5, "adjust_lr_fn": "match_rms_adamw"}),
    Case("muon_late", "Muon", _EXACT, late=True),
    Case("muon_zero_lr", "Muon", _EXACT, lrs=zero_first(0.01)),
    Case("muon_clip_norm_ema", "Muon", _EXACT | {"clip_grad_norm": 1.0, "ema_decay": 0.9}),
]

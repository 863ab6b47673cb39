"""Muon: Jordan et al. 2024 for matrices, with products in float64; AdamW, Loshchilov & Hutter 2019, for vectors."""

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
        beta1, beta2 = adamw_betas
        t = state["step"] = np.asarray(state.get("step", np.zeros(())) + 1)
        m = state["exp_avg"] = beta1 * state.get("exp_avg", np.zeros_like(p)) + (1 - beta1) * g
        v = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", np.zeros_like(p)) + (1 - beta2) * g * g
        root = np.sqrt(v) / math.sqrt(bias_correction(beta2, float(t))) + adamw_eps
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
    Case("muon_late", "Muon", _EXACT, late=True),
    Case("muon_zero_lr", "Muon", _EXACT, lrs=zero_first(0.01)),
    Case("muon_clip_norm_ema", "Muon", _EXACT | {"clip_grad_norm": 1.0, "ema_decay": 0.9}),
]

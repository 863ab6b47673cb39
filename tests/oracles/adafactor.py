"""Adafactor: Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 to 6, as PyTorch defines it.

For a matrix G of n rows and m columns, with the decay 1 - t^tau of the running means,

    R_t, C_t = running means of G^2's row and column means,   V = R C / mean(R),   U = G / sqrt(V)
    X_t = X_{t-1} - max(eps2, RMS(X_{t-1})) rho_t U / max(1, RMS(U) / d),          rho_t = min(lr, 1/sqrt(t))

The paper has sums, a rho of at most 0.01, and eps1 added to G^2; PyTorch has means, lr for 0.01, and max(sqrt(V), eps1)
and max(mean(R), eps1). Decay multiplies the parameter by 1 - lr wd, and RMS(X_{t-1}) is that before it. The momentum is
that of the authors' code in Tensor2Tensor: what is subtracted is a running mean of all that would have been.
"""

import math

import numpy as np

from oracles.formula import decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-2
TORCH = {"decoupled": "Adafactor"}
BY_HAND = False


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
    beta1: float | None = None,
    scale_parameter: bool = True,
    relative_step: bool = True,
    maximize: bool = False,
    weight_decay_mode: str = "decoupled",
) -> Array:
    """Return the parameter after one step."""
    g = -g if maximize else g
    size = _rms(p)
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    eps1 = float(np.finfo(np.float64).eps) if eps[0] is None else eps[0]
    t = float(state.get("step", np.zeros(())) + 1)
    state["step"] = np.asarray(t)
    weight = t**beta2_decay
    square = g * g
    if p.ndim < 2:
        v = _running(state, "variance", square, weight)
    else:
        r = _running(state, "row_var", square.mean(axis=-1, keepdims=True), weight)
        c = _running(state, "col_var", square.mean(axis=-2, keepdims=True), weight)
        v = r * c / np.maximum(r.mean(axis=-2, keepdims=True), eps1)
    u = g / np.maximum(np.sqrt(v), eps1)
    rho = min(lr, 1 / math.sqrt(t)) if relative_step else lr
    alpha = max(eps[1], size) * rho if scale_parameter else rho
    step = alpha * u / max(1.0, _rms(u) / d)
    if beta1 is not None:
        step = _running(state, "exp_avg", step, 1 - beta1)
    return p - step


def _running(state: dict[str, Array], key: str, value: Array, weight: float) -> Array:
    state[key] = np.asarray((1 - weight) * state.get(key, np.zeros_like(value)) + weight * value)
    return state[key]


def _rms(x: Array) -> float:
    return math.sqrt(math.fsum(float(value) ** 2 for value in np.ravel(x)) / x.size)


_WD = {"lr": 0.05, "weight_decay": 0.1}
CASES = [
    Case("adafactor_default", "Adafactor"),
    Case("adafactor_decay_of_means", "Adafactor", {"lr": 0.05, "beta2_decay": -0.5}),
    Case("adafactor_eps", "Adafactor", {"lr": 0.05, "eps": (0.1, 0.5)}),
    Case("adafactor_limit", "Adafactor", {"lr": 0.05, "d": 1.25}),
    Case("adafactor_weight_decay", "Adafactor", _WD),
    Case("adafactor_maximize", "Adafactor", _WD | {"maximize": True}),
    Case("adafactor_l2", "Adafactor", _WD | {"weight_decay_mode": "l2"}),
    Case("adafactor_independent", "Adafactor", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.05)),
    Case("adafactor_momentum", "Adafactor", _WD | {"beta1": 0.9}),
    Case("adafactor_absolute", "Adafactor", {"lr": 0.05, "scale_parameter": False}),
    Case("adafactor_constant", "Adafactor", {"lr": 0.5, "relative_step": False}),
    Case("adafactor_late", "Adafactor", _WD | {"beta1": 0.5}, late=True),
    Case("adafactor_zero_lr", "Adafactor", _WD, lrs=zero_first(0.05)),
]

"""Prodigy: Mishchenko and Defazio 2023, arXiv:2306.06101v4, algorithm 4, as in the authors' package prodigyopt 1.1.2.

With x0 the first parameter and alpha_k = lr d_k (times Adam's bias corrections, if they are asked for):

    r_{k+1} = beta3 r_k + (d_k / d0) alpha_k <g_k, x0 - x_k>        s_{k+1} = beta3 s_k + (d_k / d0) alpha_k g_k
    d_hat   = d_coef r_{k+1} / ||s_{k+1}||_1                        d_{k+1} = max(d_k, d_hat)
    m_{k+1} = beta1 m_k + (1 - beta1) d_k g_k                       v_{k+1} = beta2 v_k + (1 - beta2) d_k^2 g_k^2
    x_{k+1} = x_k - alpha_k m_{k+1} / (sqrt(v_{k+1}) + d_{k+1} eps)

The sums run over all parameters that have a gradient. Paper and package differ in eps, which the paper multiplies by
d_k, and in d_{k+1}, which the package keeps at d_hat if that is smaller only in the steps after the first increase:
the formula here is the package's.
"""

import math

import numpy as np

from oracles.formula import bias_correction
from oracles.options import Grads
from oracles.problem import Array, Case, ramp, zero_first

LR = 1.0
# Relative, of any element in float64: the terms of the estimate cancel; measured 8.2e-12.
FLOAT64 = 1e-10
# Relative, of parameters after 60 steps in float32: rounding of the estimate grows with them; measured 1.2e-4.
FLOAT32 = 5e-4


def gather(
    params: dict[str, Array],
    grads: Grads,
    states: dict[str, dict[str, Array]],
    group: dict[str, float],
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    beta3: float | None = None,
    weight_decay: float = 0.0,
    weight_decay_mode: str = "in_update",
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
    maximize: bool = False,
    **_: object,
) -> None:
    """Move s of every parameter with a gradient, and the numbers of the group: `d` becomes `d_before`, and so on."""
    beta3 = math.sqrt(betas[1]) if beta3 is None else beta3
    d = group["d_before"] = group.get("d", d0)
    progress, total = [], []
    for name, g in grads.items():
        if g is None:
            continue
        p, state = params[name], states[name]
        g = -g if maximize else g
        g = g + weight_decay * p if weight_decay_mode == "l2" else g
        first = state.setdefault("p0", p.copy())
        alpha = _alpha(lr, d, betas, float(state.get("step", 0)) + 1, use_bias_correction)
        progress += [d / d0 * alpha * float(x) for x in np.ravel(g * (first - p))]
        s = state["s"] = beta3 * state.get("s", np.zeros_like(p)) + d / d0 * (d if safeguard_warmup else alpha) * g
        total += [abs(float(x)) for x in np.ravel(s)]
    if not math.fsum(total):
        return
    group["d_numerator"] = beta3 * group.get("d_numerator", 0.0) + math.fsum(progress)
    found = d_coef * group["d_numerator"] / math.fsum(total)
    now = max(d, found) if d == d0 else d
    group["d_max"] = max(group.get("d_max", d0), found)
    group["d"] = min(group["d_max"], now * growth_rate)


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    group: dict[str, float] | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    beta3: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mode: str = "in_update",
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
    maximize: bool = False,
) -> Array:
    """Return the parameter after one step, whose distance `gather` has estimated."""
    assert group is not None
    d, d_next = group["d_before"], group.get("d", d0)
    g = -g if maximize else g
    g = g + weight_decay * p if weight_decay_mode == "l2" else g
    t = state["step"] = state.get("step", np.zeros(())) + 1
    m = state["exp_avg"] = betas[0] * state.get("exp_avg", np.zeros_like(p)) + (1 - betas[0]) * d * g
    v = state["exp_avg_sq"] = betas[1] * state.get("exp_avg_sq", np.zeros_like(p)) + (1 - betas[1]) * (d * g) ** 2
    alpha = _alpha(lr, d, betas, float(t), use_bias_correction)
    if weight_decay_mode == "in_update":
        p = p * (1 - weight_decay * alpha)
    return p - alpha * m / (np.sqrt(v) + d_next * eps)


def _alpha(lr: float, d: float, betas: tuple[float, float], t: float, corrected: bool) -> float:
    if not corrected:
        return lr * d
    return lr * d * math.sqrt(bias_correction(betas[1], t)) / bias_correction(betas[0], t)


# With the default d0 the first steps move nothing in float32; tests/optimizers/test_prodigy.py has it in float64.
_FAST = {"d0": 1e-2}
_WD = _FAST | {"weight_decay": 0.1}
CASES = [
    Case("prodigy_d0", "Prodigy", _FAST),
    Case("prodigy_weight_decay", "Prodigy", _WD),
    Case("prodigy_betas_eps", "Prodigy", _FAST | {"betas": (0.8, 0.95), "eps": 1e-3}),
    Case("prodigy_beta3_coef", "Prodigy", _FAST | {"beta3": 0.9, "d_coef": 0.5}),
    Case("prodigy_bias_correction", "Prodigy", _FAST | {"use_bias_correction": True}),
    Case("prodigy_safeguard", "Prodigy", _FAST | {"safeguard_warmup": True}, lrs=ramp(1.0)),
    Case("prodigy_growth_rate", "Prodigy", _FAST | {"growth_rate": 1.02}),
    Case("prodigy_maximize", "Prodigy", _WD | {"maximize": True}),
    Case("prodigy_l2", "Prodigy", _FAST | {"weight_decay": 0.01, "weight_decay_mode": "l2"}),
    Case("prodigy_late", "Prodigy", _WD, late=True),
    Case("prodigy_zero_lr", "Prodigy", _WD, lrs=zero_first(1.0)),
    Case("prodigy_clip_norm_ema", "Prodigy", _WD | {"clip_grad_norm": 2.0, "ema_decay": 0.9}),
]

"""AdEMAMix, from the paper.

Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", arXiv:2409.03137v2, algorithm 1:

    m1 = beta1 m1 + (1 - beta1) g,  m2 = beta3(t) m2 + (1 - beta3(t)) g,  nu = beta2 nu + (1 - beta2) g^2
    theta -= eta ((m1 / (1 - beta1^t) + alpha(t) m2) / (sqrt(nu / (1 - beta2^t)) + eps) + lambda theta)

with alpha(t) = min(t alpha / T, alpha) and the schedule of beta3 of equation 3, from beta_start = beta1:

    beta3(t) = min(exp(ln(beta_start) ln(beta3) / ((1 - t/T) ln(beta3) + (t/T) ln(beta_start))), beta3)

The authors' code has a T of its own for each of the two. For beta1 = 0, whose logarithm is infinite, it starts at a
beta of 1e-8.
"""

from decimal import Decimal, localcontext
from functools import cache

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-3


@cache
def scheduled_beta3(t: int, beta1: float, beta3: float, warmup: float | None) -> float:
    """Return beta3(t), computed to 40 digits and rounded once, so that it is the same on every platform."""
    if not warmup or t >= warmup:
        return beta3
    with localcontext() as context:
        context.prec = 40
        start, end = Decimal(beta1 or 1e-8).ln(), Decimal(beta3).ln()
        done = Decimal(t) / Decimal(warmup)
        return float((start * end / ((1 - done) * end + done * start)).exp())


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    alpha: float = 2.0,
    beta3_warmup: float | None = None,
    alpha_warmup: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    weight_decay_mode: str = "decoupled",
) -> Array:
    """Return the parameter after one step."""
    beta1, beta2, beta3 = betas
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    t = float(state.get("step", np.zeros(()))) + 1
    state["step"] = np.asarray(t)
    beta3 = scheduled_beta3(int(t), beta1, beta3, beta3_warmup)
    alpha = min(t * alpha / alpha_warmup, alpha) if alpha_warmup else alpha
    zero = np.zeros_like(p)
    m1 = state["exp_avg_fast"] = np.asarray(beta1 * state.get("exp_avg_fast", zero) + (1 - beta1) * g)
    m2 = state["exp_avg_slow"] = np.asarray(beta3 * state.get("exp_avg_slow", zero) + (1 - beta3) * g)
    nu = state["exp_avg_sq"] = np.asarray(beta2 * state.get("exp_avg_sq", zero) + (1 - beta2) * g * g)
    denominator = np.sqrt(nu / bias_correction(beta2, t)) + eps
    return p - lr * (m1 / bias_correction(beta1, t) + alpha * m2) / denominator


_LR = {"lr": 0.01}
_SLOW = _LR | {"betas": (0.9, 0.99, 0.98), "alpha": 5.0}
_WD = _SLOW | {"weight_decay": 0.1}
CASES = [
    Case("ademamix_default", "AdEMAMix"),
    Case("ademamix_betas_eps", "AdEMAMix", _LR | {"betas": (0.8, 0.95, 0.97), "alpha": 5.0, "eps": 1e-3}),
    Case("ademamix_warmup", "AdEMAMix", _SLOW | {"beta3_warmup": 40, "alpha_warmup": 25}),
    Case("ademamix_beta1_zero", "AdEMAMix", _LR | {"betas": (0.0, 0.99, 0.98), "alpha": 5.0, "beta3_warmup": 80}),
    Case("ademamix_weight_decay", "AdEMAMix", _WD),
    Case("ademamix_l2", "AdEMAMix", _WD | {"weight_decay_mode": "l2"}),
    Case("ademamix_independent", "AdEMAMix", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("ademamix_maximize", "AdEMAMix", _WD | {"maximize": True}),
    Case("ademamix_late", "AdEMAMix", _WD | {"beta3_warmup": 30, "alpha_warmup": 30}, late=True),
    Case("ademamix_zero_lr", "AdEMAMix", _WD, lrs=zero_first(0.01)),
]

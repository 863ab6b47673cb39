"""Adam and AMSGrad, as PyTorch defines them; each parameter is corrected for bias by its own age."""

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-3
# torch.optim.Adam(decoupled_weight_decay=True) is AdamW, but torch before 2.7 lacks that keyword.
TORCH = {"l2": "Adam", "decoupled": "AdamW"}


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
    amsgrad: bool = False,
    maximize: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter after one step."""
    beta1, beta2 = betas
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    zero = np.zeros_like(p)
    t = state["step"] = state.get("step", np.zeros(())) + 1
    m = state["exp_avg"] = beta1 * state.get("exp_avg", zero) + (1 - beta1) * g
    v = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", zero) + (1 - beta2) * g * g
    if amsgrad:  # the maximum is of v, not of the corrected v
        v = state["max_exp_avg_sq"] = np.maximum(state.get("max_exp_avg_sq", zero), v)
    m_hat = m / bias_correction(beta1, float(t))
    root: Array = np.sqrt(v) / np.sqrt(bias_correction(beta2, float(t)))
    return p - lr * m_hat / (root + eps)


_WD = {"lr": 0.01, "weight_decay": 0.1}
# With the default beta2 sixty steps are too few for v ever to fall, and AMSGrad would do nothing.
_AMS = {"lr": 0.01, "betas": (0.9, 0.9), "amsgrad": True}
CASES = [
    Case("adam_default", "Adam"),
    Case("adam_betas_eps", "Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}),
    Case("adam_weight_decay", "Adam", _WD),
    Case("adam_amsgrad", "Adam", _AMS),
    Case("adam_amsgrad_weight_decay", "Adam", _AMS | _WD),
    Case("adam_maximize", "Adam", _WD | {"maximize": True}),
    Case("adam_decoupled", "Adam", _WD | {"weight_decay_mode": "decoupled"}),
    Case("adam_independent", "Adam", _WD | {"weight_decay_mode": "independent"}, lrs=ramp(0.02)),
    Case("adam_late", "Adam", _WD, late=True),
    Case("adam_zero_lr", "Adam", _WD, lrs=zero_first(0.01)),
]

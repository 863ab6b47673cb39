"""Lion: Chen et al. 2023, algorithm 2, with the decay before the step (PyTorch has no Lion)."""

import numpy as np

from oracles.formula import decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-4


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    maximize: bool = False,
    weight_decay_mode: str = "decoupled",
) -> Array:
    """Return the parameter after one step; `state` is updated in place."""
    if weight_decay_mode == "l2":
        raise ValueError("weight_decay_mode: Lion's decay never passes through the sign; use decoupled")
    beta1, beta2 = betas
    m = state.get("exp_avg", np.zeros_like(p))
    g = -g if maximize else g
    p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    u = np.sign(beta1 * m + (1 - beta1) * g)
    state["exp_avg"] = beta2 * m + (1 - beta2) * g
    return p - lr * u


_WD = {"lr": 0.01, "weight_decay": 1.0}
CASES = [
    Case("lion_default", "Lion", {"lr": 0.01}),
    Case("lion_betas", "Lion", {"lr": 0.01, "betas": (0.95, 0.98)}),
    Case("lion_weight_decay", "Lion", _WD),
    Case("lion_maximize", "Lion", _WD | {"maximize": True}),
    Case(
        "lion_independent",
        "Lion",
        {"lr": 0.01, "weight_decay": 0.1, "weight_decay_mode": "independent"},
        lrs=ramp(0.02),
    ),
    Case("lion_cautious_maximize", "Lion", _WD | {"cautious": True, "maximize": True}),
    Case("lion_late", "Lion", _WD, late=True),
    Case("lion_zero_lr", "Lion", _WD, lrs=zero_first(0.01)),
    Case("lion_clip_value_ema", "Lion", _WD | {"clip_grad_value": 0.5, "ema_decay": 0.9}),
]

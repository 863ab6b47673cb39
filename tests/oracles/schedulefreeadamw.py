"""Schedule-Free AdamW with the three sequences of the paper.

Defazio et al. 2024, "The Road Less Scheduled", arXiv:2405.15682v4, algorithm 1, with the decay at y and the weights of
Schedule-Free SGD (see `schedulefreesgd.py`); the second moment is corrected for bias in the denominator.
"""

import numpy as np

from oracles.formula import bias_correction
from oracles.problem import Array, Case, ramp, zero_first
from oracles.schedulefreesgd import averaged

LR = 2.5e-3


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
    warmup_steps: float = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    maximize: bool = False,
    weight_decay_mode: str = "in_update",
) -> Array:
    """Return the parameter, which is y, after one step."""
    beta1, beta2 = betas
    g = -g if maximize else g
    if weight_decay_mode == "l2":
        g = g + weight_decay * p
    t = float(state.get("step", np.zeros(()))) + 1
    v = state["exp_avg_sq"] = np.asarray(beta2 * state.get("exp_avg_sq", np.zeros_like(p)) + (1 - beta2) * g * g)
    direction = g / (np.sqrt(v / bias_correction(beta2, t)) + eps)
    if weight_decay_mode == "in_update":
        direction = direction + weight_decay * p
    return averaged(p, direction, state, lr, beta1, warmup_steps, r, weight_lr_power)


_LR = {"lr": 0.02}
_WD = _LR | {"weight_decay": 0.1}
CASES = [
    Case("schedulefreeadamw_default", "ScheduleFreeAdamW"),
    Case("schedulefreeadamw_betas_eps", "ScheduleFreeAdamW", _LR | {"betas": (0.8, 0.95), "eps": 1e-3}),
    Case("schedulefreeadamw_weight_decay", "ScheduleFreeAdamW", _WD),
    Case("schedulefreeadamw_l2", "ScheduleFreeAdamW", {"lr": 0.01, "weight_decay": 0.1, "weight_decay_mode": "l2"}),
    Case("schedulefreeadamw_warmup", "ScheduleFreeAdamW", _LR | {"warmup_steps": 15}),
    Case("schedulefreeadamw_weights", "ScheduleFreeAdamW", _WD | {"r": 1.5, "weight_lr_power": 1.0, "warmup_steps": 9}),
    Case("schedulefreeadamw_maximize", "ScheduleFreeAdamW", _WD | {"maximize": True}),
    Case("schedulefreeadamw_rates", "ScheduleFreeAdamW", {"weight_decay": 0.1}, lrs=ramp(0.02)),
    Case("schedulefreeadamw_late", "ScheduleFreeAdamW", _WD | {"warmup_steps": 9}, late=True),
    Case("schedulefreeadamw_zero_lr", "ScheduleFreeAdamW", _WD, lrs=zero_first(0.02)),
]

"""AdamW: Adam whose weight decay bypasses the gradient, as PyTorch defines it."""

from oracles import adam
from oracles.problem import Array, Case, ramp, zero_first

LR = 1e-3
TORCH = adam.TORCH


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    weight_decay_mode: str = "decoupled",
) -> Array:
    """Return the parameter after one step: Adam's, with other defaults."""
    return adam.update(
        p,
        g,
        state,
        lr,
        lr0,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        weight_decay_mode=weight_decay_mode,
    )


_WD = {"lr": 0.01, "weight_decay": 0.1}
_AMS = {"lr": 0.01, "betas": (0.9, 0.9), "amsgrad": True}
_INDEPENDENT = {"weight_decay": 0.1, "weight_decay_mode": "independent"}
_CAUTIOUS = {"weight_decay": 0.1, "cautious": True}
CASES = [
    Case("adamw_default", "AdamW"),
    Case("adamw_weight_decay", "AdamW", _WD),
    Case("adamw_no_decay", "AdamW", {"lr": 0.01, "weight_decay": 0.0}),
    Case("adamw_betas_eps", "AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}),
    Case("adamw_no_momentum", "AdamW", {"lr": 0.01, "betas": (0.0, 0.95)}),
    Case("adamw_amsgrad", "AdamW", _AMS),
    Case("adamw_maximize", "AdamW", _WD | {"maximize": True}),
    Case("adamw_l2", "AdamW", _WD | {"weight_decay_mode": "l2"}),
    Case("adamw_independent", "AdamW", _INDEPENDENT | {"lr": 0.01}, lrs=ramp(0.02)),
    # lr0 = 0: there is no base rate to compare with, and the decay is none.
    Case("adamw_independent_zero_base", "AdamW", _INDEPENDENT | {"lr": 0.0}, lrs=ramp(0.02)),
    Case("adamw_clip_norm", "AdamW", _WD | {"clip_grad_norm": 8.0}),
    Case("adamw_clip_both_ema", "AdamW", _WD | {"clip_grad_norm": 3.0, "clip_grad_value": 1.0, "ema_decay": 0.9}),
    Case("adamw_ema_late", "AdamW", _WD | {"ema_decay": 0.95}, late=True),
    Case("adamw_cautious", "AdamW", _CAUTIOUS | {"lr": 0.01}),
    Case("adamw_cautious_decay", "AdamW", _WD | _CAUTIOUS | {"cautious_weight_decay": True}, late=True),
    Case("adamw_late", "AdamW", _AMS | _WD, late=True),
    Case("adamw_zero_lr", "AdamW", _WD, lrs=zero_first(0.01)),
]

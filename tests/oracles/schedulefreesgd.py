"""Schedule-Free SGD with the three sequences of the paper; x is computed, and y only where the gradient is.

Defazio et al. 2024, "The Road Less Scheduled", arXiv:2405.15682v4, equations 1 to 3, with the learning rate of a linear
warm-up and weights proportional to t^r times a power of the highest rate so far:

    z = z - gamma (g(y) + wd y);  x = (1 - c) x + c z;  y = (1 - beta) z + beta x
"""

import numpy as np

from oracles.problem import Array, Case, ramp, zero_first

LR = 1.0


def averaged(
    y: Array,
    direction: Array,
    state: dict[str, Array],
    lr: float,
    beta: float,
    warmup_steps: float,
    r: float,
    weight_lr_power: float,
) -> Array:
    """Return the next y, after a step of z and of the average x."""
    t = state["step"] = state.get("step", np.zeros(())) + 1
    gamma = lr * min(1.0, float(t) / warmup_steps) if warmup_steps else lr
    z = state.get("z", y)
    x = (y - (1 - beta) * z) / beta  # the last line of the update, solved for x
    top = state["lr_max"] = np.maximum(state.get("lr_max", np.zeros(())), gamma)
    weight = float(t) ** r * float(top) ** weight_lr_power
    total = state["weight_sum"] = state.get("weight_sum", np.zeros(())) + weight
    c = weight / float(total) if total > 0 else 0.0
    z = state["z"] = np.asarray(z - gamma * direction)
    x = (1 - c) * x + c * z
    return (1 - beta) * z + beta * x


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: float = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    maximize: bool = False,
    weight_decay_mode: str = "l2",
) -> Array:
    """Return the parameter, which is y, after one step."""
    g = (-g if maximize else g) + weight_decay * p
    return averaged(p, g, state, lr, momentum, warmup_steps, r, weight_lr_power)


_LR = {"lr": 0.05}
_WD = _LR | {"weight_decay": 0.1}
CASES = [
    Case("schedulefreesgd_default", "ScheduleFreeSGD", {"lr": 0.1}),
    Case("schedulefreesgd_momentum", "ScheduleFreeSGD", _LR | {"momentum": 0.6}),
    Case("schedulefreesgd_weight_decay", "ScheduleFreeSGD", _WD),
    Case("schedulefreesgd_warmup", "ScheduleFreeSGD", _LR | {"warmup_steps": 15}),
    Case("schedulefreesgd_weights", "ScheduleFreeSGD", _WD | {"r": 1.5, "weight_lr_power": 1.0, "warmup_steps": 9}),
    Case("schedulefreesgd_maximize", "ScheduleFreeSGD", _WD | {"maximize": True}),
    Case("schedulefreesgd_rates", "ScheduleFreeSGD", {"weight_decay": 0.1}, lrs=ramp(0.1)),
    Case("schedulefreesgd_clip_norm_ema", "ScheduleFreeSGD", _LR | {"clip_grad_norm": 8.0, "ema_decay": 0.9}),
    Case("schedulefreesgd_late", "ScheduleFreeSGD", _WD | {"warmup_steps": 9}, late=True),
    Case("schedulefreesgd_zero_lr", "ScheduleFreeSGD", _WD, lrs=zero_first(0.05)),
]

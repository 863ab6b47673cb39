# The package for type checkers, with the constructors that are derived at run time. Written by `make names`.
from collections.abc import Sequence

from torch.optim import Optimizer

from fallline.schedules.base import Schedule, Then
from fallline.schedules.constant import Constant, constant
from fallline.schedules.cosine import cosine
from fallline.schedules.cosine_restarts import cosine_restarts
from fallline.schedules.inverse_sqrt import inverse_sqrt
from fallline.schedules.linear import linear
from fallline.schedules.one_cycle import one_cycle, one_cycle_momentum
from fallline.schedules.parse import parse
from fallline.schedules.polynomial import polynomial
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.step_decay import step_decay
from fallline.schedules.warmup import warmup
from fallline.schedules.warmup_cosine import warmup_cosine
from fallline.schedules.warmup_stable_decay import warmup_stable_decay

class Cosine(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        min_lr: float | Sequence[float] = 0.0,
        min_lr_ratio: float | None = None,
        last_epoch: int = -1,
    ) -> None: ...

class CosineRestarts(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        period: int,
        mult: int = 1,
        min_lr: float | Sequence[float] = 0.0,
        warmup_steps: int = 0,
        gamma: float = 1.0,
        min_lr_ratio: float | None = None,
        last_epoch: int = -1,
    ) -> None: ...

class InverseSqrt(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        last_epoch: int = -1,
    ) -> None: ...

class Linear(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        min_lr: float | Sequence[float] = 0.0,
        warmup_steps: int | float = 0,
        min_lr_ratio: float | None = None,
        last_epoch: int = -1,
    ) -> None: ...

class OneCycle(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        max_lr: float | Sequence[float] | None = None,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 10000.0,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        last_epoch: int = -1,
    ) -> None: ...

class Polynomial(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        power: float = 1.0,
        min_lr: float | Sequence[float] = 0.0,
        warmup_steps: int | float = 0,
        min_lr_ratio: float | None = None,
        last_epoch: int = -1,
    ) -> None: ...

class StepDecay(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int | None = None,
        gamma: float = 0.1,
        milestones: Sequence[int] | None = None,
        last_epoch: int = -1,
    ) -> None: ...

class Warmup(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        last_epoch: int = -1,
    ) -> None: ...

class WarmupCosine(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int | float,
        total_steps: int,
        min_lr: float | Sequence[float] = 0.0,
        min_lr_ratio: float | None = None,
        last_epoch: int = -1,
    ) -> None: ...

class WarmupStableDecay(Scheduler):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int | float,
        stable_steps: int,
        decay_steps: int,
        min_lr: float | Sequence[float] = 0.0,
        shape: str = "linear",
        min_lr_ratio: float | None = None,
        last_epoch: int = -1,
    ) -> None: ...

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "InverseSqrt",
    "Linear",
    "OneCycle",
    "Polynomial",
    "Schedule",
    "Scheduler",
    "StepDecay",
    "Then",
    "Warmup",
    "WarmupCosine",
    "WarmupStableDecay",
    "constant",
    "cosine",
    "cosine_restarts",
    "inverse_sqrt",
    "linear",
    "one_cycle",
    "one_cycle_momentum",
    "parse",
    "polynomial",
    "step_decay",
    "warmup",
    "warmup_cosine",
    "warmup_stable_decay",
]

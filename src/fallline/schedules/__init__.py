"""Learning rate schedules: pure functions of the step (`cosine`) and PyTorch schedulers that use them (`Cosine`)."""

from fallline.schedules.base import Schedule, Then
from fallline.schedules.constant import Constant, constant
from fallline.schedules.cosine import Cosine, cosine
from fallline.schedules.cosine_restarts import CosineRestarts, cosine_restarts
from fallline.schedules.inverse_sqrt import InverseSqrt, inverse_sqrt
from fallline.schedules.linear import Linear, linear
from fallline.schedules.one_cycle import OneCycle, one_cycle, one_cycle_momentum
from fallline.schedules.parse import parse
from fallline.schedules.polynomial import Polynomial, polynomial
from fallline.schedules.scheduler import Scheduler
from fallline.schedules.step_decay import StepDecay, step_decay
from fallline.schedules.warmup import Warmup, warmup
from fallline.schedules.warmup_cosine import WarmupCosine, warmup_cosine
from fallline.schedules.warmup_stable_decay import WarmupStableDecay, warmup_stable_decay

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

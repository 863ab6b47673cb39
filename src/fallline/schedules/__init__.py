"""Learning rate schedules: pure functions of the step (`cosine`), and PyTorch schedulers over them (`Cosine`)."""

from fallline.schedules.base import Schedule, Scheduler
from fallline.schedules.constant import Constant, constant
from fallline.schedules.cosine import Cosine, cosine
from fallline.schedules.step_decay import StepDecay, step_decay
from fallline.schedules.warmup_cosine import WarmupCosine, warmup_cosine

__all__ = [
    "Constant",
    "Cosine",
    "Schedule",
    "Scheduler",
    "StepDecay",
    "WarmupCosine",
    "constant",
    "cosine",
    "step_decay",
    "warmup_cosine",
]

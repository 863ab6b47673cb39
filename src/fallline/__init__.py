"""Fallline: which optimizer, how to run it, and why it behaves so.

Written by `make names`; `make check` fails when it is stale.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fallline import errors, landscape, recipes, schedules
from fallline.linting import lint, watch
from fallline.optimizers import (
    LAMB,
    SGD,
    Adam,
    AdamW,
    Lion,
    NAdamW,
    RMSprop,
    StepInBackward,
    create_optimizer,
    step_in_backward,
)
from fallline.sam import SAM, frozen_batchnorm
from fallline.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    InverseSqrt,
    Linear,
    OneCycle,
    Polynomial,
    Schedule,
    Scheduler,
    StepDecay,
    Then,
    Warmup,
    WarmupCosine,
    WarmupStableDecay,
)

if TYPE_CHECKING:
    from fallline.lab import compare, task

__all__ = [
    "LAMB",
    "SAM",
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "InverseSqrt",
    "Linear",
    "Lion",
    "NAdamW",
    "OneCycle",
    "Polynomial",
    "RMSprop",
    "Schedule",
    "Scheduler",
    "StepDecay",
    "StepInBackward",
    "Then",
    "Warmup",
    "WarmupCosine",
    "WarmupStableDecay",
    "compare",
    "create_optimizer",
    "errors",
    "frozen_batchnorm",
    "landscape",
    "lint",
    "recipes",
    "schedules",
    "step_in_backward",
    "task",
    "watch",
]

_LAZY = {"compare": "fallline.lab", "task": "fallline.lab"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fallline' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

"""Every optimizer under every set of options, and what tests train with."""

from fallline.optimizers import OPTIMIZERS
from fallline.testing.runs import (
    BACKENDS,
    EXECUTION,
    REAL,
    ROUNDING,
    distance,
    normal,
    parameter,
    same_bits,
    same_state,
    set_grads,
    state_of,
    train,
    variants,
)

__all__ = [
    "BACKENDS",
    "CASES",
    "EXECUTION",
    "IDS",
    "REAL",
    "ROUNDING",
    "distance",
    "normal",
    "parameter",
    "same_bits",
    "same_state",
    "set_grads",
    "state_of",
    "train",
    "variants",
]

CASES = [(cls, name, options) for cls in OPTIMIZERS.values() for name, options in variants(cls).items()]
IDS = [f"{cls.rule.name}-{name}" for cls, name, _ in CASES]

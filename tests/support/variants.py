"""Every optimizer under every set of options, and what tests train with."""

import io

import pytest
import torch

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
    "ENDS",
    "EVERY_BACKEND",
    "EVERY_CASE",
    "EVERY_CLASS",
    "EXECUTION",
    "IDS",
    "REAL",
    "ROUNDING",
    "distance",
    "normal",
    "parameter",
    "params_of",
    "same_bits",
    "same_state",
    "set_grads",
    "state_of",
    "through_a_file",
    "train",
    "variants",
]

CASES = [(cls, name, options) for cls in OPTIMIZERS.values() for name, options in variants(cls).items()]
IDS = [f"{cls.rule.name}-{name}" for cls, name, _ in CASES]
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
# The defaults and all options together stand for each option alone, which the slow suite tests.
ENDS = ("default", "everything")
EVERY_CASE = pytest.mark.parametrize(
    ("cls", "name", "options"),
    [
        pytest.param(*case, id=label, marks=() if case[1] in ENDS else pytest.mark.slow)
        for case, label in zip(CASES, IDS, strict=True)
    ],
)
EVERY_CLASS = pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)


def through_a_file(state):
    """Return a state dict as it is after saving and loading."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def params_of(dtype=torch.float32, shapes=((), (5,), (3, 4))):
    """Return a parameter of each shape, whose numbers are those of its place."""
    return [parameter(*shape, seed=index, dtype=dtype) for index, shape in enumerate(shapes)]

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
    "near",
    "normal",
    "parameter",
    "params_for",
    "params_of",
    "same_bits",
    "same_state",
    "set_grads",
    "state_of",
    "through_a_file",
    "train",
    "variants",
]

# What is tested with these is the machinery around a rule. To it, each of the others looks like one of them: a state or
# two, updated element by element. `check_rule`, the goldens and torch's own tests run on all optimizers.
_ALIKE = {"adagrad", "adamax", "adan", "ademamix", "nadam", "nadamw", "radam", "schedulefreesgd"}
CLASSES = {name: cls for name, cls in OPTIMIZERS.items() if name not in _ALIKE}
CASES = [(cls, name, options) for cls in CLASSES.values() for name, options in variants(cls).items()]
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
# For what no single option changes: only the defaults and all options together.
EVERY_END = pytest.mark.parametrize(
    ("cls", "name", "options"),
    [pytest.param(*case, id=label) for case, label in zip(CASES, IDS, strict=True) if case[1] in ENDS],
)
EVERY_CLASS = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)


def through_a_file(state):
    """Return a state dict as it is after saving and loading."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def params_of(dtype=torch.float32, shapes=((), (5,), (3, 4))):
    """Return a parameter of each shape, whose numbers are those of its place."""
    return [parameter(*shape, seed=index, dtype=dtype) for index, shape in enumerate(shapes)]


def near(ours, one, other, factor=1):
    """Return whether parameters of our optimizer and of torch's, after 3 + 3 steps in float32, agree.

    The order of operations differs: 5.7e-7 was measured. Muon's products in bfloat16 are summed in another order, which
    makes units in the last place of steps of 1e-3.
    """
    return distance(one, other) <= factor * (2e-5 if ours.rule.whole else 1e-6)


def params_for(cls, **options):
    """Return parameters that PyTorch's class of this name accepts; its Muon takes only matrices."""
    return params_of(**options, **({"shapes": ((3, 4), (4, 3), (5, 5))} if cls.__name__ == "Muon" else {}))

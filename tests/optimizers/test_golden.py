"""Every backend follows the recorded trajectories, which were made without fallline."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oracles import cases, golden, problem
from support.golden_runs import CLASSES, FLOAT64, check_float32_params, run
from support.variants import BACKENDS

NAMES = golden.names()
OTHER_ORDER = 4e-12  # the same products in another order; measured 1.8e-12 for an element that crosses 0
# 60 steps of float32 rounding, relative to the element, or to a hundredth of its tensor's largest where signed
# gradients have cancelled: measured 2.5e-5.
FLOAT32_STATE = 5e-5
FLOAT32_CANCELLED = 1e-5  # of the tensor's largest; measured 4.5e-6 under clipping, whose coefficient is rounded too


def marks_of(name, backend):
    """Leave options of rules of whole matrices to the slow suite where each compiles several loops of its own."""
    whole = CLASSES[golden.load(name).case.optimizer].rule.whole and backend == "fused"
    return pytest.mark.slow if whole and name.split("_", 1)[1] not in ("default", "late", "momentum") else ()


def cases_on(backends):
    """Return every golden on every one of some backends."""
    return pytest.mark.parametrize(
        ("name", "backend"),
        [pytest.param(name, backend, marks=marks_of(name, backend)) for name in NAMES for backend in backends],
    )


@cases_on(BACKENDS)
def test_float64_follows_the_golden(name, backend):
    record = golden.load(name)
    limit = getattr(cases.oracle_of(record.case), "FLOAT64", FLOAT64 if backend == "reference" else OTHER_ORDER)
    assert golden.difference(record, run(record.case, backend, torch.float64)) <= limit


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_default")])
def test_float32_follows_the_golden_to_rounding(name):
    follow_in_float32(name, "fused")


@pytest.mark.slow
@cases_on(BACKENDS)
def test_float32_follows_every_golden_to_rounding(name, backend):
    follow_in_float32(name, backend)


def follow_in_float32(name, backend):
    record = golden.load(name)
    ours = run(record.case, backend, torch.float32)
    check_float32_params(record, ours)
    for param in problem.SHAPES:
        assert ours.state[param].keys() == record.state[param].keys()
        for key, value in record.state[param].items():
            allowed = FLOAT32_STATE * np.abs(value) + FLOAT32_CANCELLED * np.abs(value).max()
            allowed = allowed * (20 if record.case.optimizer == "Prodigy" else 1)
            assert np.all(np.abs(ours.state[param][key] - value) <= allowed), (param, key)


def test_every_optimizer_has_goldens():
    assert {golden.load(name).case.optimizer for name in NAMES} == CLASSES.keys()


def test_the_comparison_sees_a_wrong_beta():
    record = golden.load("adam_betas_eps")
    case = replace(record.case, config={**record.case.config, "betas": (0.8, 0.9501)})
    assert golden.difference(record, run(case, "fused", torch.float64)) > 1e-5

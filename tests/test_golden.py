"""Every backend follows the recorded trajectories, which were made without fallline."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fallline.optimizers import OPTIMIZERS
from oracles import golden, problem
from variants import BACKENDS

CLASSES = {cls.__name__: cls for cls in OPTIMIZERS.values()}
NAMES = golden.names()

# Relative, of any element: float64 as torch itself is held to; measured 6.8e-13 (reference) and 8.4e-13 (fused), at
# elements that have nearly crossed zero.
FLOAT64 = 1e-12
OTHER_ORDER = 4e-12  # the same products in another order; measured 1.8e-12 for an element that crosses 0
# 60 steps of float32 rounding. Parameters relative to the element's largest value of the run: measured 2.6e-6. State
# relative to the element, or to a hundredth of its tensor's largest where signed gradients have cancelled: 2.5e-5.
FLOAT32_PARAMS = 1e-5
FLOAT32_STATE = 5e-5
FLOAT32_CANCELLED = 1e-5  # of the tensor's largest; measured 4.5e-6 under clipping, whose coefficient is rounded too


def run(case, backend, dtype):
    """Return the record of a case run by fallline."""
    params = {name: torch.nn.Parameter(torch.from_numpy(value).to(dtype)) for name, value in problem.initial().items()}
    optimizer = CLASSES[case.optimizer](list(params.values()), backend=backend, **case.config)
    trajectory = {}
    for step in range(1, problem.STEPS + 1):
        if case.lrs is not None:
            optimizer.param_groups[0]["lr"] = case.lrs[step - 1]
        for name, grad in problem.gradients(step, case.late).items():
            params[name].grad = None if grad is None else torch.from_numpy(grad).to(dtype)
        optimizer.step()
        if step in problem.RECORDED:
            trajectory[step] = {name: param.detach().double().numpy().copy() for name, param in params.items()}
    state = {name: {k: v.double().numpy() for k, v in optimizer.state[param].items()} for name, param in params.items()}
    return golden.Golden(case, trajectory, state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_float64_follows_the_golden(name, backend):
    record = golden.load(name)
    limit = FLOAT64 if backend == "reference" else OTHER_ORDER
    assert golden.difference(record, run(record.case, backend, torch.float64)) <= limit


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_float32_follows_the_golden_to_rounding(name, backend):
    record = golden.load(name)
    ours = run(record.case, backend, torch.float32)
    for param in problem.SHAPES:
        right = np.stack([record.trajectory[step][param] for step in problem.RECORDED])
        left = np.stack([ours.trajectory[step][param] for step in problem.RECORDED])
        assert np.all(np.abs(left - right) <= FLOAT32_PARAMS * np.abs(right).max(axis=0)), param
        assert ours.state[param].keys() == record.state[param].keys()
        for key, value in record.state[param].items():
            allowed = FLOAT32_STATE * np.abs(value) + FLOAT32_CANCELLED * np.abs(value).max()
            assert np.all(np.abs(ours.state[param][key] - value) <= allowed), (param, key)


def test_every_optimizer_has_goldens():
    assert {golden.load(name).case.optimizer for name in NAMES} == CLASSES.keys()


def test_the_comparison_sees_a_wrong_beta():
    record = golden.load("adam_betas_eps")
    case = replace(record.case, config={**record.case.config, "betas": (0.8, 0.9501)})
    assert golden.difference(record, run(case, "fused", torch.float64)) > 1e-5

"""The recorded cases, run by fallline, and how far they may be from the record."""

import numpy as np
import torch

from fallline.optimizers import OPTIMIZERS
from oracles import cases, golden, problem

CLASSES = {cls.__name__: cls for cls in OPTIMIZERS.values()}
# Relative, of any element: float64 as torch itself is held to; measured 6.8e-13 (reference) and 8.4e-13 (fused), at
# elements that have nearly crossed zero.
FLOAT64 = 1e-12
# 60 steps of float32 rounding, relative to the element's largest value of the run: measured 2.6e-6.
FLOAT32_PARAMS = 1e-5


def run(case, backend, dtype):
    """Return the record of a case run by fallline."""
    params = {name: torch.nn.Parameter(torch.from_numpy(value).to(dtype)) for name, value in problem.initial().items()}
    optimizer = CLASSES[case.optimizer](list(params.values()), backend=backend, **case.config)
    trajectory = {}
    for step in range(1, problem.STEPS + 1):
        if case.lrs is not None:
            for group in optimizer.param_groups:
                if group.get("algorithm") != "adamw":  # whose rate in Muon is an option of its own
                    group["lr"] = case.lrs[step - 1]
        for name, grad in problem.gradients(step, case.late).items():
            params[name].grad = None if grad is None else torch.from_numpy(grad).to(dtype)
        optimizer.step()
        if step in problem.RECORDED:
            trajectory[step] = {name: param.detach().double().numpy().copy() for name, param in params.items()}
    state = {name: {k: v.double().numpy() for k, v in optimizer.state[param].items()} for name, param in params.items()}
    state = {name: cases.comparable(cases.oracle_of(case), kept) for name, kept in state.items()}
    return golden.Golden(case, trajectory, state)


def check_float32_params(record, ours):
    """Hold parameters to the record to rounding, relative to each element's largest value of the run."""
    tolerance = getattr(cases.oracle_of(record.case), "FLOAT32", FLOAT32_PARAMS)
    for param in problem.SHAPES:
        right = np.stack([record.trajectory[step][param] for step in problem.RECORDED])
        left = np.stack([ours.trajectory[step][param] for step in problem.RECORDED])
        assert np.all(np.abs(left - right) <= tolerance * np.abs(right).max(axis=0)), param

"""A rule from outside whose states have other shapes than the parameter, as short as a user would write it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fallline.errors import StateError
from fallline.rules.matrices import mean_square
from fallline.rules.ops import sqrt
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule
from fallline.testing import cases, check_rule
from fallline.testing.subject import ConformanceError


def row_shapes(shape):
    """Return the shape of the second moments: one per row of a matrix; a vector has one row."""
    return {"row_var": (*shape[:-1], 1)} if shape else {"row_var": None}


@rule(
    state={"exp_avg": None, "row_var": None},
    shapes=row_shapes,
    ranges={"betas": FRACTION, "eps": NON_NEGATIVE},
    formula="m = β1·m + (1 − β1)·g;  v = β2·v + (1 − β2)·mean(g²);  p −= lr·m/(√v + eps), v one number per row",
    source="Zhang et al. 2024, arXiv:2406.16793, with a row as a block and without bias correction",
    whole=True,
)
def row_adam(param, grad, exp_avg, row_var, *, lr, beta1, beta2, eps):
    """Divide the running mean of a row by the root mean square of the row; a number has no second moment."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    if row_var is None:
        return param - lr * exp_avg, exp_avg, None
    row_var = beta2 * row_var + (1 - beta2) * mean_square(grad, -1)
    return param - lr * (exp_avg / (sqrt(row_var) + eps)), exp_avg, row_var


DEFAULTS = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8}


def oracle(
    param, grad, state, lr, lr0, *, weight_decay=0.0, weight_decay_mode="l2", maximize=False, ema_decay=None, **options
):
    """The same in NumPy."""
    limit = options.get("clip_grad_value", np.inf)
    grad = np.clip(grad, -limit, limit) * (-1 if maximize else 1)
    if weight_decay_mode == "l2":
        grad = grad + weight_decay * param
    else:
        param = param * (1 - weight_decay * (lr if weight_decay_mode == "decoupled" else lr / lr0))
    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * grad
    if not param.ndim:
        return param - lr * m
    v = state["v"] = 0.99 * state.get("v", 0) + 0.01 * (grad * grad).mean(axis=-1, keepdims=True)
    return param - lr * m / (np.sqrt(v) + 1e-8)


@pytest.mark.slow
def test_a_factored_rule_from_outside_passes():
    check_rule(row_adam, defaults=DEFAULTS, oracle=oracle)


def test_it_keeps_the_promises_about_states():
    wanted = ("follows_the_oracle", "backends_agree", "every_shape_works", "resumes", "copies", "complex")
    for name, check, subject in cases(row_adam, defaults=DEFAULTS, oracle=oracle, backends=["foreach", "reference"]):
        if name.startswith(wanted) and "-default-" in name:
            check(subject)
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), ())]
    optimizer = subject.cls(params)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    shapes = [{key: tuple(value.shape) for key, value in optimizer.state[p].items()} for p in params]
    assert shapes == [{"exp_avg": (3, 4), "row_var": (3, 1)}, {"exp_avg": (5,), "row_var": (1,)}, {"exp_avg": ()}]


def test_a_state_of_another_shape_is_refused():
    *_, (_, _, subject) = cases(row_adam, defaults=DEFAULTS)
    param = torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = subject.cls([param])
    param.grad = torch.ones(3, 4)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["row_var"] = torch.zeros(3, 4)
    with pytest.raises(StateError, match=r"row_var of parameter 0 must have the shape \(3, 1\), got \(3, 4\)"):
        optimizer.load_state_dict(saved)
    del saved["state"][0]["row_var"]
    with pytest.raises(StateError, match="must hold exp_avg, row_var, got exp_avg"):
        optimizer.load_state_dict(saved)


def test_a_state_that_depends_on_lr_must_be_declared():
    """`steps` exempts it from the check that the state after a first step does not depend on lr."""

    @rule(state={"exp_avg": None}, ranges={}, formula="m = lr·g; p −= m", source="none")
    def steps(param, grad, exp_avg, *, lr):
        return param - lr * grad, lr * grad

    def check(rule):
        for name, check, subject in cases(rule, defaults={"lr": 0.1}, backends=["reference"]):
            if name == "lr_zero_holds_still-default-reference":
                check(subject)

    check(replace(steps, steps=("exp_avg",)))
    with pytest.raises(ConformanceError, match="the state after a first step depends on lr"):
        check(steps)

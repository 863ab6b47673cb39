"""Rules that take norms of tensors: what is written when, and that it makes no difference."""

import numpy as np
import pytest
import torch
from typing_extensions import Unpack

import fallline
from fallline.backends.fused.stores import with_writes
from fallline.backends.ir import trace
from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer
from fallline.rules.rule import ALL, TENSOR, rule
from fallline.rules.update import update_for


def waits_for_nothing(param, grad, mean, last, *, lr, norm):
    """The mean does not depend on the norm."""
    mean = 0.9 * mean + grad
    return param - lr / norm(mean, TENSOR) * mean, mean, param


def after_a_global_norm(param, grad, mean, last, *, lr, norm):
    """The first pass is of another scope."""
    mean = 0.9 * mean + grad / norm(grad, ALL)
    return param - lr / norm(mean, TENSOR) * mean, mean, param


def read_later(param, grad, mean, last, *, lr, norm):
    """The last pass needs what the mean was."""
    new = 0.9 * mean + grad
    return param - lr / norm(new, TENSOR) * (new + mean), new, param


def copied_later(param, grad, mean, last, *, lr, norm):
    """Another state becomes what the mean was."""
    new = 0.9 * mean + grad
    return param - lr / norm(new, TENSOR) * new, new, mean


def norm_of_a_norm(param, grad, mean, last, *, lr, norm):
    """The second pass that sums needs the mean, and so does the first."""
    mean = 0.9 * mean + grad
    step = mean / norm(mean, TENSOR) + param
    return param - lr / norm(step, TENSOR) * step, mean, param


def waits_for_the_norm(param, grad, mean, last, *, lr, norm):
    """The mean is of a direction of length 1."""
    mean = 0.9 * mean + grad / norm(grad, TENSOR)
    return param - lr * mean, mean, param


RULES = {  # and which states are written before the last pass
    waits_for_nothing: {"mean"},
    after_a_global_norm: {"mean"},
    read_later: set(),
    copied_later: set(),
    norm_of_a_norm: set(),
    waits_for_the_norm: set(),
}


def numpy_run(function, params, grads, steps):
    """Run the rule's own text on NumPy arrays."""
    state = [[np.zeros_like(p), np.zeros_like(p)] for p in params]
    for _ in range(steps):
        whole = np.sqrt(sum((g * g).sum() for g in grads))
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            norms = {ALL: lambda x, known=whole: known, TENSOR: np.linalg.norm}
            params[i], *state[i] = function(p, g, *state[i], lr=0.1, norm=lambda x, scope, n=norms: n[scope](x))
    return params, state


def optimizer_of(function):
    declared = {"ranges": {}, "formula": "", "source": "", "global_norms": int(function is after_a_global_norm)}
    made = rule(state={"mean": None, "last": None}, **declared)(function)

    class Mine(Optimizer):
        rule = made

        def __init__(self, params, lr=0.1, **options: Unpack[CommonOptions]):
            super().__init__(params, lr=lr, **options)

    return Mine


@pytest.mark.parametrize("backend", ["fused", "foreach", "reference"])
@pytest.mark.parametrize("function", RULES, ids=lambda function: function.__name__)
def test_it_makes_no_difference_when_a_state_is_written(function, backend):
    rng = np.random.default_rng(0)
    values, grads = ([rng.standard_normal(shape) for shape in [(5, 7), (3,)]] for _ in range(2))
    params = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in values]
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.from_numpy(grad.copy())
    opt = optimizer_of(function)(params, backend=backend)
    for _ in range(4):
        opt.step()
    expected, states = numpy_run(function, values, grads, 4)
    for param, value, (mean, last) in zip(params, expected, states, strict=True):
        found = (param.detach(), opt.state[param]["mean"], opt.state[param]["last"])
        for tensor, right in zip(found, (value, mean, last), strict=True):
            np.testing.assert_allclose(tensor.numpy(), right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("function", "early"), RULES.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_a_state_that_need_not_wait_is_written_with_the_norms(function, early):
    opt = optimizer_of(function)([torch.nn.Parameter(torch.ones(1))])
    columns = ["param", "grad", "mean", "last"]
    *before, (last, late) = with_writes(trace(update_for(opt.rule, opt.param_groups[0])), columns, columns)
    assert set().union(*(writes for _, writes in before)) == early
    assert set(late) == {"param", "mean", "last"} - early
    assert len(last.outputs) == len(late)


def test_a_state_that_is_rounded_when_it_is_stored_waits():
    """The last pass would read another number than the norms were taken of."""
    opt = fallline.LAMB([torch.nn.Parameter(torch.ones(1))])
    passes = with_writes(
        trace(update_for(opt.rule, opt.param_groups[0])),
        ["param", "grad", "exp_avg", "exp_avg_sq"],
        ["param", "exp_avg"],
    )
    assert [set(writes) for _, writes in passes] == [{"exp_avg"}, {"param", "exp_avg_sq"}]


def test_norms_of_different_stages_share_a_pass():
    """The norm of the parameter is known before the coefficient of clipping is; it can wait for the other."""
    opt = fallline.LAMB([torch.nn.Parameter(torch.ones(1))], clip_grad_norm=1.0)
    passes = trace(update_for(opt.rule, opt.param_groups[0])).passes
    assert [(sweep.scope, len(sweep.norms)) for sweep in passes] == [(ALL, 1), (TENSOR, 2), (None, 0)]

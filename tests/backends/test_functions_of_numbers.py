"""What a rule may compute from its numbers: exp and log, on one number per group and on one number per tensor."""

import math

import pytest
import torch
from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer
from fallline.rules.ops import exp, log
from fallline.rules.ranges import FRACTION
from fallline.rules.rule import TENSOR, rule
from support.variants import EVERY_BACKEND, normal, parameter


@rule(state={}, ranges={"fades": FRACTION}, formula="p −= lr·√(f1·f2·f3)·g/‖g‖^f3", source="this test")
def faded(param, grad, *, lr, fade1, fade2, fade3, norm):
    mean = exp((log(fade1) + log(fade2) + log(fade3)) / 2)
    return (param - lr * mean * exp(-fade3 * log(norm(grad, TENSOR))) * grad,)


class Faded(Optimizer):
    rule = faded

    def __init__(self, params, lr=0.1, fades=(0.5, 0.25, 0.75), **options: Unpack[CommonOptions]):
        super().__init__(params, lr=lr, fades=fades, **options)


@EVERY_BACKEND
def test_exp_and_log_of_numbers_and_norms(backend):
    params = [parameter(5, dtype=torch.float64), parameter(3, 4, seed=1, dtype=torch.float64)]
    before = [p.detach().clone() for p in params]
    opt = Faded(params, backend=backend)
    for index, param in enumerate(params):
        param.grad = normal(*param.shape, seed=7 + index, dtype=torch.float64)
    opt.step()
    for old, param in zip(before, params, strict=True):
        factor = 0.1 * math.sqrt(0.5 * 0.25 * 0.75) / param.grad.norm() ** 0.75
        torch.testing.assert_close(param.detach(), old - factor * param.grad, rtol=1e-14, atol=1e-15)


def test_the_rule_gets_as_many_numbers_as_it_names():
    assert faded.lengths == {"fades": 3}


@pytest.mark.parametrize("function", [exp, log])
def test_tensors_have_no_exponential(function):
    @rule(state={}, ranges={}, formula="p −= lr·f(g)", source="this test")
    def wrong(param, grad, *, lr):
        return (param - lr * function(grad),)

    class Wrong(Optimizer):
        rule = wrong

        def __init__(self, params, lr=0.1, **options: Unpack[CommonOptions]):
            super().__init__(params, lr=lr, **options)

    param = parameter(5)
    param.grad = torch.ones(5)
    with pytest.raises(TypeError, match=rf"ops\.{function.__name__} of numbers, .*, but not of tensors"):
        Wrong([param], backend="fused").step()

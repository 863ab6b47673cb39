"""Numbers in the state that depend on steps and hyperparameters, and states that start as copies of the parameter."""

import copy

import pytest
import torch
from typing_extensions import Unpack

import fallline as fl
from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.rules.ranges import NON_NEGATIVE
from fallline.rules.rule import rule
from support.variants import BACKENDS, parameter, same_bits, same_state, set_grads, train

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


def add_rates(rates, lr, step):
    return (rates + step * lr,)


@rule(
    state={"start": None},
    ranges={"drag": NON_NEGATIVE},
    formula="p −= lr·g/(1 + sum of step·lr)",
    source="this test",
    scalar_state={"rates": 0.5},
    advance=add_rates,
    copies=("start",),
)
def braked(param, grad, start, *, lr, drag, rates):
    return param - lr * grad / (1 + rates) - drag * (param - start), start


class Braked(Optimizer):
    rule = braked

    def __init__(self, params: Params, lr: Scalar = 0.1, drag: float = 0.0, **options: Unpack[CommonOptions]) -> None:
        super().__init__(params, lr=lr, drag=drag, **options)


def pair(dtype=torch.float64):
    return [parameter(5, dtype=dtype), parameter(3, 4, seed=1, dtype=dtype)]


@EVERY_BACKEND
def test_the_function_gets_the_value_after_the_step(backend):
    params, lrs = pair(), [0.1, 0.3, 0.0]
    opt = Braked(params, backend=backend)
    values, rates = [p.detach().clone() for p in params], 0.5
    for step, lr in enumerate(lrs):
        opt.param_groups[0]["lr"] = lr
        set_grads(params, step)
        opt.step()
        rates += (step + 1) * lr
        values = [v - lr * p.grad / (1 + rates) for v, p in zip(values, params, strict=True)]
    assert all(torch.allclose(p, v, rtol=1e-14) for p, v in zip(params, values, strict=True))
    assert [float(opt.state[p]["rates"]) for p in params] == [rates, rates]
    assert all(opt.state[p]["rates"].dtype == torch.float64 for p in params)


def test_a_parameter_that_misses_gradients_keeps_its_own_numbers():
    params = pair()
    opt = Braked(params, lr=1.0)
    for step in range(4):
        set_grads(params, step)
        if step % 2:
            params[1].grad = None
        opt.step()
    assert [float(opt.state[p]["rates"]) for p in params] == [0.5 + 1 + 2 + 3 + 4, 0.5 + 1 + 2]


def test_the_plan_is_kept_while_numbers_advance():
    params = pair()
    opt = Braked(params)
    train(opt, range(2))
    plan = opt._plan
    train(opt, range(2, 5))
    assert opt._plan is plan


@pytest.mark.parametrize("way", ["in place", "replaced"])
def test_a_number_that_the_user_writes_is_used(way):
    (one, _), (other, _) = pair(), pair()
    opt, twin = Braked([one]), Braked([other])
    train(opt, range(2)), train(twin, range(2))
    if way == "in place":
        opt.state[one]["rates"].fill_(9.0)
    else:
        opt.state[one]["rates"] = 9.0
    set_grads([one], 2), set_grads([other], 2)
    opt.step()
    assert float(opt.state[one]["rates"]) == pytest.approx(9.0 + 3 * 0.1)


def test_a_copy_does_not_share_the_numbers():
    opt = Braked(pair())
    train(opt, range(2))
    other = copy.deepcopy(opt)
    train(other, range(2, 4))
    assert float(opt.state[opt.param_groups[0]["params"][0]]["rates"]) == pytest.approx(0.5 + 0.1 * 3)


def test_a_state_dict_that_is_returned_follows_the_numbers():
    opt = Braked(pair())
    train(opt, range(1))
    saved = opt.state_dict()
    train(opt, range(1, 3))
    assert float(saved["state"][0]["rates"]) == pytest.approx(0.5 + 0.1 * 6)


def test_numbers_are_loaded_in_float64():
    opt = Braked(pair())
    train(opt, range(3))
    saved = copy.deepcopy(opt.state_dict())
    for state in saved["state"].values():
        state["rates"] = state["rates"].float()
    other = Braked([torch.nn.Parameter(p.detach().clone()) for p in opt.param_groups[0]["params"]])
    other.load_state_dict(saved)
    assert {state["rates"].dtype for state in other.state.values()} == {torch.float64}
    train(opt, range(3, 5)), train(other, range(3, 5))
    for mine, theirs in zip(opt.state.values(), other.state.values(), strict=True):
        assert float(mine["rates"]) == pytest.approx(float(theirs["rates"]), rel=1e-7)


def test_a_state_dict_without_the_number_is_refused():
    opt = Braked(pair())
    train(opt, range(1))
    saved = copy.deepcopy(opt.state_dict())
    del saved["state"][0]["rates"]
    with pytest.raises(fl.errors.StateError, match="must hold start, step, rates, got start, step"):
        Braked(pair()).load_state_dict(saved)


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_a_state_starts_as_a_copy_of_the_parameter(backend, dtype):
    params = pair(dtype)
    before = [p.detach().clone() for p in params]
    opt = Braked(params, backend=backend)
    train(opt, range(2))
    for param, value in zip(params, before, strict=True):
        start = opt.state[param]["start"]
        assert start.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        assert same_bits([start.to(dtype)], [value]) and start.data_ptr() != param.data_ptr()


def test_a_copy_of_the_parameter_keeps_its_precision_with_a_bfloat16_state():
    opt = Braked(pair(torch.float32), state_dtype=torch.bfloat16)
    train(opt, range(2))
    assert {state["start"].dtype for state in opt.state.values()} == {torch.float32}


@EVERY_BACKEND
def test_the_update_in_backward_advances_the_numbers(backend):
    models = [torch.nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one, other = (Braked(model.parameters(), backend=backend) for model in models)
    handle = fl.step_in_backward(models[1], other)
    for step in range(3):
        x = torch.full((4, 3), 1.0 + step)
        for model in models:
            model(x).square().mean().backward()
        one.step(), one.zero_grad(), other.step()
    handle.remove()
    assert same_bits([p.detach() for p in models[0].parameters()], [p.detach() for p in models[1].parameters()])
    assert same_state(one, other)

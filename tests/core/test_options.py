"""Clipping and averaging: what `.grad`, `grad_norm` and `ema_weights` show, and where they cannot be asked for."""

import math

import pytest
import torch

from fallline.errors import ArgumentError
from fallline.optimizers import LAMB, OPTIMIZERS
from support.variants import EVERY_BACKEND, EVERY_CLASS, normal, parameter, same_bits, set_grads, train


def groups():
    """Return two groups over tensors of two dtypes: the norm is taken over all of them."""
    wide = [parameter(3, 4, seed=1), parameter(70_000, seed=2)]
    return [{"params": wide}, {"params": [parameter(5, seed=3, dtype=torch.float64)], "lr": 0.01}]


@EVERY_BACKEND
@EVERY_CLASS
def test_grad_norm_is_that_of_all_groups_and_grad_is_untouched(cls, backend):
    opt = cls(groups(), backend=backend, clip_grad_norm=1.0)
    assert opt.grad_norm is None
    params = [p for group in opt.param_groups for p in group["params"]]
    set_grads(params, 0)
    before = [p.grad.clone() for p in params]
    opt.step()
    expected = math.sqrt(sum(p.grad.double().square().sum().item() for p in params))
    assert opt.grad_norm == pytest.approx(expected, rel=1e-6)
    assert same_bits(before, [p.grad for p in params])


@EVERY_BACKEND
@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_the_squares_of_a_norm_neither_vanish_nor_overflow(backend, size):
    """In float32 they would: 1e-60 and 1e50."""
    param = parameter(4)
    param.grad = torch.full_like(param, size)
    opt = OPTIMIZERS["sgd"]([param], backend=backend, clip_grad_norm=1.0)
    opt.step()
    assert opt.grad_norm == pytest.approx(2 * size, rel=1e-6, abs=0.0)


@EVERY_BACKEND
def test_clipping_has_pytorchs_millionth_beside_the_norm(backend):
    """It counts where norms are as small: c/(‖g‖ + 1e-6) of a norm and a limit of 1e-6 is a half."""
    param = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    param.grad = torch.full((1,), 1e-6, dtype=torch.float64)
    OPTIMIZERS["sgd"]([param], lr=1.0, backend=backend, clip_grad_norm=1e-6).step()
    assert param.item() == pytest.approx(-0.5e-6, rel=1e-12)


@EVERY_BACKEND
@EVERY_CLASS
def test_clipping_is_clipping_by_hand(cls, backend):
    """torch.nn.utils writes to .grad what ours does on the way."""
    ours, theirs = (cls(groups(), backend=backend, **extra) for extra in ({"clip_grad_norm": 3.0}, {}))
    ours_params, their_params = ([p for g in opt.param_groups for p in g["params"]] for opt in (ours, theirs))
    for step in range(3):
        set_grads(ours_params, step)
        set_grads(their_params, step)
        coefficient = 3.0 / (math.sqrt(sum(p.grad.double().square().sum() for p in their_params)) + 1e-6)
        for p in their_params:
            p.grad.mul_(min(1.0, coefficient))
        ours.step()
        theirs.step()
    for mine, other in zip(ours_params, their_params, strict=True):
        if cls.rule.name != "lion":  # a sign may turn where a mean of rounded gradients crosses 0
            torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-6)


@EVERY_BACKEND
def test_a_gradient_that_is_not_finite_reaches_every_parameter_under_clipping(backend):
    opt = OPTIMIZERS["sgd"](groups(), lr=0.1, backend=backend, clip_grad_norm=1.0)
    params = [p for group in opt.param_groups for p in group["params"]]
    set_grads(params, 0)
    params[0].grad[0, 0] = math.nan
    opt.step()
    assert math.isnan(opt.grad_norm) and all(p.isnan().all() for p in params)  # as torch's clip_grad_norm_


@EVERY_BACKEND
@EVERY_CLASS
def test_ema_weights_are_put_in_and_taken_out(cls, backend):
    opt = cls([parameter(4, 3)], backend=backend, ema_decay=0.5)
    (param,) = opt.param_groups[0]["params"]
    average = param.detach().clone()
    for step in range(4):
        (after,) = train(opt, [step])
        average = 0.5 * average + 0.5 * after
    torch.testing.assert_close(opt.state[param]["ema"], average, rtol=1e-6, atol=1e-7)
    with pytest.raises(KeyError), opt.ema_weights():
        assert torch.equal(param, opt.state[param]["ema"])
        raise KeyError
    assert torch.equal(param, after)


def test_averages_of_half_precision_parameters_are_float32():
    opt = OPTIMIZERS["adamw"]([parameter(4, dtype=torch.bfloat16)], ema_decay=0.9)
    train(opt, range(2))
    (state,) = opt.state.values()
    assert state["ema"].dtype == torch.float32


def test_no_averages_is_an_error():
    with (
        pytest.raises(ArgumentError, match="ema_decay must have been given"),
        OPTIMIZERS["sgd"]([parameter(2)]).ema_weights(),
    ):
        pass


@EVERY_CLASS
@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [
        ("clip_grad_norm", 0.0, "> 0"),
        ("clip_grad_norm", -1.0, "> 0"),
        ("clip_grad_value", math.nan, "> 0"),
        ("ema_decay", 1.0, r"in \[0, 1\)"),
        ("ema_decay", -0.1, r"in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(cls, option, value, limit):
    with pytest.raises(ArgumentError, match=rf"{cls.__name__}: {option} must be .*{limit}, got"):
        cls([parameter(2)], **{option: value})


@EVERY_CLASS
def test_clipping_by_norm_cannot_differ_between_groups(cls):
    with pytest.raises(ArgumentError, match="clip_grad_norm must be the same for all groups"):
        cls([{"params": [parameter(2)], "clip_grad_norm": 1.0}])


@EVERY_BACKEND
@EVERY_CLASS
def test_clipping_by_norm_may_be_switched_on_in_all_groups_but_not_in_one(cls, backend):
    opt = cls(groups(), backend=backend)
    before = [p.clone() for p in train(opt, range(2))]
    opt.param_groups[0]["clip_grad_norm"] = 1.0
    with pytest.raises(
        ArgumentError, match=r"clip_grad_norm must be given for all groups or for none.* got 1\.0, .*None"
    ):
        opt.step()
    params = [p.detach() for group in opt.param_groups for p in group["params"]]
    assert same_bits(params, before) and all(s.get("step", 2) == 2 for s in opt.state.values())
    for group in opt.param_groups[1:]:
        group["clip_grad_norm"] = 1.0
    opt.step()
    assert opt.grad_norm == pytest.approx(
        math.sqrt(sum(p.grad.double().square().sum() for g in opt.param_groups for p in g["params"])), rel=1e-6
    )


@EVERY_BACKEND
def test_lamb_switches_ratio_and_decay_per_group(backend):
    def run(**group):
        opt = LAMB([{"params": [parameter(6)], **group}], lr=0.1, weight_decay=0.1, backend=backend)
        return train(opt, range(2))[0]

    both, no_ratio, no_decay = run(), run(trust_ratio=False), run(weight_decay=0.0)
    assert not torch.equal(both, no_ratio) and not torch.equal(both, no_decay)
    adam = OPTIMIZERS["adam"]([parameter(6)], lr=0.1, eps=1e-6)
    torch.testing.assert_close(run(trust_ratio=False, weight_decay=0.0), train(adam, range(2))[0], rtol=1e-6, atol=1e-7)


@EVERY_BACKEND
def test_lambs_ratio_is_1_where_a_norm_is_0(backend):
    zero = torch.nn.Parameter(torch.zeros(4))
    opt = LAMB([zero], lr=0.1, weight_decay=0.0, backend=backend)
    zero.grad = normal(4)
    opt.step()
    torch.testing.assert_close(zero.detach(), -0.1 * zero.grad.sign(), rtol=1e-4, atol=1e-5)
    still = parameter(4)
    before = still.detach().clone()
    still.grad = torch.zeros(4)
    LAMB([still], lr=0.1, weight_decay=0.0, backend=backend).step()
    assert torch.equal(still, before)


@EVERY_CLASS
def test_clipping_comes_from_the_state_dict_and_goes_on_alike(cls):
    opt = cls(groups(), clip_grad_norm=0.5, ema_decay=0.9)
    train(opt, range(3))
    other = cls(groups())
    with torch.no_grad():
        for mine, theirs in zip(*([p for g in o.param_groups for p in g["params"]] for o in (other, opt)), strict=True):
            mine.copy_(theirs)
    other.load_state_dict(opt.state_dict())
    assert same_bits(train(opt, range(3, 5)), train(other, range(3, 5)))
    assert other.grad_norm == opt.grad_norm
    other.add_param_group({"params": [parameter(2, seed=9)]})  # and late groups are clipped with the rest
    assert other.param_groups[-1]["clip_grad_norm"] == 0.5

"""Float32 parameters behind half-precision ones: the float32 training, seen through rounding."""

import copy

import pytest
import torch

import fallline as fl
from fallline.core.schedule_free import ScheduleFree
from fallline.errors import ArgumentError
from fallline.rules.rule import REMAINDER_BITS
from support.variants import BACKENDS, EVERY_CLASS, normal, parameter, same_bits, same_state, set_grads, through_a_file

LOW, HALF = torch.bfloat16, torch.float16


@EVERY_CLASS
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [LOW, pytest.param(HALF, marks=pytest.mark.slow)])
def test_the_master_takes_the_float32_steps_and_the_parameter_is_its_copy(cls, backend, dtype):
    options = {"weight_decay": 0.1, "backend": backend, "clip_grad_norm": 3.0, "ema_decay": 0.9}
    low = [parameter(3, 4, dtype=dtype), parameter(5, seed=1, dtype=dtype)]
    wide = [torch.nn.Parameter(p.detach().float()) for p in low]
    opt, twin = cls(low, master_weights=True, **options), cls(wide, **options)
    for step in range(5):
        set_grads(low, step)
        for p, q in zip(low, wide, strict=True):
            q.grad = p.grad.float()
        opt.step()
        twin.step()
        for p, q in zip(low, wide, strict=True):
            master = opt.state[p]["master"]
            assert master.dtype == torch.float32
            assert torch.equal(p.detach(), master.to(dtype))
            # Two kernels may contract differently, an ulp of float32.
            torch.testing.assert_close(master, q.detach(), rtol=4e-6, atol=4e-6)
            torch.testing.assert_close(opt.state[p]["ema"], twin.state[q]["ema"], rtol=4e-6, atol=4e-6)


def test_small_updates_add_up():
    kept, lost = (torch.nn.Parameter(torch.ones(4, dtype=LOW)) for _ in range(2))
    opt, plain = fl.SGD([kept], lr=1e-4, master_weights=True), fl.SGD([lost], lr=1e-4)
    for _ in range(100):
        kept.grad = lost.grad = torch.ones(4, dtype=LOW)
        opt.step()
        plain.step()
    assert torch.equal(lost.detach(), torch.ones(4, dtype=LOW))
    assert torch.equal(kept.detach(), torch.full((4,), 0.99).to(LOW))


@EVERY_CLASS
@pytest.mark.parametrize("mode", [True, *REMAINDER_BITS])
def test_a_saved_run_goes_on_to_the_bit(cls, mode):
    if mode is not True and issubclass(cls, ScheduleFree):
        with pytest.raises(ArgumentError, match="master_weights must be True or False, because eval"):
            cls([parameter(40, dtype=LOW)], master_weights=mode)
        return
    first = parameter(40, dtype=LOW)
    opt = cls([first], master_weights=mode, state_dtype=LOW)
    for step in range(3):
        set_grads([first], step)
        opt.step()
    second = torch.nn.Parameter(first.detach().clone())
    other = cls([second])
    other.load_state_dict(through_a_file(opt.state_dict()))
    for step in range(3, 6):
        for p, o in ((first, opt), (second, other)):
            set_grads([p], step)
            o.step()
    assert other.param_groups[0]["master_weights"] == mode
    assert same_bits([first.detach()], [second.detach()])
    assert same_state(opt, other)
    assert same_state(copy.deepcopy(opt), opt)


def test_one_group_may_have_them_and_another_not():
    low, wide = parameter(3, dtype=LOW), parameter(3)
    opt = fl.AdamW([{"params": [low], "master_weights": True}, {"params": [wide]}])
    set_grads([low, wide], 0)
    opt.step()
    assert "master" in opt.state[low]
    assert "master" not in opt.state[wide]


@pytest.mark.parametrize(
    ("param", "options", "says"),
    [
        (normal(3), {}, r"is for bfloat16 and float16 parameters, got one of torch.float32; put such"),
        (normal(3, dtype=torch.complex64), {}, "is for bfloat16 and float16 parameters, got one of torch.complex64"),
        (normal(3, dtype=LOW), {"stochastic_rounding": True}, "must be False with stochastic_rounding"),
        (normal(3, dtype=LOW), {"differentiable": True}, "must be False with differentiable"),
        (normal(3, dtype=LOW), {"master_weights": 1}, "must be True, False, 'split24' or 'split32', got 1"),
    ],
)
def test_wrong_combinations_raise(param, options, says):
    with pytest.raises(ArgumentError, match=f"AdamW: master_weights {says}"):
        fl.AdamW([torch.nn.Parameter(param)], **{"master_weights": True, **options})

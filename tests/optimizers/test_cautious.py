"""Updates and decay with caution, on every optimizer; the goldens of AdamW, Lion and SGD have them too."""

import pytest
import torch

import fallline as fl
from fallline.core.schedule_free import ScheduleFree
from fallline.errors import ArgumentError, StateWarning
from support.variants import BACKENDS, EVERY_CLASS, normal, parameter

SHAPES = ((6, 5), (7,), ())
STEPS = range(1, 6)


def gradients(step):
    return [normal(*shape, seed=10 * step + index, dtype=torch.float64) for index, shape in enumerate(SHAPES)]


def path(cls, steps=STEPS, **options):
    """Return the parameters before the first step and after each one."""
    if cls is fl.Muon:
        options |= {"ns_dtype": "float64", "adamw_lr": 0.1}
    params = [parameter(*shape, seed=index, dtype=torch.float64) for index, shape in enumerate(SHAPES)]
    opt, found = cls(params, lr=0.1, **options), []
    for step in (0, *steps):
        if step:
            for param, grad in zip(params, gradients(step), strict=True):
                param.grad = grad
            opt.step()
        found.append([param.detach().clone() for param in params])
    return found


def steps_for(cls):
    """The steps of LAMB and Adafactor depend on the parameter, so the plain run shows only the first one."""
    return range(1, 2) if cls in (fl.LAMB, fl.Adafactor) else STEPS


def is_refused(cls):
    return issubclass(cls, ScheduleFree)


@pytest.mark.parametrize("backend", BACKENDS)
@EVERY_CLASS
def test_elements_that_agree_with_the_gradient_move_further_and_the_others_stay(cls, backend):
    if is_refused(cls):
        return
    plain = path(cls, steps_for(cls), weight_decay=0.0)
    careful = path(cls, steps_for(cls), weight_decay=0.0, cautious=True, backend=backend)
    expected = plain[0]
    for step, before, after, found in zip(steps_for(cls), plain, plain[1:], careful[1:], strict=False):
        for index, grad in enumerate(gradients(step)):
            update = after[index] - before[index]
            agrees = (update * grad < 0).double()
            expected[index] = expected[index] + update * agrees / agrees.mean().clamp(min=1e-3)
            torch.testing.assert_close(found[index], expected[index], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["decoupled", "independent"])
@EVERY_CLASS
def test_elements_that_move_away_from_zero_do_not_decay(cls, mode, backend):
    if mode not in cls.rule.weight_decay_modes:
        return
    options = {"weight_decay": 0.2, "weight_decay_mode": mode}
    plain = path(cls, [1], weight_decay=0.0)
    careful = path(cls, [1], **options, cautious_weight_decay=True, backend=backend)
    for before, after, found in zip(*plain, careful[1], strict=True):
        inward = ((after - before) * before <= 0).double()
        rate = 0.2 * (0.1 if mode == "decoupled" else 1)
        torch.testing.assert_close(found, after - rate * inward * before, rtol=1e-11, atol=1e-13)


def test_a_single_element_is_scaled_a_thousand_times_at_most():
    param = torch.nn.Parameter(torch.zeros(10_000, dtype=torch.float64))
    opt = fl.SGD([param], lr=1.0, momentum=1.0, cautious=True)
    param.grad = torch.ones_like(param)
    opt.step()
    before = param.detach().clone()
    param.grad = torch.full_like(param, -0.5)  # the momentum still leads down
    param.grad[3] = 0.5
    opt.step()
    moved = param.detach() - before
    assert moved[3] == -1.5 * 1000 and moved.count_nonzero() == 1


def test_nothing_moves_where_nothing_agrees():
    param = torch.nn.Parameter(torch.ones(5))
    opt = fl.Lion([param], lr=0.1, cautious=True)
    param.grad = torch.zeros(5)
    opt.step()
    assert torch.equal(param, torch.ones(5))


@pytest.mark.parametrize("option", ["cautious", "cautious_weight_decay"])
@pytest.mark.parametrize("cls", [fl.ScheduleFreeAdamW, fl.ScheduleFreeSGD])
def test_schedule_free_optimizers_refuse_caution(cls, option):
    with pytest.raises(ArgumentError, match=rf"{option} must be False, because z would not move"):
        cls([parameter()], **{option: True})


def test_a_decay_that_does_not_multiply_is_refused():
    with pytest.raises(ArgumentError, match="weight_decay_mode='l2'; pass weight_decay_mode='decoupled'"):
        fl.Adam([parameter()], cautious_weight_decay=True)
    opt = fl.AdamW([parameter()], cautious_weight_decay=True)
    with pytest.raises(ArgumentError, match="weight_decay_mode='l2'"):
        opt.add_param_group({"params": [parameter()], "weight_decay_mode": "l2"})


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_value_that_is_not_a_switch_is_refused(value):
    with pytest.raises(ArgumentError, match=f"cautious must be True or False, got {value!r}"):
        fl.AdamW([parameter()], cautious=value)


def test_a_state_dict_from_before_the_options_leaves_them_on_and_one_without_them_warns():
    opt, other = (fl.AdamW([parameter()], cautious=on) for on in (True, False))
    old = other.state_dict()
    for group in old["param_groups"]:
        del group["cautious"]
    opt.load_state_dict(old)
    assert opt.param_groups[0]["cautious"] is True
    with pytest.warns(StateWarning, match="switched off cautious=True"):
        opt.load_state_dict(other.state_dict())

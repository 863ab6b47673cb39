"""Between the two phases of SAM the parameters are not those that are trained, and nothing takes them for it."""

import copy
import gc
import weakref

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import fallline as fl
from fallline.errors import StateError
from fallline.landscape.loss.preserve import restoring
from support.messages import check_message
from support.sam_runs import EVERY_BASE
from support.variants import params_of, same_bits, set_grads

ON_BASE = ["base.state_dict", "base.load_state_dict", "base.step"]


def values(opt):
    return [p.detach().clone() for group in opt.param_groups for p in group["params"]]


@EVERY_BASE
@pytest.mark.parametrize("through", ["SAM", "a copy", "after a range test"])
@pytest.mark.parametrize("call", ["state_dict", "load_state_dict", "deepcopy", "add_param_group", *ON_BASE])
def test_what_needs_a_finished_step_waits_for_the_second_phase(base, call, through):
    opt, twin = fl.SAM(base(params_of())), fl.SAM(base(params_of()))
    if through == "a copy":
        opt = copy.deepcopy(opt)
    if through == "after a range test":
        with restoring(torch.nn.Linear(1, 1), opt):
            pass
    saved = copy.deepcopy(opt.state_dict())
    calls = {
        "state_dict": opt.state_dict,
        "load_state_dict": lambda: opt.load_state_dict(saved),
        "deepcopy": lambda: copy.deepcopy(opt),
        "add_param_group": lambda: opt.add_param_group({"params": [torch.ones(2, requires_grad=True)]}),
        "base.state_dict": opt.base.state_dict,
        "base.load_state_dict": lambda: opt.base.load_state_dict(saved),
        "base.step": opt.base.step,
    }
    for each in (opt, twin):
        set_grads(each.param_groups[0]["params"], 0)
        each.first_step()
        set_grads(each.param_groups[0]["params"], 1)
    with pytest.raises(StateError) as error:
        calls[call]()
    check_message(error, "SAM", "a finished step", "between the two phases", r"call second_step\(\) first")
    opt.second_step(), twin.second_step()
    assert same_bits(values(opt), values(twin))
    calls[call]()


@EVERY_BASE
def test_a_group_that_is_added_to_the_base_leaves_the_others_restored(base):
    opt = fl.SAM(base(params_of()))
    set_grads(opt.param_groups[0]["params"], 0)
    before = values(opt)
    opt.first_step()
    added = torch.ones(2, requires_grad=True)
    opt.base.add_param_group({"params": [added], "lr": 0.0})
    opt.zero_grad()
    opt.second_step()
    assert same_bits(values(opt)[:-1], before) and torch.equal(added, torch.ones(2))


def test_the_base_can_be_used_after_sam_is_gone():
    opt = fl.SAM(fl.SGD(params_of(), lr=0.1))
    base, ref = opt.base, weakref.ref(opt)
    set_grads(base.param_groups[0]["params"], 0)
    opt.first_step()
    del opt
    gc.collect()
    assert ref() is None
    base.step(), base.load_state_dict(base.state_dict())


@EVERY_BASE
def test_a_learning_rate_of_zero_does_not_replace_a_phase(base):
    """As in the first step of a warm-up from 0; without a phase the base would step along the first gradient."""
    opt = fl.SAM(base(params_of()))
    opt.param_groups[0]["lr"] = 0.0
    for _ in range(2):
        set_grads(opt.param_groups[0]["params"], 0)
        with pytest.raises(StateError) as error:
            opt.step()
        check_message(error, "SAM", r"step() needs a closure or a first_step()", "neither", "pass a closure")
        assert not opt.state
        opt.zero_grad()
    with pytest.raises(StateError):
        opt.step()  # without any gradient


@EVERY_BASE
def test_a_distributed_checkpoint_still_creates_the_state(base):
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    opt, fresh = fl.SAM(base(model.parameters())), fl.SAM(base(other.parameters()))
    for step in range(2):
        set_grads(model.parameters(), 2 * step)
        opt.first_step()
        set_grads(model.parameters(), 2 * step + 1)
        opt.second_step()
    set_optimizer_state_dict(other, fresh, get_optimizer_state_dict(model, opt))
    for param, copied in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in opt.state[param].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(fresh.state[copied][key]))

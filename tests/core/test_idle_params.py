"""Parameters that no step changes are left alone, and parameters without state leave none behind."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import fallline as fl
from fallline.errors import ArgumentError, GradientError
from support.messages import check_message
from support.variants import EVERY_BACKEND, EVERY_CLASS, parameter, same_bits, set_grads, train


def quantized(dtype=torch.uint8):
    """Return a frozen parameter such as a weight of bitsandbytes."""
    return torch.nn.Parameter(torch.ones(4).to(dtype), requires_grad=False)


class Adapted(torch.nn.Module):
    """A quantized weight with a trained adapter."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.base, self.adapter = quantized(), parameter(3, dtype=dtype)


@EVERY_BACKEND
@EVERY_CLASS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn], ids=str)
def test_a_frozen_parameter_of_any_dtype_is_left_out(cls, backend, dtype):
    frozen, trained, alone = quantized(dtype), parameter(3), parameter(3)
    opt, twin = cls([("q", frozen), ("w", trained)], backend=backend), cls([alone], backend=backend)
    for step in range(3):
        for p in (trained, alone):
            set_grads([p], step)
        opt.step(), twin.step()
    assert torch.equal(trained, alone) and torch.equal(frozen.float(), torch.ones(4))
    assert frozen not in opt.state
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    opt.add_param_group({"params": [("r", quantized(dtype))]})


@EVERY_CLASS
def test_options_for_half_precision_do_not_look_at_frozen_parameters_of_other_kinds(cls):
    for options in ({"master_weights": True}, {"stochastic_rounding": True}, {"state_dtype": torch.bfloat16}):
        model = Adapted(torch.bfloat16)
        opt = cls(model.parameters(), **options)
        set_grads([model.adapter], 0)
        opt.step()
        assert list(opt.state) == [model.adapter]


@EVERY_CLASS
def test_sam_and_steps_in_the_backward_pass_leave_them_out(cls):
    model = Adapted()
    opt = fl.SAM(cls(model.parameters()))
    for phase in (opt.first_step, opt.second_step):
        set_grads([model.adapter], 0)
        phase()
    if cls.rule.sums:  # refused, see test_prodigy.py
        return
    model = Adapted()
    opt = cls(model.parameters())
    fl.step_in_backward(model, opt)
    model.adapter.sum().backward()
    assert model.adapter.grad is None and torch.equal(model.base, torch.ones(4, dtype=torch.uint8))


def test_what_would_be_trained_must_be_a_float():
    with pytest.raises(ArgumentError, match=r"params must be float32, .* got one of torch.float8_e4m3fn"):
        fl.SGD([torch.nn.Parameter(torch.ones(4).to(torch.float8_e4m3fn))])
    param = quantized(torch.float8_e4m3fn)
    opt = fl.SGD([param])
    param.requires_grad_().grad = torch.ones(4).to(torch.float8_e4m3fn)
    with pytest.raises(GradientError) as error:
        opt.step()
    check_message(error, "SGD", "must be float32", "torch.float8_e4m3fn", "convert")


@EVERY_BACKEND
def test_plain_sgd_leaves_no_state_as_in_torch(backend):
    opt, theirs = fl.SGD([parameter(3)], backend=backend), torch.optim.SGD([parameter(3)])
    assert same_bits(train(opt, range(3)), train(theirs, range(3)))
    assert opt.state_dict()["state"] == theirs.state_dict()["state"] == {}
    opt.param_groups[0]["momentum"] = theirs.param_groups[0]["momentum"] = 0.9
    assert torch.allclose(train(opt, range(3, 6))[0], train(theirs, range(3, 6))[0])
    assert opt.state_dict()["state"].keys() == {0}


@EVERY_BACKEND
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_plain_sgd_leaves_no_state_in_the_backward_pass(backend, momentum):
    models = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    models[1].load_state_dict(models[0].state_dict())
    opt, twin = (fl.SGD(model.parameters(), lr=0.1, momentum=momentum, backend=backend) for model in models)
    fl.step_in_backward(models[0], opt)
    for step in range(4):
        for model in models:
            model(torch.ones(1, 2) * step).square().sum().backward()
        twin.step(), twin.zero_grad()
        if step == 1:
            opt.state.clear(), twin.state.clear()
    assert same_bits(*([p.detach() for p in model.parameters()] for model in models))
    assert len(opt.state) == len(twin.state) == (2 if momentum else 0)


@pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable):UserWarning")
def test_a_distributed_checkpoint_of_torchs_plain_sgd_misses_no_state(tmp_path):
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    theirs, ours = torch.optim.SGD(model.parameters(), lr=0.5), fl.SGD(other.parameters())
    train(theirs, range(2)), train(ours, range(2))
    dcp.save({"state": get_optimizer_state_dict(model, theirs)["state"], "mark": 1}, checkpoint_id=tmp_path)
    found = get_optimizer_state_dict(other, ours)
    target = {"state": found["state"], "mark": 0}
    dcp.load(target, checkpoint_id=tmp_path)  # raises "Missing key in checkpoint" for an empty state
    assert target == {"state": {}, "mark": 1}
    set_optimizer_state_dict(other, ours, found)

"""Flattened state dicts of torch.distributed.checkpoint, with one key per parameter and option, can be loaded."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import fallline as fl
from fallline.errors import StateError
from support.messages import check_message
from support.variants import EVERY_CLASS, distance, same_bits, same_state, set_grads, train

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
FORGOTTEN = ("clip_grad_norm", "ema_decay", "master_weights", "rounding_seed", "base_lr", "weight_decay_mode")


@pytest.fixture(autouse=True, scope="module")
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def made(build):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return model, build(model.parameters())


def trained(build):
    """Return a model after three steps, its optimizer, and the flattened state."""
    model, opt = made(build)
    train(opt, range(3))
    return model, opt, copy.deepcopy(get_optimizer_state_dict(model, opt, options=FLAT))


def loaded(build, model, saved):
    """Return an optimizer of the same weights that has loaded the flattened state as in docs/scale/distributed.md."""
    other, opt = made(build)
    other.load_state_dict(model.state_dict())
    own = get_optimizer_state_dict(other, opt, options=FLAT)
    set_optimizer_state_dict(other, opt, {**own, **saved}, options=FLAT)
    return opt


@EVERY_CLASS
def test_an_optimizer_loads_its_own(cls):
    model, opt, saved = trained(lambda params: cls(params, lr=0.1, ema_decay=0.5, clip_grad_norm=0.5))
    other, copied = made(lambda params: cls(params, ema_decay=0.9))
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, copied, saved, options=FLAT)
    assert copied.param_groups[0]["ema_decay"] == 0.5
    assert same_bits(train(opt, range(3, 5)), train(copied, range(3, 5))) and same_state(opt, copied)


@EVERY_CLASS
def test_an_optimizer_loads_one_from_before_an_option_existed(cls):
    model, opt, saved = trained(lambda params: cls(params, weight_decay=0.1))
    saved = {key: value for key, value in saved.items() if key.rpartition(".")[2] not in FORGOTTEN}
    copied = loaded(cls, model, saved)
    assert copied.param_groups[0]["weight_decay"] == 0.1
    assert same_bits(train(opt, range(3, 5)), train(copied, range(3, 5))) and same_state(opt, copied)


TWINS = [(fl.AdamW, torch.optim.AdamW), (fl.Adam, torch.optim.Adam), (fl.SGD, torch.optim.SGD)]


@pytest.mark.parametrize(("cls", "torch_cls"), TWINS, ids=lambda cls: cls.__module__.partition(".")[0] + cls.__name__)
def test_an_optimizer_loads_that_of_torchs_class(cls, torch_cls):
    model, theirs, saved = trained(lambda params: torch_cls(params, lr=0.1, weight_decay=0.2))
    ours = loaded(lambda params: cls(params, clip_grad_value=100.0), model, saved)
    assert (ours.param_groups[0]["lr"], ours.param_groups[0]["clip_grad_value"]) == (0.1, 100.0)
    assert distance(train(ours, range(3, 6)), train(theirs, range(3, 6))) <= 1e-6  # float32; measured 2.1e-7


@pytest.mark.parametrize("option", [{"ema_decay": 0.5}, {"amsgrad": True}], ids=str)
def test_state_that_pytorch_leaves_out_is_named(option):
    """It reads only the state that the optimizer has made for its own options."""
    _, _, saved = trained(lambda params: fl.AdamW(params, **option))
    model, opt = made(fl.AdamW)
    with pytest.raises(StateError) as error:
        set_optimizer_state_dict(model, opt, saved, options=FLAT)
    key = {"ema_decay": "ema", "amsgrad": "max_exp_avg_sq"}[next(iter(option))]
    check_message(error, "AdamW", key, "exp_avg, exp_avg_sq", "with the options of the optimizer that saved it")


def test_sam_loads_its_own():
    model, opt = made(lambda params: fl.SAM(fl.AdamW(params)))
    for seed in (0, 2):
        set_grads(model.parameters(), seed)
        opt.first_step()
        set_grads(model.parameters(), seed + 1)
        opt.second_step(zero_grad=True)
    saved = copy.deepcopy(get_optimizer_state_dict(model, opt, options=FLAT))
    other, copied = made(lambda params: fl.SAM(fl.AdamW(params, lr=0.5), rho=0.5))
    set_optimizer_state_dict(other, copied, saved, options=FLAT)
    assert copied.param_groups[0]["sam_rho"] == 0.05 and copied.param_groups[0]["lr"] == 1e-3
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert all(torch.equal(value, copied.state[q][key]) for key, value in opt.state[p].items())


@pytest.mark.parametrize("cls", [fl.AdamW, torch.optim.AdamW], ids=["ours", "torch"])
def test_pytorch_itself_requires_every_option(cls):
    """If this fails, PyTorch reads what there is, and the docs need not complete the state dict any more."""
    _, _, saved = trained(torch.optim.AdamW)
    del saved["param_groups.weight.maximize"]
    model, opt = made(cls)
    with pytest.raises(KeyError, match=r"param_groups\.weight\."):
        set_optimizer_state_dict(model, opt, saved, options=FLAT)

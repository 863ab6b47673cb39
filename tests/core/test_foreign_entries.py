"""State dicts carry entries of schedulers, wrappers and other libraries, which loading keeps without judging them."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import lr_scheduler

import fallline as fl
from fallline.errors import ArgumentError, StateError, StateWarning
from support.messages import check_message
from support.variants import EVERY_BACKEND, EVERY_CLASS, distance, params_of, same_bits, same_state, train

CYCLES = {
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, step_size_up=3),
}


def reloaded(opt, saved, **options):
    """Return an optimizer of the same class and the same weights that has loaded the state dict."""
    weights = [torch.nn.Parameter(p.detach().clone()) for group in opt.param_groups for p in group["params"]]
    other = type(opt)(weights, **options)
    other.load_state_dict(saved)
    return other


@pytest.mark.parametrize("cls", [fl.SGD, fl.RMSprop])
@pytest.mark.parametrize("cycle", CYCLES)
def test_what_torchs_schedulers_note_in_a_group_is_loaded(cls, cycle):
    opt = cls(params_of(), momentum=0.9)
    scheduler = CYCLES[cycle](opt)
    train(opt, range(2))
    scheduler.step()
    other = reloaded(opt, opt.state_dict())
    noted = ("max_momentum", "base_momentum", "initial_lr", "momentum")
    assert [other.param_groups[0][key] for key in noted] == [opt.param_groups[0][key] for key in noted]
    assert same_bits(train(opt, range(2, 5)), train(other, range(2, 5)))


NOTES = {"weight_decay_mult": 2.0, "base_weight_decay": 0.1, "lr_mult": 3, "weight_deacy": 0.5, "name": ["a"], 7: "x"}


@EVERY_CLASS
@pytest.mark.parametrize("note", NOTES, ids=str)
def test_other_keys_of_a_group_are_loaded(cls, note):
    opt = cls(params_of())
    opt.param_groups[0][note] = NOTES[note]
    other = reloaded(opt, opt.state_dict())
    assert other.param_groups[0][note] == NOTES[note]
    other.add_param_group({**other.param_groups[0], "params": [torch.ones(2)]})  # a copy of a group that was loaded


@EVERY_CLASS
def test_an_option_that_is_qualified_is_no_misspelling(cls):
    opt = cls([{"params": params_of(), "weight_decay_mult": 2.0, "max_lr": 3.0, "base_weight_decay": 0.1}])
    assert opt.param_groups[0]["weight_decay_mult"] == 2.0
    for key in ("weight_deacy", "weight_decay_mod", "weight_decays"):
        with pytest.raises(ArgumentError) as error:
            opt.add_param_group({"params": [torch.ones(2)], key: 0.1})
        check_message(error, cls.__name__, "weight_decay", f"{key}=0.1", "did you mean weight_decay")


@EVERY_BACKEND
@EVERY_CLASS
def test_entries_of_wrappers_in_the_state_are_kept_and_change_no_step(cls, backend):
    opt, plain = cls(params_of(), backend=backend), cls(params_of(), backend=backend)
    train(opt, range(2)), train(plain, range(2))
    for param, state in list(opt.state.items()):
        state |= {"slow_params": param.detach().clone(), "anchor": None, "notes": {"a": [torch.ones(2), 1]}}
    opt.state["trac"] = {"variance": torch.ones(3), "step": 4}
    saved = copy.deepcopy(opt.state_dict())
    other = reloaded(opt, saved, backend=backend)
    for entries in (state for key, state in other.state.items() if key != "trac"):
        assert entries["anchor"] is None and entries["notes"]["a"][1] == 1
        assert entries["slow_params"].shape == entries["slow_params"].shape
    assert other.state["trac"]["step"] == 4 and torch.equal(other.state["trac"]["variance"], torch.ones(3))
    other.state["trac"]["variance"].zero_()
    assert saved["state"]["trac"]["variance"].all(), "loaded tensors are copies"
    expected = train(plain, range(2, 5))
    assert same_bits(train(opt, range(2, 5)), expected) and same_bits(train(other, range(2, 5)), expected)


def test_parameters_as_keys_of_a_wrappers_entry_are_kept():
    """TRAC of pytorch_optimizer keeps a dictionary by parameter under one key of the state."""
    opt = fl.AdamW(params_of())
    train(opt, range(2))
    keys = opt.param_groups[0]["params"]
    saved = {**opt.state_dict(), "state": {**opt.state_dict()["state"], "trac": {p: p.detach().clone() for p in keys}}}
    opt.load_state_dict(saved)
    assert [key is p for key, p in zip(opt.state["trac"], keys, strict=True)] == [True] * 3


def test_averages_are_found_beside_entries_of_wrappers():
    opt = fl.AdamW(params_of(), ema_decay=0.5)
    train(opt, range(2))
    opt.state["wrapper"] = 3
    with opt.ema_weights():
        assert torch.equal(opt.param_groups[0]["params"][1], opt.state[opt.param_groups[0]["params"][1]]["ema"])


def test_the_state_of_another_optimizer_is_still_refused():
    theirs = torch.optim.NAdam(params_of())
    train(theirs, range(2))
    with pytest.raises(StateError) as error:
        fl.NAdamW(params_of()).load_state_dict(theirs.state_dict())
    check_message(error, "NAdamW", "must hold exp_avg", "mu_product", "saved by another optimizer")
    saved = fl.AdamW(params_of()).state_dict()
    saved["state"]["layer.weight"] = {"exp_avg": torch.ones(3)}  # state of a parameter that no group has
    with pytest.raises(StateError, match=r"must belong to a parameter of a group, got state for .* 'layer\.wei"):
        fl.AdamW(params_of()).load_state_dict(saved)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_names_under_wrappers_of_modules_match(prefix):
    def build(start="", middle=""):
        model = torch.nn.Sequential(torch.nn.Linear(2, 3))
        return fl.AdamW([(start + name.replace("0.", "0." + middle), p) for name, p in model.named_parameters()])

    plain, outer, inner = build(), build(prefix), build(middle=prefix)
    for saved, opt in ((outer, plain), (plain, outer), (inner, plain), (outer, inner)):
        names = list(opt.param_groups[0]["param_names"])
        opt.load_state_dict(saved.state_dict())
        assert opt.param_groups[0]["param_names"] == names
    other = fl.AdamW([("1.weight", torch.ones(3, 2)), ("0.bias", torch.ones(3))])
    with pytest.raises(StateError, match=r"names must match, got '.*0\.weight' in the state dict where .* '1\.weight'"):
        other.load_state_dict(outer.state_dict())


TWINS = [(fl.AdamW, torch.optim.AdamW), (fl.Adam, torch.optim.Adam), (fl.SGD, torch.optim.SGD)]
FORGOTTEN = ("clip_grad_norm", "ema_decay", "master_weights", "rounding_seed", "base_lr", "weight_decay_mode")


@pytest.mark.parametrize(("cls", "torch_cls"), TWINS, ids=lambda cls: cls.__module__.partition(".")[0] + cls.__name__)
@pytest.mark.parametrize("through_files", [False, True], ids=["memory", "files"])
@pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable):UserWarning")
def test_distributed_checkpoints_of_torch_load(cls, torch_cls, through_files, tmp_path):
    model = torch.nn.Linear(3, 2)
    theirs = torch_cls(model.parameters(), lr=0.1, weight_decay=0.2)
    weights = train(theirs, range(3))
    copied = torch.nn.Linear(3, 2)
    ours = cls(copied.parameters(), clip_grad_value=100.0)
    saved = get_optimizer_state_dict(model, theirs)
    if through_files:
        dcp.save({"opt": saved}, checkpoint_id=tmp_path)
        found = {"opt": get_optimizer_state_dict(copied, ours)}
        planner = dcp.DefaultLoadPlanner(allow_partial_load=True)  # PyTorch's file has no options of Fallline
        dcp.load(found, checkpoint_id=tmp_path, planner=planner)
        saved = found["opt"]
    set_optimizer_state_dict(copied, ours, copy.deepcopy(saved))
    with torch.no_grad():
        [p.copy_(w) for p, w in zip(copied.parameters(), weights, strict=True)]
    assert (ours.param_groups[0]["lr"], ours.param_groups[0]["clip_grad_value"]) == (0.1, 100.0)
    assert distance(train(ours, range(3, 6)), train(theirs, range(3, 6))) <= 1e-6  # float32; measured 2.1e-7


@EVERY_CLASS
def test_a_state_dict_from_before_an_option_existed_loads(cls):
    opt = cls(params_of(), weight_decay=0.1)
    train(opt, range(2))
    saved = copy.deepcopy(opt.state_dict())
    for key in FORGOTTEN:
        del saved["param_groups"][0][key]
    other = reloaded(opt, saved)
    assert same_bits(train(opt, range(2, 4)), train(other, range(2, 4))) and same_state(opt, other)


def test_averages_and_master_weights_start_when_a_checkpoint_has_none():
    theirs = torch.optim.AdamW(params_of(torch.bfloat16))
    train(theirs, range(2))
    ours = fl.AdamW(params_of(torch.bfloat16), ema_decay=0.5, master_weights=True)
    start = [p.detach().float() for p in ours.param_groups[0]["params"]]
    ours.load_state_dict(theirs.state_dict())
    train(ours, [2])
    for param, before in zip(ours.param_groups[0]["params"], start, strict=True):
        state = ours.state[param]
        assert float(state["step"]) == 3 and state["master"].dtype == torch.float32
        assert torch.allclose(state["ema"], (before + state["master"]) / 2)


SWITCHES = {
    "clip_grad_norm": 0.5,
    "clip_grad_value": 0.25,
    "ema_decay": 0.9,
    "master_weights": True,
    "stochastic_rounding": True,
    "state_dtype": torch.bfloat16,
}


@pytest.mark.parametrize(("option", "value"), SWITCHES.items(), ids=SWITCHES)
def test_an_option_that_a_checkpoint_switches_off_is_named(option, value):
    plain = fl.AdamW(params_of(torch.bfloat16))
    opt = fl.AdamW(params_of(torch.bfloat16), **{option: value})
    with pytest.warns(StateWarning, match=f"has switched off {option}={value}. Set them in param_groups again"):
        opt.load_state_dict(plain.state_dict())
    opt.load_state_dict(plain.state_dict())  # it is off already
    plain.load_state_dict(fl.AdamW(params_of(torch.bfloat16), **{option: value}).state_dict())
    assert plain.param_groups[0][option] == value
    kept = fl.AdamW(params_of(torch.bfloat16), **{option: value})
    kept.load_state_dict(torch.optim.AdamW(params_of(torch.bfloat16)).state_dict())  # PyTorch says nothing about it
    assert kept.param_groups[0][option] == value

"""Weight decay keeps its meaning when a state dict moves to another class, or the state dict cannot be used there."""

import copy
import inspect

import pytest
import torch

import fallline as fl
from fallline.errors import StateError
from support.messages import check_message
from support.variants import EVERY_CLASS, distance, params_of, same_bits, through_a_file, train

TOLERANCE = 1e-6  # float32, 3 + 3 steps, against torch's order of operations; measured 1.2e-7
DECAY = {"lr": 0.1, "weight_decay": 0.2}
HAS_FLAG = "decoupled_weight_decay" in inspect.signature(torch.optim.Adam).parameters  # since PyTorch 2.7


def moved(saving, cls, **options):
    """Train, move weights and state dict to an optimizer of `cls`, and return it."""
    weights = train(saving, range(3))
    other = cls([torch.nn.Parameter(w) for w in weights], **options)
    other.load_state_dict(copy.deepcopy(through_a_file(saving.state_dict())))
    return other


@pytest.mark.skipif(not HAS_FLAG, reason="state dicts of PyTorch 2.6 do not show how Adam decays")
@pytest.mark.parametrize("cls", [fl.Adam, fl.AdamW])
@pytest.mark.parametrize("torch_cls", [torch.optim.Adam, torch.optim.AdamW])
def test_torchs_decay_moves_with_the_state(torch_cls, cls):
    theirs = torch_cls(params_of(), **DECAY)
    ours = moved(theirs, cls)
    assert distance(train(ours, range(3, 6)), train(theirs, range(3, 6))) <= TOLERANCE


@pytest.mark.parametrize("cls", [fl.SGD, fl.RMSprop])
def test_the_l2_penalty_of_a_class_without_a_flag_replaces_another_mode(cls):
    theirs = getattr(torch.optim, cls.__name__)(params_of(), momentum=0.9, **DECAY)
    ours = moved(theirs, cls, weight_decay_mode="decoupled")
    assert ours.param_groups[0]["weight_decay_mode"] == "l2"
    assert distance(train(ours, range(3, 6)), train(theirs, range(3, 6))) <= TOLERANCE


@pytest.mark.parametrize(
    ("cls", "mode"),
    [
        (fl.AdamW, "independent"),
        (fl.AdamW, "l2"),
        (fl.Adam, "independent"),
        (fl.SGD, "decoupled"),
        (fl.SGD, "independent"),
        (fl.RMSprop, "decoupled"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
def test_a_decay_that_torch_does_not_have_is_refused_there(cls, mode, foreach):
    """PyTorch's load_state_dict checks no values, so its step raises before it has changed a parameter."""
    ours = cls(params_of(), weight_decay_mode=mode, **DECAY)
    theirs = moved(ours, getattr(torch.optim, cls.__name__), foreach=foreach)
    assert theirs.param_groups[0]["weight_decay"] == (mode, 0.2)
    before = [p.detach().clone() for p in theirs.param_groups[0]["params"]]
    with pytest.raises(TypeError):
        train(theirs, [3])
    assert same_bits(before, [p.detach() for p in theirs.param_groups[0]["params"]])


@EVERY_CLASS
def test_every_mode_returns_to_its_own_class(cls):
    for mode in cls.rule.weight_decay_modes:
        for weight_decay in (0.0, 0.2):
            ours = cls(params_of(), lr=0.1, weight_decay=weight_decay, weight_decay_mode=mode)
            other = moved(ours, cls)
            assert (other.param_groups[0]["weight_decay"], other.param_groups[0]["weight_decay_mode"]) == (
                weight_decay,
                mode,
            )
            assert same_bits(train(other, range(3, 6)), train(ours, range(3, 6)))


def test_a_class_that_does_not_have_the_mode_refuses_it():
    """Lion's state is a part of Adam's; the rest is left out, so that only the decay can be the reason."""
    saved = torch.optim.NAdam(params_of(), weight_decay=0.2).state_dict()
    saved["param_groups"][0]["decoupled_weight_decay"] = False
    with pytest.raises(StateError) as error:
        fl.Lion(params_of()).load_state_dict(saved)
    check_message(error, "Lion", "weight_decay_mode must be one of decoupled, independent", "'l2'", "another optimizer")
    saved["param_groups"][0]["weight_decay"] = 0  # there is no decay whose meaning could change
    fl.Lion(params_of()).load_state_dict(saved)


def test_without_decay_the_class_decides_about_later_decay():
    ours = moved(torch.optim.Adam(params_of(), weight_decay=0), fl.AdamW)
    assert ours.param_groups[0]["weight_decay_mode"] == "decoupled"


@pytest.mark.skipif(not HAS_FLAG, reason="state dicts of PyTorch 2.6 do not show how Adam decays")
def test_torchs_flag_is_believed_before_a_mode_that_contradicts_it():
    """`torch.distributed.checkpoint` reads PyTorch's entries into a state dict of the optimizer that loads them."""
    theirs = torch.optim.Adam(params_of(), **DECAY)
    weights = train(theirs, range(3))
    ours = fl.AdamW([torch.nn.Parameter(w) for w in weights])
    saved = copy.deepcopy(theirs.state_dict())
    saved["param_groups"][0] = {**ours.state_dict()["param_groups"][0], **saved["param_groups"][0]}
    ours.load_state_dict(saved)
    assert distance(train(ours, range(3, 6)), train(theirs, range(3, 6))) <= TOLERANCE


@pytest.mark.skipif(not HAS_FLAG, reason="groups of PyTorch 2.6 do not show how Adam decays")
def test_a_group_of_torchs_adam_is_taken_with_its_flag():
    group = {**torch.optim.AdamW(params_of(), **DECAY).param_groups[0]}
    ours, theirs = fl.Adam([group]), torch.optim.AdamW(params_of(), **DECAY)
    assert ours.param_groups[0]["weight_decay_mode"] == "decoupled"
    assert distance(train(ours, range(3)), train(theirs, range(3))) <= TOLERANCE

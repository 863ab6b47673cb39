"""Bad input is refused at once, with a message of owner, argument, limit, value and remedy, and changes nothing."""

import copy
import inspect
import math

import pytest
import torch

from fallline.errors import ArgumentError, ArgumentTypeError, GradientError, StateError
from fallline.optimizers import OPTIMIZERS, create_optimizer
from fallline.rules.ranges import FRACTION, Range
from fallline.rules.update import update_for
from support.messages import check_message
from support.variants import (
    BACKENDS,
    CASES,
    EVERY_BACKEND,
    EVERY_CLASS,
    EVERY_END,
    parameter,
    same_bits,
    same_state,
    set_grads,
    state_of,
    train,
)

NUMBERS = [
    (name, value, "in [0, 1)" if name.startswith("betas") else "finite number", text)
    for name in ("lr", "weight_decay", "eps", "momentum", "alpha", "betas[0]", "betas[1]", "betas[2]")
    for value, text in ((-0.1, "-0.1"), (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"))
] + [(name, 1.0, "in [0, 1)", "1") for name in ("alpha", "betas[0]", "betas[1]", "betas[2]")]


def option(cls, name, value):
    """Return the keyword that gives `name` (perhaps one of several betas) this value."""
    if name.startswith("betas"):
        betas = [0.9, 0.99, 0.999][: cls.rule.lengths["betas"]]
        betas[int(name[-2])] = value
        return {"betas": tuple(betas)}
    return {name: value}


@EVERY_CLASS
@pytest.mark.parametrize(("name", "value", "limit", "text"), NUMBERS)
def test_a_number_out_of_range_is_refused(cls, name, value, limit, text):
    stem, _, index = name.partition("[")
    allowed = cls.rule.ranges.get(stem)
    if stem not in ("lr", "weight_decay", *cls.rule.ranges) or (index == "2]" and cls.rule.lengths["betas"] < 3):
        return  # another optimizer has it
    if value == 1 and allowed is not None and allowed.below > 1:
        return  # RMSprop's alpha is a beta, and AdEMAMix's a weight
    if allowed == Range(0.0, 1.0, open=True):
        limit = "in (0, 1)"
    if stem == "alpha":
        limit = "in [0, 1)" if allowed == FRACTION else "finite number"
    chosen = option(cls, name, value)
    for keywords in ({"params": [parameter(2)], **chosen}, {"params": [{"params": [parameter(2)], **chosen}]}):
        with pytest.raises(ArgumentError) as error:
            cls(**keywords)
        check_message(error, cls.__name__, name, text, "choose a value in that range")
        assert limit in str(error.value)
    with pytest.raises(ValueError):
        cls([parameter(2)], **option(cls, name, torch.tensor(value)))


@EVERY_CLASS
@pytest.mark.parametrize("value", ["0.1", None, 1j, (0.1, 0.2), torch.ones(3)], ids=str)
def test_what_is_no_number_is_refused(cls, value):
    names = [name for name, default in cls([parameter(1)]).defaults.items() if type(default) in (int, float)]
    assert {"lr", "weight_decay"} <= set(names)
    for name in names:
        with pytest.raises((ArgumentTypeError, ArgumentError)) as error:
            cls([parameter(2)], **{name: value})
        check_message(error, cls.__name__, name, "" if isinstance(value, torch.Tensor) else str(value))


def test_momentum_out_of_place_is_refused():
    for cls, name, _ in CASES:
        if name == "nesterov":
            for options in ({}, {"momentum": 0.9, "dampening": 0.1}):
                with pytest.raises(ArgumentError) as error:
                    cls([parameter(2)], nesterov=True, **options)
                check_message(error, cls.__name__, "nesterov=True", "momentum=", "momentum=0.9")


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.99, 0.999), (), 0.9, "ab", None], ids=str)
def test_betas_of_the_wrong_number_are_refused(betas):
    for cls in OPTIMIZERS.values():
        if "betas" in inspect.signature(cls).parameters and betas != (0.9, 0.99, 0.999)[: cls.rule.lengths["betas"]]:
            with pytest.raises(ArgumentError) as error:
                cls([parameter(2)], betas=betas)
            check_message(error, cls.__name__, "betas", f"betas={betas!r}", "0.9")


@EVERY_CLASS
def test_unknown_choices_are_refused_with_the_known_ones(cls):
    choices = {"weight_decay_mode": cls.rule.weight_decay_modes, "backend": ("auto", "compile", *BACKENDS)}
    for name, known in choices.items():
        for value in ("L2", "", 3, None):
            with pytest.raises(ArgumentError) as error:
                cls([parameter(2)], **{name: value})
            check_message(error, cls.__name__, name, repr(value), "leave it out")
            assert all(choice in str(error.value) for choice in known)


@EVERY_CLASS
def test_an_unknown_keyword_is_refused_with_the_known_ones_and_a_guess(cls):
    with pytest.raises(ArgumentTypeError) as error:
        cls([parameter(2)], weight_deacy=0.1)
    check_message(error, cls.__name__, "weight_decay_mode", "weight_deacy=0.1", r"did you mean weight_decay\?")
    with pytest.raises(TypeError) as error:
        cls([parameter(2)], zebra=1)
    check_message(error, cls.__name__, "maximize", "zebra=1", "spelling")


@EVERY_CLASS
def test_a_subclass_may_pass_keywords_on(cls):
    class Mine(cls):
        def __init__(self, params, **keywords):
            super().__init__(params, **keywords)

    assert Mine([parameter(2)], lr=0.3, maximize=True).defaults == cls([parameter(2)], lr=0.3, maximize=True).defaults
    with pytest.raises(ArgumentTypeError) as error:
        Mine([parameter(2)], weight_deacy=0.1)
    check_message(error, "Mine", "weight_decay_mode", "weight_deacy=0.1", r"did you mean weight_decay\?")


@EVERY_CLASS
def test_a_near_miss_in_a_group_is_refused_and_a_note_is_not(cls):
    opt = cls([{"params": [parameter(2)], "name": "mine", "lr_scale": 0.5, "layer": 3}])
    with pytest.raises(ArgumentError) as error:
        opt.add_param_group({"params": [parameter(3)], "weight_deacy": 0.1})
    check_message(error, cls.__name__, "weight_decay", "weight_deacy=0.1", r"did you mean weight_decay\?")
    assert len(opt.param_groups) == 1


@EVERY_CLASS
def test_flags_that_cannot_be_served_are_refused(cls):
    for options, argument in (
        ({"foreach": True, "fused": True}, "fused"),
        ({"differentiable": True, "fused": True}, "differentiable"),
        ({"capturable": True}, "capturable"),
    ):
        if options.keys() <= cls([parameter(1)]).defaults.keys():
            with pytest.raises(ArgumentError, match=f"^{cls.__name__}: .*{argument}.* must .*; .+"):
                cls([parameter(2)], **options)


@EVERY_BACKEND
@EVERY_CLASS
@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_a_decay_mode_mistyped_on_a_live_group_is_refused_at_the_next_step(cls, backend, weight_decay):
    opt = cls([{"params": [parameter(2)]}, {"params": [parameter(3)]}], backend=backend, weight_decay=weight_decay)
    before = train(opt, range(2))
    kept, opt.param_groups[1]["weight_decay_mode"] = opt.param_groups[1]["weight_decay_mode"], "decopled"
    with pytest.raises(ArgumentError) as error:
        train(opt, [2])
    check_message(error, cls.__name__, "weight_decay_mode", "'decopled'", "leave it out")
    assert same_bits([p.detach() for group in opt.param_groups for p in group["params"]], before)
    opt.param_groups[1]["weight_decay_mode"] = kept
    train(opt, [2])


@EVERY_BACKEND
@EVERY_END
def test_a_sparse_gradient_is_refused_and_nothing_moves(cls, name, options, backend):
    first, second = parameter(4, seed=1), parameter(3, 2, seed=2)
    opt = cls([first, second], backend=backend, **options)
    for trained in (False, True):
        before, states = [p.detach().clone() for p in (first, second)], copy.deepcopy(state_of(opt))
        set_grads([first], 5)
        second.grad = torch.ones(3, 2).to_sparse()
        with pytest.raises(GradientError) as error:
            opt.step()
        check_message(error, cls.__name__, "gradients", "sparse_coo", "sparse=False")
        assert "(3, 2)" in str(error.value)
        assert same_bits([p.detach() for p in (first, second)], before)
        assert [flat(state) for state in state_of(opt)] == [flat(state) for state in states]
        if not trained:
            train(opt, range(2))  # and it goes on afterwards, then fails again in mid-run


def flat(state):
    return {key: value.tolist() for key, value in state.items()}


def first_key(saved):
    return next(key for key in saved["state"][1] if key != "step")


def change_state(saved, change):
    saved["state"][1][first_key(saved)] = change(saved["state"][1][first_key(saved)])


# What is done to the saved state dict, the limit that is named, the value that is named, and how many entries (beside
# `step`) a state must have for it.
DAMAGE = {
    "more groups": (
        lambda saved: saved["param_groups"].append(saved["param_groups"][0]),
        "as many groups",
        "2 for 1",
        0,
    ),
    "fewer parameters": (lambda saved: saved["param_groups"][0]["params"].pop(), "have 2 parameters", "1", 0),
    "other names": (
        lambda saved: saved["param_groups"][0].update(param_names=["a", "z"]),
        "names must match",
        "'z'",
        0,
    ),
    "bad numbers": (lambda saved: saved["param_groups"][0].update(lr=-1.0), "lr must be", "-1", 0),
    "no state": (lambda saved: saved.pop("state"), "state and param_groups", "param_groups", 0),
    "no groups": (lambda saved: saved.pop("param_groups"), "state and param_groups", "state", 0),
    "stray state": (lambda saved: saved["state"].update({7: {}}), "belong to a parameter", "7", 0),
    "strange state": (lambda saved: saved["state"][1].update(hessian=torch.ones(4, 3)), "must hold", "hessian", 1),
    "another shape": (
        lambda saved: change_state(saved, lambda v: v.mT.clone()),
        "the shape of the parameter, (4, 3)",
        "(3, 4)",
        1,
    ),
    "no tensor": (
        lambda saved: change_state(saved, torch.Tensor.tolist),
        "the shape of the parameter, (4, 3)",
        "[[",
        1,
    ),
    "missing state": (lambda saved: saved["state"][1].pop(first_key(saved)), "must hold", "", 2),
}


@EVERY_END
@pytest.mark.parametrize(("damage", "limit", "value", "entries"), DAMAGE.values(), ids=DAMAGE)
def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing(
    cls, name, options, damage, limit, value, entries
):
    lr = torch.tensor(0.01)
    opt = cls([("a", parameter(2, 1)), ("b", parameter(4, 3))], lr=lr, **options)
    train(opt, range(2))
    saved = copy.deepcopy(opt.state_dict())
    if len(saved["state"].get(1, {}).keys() - {"step"}) < entries:
        return
    if cls.rule.shapes and "shape of the parameter" in limit:
        return  # its first state has another shape; see tests/testing/test_factored_rule.py
    damage(saved)
    twin = copy.deepcopy(opt)
    with pytest.raises((StateError, ArgumentError)) as error:
        opt.load_state_dict(saved)
    check_message(error, cls.__name__, limit, value)
    assert options_of(opt) == options_of(twin)
    assert opt.param_groups[0]["lr"] is lr
    assert same_state(opt, twin)
    assert same_bits(train(opt, range(2, 4)), train(twin, range(2, 4)))


def options_of(opt):
    return {key: value for key, value in opt.param_groups[0].items() if key != "params"}


def test_the_state_dict_of_another_optimizer_is_refused():
    for cls in OPTIMIZERS.values():
        for other in OPTIMIZERS.values():
            for steps in (0, 2):
                stranger, opt = other([parameter(3, 2)]), cls([parameter(3, 2)])
                train(stranger, range(steps))
                states = [update_for(o.rule, o.param_groups[0]).state for o in (stranger, opt)]
                alike = cls.rule.ranges.keys() <= other.rule.ranges.keys() and cls.rule.lengths == other.rule.lengths
                if alike and (steps == 0 or states[0] == states[1]):
                    continue  # it has every option and state: nothing tells it from our own
                with pytest.raises(StateError) as error:
                    opt.load_state_dict(stranger.state_dict())
                check_message(error, cls.__name__, "must ", "", "saved by another optimizer")


def test_an_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(ArgumentError) as error:
        create_optimizer("sdg", [parameter(2)])
    check_message(error, "create_optimizer", "name", "'sdg'", r"did you mean sgd\?")
    assert all(name in str(error.value) for name in OPTIMIZERS)
    with pytest.raises(ArgumentError, match=r"got 'zebra'; see `fallline list`$"):
        create_optimizer("zebra", [parameter(2)])
    for name, cls in OPTIMIZERS.items():
        assert type(create_optimizer(name, [parameter(2)], lr=0.5)) is cls
    with pytest.raises(ArgumentTypeError, match="zebra"):
        create_optimizer("sgd", [parameter(2)], zebra=1)

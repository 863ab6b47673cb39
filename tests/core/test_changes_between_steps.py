"""What users do to an optimizer between two steps takes effect at the next one.

The optimizer keeps a plan of its step. A deep copy has none, so it steps from what is visible: the two must agree.
"""

import copy
import inspect
import warnings
import weakref
from collections import defaultdict

import pytest
import torch

from fallline.errors import StateWarning
from fallline.optimizers import OPTIMIZERS
from support.variants import (
    CASES,
    EVERY_BACKEND,
    EVERY_CASE,
    EXECUTION,
    parameter,
    same_bits,
    same_state,
    set_grads,
    train,
)


def params(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def each_state(opt, change):
    for state in opt.state.values():
        for key in [key for key in state if key != "step"]:
            state[key] = change(state[key])


def swap_state_data(opt):
    for state in opt.state.values():
        for key in [key for key in state if key != "step"]:
            state[key].data = state[key].data.flip(0)


def write_step(opt):
    for state in opt.state.values():
        if "step" in state:
            state["step"].fill_(7)


def replace_step(opt):
    for state in opt.state.values():
        if "step" in state:
            state["step"] = torch.tensor(7.0)


def swap_param_data(opt, change):
    for p in params(opt):
        p.data = change(p.data)


def forget_one(opt):
    opt.state.pop(params(opt)[1], None)


def delete_keys(opt):
    for state in opt.state.values():
        for key in [key for key in state if key != "step"][:1]:
            del state[key]


def none_instead_of_keys(opt):
    each_state(opt, lambda value: None)


def replace_state(opt):
    opt.state = defaultdict(dict)


def load_own_start(opt):
    fresh = type(opt)([parameter(*p.shape) for p in params(opt)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StateWarning)  # the options of `opt` are switched off
        opt.load_state_dict(fresh.state_dict())


def reorder(opt):
    opt.param_groups[0]["params"].reverse()


def drop_one(opt):
    del opt.param_groups[0]["params"][1]


def append_group(opt):
    group = {**opt.param_groups[0], "params": [parameter(2, 2, seed=8)], "lr": 0.2}
    opt.param_groups.append(group)


CHANGES = {
    "param data is swapped": lambda opt: swap_param_data(opt, torch.clone),
    "param data has other strides": lambda opt: swap_param_data(opt, lambda x: x.t().contiguous().t()),
    "param data is transposed where it lies": lambda opt: swap_param_data(opt, torch.t),
    "param data is cut where it lies": lambda opt: (swap_param_data(opt, lambda x: x[:2]), opt.state.clear()),
    "param data is float64": lambda opt: swap_param_data(opt, torch.Tensor.double),
    "param data is bfloat16": lambda opt: swap_param_data(opt, torch.Tensor.bfloat16),
    "state data is swapped": swap_state_data,
    "state tensors are replaced": lambda opt: each_state(opt, torch.neg),
    "state has another dtype": lambda opt: each_state(opt, torch.Tensor.bfloat16),
    "state has another layout": lambda opt: each_state(opt, lambda x: x.t().contiguous().t()),
    "step is written to": write_step,
    "step is replaced": replace_step,
    "state is cleared": lambda opt: opt.state.clear(),
    "state is replaced": replace_state,
    "state of one parameter is dropped": forget_one,
    "state keys are deleted": delete_keys,
    "state values are None": none_instead_of_keys,
    "a fresh state dict is loaded": load_own_start,
    "parameters are reordered": reorder,
    "a parameter is dropped": drop_one,
    "a group is added": lambda opt: opt.add_param_group({"params": [parameter(2, 2, seed=8)], "lr": 0.2}),
    "a group is appended": append_group,
    "lr is changed": lambda opt: opt.param_groups[0].update(lr=0.3),
    "weight decay is switched on": lambda opt: opt.param_groups[0].update(weight_decay=0.3),
    "weight decay is switched off": lambda opt: opt.param_groups[0].update(weight_decay=0),
    "decay mode is changed": lambda opt: opt.param_groups[0].update(
        weight_decay=0.3, weight_decay_mode=opt.rule.weight_decay_modes[-1]
    ),
}


def check_takes_effect(opt, change, matters=True):
    train(opt, range(3))
    left_alone = copy.deepcopy(opt)
    change(opt)
    rebuilt = copy.deepcopy(opt)
    for p in params(opt):
        p.grad = None
    after = train(opt, range(3, 6))
    assert same_bits(after, train(rebuilt, range(3, 6)))
    assert same_state(opt, rebuilt)
    if matters:
        assert not same_bits(after, train(left_alone, range(3, 6)))


def build(cls, backend, options):
    return cls([parameter(4, 4, seed=1), parameter(4, 4, seed=2), parameter(4, 4, seed=3)], backend=backend, **options)


@EVERY_BACKEND
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_takes_effect_at_the_next_step(change, backend):
    for cls, name, options in CASES:
        if name in ("default", "everything"):
            check_takes_effect(build(cls, backend, options), change, matters=False)


@EVERY_BACKEND
@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_option_takes_effect_at_the_next_step(cls, backend):
    """Off to on, and on to off; the change must be seen in the parameters."""
    options = [o for c, name, o in CASES if c is cls and len(o) and name != "everything"]
    # An average of parameters moves none, Adagrad reads its initial value when it creates the state, and Prodigy's
    # safeguard does nothing at lr 1.
    silent = {"decoupled_weight_decay", "no_prox", "ema_decay", "initial_accumulator_value", "safeguard_warmup"}
    # SOAP reads those when it creates the state, and its second moments act when the bases turn, after ten steps.
    silent |= {"merge_dims", "precondition_1d", "shampoo_beta"}
    names = [p for p in inspect.signature(cls).parameters if p not in EXECUTION | silent]
    start = {"d0": 0.01} if cls.rule.name == "prodigy" else {}  # its first steps of 1e-6 show nothing
    for one in options:
        changes = {key: value for key, value in one.items() if key in names}
        base = cls([parameter(1)]).defaults
        changes = {
            key: value for key, value in changes.items() if not key.startswith("adamw_")
        }  # only of Muon's groups
        assert changes.keys() <= base.keys() | {"decoupled_weight_decay"}
        if not changes or all(base[key] == value for key, value in changes.items() if key in base):
            continue
        check_takes_effect(build(cls, backend, start), lambda opt, c=changes: opt.param_groups[0].update(c))
        undo = {key: base[key] for key in changes}
        check_takes_effect(build(cls, backend, {**start, **one}), lambda opt, c=undo: opt.param_groups[0].update(c))


@EVERY_BACKEND
@EVERY_CASE
def test_a_tensor_lr_is_followed_and_not_replaced(cls, name, options, backend):
    lr = torch.tensor(0.01, dtype=torch.float64)
    follows, plain = build(cls, backend, {**options, "lr": lr}), build(cls, backend, {**options, "lr": 0.01})
    for step, value in enumerate([0.01, 0.02, 0.0, 0.03]):
        lr.fill_(value)
        plain.param_groups[0]["lr"] = value
        assert same_bits(train(follows, [step]), train(plain, [step]))
    assert follows.param_groups[0]["lr"] is lr
    follows.load_state_dict(plain.state_dict())
    assert follows.param_groups[0]["lr"] is lr
    assert lr.item() == 0.03


@EVERY_BACKEND
def test_gradients_kept_and_zeroed_in_place_are_right(backend):
    """With set_to_none=False the gradient is the same object at every step."""
    for cls, _, options in CASES:
        kept, fresh = build(cls, backend, options), build(cls, backend, options)
        set_grads(params(kept), 0)
        for step in range(4):
            kept.zero_grad(set_to_none=False)
            set_grads(params(fresh), step)
            for p, q in zip(params(kept), params(fresh), strict=True):
                p.grad.add_(q.grad)
            kept.step()
            fresh.step()
        assert same_bits([p.detach() for p in params(kept)], [p.detach() for p in params(fresh)])


@EVERY_BACKEND
def test_a_cleared_gradient_is_freed(backend):
    """Whoever held on to it would double the memory of gradients in the next backward pass."""
    for cls, _, options in CASES:
        opt = build(cls, backend, options)
        for step in range(2):
            train(opt, [step])
            grads = [weakref.ref(p.grad) for p in params(opt)]
            opt.zero_grad()
            assert [ref() for ref in grads] == [None] * 3

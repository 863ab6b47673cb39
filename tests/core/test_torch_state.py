"""Hooks, state dicts and copies of the classes that carry torch's names, as torch's own tests ask for them."""

import copy
import pickle
from contextlib import ExitStack

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from support.torch_declarations import EVERY_INFO, EVERY_INPUT, OURS, torch_loop
from support.variants import (
    EVERY_BACKEND,
    distance,
    parameter,
    same_bits,
    same_state,
    set_grads,
    state_of,
    through_a_file,
    train,
)

COPIERS = pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)


def params_of():
    return [parameter(*shape, seed=index) for index, shape in enumerate([(5,), (3, 4)])]


def log_of_hooks(opt):
    """Register hooks of each kind, some `prepend`ed and one removed; return what a step, a save and a load call."""
    log = []

    def hook(name):
        def record(_, *rest):
            log.append(name)

        return record

    with ExitStack() as stack:
        for register in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
            stack.callback(register(hook(f"all {register.__name__}")).remove)
        for kind in ("step_pre", "step_post"):
            for name in "ab":
                getattr(opt, f"register_{kind}_hook")(hook(f"{kind} {name}"))
        for kind in ("state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
            register = getattr(opt, f"register_{kind}_hook")
            for name, options in (
                ("a", {}),
                ("b", {}),
                ("first", {"prepend": True}),
                ("very first", {"prepend": True}),
            ):
                register(hook(f"{kind} {name}"), **options)
            register(hook(f"{kind} removed")).remove()
        opt.step()
        opt.load_state_dict(opt.state_dict())
    return log


@EVERY_INFO
def test_hooks_run_in_torchs_order(info):
    log = log_of_hooks(OURS[info.name](params_of()))
    assert log == log_of_hooks(info.optim_cls(params_of())) and len(log) == 22
    assert log[6:8] == ["state_dict_pre very first", "state_dict_pre first"]


@EVERY_INFO
def test_a_pre_hook_may_put_another_closure_in(info):
    opt = OURS[info.name](params_of())
    opt.register_step_pre_hook(lambda opt, args, kwargs: ((args[0], lambda: 2.0), {}))
    opt.register_step_post_hook(lambda opt, args, kwargs: kwargs.update(seen=True))
    assert opt.step(lambda: 1.0) == 2.0


@EVERY_BACKEND
@EVERY_INFO
def test_a_load_hook_may_match_parameters_by_name(info, backend):
    """The saved ones stand in another order; torch's documentation does this."""
    saved_params, params = params_of(), params_of()
    opt = OURS[info.name]([("w", saved_params[1]), ("b", saved_params[0])], lr=0.1, backend=backend)
    for step in range(3):
        set_grads(saved_params, step)
        opt.step()
    other = OURS[info.name]([("b", params[0]), ("w", params[1])], backend=backend)

    def sort(opt, saved):
        saved = copy.deepcopy(saved)
        (group,), (own,) = saved["param_groups"], opt.param_groups
        order = [group["param_names"].index(name) for name in own["param_names"]]
        for key in ("params", "param_names"):
            group[key] = [group[key][i] for i in order]
        return saved

    other.register_load_state_dict_pre_hook(sort)
    other.load_state_dict(opt.state_dict())
    with torch.no_grad():
        for mine, theirs in zip(params, saved_params, strict=True):
            mine.copy_(theirs)
    for each, own in ((opt, saved_params), (other, params)):
        set_grads(own, 3)
        each.step()
    assert same_bits([p.detach() for p in params], [p.detach() for p in saved_params])


@EVERY_INFO
@pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
@pytest.mark.parametrize("saved_named", [False, True], ids=["from plain", "from named"])
def test_names_survive_loading_as_in_torch(info, named, saved_named):
    def names(cls):
        params = [list(zip("ab", params_of(), strict=True)) if each else params_of() for each in (saved_named, named)]
        saved, opt = (cls(each) for each in params)
        opt.load_state_dict(train(saved, [0]) and saved.state_dict())
        return opt.param_groups[0].get("param_names"), opt.state_dict()["param_groups"][0].get("param_names")

    assert names(OURS[info.name]) == names(info.optim_cls)


@EVERY_BACKEND
@EVERY_INPUT
def test_a_state_dict_of_an_older_torch_loads(info, kwargs, backend):
    """It has no newer flags, and its `step` is a number."""
    theirs = torch_loop(info, params_of(), **kwargs)
    weights = train(theirs, range(3))
    saved = copy.deepcopy(theirs.state_dict())
    for flag in {*info.not_og_supported_flags, "decoupled_weight_decay"} - kwargs.keys():
        saved["param_groups"][0].pop(flag, None)
    for state in saved["state"].values():
        state.update({"step": 3} if "step" in state else {})
    ours = OURS[info.name](list(map(torch.nn.Parameter, weights)), lr=9.0, backend=backend)
    ours.load_state_dict(saved)
    assert distance(train(theirs, range(3, 6)), train(ours, range(3, 6))) <= 1e-6  # as in test_torch_suite.py
    assert all(isinstance(state.get("step", torch.zeros(())), torch.Tensor) for state in state_of(ours))


@EVERY_INPUT
def test_a_state_dict_with_tensor_options_comes_back_from_a_file(info, kwargs):
    opt = OURS[info.name](params_of(), **copy.deepcopy(kwargs))
    weights = train(opt, range(3))
    other = OURS[info.name](list(map(torch.nn.Parameter, weights)))
    other.load_state_dict(through_a_file(opt.state_dict()))
    for key, value in opt.param_groups[0].items():
        if key != "params":
            assert other.param_groups[0][key] == value and type(other.param_groups[0][key]) is type(value), key
    assert same_bits(train(opt, range(3, 6)), train(other, range(3, 6))) and same_state(opt, other)


@EVERY_INFO
def test_groups_that_share_a_tensor_lr_load_rates_of_their_own(info):
    rate = torch.tensor(0.5)
    opt = OURS[info.name]([{"params": [p]} for p in params_of()], lr=rate)
    rates = [0.25, 0.125]
    saved = OURS[info.name]([{"params": [p], "lr": lr} for p, lr in zip(params_of(), rates, strict=True)])
    opt.load_state_dict(saved.state_dict())
    assert [group["lr"].item() for group in opt.param_groups] == rates
    assert opt.param_groups[0]["lr"] is rate


@EVERY_BACKEND
@EVERY_INFO
def test_a_nan_written_to_a_live_lr_is_followed_as_in_torch(info, backend):
    for opt in (OURS[info.name](params_of(), backend=backend), torch_loop(info, params_of())):
        train(opt, [0])
        opt.param_groups[0]["lr"] = float("nan")
        assert all(p.isnan().all() for p in train(opt, [1]))


@COPIERS
@EVERY_INFO
def test_a_copy_has_every_public_attribute(info, copier):
    opt = OURS[info.name](params_of(), clip_grad_norm=1.0)
    train(opt, range(2))

    def public(opt):
        return {
            name: getattr(opt, name) for name in dir(opt) if not (name.startswith("_") or callable(getattr(opt, name)))
        }

    mine, theirs = public(copier(opt)), public(opt)
    assert mine.keys() == theirs.keys() >= {"defaults", "grad_norm", "param_groups", "state"}
    assert [mine[key] for key in ("defaults", "grad_norm", "backend")] == [
        theirs[key] for key in ("defaults", "grad_norm", "backend")
    ]

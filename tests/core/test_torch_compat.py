"""Where a class carries the name of one in `torch.optim`, it is that class to everything around it."""

import copy
import inspect

import pytest
import torch

from fallline.optimizers import OPTIMIZERS
from support.variants import (
    EVERY_BACKEND,
    EVERY_CLASS,
    ROUNDING,
    distance,
    near,
    parameter,
    params_for,
    params_of,
    same_bits,
    same_state,
    state_of,
    train,
    variants,
)

PAIRS = [(cls, getattr(torch.optim, cls.__name__)) for cls in OPTIMIZERS.values() if hasattr(torch.optim, cls.__name__)]
EVERY_PAIR = pytest.mark.parametrize(("cls", "torch_cls"), PAIRS, ids=[cls.__name__ for cls, _ in PAIRS])
# Ours, torch's twin, the options that both know. Torch spells one decay mode of one class as an option.
SHARED = [
    pytest.param(cls, torch_cls, options, id=f"{cls.rule.name}-{name}")
    for cls, torch_cls in PAIRS
    for name, options in variants(cls).items()
    if options.keys() <= inspect.signature(torch_cls).parameters.keys()
]
EVERY_SHARED = pytest.mark.parametrize(("cls", "torch_cls", "options"), SHARED)


@EVERY_PAIR
def test_the_signature_is_torchs_and_more(cls, torch_cls):
    ours = inspect.signature(cls).parameters
    theirs = inspect.signature(torch_cls).parameters
    assert theirs.keys() <= ours.keys()
    placed = [name for name, its in theirs.items() if its.kind is its.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(placed)] == placed, "keywords have no order"
    for name, its in theirs.items():
        assert (ours[name].default, ours[name].kind) == (its.default, its.kind), name


@EVERY_PAIR
def test_added_options_are_keyword_only(cls, torch_cls):
    theirs = inspect.signature(torch_cls).parameters
    added = [p for name, p in inspect.signature(cls).parameters.items() if name not in theirs]
    assert added and all(p.kind is p.KEYWORD_ONLY for p in added)


@EVERY_CLASS
def test_it_is_a_torch_optimizer(cls):
    opt = cls(params_for(cls))
    assert isinstance(opt, torch.optim.Optimizer)
    assert repr(opt).startswith(f"{cls.__name__} (\nParameter Group 0\n")


@EVERY_BACKEND
@EVERY_SHARED
def test_a_run_and_its_state_equal_torchs(cls, torch_cls, options, backend):
    ours, theirs = cls(params_for(cls), backend=backend, **options), torch_cls(params_for(cls), **options)
    assert near(ours, train(ours, range(6)), train(theirs, range(6)))
    for mine, other in zip(state_of(ours), state_of(theirs), strict=True):
        assert mine.keys() == other.keys()
        assert all(mine[key].shape == other[key].shape for key in mine)
        wider = {"mu_product"}  # float64 here; torch's float32 would round NAdam of float64 parameters
        assert all(mine[key].dtype == other[key].dtype for key in mine.keys() - wider)
        assert near(ours, [mine[key] for key in other], list(other.values()), 4)


@EVERY_BACKEND
@EVERY_SHARED
@pytest.mark.parametrize("execution", [{}, {"foreach": True}, {"fused": True}], ids=["loop", "foreach", "fused"])
def test_torchs_state_dict_continues_here_in_mid_run(cls, torch_cls, options, backend, execution):
    if not execution.keys() <= inspect.signature(torch_cls).parameters.keys():
        return  # this class of torch has one implementation less
    theirs = torch_cls(params_for(cls), **options, **execution)
    weights = train(theirs, range(3))
    ours = cls([torch.nn.Parameter(w) for w in weights], lr=9.0, backend=backend)  # options come from the state dict
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert ours.param_groups[0]["foreach"] is None
    assert near(ours, train(ours, range(3, 6)), train(theirs, range(3, 6)))


@EVERY_BACKEND
@EVERY_SHARED
def test_our_state_dict_continues_in_torch_in_mid_run(cls, torch_cls, options, backend):
    ours = cls(params_for(cls), backend=backend, **options)
    weights = train(ours, range(3))
    theirs = torch_cls([torch.nn.Parameter(w) for w in weights], lr=9.0)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert near(ours, train(ours, range(3, 6)), train(theirs, range(3, 6)))


@pytest.mark.skipif(
    "decoupled_weight_decay" not in inspect.signature(torch.optim.Adam).parameters,
    reason="Adam of PyTorch 2.6 has no decoupled decay, and its step refuses such a state dict",
)
def test_adams_decoupled_mode_moves_to_torch_and_back():
    ours = OPTIMIZERS["adam"](params_of(), weight_decay=0.1, weight_decay_mode="decoupled")
    theirs = torch.optim.Adam([torch.nn.Parameter(w) for w in train(ours, range(3))])
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))  # torch does not copy
    assert theirs.param_groups[0]["decoupled_weight_decay"] is True
    back = OPTIMIZERS["adam"]([torch.nn.Parameter(w) for w in train(theirs, range(3, 6))])
    train(ours, range(3, 6))
    back.load_state_dict(theirs.state_dict())
    assert back.param_groups[0]["weight_decay_mode"] == "decoupled"
    assert near(ours, train(ours, range(6, 9)), train(back, range(6, 9)))


@EVERY_BACKEND
def test_torchs_empty_momentum_buffer_loads(backend):
    """Older versions of torch save None where there is no buffer."""
    theirs = torch.optim.SGD(params_of(), lr=0.1)
    weights = train(theirs, range(2))
    saved = {**theirs.state_dict(), "state": {index: {"momentum_buffer": None} for index in range(3)}}
    ours = OPTIMIZERS["sgd"]([torch.nn.Parameter(w) for w in weights], backend=backend)
    ours.load_state_dict(saved)
    for opt in (ours, theirs):
        opt.param_groups[0].update(momentum=0.9, dampening=0.5)
    assert near(ours, train(ours, range(2, 5)), train(theirs, range(2, 5)))


@EVERY_PAIR
def test_named_parameters_and_groups_are_taken_as_torch_takes_them(cls, torch_cls):
    bias = cls.__name__ != "Muon"  # torch's takes only matrices
    model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=bias), torch.nn.Linear(3, 1, bias=bias))
    named, torch_named = cls(model.named_parameters()), torch_cls(model.named_parameters())
    assert named.param_groups[0]["param_names"] == torch_named.param_groups[0]["param_names"]
    named.load_state_dict(torch_named.state_dict())
    named.load_state_dict(torch_cls(model.parameters()).state_dict())  # without names there is nothing to compare
    grouped = cls([{"params": model[0].parameters(), "lr": 0.5, "note": "mine"}, {"params": model[1].weight}])
    assert [len(group["params"]) for group in grouped.param_groups] == [1 + bias, 1]
    assert [group["lr"] for group in grouped.param_groups] == [0.5, cls(model.parameters()).defaults["lr"]]
    assert grouped.state_dict()["param_groups"][0]["note"] == "mine"


@EVERY_CLASS
def test_hooks_run_around_steps_and_state_dicts(cls):
    opt, calls = cls(params_for(cls)), []
    opt.register_step_pre_hook(lambda *_: calls.append("step pre"))
    opt.register_step_post_hook(lambda *_: calls.append("step post"))
    opt.register_state_dict_pre_hook(lambda _: calls.append("save pre"))
    opt.register_state_dict_post_hook(lambda _, saved: {**saved, "mark": 1})
    opt.register_load_state_dict_pre_hook(lambda _, saved: {k: v for k, v in saved.items() if k != "mark"})
    opt.register_load_state_dict_post_hook(lambda o: calls.append(f"load post {o.param_groups[0]['lr']}"))
    opt.step()
    saved = opt.state_dict()
    assert saved["mark"] == 1
    saved["param_groups"][0]["lr"] = 0.25
    opt.load_state_dict(saved)
    assert calls == ["step pre", "step post", "save pre", "load post 0.25"]


@EVERY_CLASS
def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned(cls):
    param, calls = parameter(3), []
    opt = cls([param])

    def closure():
        opt.zero_grad()
        loss = param.square().sum()
        loss.backward()
        calls.append(torch.is_grad_enabled())
        return loss

    train(opt, [0])  # the first step of SOAP moves nothing
    start = param.detach().clone()
    with torch.no_grad():
        loss = opt.step(closure)
    assert calls == [True] and torch.equal(loss.detach(), start.square().sum())
    assert not torch.equal(param, start)


@EVERY_CLASS
def test_zero_grad_clears_or_zeroes(cls):
    opt = cls(params_for(cls))
    train(opt, [0])
    opt.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in opt.param_groups[0]["params"])
    opt.zero_grad()
    assert all(p.grad is None for p in opt.param_groups[0]["params"])


@EVERY_BACKEND
@EVERY_CLASS
def test_grad_scaler_skips_the_overflowing_step_alone(cls, backend):
    params, twins = params_of(), params_of()
    opt, twin = cls(params, backend=backend), cls(twins, backend=backend)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    for step in range(5):
        opt.zero_grad()
        loss = sum((p * p).sum() for p in params) * (float("inf") if step == 2 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        if step != 2:
            for q in twins:
                q.grad = 2 * q.detach()
            twin.step()
    assert scaler.get_scale() == 2.0
    assert distance(params, twins) <= ROUNDING[torch.float32]  # unscaling lets a kernel round elsewhere
    for state, expected in zip(state_of(opt), state_of(twin), strict=True):
        assert distance(list(state.values()), list(expected.values())) <= ROUNDING[torch.float32]


@EVERY_BACKEND
@EVERY_CLASS
def test_a_distributed_checkpoint_resumes_in_a_fresh_optimizer_to_the_bit(cls, backend):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def build():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[1].parameters()}]
        return model, cls(groups, backend=backend)

    (model, opt), (other_model, other) = build(), build()
    train(opt, range(3))
    other_model.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other_model, other, get_optimizer_state_dict(model, opt))
    assert same_bits(train(opt, range(3, 6)), train(other, range(3, 6)))
    assert same_state(opt, other)
    assert [g["lr"] for g in other.param_groups] == [g["lr"] for g in opt.param_groups]

"""The bugs of torch's own fused CPU kernels are not ours.

What `torch.optim.SGD`, `Adam` and `AdamW` do with `fused=True` on CPU is told at each test, as seen in torch 2.13.0. No
test asks for it, so a repaired torch breaks nothing here.
"""

import pytest
import torch

from fallline.optimizers import OPTIMIZERS
from support.variants import EVERY_BACKEND, ROUNDING, distance, normal, parameter, set_grads, state_of

# Torch has a fused kernel for three of them; RMSprop comes along.
CASES = {
    "sgd": {"lr": 0.1},
    "sgd-momentum": {"lr": 0.1, "momentum": 0.9},
    "sgd-nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "rmsprop": {"lr": 0.1, "centered": True, "momentum": 0.9},
    "adam": {"lr": 0.1, "weight_decay": 0.1},
    "adam-amsgrad": {"lr": 0.1, "amsgrad": True},
    "adamw": {"lr": 0.1},
}
EVERY_CASE = pytest.mark.parametrize(("name", "options"), CASES.items(), ids=CASES)
MOMENTUM = pytest.mark.parametrize("options", [CASES["sgd-momentum"], CASES["sgd-nesterov"]], ids=["plain", "nesterov"])


def build(name, params, backend, options):
    """Return ours, and torch's with its single-tensor implementation over copies of the parameters."""
    cls = OPTIMIZERS[name.partition("-")[0]]
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    return cls(params, backend=backend, **options), getattr(torch.optim, cls.__name__)(copies, foreach=False, **options)


def check_agree(ours, theirs):
    params, expected = (opt.param_groups[0]["params"] for opt in (ours, theirs))
    assert distance(params, expected) <= ROUNDING[torch.float32]
    for state, wanted in zip(state_of(ours), state_of(theirs), strict=True):
        assert state.keys() == wanted.keys()
        assert distance([state[key] for key in wanted], list(wanted.values())) <= ROUNDING[torch.float32]


def every_second(x):
    return torch.stack([x, torch.full_like(x, 9.0)], dim=-1)[..., 0]


def transposed(x):
    return x.mT.contiguous().mT


LAYOUTS = {
    "transposed gradient": (torch.Tensor.contiguous, transposed),
    "transposed parameter": (transposed, torch.Tensor.contiguous),
    "both transposed": (transposed, transposed),
    "sliced parameter": (every_second, torch.Tensor.contiguous),
    "sliced gradient": (torch.Tensor.contiguous, every_second),
}


@EVERY_BACKEND
@EVERY_CASE
@pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)
def test_strides_are_followed(name, options, backend, layouts):
    """Torch's kernels walk through the memory of each tensor as if all had one layout, so elements are mixed up.

    After 3 steps of lr 0.1 on a 4 x 6 tensor of normal numbers, whose gradients were transposed, SGD was off by 0.71,
    Adam and AdamW by 0.57; a sliced parameter was also written to between its elements.
    """
    lay_param, lay_grad = layouts
    param = torch.nn.Parameter(lay_param(normal(4, 6)))
    ours, theirs = build(name, [param], backend, options)
    for step in range(3):
        set_grads(theirs.param_groups[0]["params"], step)
        param.grad = lay_grad(theirs.param_groups[0]["params"][0].grad)
        ours.step()
        theirs.step()
    check_agree(ours, theirs)
    if lay_param is every_second:
        assert (param.detach().as_strided((4, 6), (12, 2), 1) == 9.0).all()


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [8, 32, 40, 100])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_moves_half_precision_parameters(backend, dtype, size, nesterov):
    """Torch's SGD kernel writes no full vector back: of 8 elements all moved, of 32 none, of 100 the last 4.

    All numbers below are exact in bfloat16: b = g, then 1.5·g; p = −g − 1.5·g, nesterov −1.5·g − 1.75·g.
    """
    param = torch.nn.Parameter(torch.zeros(size, dtype=dtype))
    grad = (torch.arange(size) % 20 + 1).to(dtype)
    opt = OPTIMIZERS["sgd"]([param], lr=1.0, momentum=0.5, nesterov=nesterov, backend=backend)
    for _ in range(2):
        param.grad = grad.clone()
        opt.step()
    assert torch.equal(param.detach(), (-3.25 if nesterov else -2.5) * grad)
    assert torch.equal(opt.state[param]["momentum_buffer"].to(dtype), 1.5 * grad)


@EVERY_BACKEND
@MOMENTUM
def test_momentum_starts_right_after_a_skipped_first_step(backend, options, uninitialised_is_nan):
    """Torch makes the momentum buffer of uninitialised memory in the step that `found_inf` skips.

    The next step takes it for a buffer: with such memory filled with NaN, as here, all parameters become NaN.
    """
    param = parameter(8)
    ours, theirs = build("sgd", [param], backend, options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))  # as every loop does; it makes the scale a tensor
    for step in range(4):
        set_grads([param], step)
        if step:
            theirs.param_groups[0]["params"][0].grad = param.grad.clone()
            theirs.step()
        param.grad *= scaler.get_scale() if step else float("inf")
        scaler.step(ours)
        scaler.update()
    check_agree(ours, theirs)


@pytest.fixture
def uninitialised_is_nan():
    """In its deterministic mode, torch fills new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@EVERY_BACKEND
@EVERY_CASE
def test_a_late_first_gradient_starts_at_its_own_age(name, options, backend, uninitialised_is_nan):
    """Torch's fused SGD with momentum raises "expected Tensor …, but got NoneType": there is no buffer yet.

    Its Adam and AdamW are right, for they keep the step in the state.
    """
    ours, theirs = build(name, [parameter(5, seed=1), parameter(3, 4, seed=2)], backend, options)
    for step in range(8):
        for opt in (ours, theirs):
            early, late = opt.param_groups[0]["params"]
            set_grads((early, late), step)
            late.grad = late.grad if step >= 3 else None
            opt.step()
    check_agree(ours, theirs)
    assert [float(state.get("step", age)) for state, age in zip(state_of(ours), (8, 5), strict=True)] == [8, 5]


@EVERY_BACKEND
def test_a_late_first_gradient_is_right_by_hand(backend):
    """SGD b = 1, then 0.5·b + 1; Adam's first step is lr long (eps = 0)."""
    for name, options, expected in (
        ("sgd", {"lr": 1.0, "momentum": 0.5}, [-1 - 1.5 - 1.75, -1]),
        ("adam", {"lr": 0.25, "eps": 0.0}, [-0.75, -0.25]),
    ):
        params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        opt = OPTIMIZERS[name](params, backend=backend, **options)
        for step in range(3):
            for param, first in zip(params, (0, 2), strict=True):
                param.grad = torch.ones(1) if step >= first else None
            opt.step()
        assert [p.item() for p in params] == pytest.approx(expected, rel=1e-6)


@EVERY_BACKEND
@EVERY_CASE
def test_version_counters_tell_of_the_update(name, options, backend):
    """Torch's kernels leave them at 0, so a backward pass through a value that is gone is wrong, not refused.

    Ours raise those of the parameters; a state is part of no graph.
    """
    param = parameter(5)
    ours, _ = build(name, [param], backend, options)
    for step in range(3):
        loss = (param * param).sum()
        set_grads([param], step)
        version = param._version
        ours.step()
        assert param._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

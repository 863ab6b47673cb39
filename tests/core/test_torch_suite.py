"""What PyTorch's own tests of its optimizers declare and ask for holds for ours, on every backend.

Two things differ by decision, each in a test of that name: sparse gradients, and state of half-precision parameters.
"""

import copy
import functools
import warnings

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, GradientError
from support import variants
from support.torch_declarations import EVERY_INFO, EVERY_INPUT, INFOS, OURS, error_inputs, inputs, torch_loop
from support.variants import EVERY_BACKEND, distance, normal, parameter, same_bits, set_grads, state_of, train

SINGLE, DOUBLE = (torch.float32, torch.complex64), (torch.float64, torch.complex128)
# Ours against torch's order of operations, relative to the largest element of each tensor, after any of 10 steps:
# measured in the parameters 3.9e-7 and 6.2e-16, in the states (sums that cancel) 5.3e-6 and 2.3e-15.
TOLERANCE = {torch.float32: (1e-6, 1.1e-5), torch.float64: (1e-14, 2e-14)}
params_of = functools.partial(variants.params_of, shapes=((), (5,), (3, 4), (2, 3, 4)))


def all_params(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def pair(info, backend, kwargs, dtype=torch.float32, make=params_of):
    """Return our optimizer and torch's over equal parameters.

    From a float32 tensor lr torch computes 1 − lr·weight_decay and the like in float32, whatever the parameters are:
    2^-24 off a step, 1.7e-7 after ten. Ours computes in double, so beside it torch is given a double lr.
    """
    if dtype in DOUBLE:
        kwargs = {key: widen(value) for key, value in kwargs.items()}
    ours = OURS[info.name](make(dtype), backend=backend, **copy.deepcopy(kwargs))
    return ours, torch_loop(info, make(dtype), **kwargs)


def widen(value):
    if isinstance(value, tuple):
        return tuple(widen(each) for each in value)
    return value.double() if isinstance(value, torch.Tensor) else value


def check_agree(ours, theirs, dtype=torch.float32):
    """Parameters; states with their keys, shapes and dtypes."""
    of_params, of_states = TOLERANCE[torch.float32 if dtype in SINGLE else torch.float64]
    assert distance(all_params(theirs), all_params(ours)) <= of_params
    for state, wanted in zip(state_of(ours), state_of(theirs), strict=True):
        assert {k: (v.shape, v.dtype) for k, v in state.items()} == {k: (v.shape, v.dtype) for k, v in wanted.items()}
        assert distance(list(wanted.values()), [state[key] for key in wanted]) <= of_states


@EVERY_INFO
def test_inputs_errors_and_schedulers_are_declared(info):
    """Otherwise nothing below is tested."""
    assert {"default", "maximize"} <= inputs(info).keys()
    assert len(inputs(info)) >= 7 and len(error_inputs(info)) >= 7 and info.scheduler_inputs
    assert info.supports_complex


@EVERY_BACKEND
@EVERY_INPUT
@pytest.mark.parametrize("dtype", [*(pytest.param(t, marks=pytest.mark.slow) for t in SINGLE), *DOUBLE], ids=str)
def test_a_declared_input_gives_torchs_trajectory_and_state(info, kwargs, backend, dtype):
    ours, theirs = pair(info, backend, kwargs, dtype)
    for step in range(10):
        train(ours, [step])
        train(theirs, [step])
        check_agree(ours, theirs, dtype)


@EVERY_BACKEND
@EVERY_INPUT
@pytest.mark.parametrize("dtype", DOUBLE, ids=str)
def test_state_dicts_of_a_declared_input_move_both_ways(info, kwargs, backend, dtype):
    """Into optimizers with other options, in mid-run."""
    ours, theirs = pair(info, backend, kwargs, dtype)
    weights, their_weights = train(ours, range(5)), train(theirs, range(5))
    to_ours = OURS[info.name](list(map(torch.nn.Parameter, their_weights)), lr=9.0, backend=backend)
    to_theirs = info.optim_cls(list(map(torch.nn.Parameter, weights)), lr=9.0)
    to_ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    to_theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    to_theirs.param_groups[0].update(foreach=False, fused=False)
    for opt in (ours, theirs, to_ours, to_theirs):
        train(opt, range(5, 10))
    check_agree(to_ours, theirs, dtype)
    check_agree(ours, to_theirs, dtype)


@EVERY_BACKEND
@EVERY_INFO
def test_one_optimizer_serves_parameters_of_several_dtypes(info, backend):
    def mixed(_):
        return [p for dtype in (*SINGLE, *DOUBLE) for p in params_of(dtype)]

    ours, theirs = pair(info, backend, {"lr": 0.01, "weight_decay": 0.1}, make=mixed)
    for step in range(5):
        train(ours, [step])
        train(theirs, [step])
    check_agree(ours, theirs)


CAPTURABLE = [(info, desc, kwargs) for info in INFOS.values() for desc, kwargs in inputs(info, capturable=True).items()]


@pytest.mark.parametrize(("info", "desc", "kwargs"), CAPTURABLE, ids=[f"{i.name}-{desc}" for i, desc, _ in CAPTURABLE])
def test_capturable_is_refused_as_torch_refuses_it_on_the_cpu(info, desc, kwargs):
    """Torch takes it and fails in the first step; ours does not take it."""
    theirs = torch_loop(info, params_of(), **kwargs)
    with pytest.raises(AssertionError, match="capturable=True"):
        train(theirs, [0])
    with pytest.raises(ArgumentError, match=r"capturable must be False.*CUDA graphs"):
        OURS[info.name](params_of(), **kwargs)


# Limits of torch's implementations, not of the algorithms.
SERVED = {
    "lr as Tensor doesn't work with foreach & not capturable": "our foreach backend reads the number",
    "betas must be either both floats or both Tensors": "each is read as a number",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": "as with lr",
}
ERRORS = [(info, each) for info in INFOS.values() for each in error_inputs(info)]
EVERY_ERROR = pytest.mark.parametrize(
    ("info", "error"), ERRORS, ids=[f"{info.name}-{each.optimizer_error_input.desc}" for info, each in ERRORS]
)


@EVERY_ERROR
def test_a_declared_error_is_one_of_ours_too(info, error):
    asked = error.optimizer_error_input
    params = params_of() if asked.params is None else asked.params
    if asked.desc in SERVED:
        ours = OURS[info.name](params, **asked.kwargs)
        plain = {key: as_numbers(value) for key, value in asked.kwargs.items()}
        assert same_bits(train(ours, range(3)), train(OURS[info.name](params_of(), **plain), range(3)))
    elif issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type):
            OURS[info.name](params, **asked.kwargs)
    else:
        with pytest.raises(error.error_type):
            OURS[info.name](params, **asked.kwargs)


def as_numbers(value):
    if isinstance(value, tuple):
        return tuple(as_numbers(each) for each in value)
    return value.item() if isinstance(value, torch.Tensor) else value


def can_schedule(lr):
    """Return whether PyTorch's schedulers can fill a tensor learning rate of this shape; those of 2.6 cannot always."""
    opt = torch.optim.SGD(params_of(), lr=0.25)
    opt.param_groups[0]["lr"] = lr.clone()
    try:
        torch.optim.lr_scheduler.StepLR(opt, 2, 0.5)
    except RuntimeError:
        return False
    return True


@EVERY_BACKEND
@EVERY_INFO
@pytest.mark.parametrize("dims", [0, 1, 2])
def test_a_tensor_lr_of_any_shape_is_its_number(info, backend, dims):
    lr = torch.full((1,) * dims, 0.25)  # exact in float32
    tensor, number = (OURS[info.name](params_of(), lr=value, backend=backend) for value in (lr, 0.25))
    scheduler = torch.optim.lr_scheduler.StepLR if can_schedule(lr) else fl.StepDecay
    schedules = [scheduler(opt, 2, 0.5) for opt in (tensor, number)]
    for step in range(5):
        assert same_bits(train(tensor, [step]), train(number, [step]))
        for schedule in schedules:
            schedule.step()
    assert tensor.param_groups[0]["lr"] is lr and lr.shape == (1,) * dims and lr.item() == 0.0625


OWN_OPTIONS = [{"lr": 0.1}, {"weight_decay": 0.3}, {"lr": 0.05, "weight_decay": 0.2, "maximize": True}, {"lr": 0.0}]


@EVERY_BACKEND
@EVERY_INFO
def test_groups_keep_their_own_options_beside_torchs(info, backend):
    def groups(dtype):
        return [{"params": params_of(dtype), **own} for own in OWN_OPTIONS]

    ours, theirs = pair(info, backend, {"lr": 0.01, "weight_decay": 0.1}, torch.float64, groups)
    for step in range(5):
        train(ours, [step])
        train(theirs, [step])
        check_agree(ours, theirs, torch.float64)


def skewed(x):
    """Every other column of a wider tensor."""
    return torch.stack([x, x], dim=-1)[..., 0]


GOES_DOWN = [(info, index) for info in INFOS.values() for index in range(-1, len(info.scheduler_inputs))]


@pytest.mark.slow
@EVERY_BACKEND
@pytest.mark.parametrize(("info", "index"), GOES_DOWN, ids=[f"{info.name}-{index}" for info, index in GOES_DOWN])
@pytest.mark.parametrize("lay", [torch.Tensor.contiguous, skewed], ids=["contiguous", "strided"])
def test_every_declared_input_and_scheduler_goes_the_right_way(info, index, backend, lay):
    """Down, with a closure, under the schedulers of one declared list (-1: none); up with `maximize`."""
    for kwargs in inputs(info).values():
        weight, bias = (torch.nn.Parameter(lay(normal(*shape, seed=1))) for shape in ((10, 5), (10,)))
        groups = [{"params": [weight]}, {"params": [bias]}]
        opt = OURS[info.name](groups, backend=backend, **copy.deepcopy(kwargs))
        schedules = [] if index < 0 else [make(opt) for make in info.scheduler_inputs[index]]
        x, maximize, losses = normal(5, seed=2), kwargs.get("maximize", False), []

        def closure(opt=opt, weight=weight, bias=bias, x=x):
            opt.zero_grad()
            loss = (weight @ x + bias).square().sum()
            loss.backward()
            return loss

        for _ in range(20):
            losses.append(opt.step(closure).item())
            for schedule in schedules:
                plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
                schedule.step(losses[-1]) if plateau else schedule.step()
        assert closure().item() > losses[0] if maximize else closure().item() < losses[0], kwargs


@EVERY_BACKEND
@EVERY_INPUT
def test_a_step_without_gradients_or_with_zero_gradients_moves_nothing(info, kwargs, backend):
    """But for decay, which is left out with zero gradients."""
    opt = OURS[info.name](params_of(), backend=backend, **kwargs)
    still = [p.detach().clone() for p in params_of()]
    opt.step()
    assert same_bits(still, [p.detach() for p in all_params(opt)]) and not any(state_of(opt))
    opt = OURS[info.name](params_of(), backend=backend, **{**kwargs, "weight_decay": 0})
    for _ in range(2):
        for p in all_params(opt):
            p.grad = torch.zeros_like(p)
        opt.step()
    assert same_bits(still, [p.detach() for p in all_params(opt)])


@EVERY_BACKEND
@EVERY_INPUT
def test_the_default_dtype_does_not_matter(info, kwargs, backend):
    """Torch keeps `step` in the default dtype; ours stays float32, which counts to 2^24."""
    usual = OURS[info.name](params_of(), backend=backend, **copy.deepcopy(kwargs))
    expected = train(usual, range(4))
    torch.set_default_dtype(torch.float64)
    try:
        other = OURS[info.name](params_of(), backend=backend, **copy.deepcopy(kwargs))
        assert same_bits(train(other, range(4)), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [{k: v.dtype for k, v in s.items()} for s in state_of(other)] == [
        {k: v.dtype for k, v in s.items()} for s in state_of(usual)
    ]


@EVERY_INFO
def test_the_default_on_the_cpu_is_fused_to_the_bit(info):
    default, fused = OURS[info.name](params_of()), OURS[info.name](params_of(), backend="fused")
    assert same_bits(train(default, range(3)), train(fused, range(3)))


@EVERY_INFO
def test_sparse_gradients_are_refused_by_decision_where_torchs_sgd_takes_them(info):
    param, twin = parameter(4, 3), parameter(4, 3)
    for p in (param, twin):
        p.grad = torch.ones(4, 3).to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's sparse tensors
        if info.name == "SGD":
            torch_loop(info, [twin], lr=0.1).step()
    with pytest.raises(GradientError, match="gradients must be dense"):
        OURS[info.name]([param]).step()


@EVERY_BACKEND
@EVERY_INFO
def test_state_of_half_precision_is_float32_by_decision_0003_where_torchs_is_half(info, backend):
    options = {"momentum": 0.9} if info.name == "SGD" else {}
    ours, theirs = pair(info, backend, options, torch.bfloat16)
    for opt in (ours, theirs):
        set_grads(all_params(opt), 0)
        opt.step()
    for state, wanted in zip(state_of(ours), state_of(theirs), strict=True):
        assert state.keys() == wanted.keys()
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert {value.dtype for key, value in wanted.items() if key != "step"} == {torch.bfloat16}

"""SOAP agrees with pytorch_optimizer, turns its state with its bases, and leaves out what has no basis."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError, StateError
from fallline.rules.eigenbases import FUNCTIONS, merged_shape
from fallline.testing import cases
from support.variants import distance, normal, parameter, same_bits, set_grads, train

# No dimension is longer than the product of the others: otherwise a second moment has not full rank at first, and the
# other vectors of its basis are any.
SHAPES = ((), (5,), (3, 4), (6, 6), (2, 3, 4), (2, 3, 2, 2))
OPTIONS = {
    "default": ({}, {}),
    "often": ({"precondition_frequency": 1}, {"precondition_frequency": 1}),
    "one side": ({"max_precond_dim": 3}, {"max_precondition_dim": 3}),
    "merged": ({"merge_dims": True, "max_precond_dim": 4}, {"merge_dims": True, "max_precondition_dim": 4}),
    "decay of second moments": ({"shampoo_beta": 0.8}, {"shampoo_beta": 0.8}),
    "no bias correction": ({"correct_bias": False}, {"correct_bias": False}),
    "weight decay": ({"weight_decay": 1.0}, {"weight_decay": 1.0}),
}


class Float64:
    """torch for pytorch_optimizer, which makes its QR decompositions in float32 whatever the dtype."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def params_of(dtype, shapes=SHAPES):
    return [parameter(*shape, seed=k, dtype=dtype) for k, shape in enumerate(shapes)]


@pytest.mark.parametrize(("ours", "theirs"), OPTIONS.values(), ids=OPTIONS)
def test_fifty_float64_steps_follow_pytorch_optimizer(ours, theirs, monkeypatch):
    package = pytest.importorskip("pytorch_optimizer")
    monkeypatch.setattr("pytorch_optimizer.optimizer.soap.torch", Float64())
    one = fl.SOAP(params_of(torch.float64), lr=0.01, **ours)
    other = package.SOAP(params_of(torch.float64), lr=0.01, **theirs)
    assert distance(train(one, range(50)), train(other, range(50))) <= 1e-12  # measured 2.0e-15


@pytest.mark.slow
def test_the_checks_pass_with_bases_that_turn_every_second_step():
    """The checks take a few steps only; with the default, the bases would turn in none."""
    for name, check, subject in cases(fl.SOAP, backends=["foreach", "reference"]):
        if "-default-" in name or "-everything-" in name:
            check(replace(subject, options={**subject.options, "precondition_frequency": 2}))


def test_the_first_step_makes_bases_and_moves_nothing():
    param = parameter(3, 4)
    before = param.detach().clone()
    opt = fl.SOAP([param], lr=0.1, weight_decay=0.5)
    set_grads([param], 0)
    opt.step()
    state = opt.state[param]
    assert torch.equal(param, before) and not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    assert {key: tuple(value.shape) for key, value in state.items() if key[0] in "GQ"} == {
        "GG_0": (3, 3),
        "GG_1": (4, 4),
        "Q_0": (3, 3),
        "Q_1": (4, 4),
    }
    turned = state["Q_0"].T @ state["GG_0"] @ state["Q_0"]
    values = turned.diag()
    assert torch.allclose(turned, values.diag(), atol=1e-6) and (values[:-1] >= values[1:]).all()


def test_a_change_of_basis_keeps_the_mean_of_the_gradient_and_the_bases_orthogonal():
    param = parameter(4, 4, dtype=torch.float64)
    opt = fl.SOAP([param], precondition_frequency=3)
    mean = torch.zeros(4, 4, dtype=torch.float64)
    for step in range(8):
        set_grads([param], step)
        opt.step()
        if step:
            mean = 0.95 * mean + 0.05 * param.grad
        left, right = opt.state[param]["Q_0"], opt.state[param]["Q_1"]
        assert torch.allclose(left @ opt.state[param]["exp_avg"] @ right.T, mean, atol=1e-12)
        assert torch.allclose(left.T @ left, torch.eye(4, dtype=torch.float64), atol=1e-12)


def test_long_dimensions_and_vectors_have_no_basis_unless_asked():
    params = [parameter(3, 9), parameter(5), parameter(2, 3, 2, 2)]
    opt = fl.SOAP(params, max_precond_dim=6, merge_dims=True)
    train(opt, [0])
    keys = [sorted(key for key in opt.state[p] if key[0] == "Q") for p in params]
    assert keys == [["Q_0"], [], ["Q_0", "Q_1"]] and opt.state[params[2]]["Q_0"].shape == (6, 6)
    vector = parameter(5)
    opt = fl.SOAP([vector], precondition_1d=True)
    train(opt, [0])
    assert opt.state[vector]["Q_0"].shape == (5, 5)


def test_a_gradient_that_is_not_finite_reaches_the_parameter_and_not_lapack():
    param = parameter(3, 4)
    opt = fl.SOAP([param])
    for step in range(2):
        param.grad = normal(3, 4, seed=step)
        param.grad[0, 0] = float("nan") if not step else 1.0
        opt.step()
    assert param.isnan().all()


def test_bases_keep_float32_under_state_dtype():
    param = parameter(3, 3, dtype=torch.bfloat16)
    opt = fl.SOAP([param], state_dtype=torch.bfloat16)
    train(opt, range(2))
    dtypes = {key: value.dtype for key, value in opt.state[param].items() if key != "step"}
    assert {key for key, dtype in dtypes.items() if dtype is torch.bfloat16} == {"exp_avg", "exp_avg_sq"}


def test_other_options_need_other_states():
    one, other = fl.SOAP([parameter(3, 4)]), fl.SOAP([parameter(3, 4)], max_precond_dim=3)
    train(one, range(2)), train(other, range(2))
    saved = other.state_dict()
    saved["param_groups"][0]["max_precond_dim"] = 10
    with pytest.raises(StateError, match="must hold exp_avg, exp_avg_sq, GG_0, GG_1, Q_0, Q_1, step, got"):
        one.load_state_dict(saved)


@pytest.mark.parametrize("shape", [(), (7,), (64, 32, 3, 3), (3, 1, 5), (1, 1), (11, 2)])
@pytest.mark.parametrize("limit", [0, 1, 6, 10, 10_000])
def test_merged_dimensions_are_those_of_the_authors(shape, limit):
    merged = merged_shape(shape, limit)
    assert torch.Size(merged).numel() == torch.Size(shape).numel()
    if not limit:
        assert merged == shape
        return
    found, size = [], 1  # of the authors' code, with the same test of the product before each of its three branches
    for length in shape:
        if size * length > limit:
            found.append(size if size > 1 else length)
            size = length if size > 1 else 1
        else:
            size *= length
    assert merged == tuple([*found, size] if size > 1 or not found else found)


def test_every_function_of_bases_has_a_name_that_a_trace_can_call():
    assert all(name.isidentifier() and callable(function) for name, function in FUNCTIONS.items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precondition_frequency": 0}, ArgumentError, "precondition_frequency must be an int >= 1, got .*=0; leave"),
        ({"precondition_frequency": 2.5}, ArgumentTypeError, "precondition_frequency must be an int >= 1, got .*=2.5"),
        ({"max_precond_dim": -1}, ArgumentError, "max_precond_dim must be an int >= 0, got max_precond_dim=-1"),
        ({"differentiable": True}, ArgumentError, "differentiable must be False, because eigenvectors of equal"),
        ({"shampoo_beta": 1.0}, ArgumentError, r"shampoo_beta must be in \[0, 1\), got 1"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fl.SOAP([parameter(2)], **options)


def test_copies_on_one_machine_agree_bit_for_bit_whatever_the_rank():
    params, twins = params_of(torch.float32, [(8, 2)]), params_of(torch.float32, [(8, 2)])
    assert same_bits(*(train(fl.SOAP(own, precondition_frequency=2), range(6)) for own in (params, twins)))


def test_a_matrix_without_columns_has_states_and_no_step():
    param = nn.Parameter(torch.zeros(3, 0))
    param.grad = torch.zeros(3, 0)
    opt = fl.SOAP([param])
    opt.step()
    assert float(opt.state[param]["step"]) == 1 and opt.state[param]["Q_1"].shape == (0, 0)

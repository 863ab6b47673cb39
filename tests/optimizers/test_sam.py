"""SAM takes the steps of the oracle around any optimizer, and leaves nothing half done."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError, StateError
from oracles import adamw, sam, sgd
from oracles.problem import initial
from support.sam_runs import ADAPTIVE, BASES, EVERY_BASE, closure_of, objective, params_of, trained
from support.variants import BACKENDS, parameter, same_bits, same_state

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("sam_*.py"))


@ADAPTIVE
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("cls", "oracle", "options"),
    [(fl.SGD, sgd, {"momentum": 0.9}), (fl.AdamW, adamw, {"weight_decay": 0.1})],
    ids=["sgd", "adamw"],
)
def test_fifty_steps_are_those_of_the_oracle(cls, oracle, options, backend, adaptive):
    """Shapes from 0-d to 4-d; relative to the largest element. Measured 3.4e-16 and 1.5e-6."""
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        params = [torch.nn.Parameter(torch.from_numpy(value).to(dtype)) for value in initial().values()]
        opt = fl.SAM(cls(params, lr=0.01, backend=backend, **options), rho=0.3, adaptive=adaptive)
        for _ in range(50):
            opt.step(closure_of(opt, params))
        start = {name: value.astype(np.float64) for name, value in initial().items()}
        expected = sam.run(start, oracle.update, 50, 0.3, adaptive, lr=0.01, **options)
        for param, value in zip(params, expected.values(), strict=True):
            far = np.abs(param.detach().double().numpy() - value)
            assert far.size == 0 or far.max() <= limit * np.abs(value).max()


def test_the_oracles_gradient_is_that_of_its_objective():
    params = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in initial().items()}
    objective(list(params.values())).backward()
    found = sam.gradient({name: p.detach().numpy() for name, p in params.items()})
    assert all(np.allclose(p.grad.numpy(), found[name], rtol=1e-12, atol=1e-14) for name, p in params.items())


@ADAPTIVE
@EVERY_BASE
def test_both_styles_are_one_and_the_first_loss_is_returned(base, adaptive):
    params, opt = trained(base, 0, rho=0.1, adaptive=adaptive)
    others, twin = trained(base, 0, rho=0.1, adaptive=adaptive)
    for _ in range(4):
        expected = objective(params).item()
        assert opt.step(closure_of(opt, params)).item() == expected
        objective(others).backward()
        twin.first_step(zero_grad=True)
        objective(others).backward()
        twin.second_step(zero_grad=True)
    assert same_bits(params, others) and same_state(opt, twin)


@EVERY_BASE
def test_rho_zero_is_the_base(base):
    params, _ = trained(base, 4, rho=0.0)
    others = params_of()
    plain = base(others)
    for _ in range(4):
        plain.step(closure_of(plain, others))
    assert same_bits(params, others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_return_to_the_bit(dtype, backend):
    strided = torch.nn.Parameter(parameter(4, 6, dtype=dtype).detach()[:, ::2])
    params = [*params_of(dtype), strided, parameter(0, dtype=dtype)]
    opt = fl.SAM(fl.SGD(params, lr=0.0, backend=backend), rho=0.7)
    start = [p.detach().clone() for p in params]
    for p in params[:-2]:
        p.grad = torch.full_like(p, 0.3)
    strided.grad = torch.full_like(strided, 0.1)
    opt.first_step()
    assert not torch.equal(params[0], start[0]) and not torch.equal(strided, start[-2])
    opt.second_step()
    assert same_bits(params, start)


@EVERY_BASE
def test_an_exception_in_the_second_pass_restores_everything(base):
    params, opt = trained(base, 2)
    before, start, calls = [p.detach().clone() for p in params], copy.deepcopy(opt), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return closure_of(opt, params)()

    with pytest.raises(KeyboardInterrupt):
        opt.step(closure)
    assert same_bits(params, before)
    assert same_state(opt, start)
    assert opt.state_dict()["param_groups"] == start.state_dict()["param_groups"]
    opt.step(closure_of(opt, params))


def test_phases_out_of_order_are_refused():
    params, opt = trained(BASES["sgd"], 0)
    with pytest.raises(StateError, match=r"step\(\) needs a closure or a first_step\(\) before it, got neither; pass"):
        opt.step()
    with pytest.raises(StateError, match=r"second_step\(\) must follow first_step\(\), got no first_step\(\); "):
        opt.second_step()
    objective(params).backward()
    opt.first_step()
    with pytest.raises(StateError, match=r"first_step\(\) must follow a finished step, got a second call; "):
        opt.first_step()
    with pytest.raises(StateError, match="copying needs a finished step, got a copy between the two phases; "):
        copy.deepcopy(opt)
    opt.second_step()


@pytest.mark.parametrize(
    ("arguments", "message", "kind"),
    [
        ((fl.SGD,), "base must be an optimizer instance other than SAM, got <class", ArgumentTypeError),
        (
            (fl.SAM(fl.SGD([parameter(2)])),),
            "base must be an optimizer instance other than SAM, got SAM",
            ArgumentTypeError,
        ),
        ((fl.SGD([parameter(2)]), -0.1), "rho must be a finite number >= 0, got -0.1; ", ArgumentError),
        ((fl.SGD([parameter(2)]), float("nan")), "rho must be a finite number >= 0, got nan; ", ArgumentError),
        ((fl.SGD([parameter(2)]), 0.1, "yes"), "adaptive must be True or False, got 'yes'; ", ArgumentTypeError),
    ],
)
def test_what_cannot_be_wrapped_is_refused(arguments, message, kind):
    with pytest.raises(kind, match=f"SAM: {message}"):
        fl.SAM(*arguments)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_run_and_learn(path, capsys):
    result = runpy.run_path(str(path))
    loss = result["loss"]
    assert (loss.item() if isinstance(loss, torch.Tensor) else loss) < 1.2  # the targets have variance 1
    assert "loss" in capsys.readouterr().out

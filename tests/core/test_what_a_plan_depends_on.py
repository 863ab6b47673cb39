"""The plan of a step is made anew when anything changes that it was made for, on every backend alike."""

import shutil
import subprocess
import sys
import warnings

import pytest
import torch

import fallline as fl
from fallline.core.memory import turns_of
from fallline.errors import GradientError
from support.messages import check_message
from support.variants import EVERY_BACKEND, distance, parameter, params_of, same_bits, set_grads, train

TOLERANCE = 1e-6  # float32, 3 steps, against torch's order of operations; measured 2.4e-7


def part_changed(backend, dtype, make=fl.AdamW, **options):
    """Train, change the dtype of the second of three parameters, and train on."""
    params = [torch.nn.Parameter(torch.linspace(1, 2, 64)) for _ in range(3)]
    opt = make(params, lr=1e-3, **options, **({"backend": backend} if backend else {}))
    train(opt, [0])
    params[1].data = params[1].data.to(dtype)
    return train(opt, [1, 2])


@pytest.mark.parametrize("backend", ["fused", "foreach"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_part_of_a_model_may_change_its_dtype(backend, dtype):
    rounding = {"stochastic_rounding": True} if dtype is not torch.float16 else {}
    after = part_changed(backend, dtype, **rounding)
    expected = part_changed("reference", dtype, **rounding)
    assert [p.dtype for p in after] == [torch.float32, dtype, torch.float32]
    assert distance(after, expected) <= TOLERANCE  # a lost rounding is an ulp of bfloat16, 2^-7


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch.compile's own parts
def test_compiled_passes_see_another_dtype():
    after = part_changed("compile", torch.bfloat16, stochastic_rounding=True)
    assert distance(after, part_changed("reference", torch.bfloat16, stochastic_rounding=True)) <= TOLERANCE


@EVERY_BACKEND
def test_a_parameter_that_becomes_complex_keeps_no_real_state(backend):
    """With real state, the squares in exp_avg_sq would be complex and lose their imaginary part."""
    params = params_of()
    opt = fl.AdamW(params, backend=backend)
    before = train(opt, range(2))
    params[1].data = params[1].data.to(torch.complex64)
    with pytest.raises(GradientError) as error:
        train(opt, [2])
    check_message(error, "AdamW", "must be complex if the parameter is", "torch.complex64", "delete its entry")
    assert same_bits([params[0].detach(), params[2].detach()], [before[0], before[2]])
    del opt.state[params[1]]
    twins = [torch.nn.Parameter(params[1].detach().clone())]
    theirs = torch.optim.AdamW(twins, lr=1e-3)
    for step in range(2):
        set_grads(params, step)
        twins[0].grad = params[1].grad.clone()
        opt.step(), theirs.step()
    assert torch.allclose(params[1], twins[0], atol=TOLERANCE)


TWICE = {
    "sgd": (fl.SGD, torch.optim.SGD, {"lr": 0.1}),
    "adamw": (fl.AdamW, torch.optim.AdamW, {"lr": 0.1}),
    "rmsprop": (fl.RMSprop, torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.9}),
    "nadam": (fl.NAdam, torch.optim.NAdam, {"lr": 0.1}),
}


@EVERY_BACKEND
@pytest.mark.parametrize(("cls", "torch_cls", "options"), TWICE.values(), ids=TWICE)
def test_a_parameter_that_is_listed_twice_is_updated_twice_as_in_torch(cls, torch_cls, options, backend):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch's own, about the duplicate
        (p, q), (r, s) = (params_of()[1:] for _ in range(2))
        ours, theirs = cls([p, q, p], backend=backend, **options), torch_cls([r, s, r], foreach=False, **options)
    for step in range(3):
        set_grads([p, q], step), set_grads([r, s], step)
        ours.step(), theirs.step()
    assert distance([p, q], [r, s]) <= TOLERANCE
    for mine, other in ((p, r), (q, s)):
        assert float(ours.state[mine].get("step", 6)) == float(theirs.state[other].get("step", 6))
        assert all(
            torch.allclose(ours.state[mine][key].to(value.dtype), value) for key, value in theirs.state[other].items()
        )


@EVERY_BACKEND
@pytest.mark.parametrize("start", [0, 40], ids=["same", "overlapping"])
@pytest.mark.parametrize("late", [False, True], ids=["from the start", "later"])
def test_parameters_on_one_memory_take_turns_as_in_torch(backend, start, late):
    def pair(opt_of):
        memory = torch.linspace(-1, 1, 150_000)  # above a chunk, so that two threads would share it
        p, q = torch.nn.Parameter(memory[:140_000]), torch.nn.Parameter(memory[start : 140_000 + start].clone())
        if not late:
            q.data = memory[start : 140_000 + start]
        opt = opt_of([p, q])
        for step in range(3):
            p.grad, q.grad = torch.ones_like(p), torch.full_like(q, 2.0)
            opt.step()
            if step == 0:
                q.data = memory[start : 140_000 + start]
        return memory

    ours = pair(lambda params: fl.SGD(params, lr=0.1, backend=backend))
    assert distance([ours], [pair(lambda params: torch.optim.SGD(params, lr=0.1, foreach=False))]) <= TOLERANCE


def test_turns_are_taken_only_by_those_that_share():
    memory = torch.zeros(10)
    apart = [memory[:4], memory[4:8], torch.zeros(3), torch.zeros(0)]
    assert turns_of(apart) == [0, 0, 0, 0]
    assert turns_of([memory[:4], apart[2], memory[3:8], memory[7:], memory[:2]]) == [0, 0, 1, 2, 3]
    assert turns_of([apart[2], apart[2], apart[3], apart[3]]) == [0, 1, 0, 0]


ZERO = """
import torch, fallline as fl
for early in (True, False):
    param, twin = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt, theirs = fl.AdamW([param], lr=0.1, backend="BACKEND"), torch.optim.AdamW([twin], lr=0.1)
    for step in range(4):
        for p in (param, twin):
            p.grad = torch._efficientzerotensor((3,)) if (step == 0) is early else torch.ones(3)
        opt.step()
        twin.grad = twin.grad.clone() + 0
        theirs.step()
    assert torch.allclose(param, twin, atol=1e-6)
print("done")
"""


@pytest.mark.slow  # a process of its own, because a wrong address ends it
@EVERY_BACKEND
def test_gradients_without_memory_are_zeros(backend):
    code = ZERO.replace("BACKEND", backend)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "done\n", result.stderr


@EVERY_BACKEND
def test_tensors_without_elements_count_steps_and_join_when_they_get_some(backend):
    empty, full = parameter(0, 3), parameter(3, seed=1)
    opt = fl.AdamW([empty, full], backend=backend, ema_decay=0.5, clip_grad_norm=0.5)
    train(opt, range(2))
    assert opt.state[empty]["step"] == 2 and opt.state[empty]["exp_avg"].shape == (0, 3)
    full.grad, empty.grad = torch.ones(3), None
    opt.step()
    assert (opt.state[empty]["step"], opt.state[full]["step"]) == (2, 3)
    empty.data = torch.ones(2, 3)
    opt.state.pop(empty)
    before = empty.detach().clone()
    train(opt, [3])
    assert not torch.equal(empty, before) and opt.state[empty]["step"] == 1


def test_tensors_without_elements_are_in_no_bucket():
    opt = fl.AdamW([parameter(0) for _ in range(5)] + [parameter(2)])
    train(opt, range(2))
    assert [len(bucket.params) for bucket in opt._plan.buckets] == [1]

"""A step inside a function that is compiled with torch.compile is the usual step, with one graph break."""

import pytest
import torch
import torch._dynamo as dynamo

import fallline as fl
from support.variants import EVERY_BACKEND

pytestmark = [
    pytest.mark.slow,
    # of torch.compile's own parts
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
INPUTS = torch.linspace(-1, 1, 24).view(8, 3)
# float32, 4 steps; graphs may add in another order. torch.optim.AdamW differs by 2.2e-6 here.
TOLERANCE = 1e-5


def trained(optimizer_of, step_of, compiled):
    """Return the trained parameters, the optimizer, and how often compiled code was left."""
    dynamo.reset()
    dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    opt = optimizer_of(model)
    step = step_of(model, opt, lambda function: torch.compile(function, backend="eager") if compiled else function)
    for _ in range(4):
        step()
    return [p.detach() for p in model.parameters()], opt, sum(dynamo.utils.counters["graph_break"].values())


def gradients(model, opt):
    opt.zero_grad()
    loss = model(INPUTS).square().mean()
    loss.backward()
    return loss


def whole(model, opt, compile_it):
    return compile_it(lambda: (gradients(model, opt), opt.step()))


def alone(model, opt, compile_it):
    step = compile_it(opt.step)
    return lambda: (gradients(model, opt), step())


def phases(model, opt, compile_it):
    return compile_it(lambda: (gradients(model, opt), opt.first_step(), gradients(model, opt), opt.second_step()))


def closure(model, opt, compile_it):
    return compile_it(lambda: opt.step(lambda: gradients(model, opt)))


def close(optimizer_of, step_of):
    (expected, *_), (params, opt, breaks) = (trained(optimizer_of, step_of, compiled) for compiled in (False, True))
    assert all(torch.allclose(p, q, rtol=0, atol=TOLERANCE) for p, q in zip(params, expected, strict=True))
    return opt, breaks


@EVERY_BACKEND
@pytest.mark.parametrize("cls", [fl.AdamW, fl.LAMB])
def test_steps_inside_compiled_code_are_the_usual_steps(cls, backend):
    def build(model):
        return cls(model.parameters(), lr=0.1, backend=backend, clip_grad_norm=0.5, ema_decay=0.9)

    _, breaks = close(build, whole)
    assert breaks <= close(lambda model: torch.optim.AdamW(model.parameters(), lr=0.1), whole)[1]
    assert close(build, alone)[1] <= 1


def test_stochastic_rounding_works_inside_compiled_code():
    def build(model):
        return fl.AdamW(model.bfloat16().float().parameters(), lr=0.1, state_dtype=torch.bfloat16)

    close(build, whole)


BASES = {
    "torch SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "torch AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.1),
    "AdamW": lambda model: fl.AdamW(model.parameters(), lr=0.1),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("step_of", [phases, closure])
def test_sam_climbs_inside_compiled_code(base, step_of):
    close(lambda model: fl.SAM(base(model), rho=0.5), step_of)
    plain = trained(base, whole, True)[0]
    sam = trained(lambda model: fl.SAM(base(model), rho=0.5), step_of, True)[0]
    assert not all(torch.allclose(p, q, rtol=0, atol=1e-3) for p, q in zip(plain, sam, strict=True))


def test_hooks_run_once_per_step():
    calls = []

    def build(model):
        opt = fl.AdamW(model.parameters(), lr=0.1)
        opt.register_step_pre_hook(lambda *_: calls.append("before"))
        opt.register_step_post_hook(lambda *_: calls.append("after"))
        return opt

    trained(build, whole, True)
    assert calls == ["before", "after"] * 4


def test_steps_in_the_backward_pass_work_inside_compiled_code():
    def build(model):
        opt = fl.AdamW(model.parameters(), lr=0.1)
        fl.step_in_backward(model, opt)
        return opt

    close(build, whole)

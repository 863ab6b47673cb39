"""A scheduler inside a compiled training step is right, and costs one graph break and no recompilation."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.optim.lr_scheduler import ChainedScheduler, ExponentialLR, SequentialLR

import fallline as fl
from fallline import schedules as fs
from support.schedulers import EVERY_SCHEDULE, lrs, parameter, sgd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script"),  # from torch itself
]
RATES = pytest.mark.parametrize("rate", [float, torch.tensor], ids=["float lr", "tensor lr"])


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(scheduler):
    def step(x):
        y = x + 1
        scheduler.step()
        return y + 2

    return torch.compile(step, backend="eager")


@EVERY_SCHEDULE
@RATES
def test_a_compiled_call_advances_with_one_graph_break(rate, build, pure):
    optimizer = sgd(rate(1.0))
    call = compiled(build(optimizer))
    for k in range(1, 12):
        call(torch.ones(2))
        assert lrs(optimizer) == [pytest.approx(pure(k, 1.0), rel=1e-6)]
    assert sum(counters["graph_break"].values()) == 1
    assert counters["stats"]["unique_graphs"] == 2, "before and after the call"


@RATES
def test_a_chain_with_one_of_torch_is_compiled_once(rate):
    optimizer = sgd(rate(1.0))
    call = compiled(ChainedScheduler([fs.Cosine(optimizer, 20), ExponentialLR(optimizer, 0.9)]))
    optimizer.step()
    for k in range(1, 12):
        call(torch.ones(2))
        assert lrs(optimizer) == [pytest.approx(fs.cosine(20)(k) * 0.9**k, rel=1e-5)]
    assert counters["stats"]["unique_graphs"] == 2


@RATES
def test_a_sequence_of_torch_is_not_traced(rate):
    """At a milestone it calls another method than `step`."""
    optimizer = sgd(rate(1.0))
    call = compiled(SequentialLR(optimizer, [fl.Linear(optimizer, 20), fl.Cosine(optimizer, 20)], milestones=[4]))
    optimizer.step()
    for k in range(1, 12):
        call(torch.ones(2))
        expected = fs.linear(20)(k) if k < 4 else fs.cosine(20)(k - 4)
        assert lrs(optimizer) == [pytest.approx(expected, rel=1e-5)]
    assert counters["frames"]["total"] == 2, "before and after the call"


def test_hooks_of_schedulers_add_no_graph_break_to_a_compiled_optimizer():
    def breaks(scheduled):
        torch._dynamo.reset()
        counters.clear()
        weight = parameter()
        weight.grad = torch.ones(2)
        optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.5))
        scheduler = fl.Linear(optimizer, 10) if scheduled else None
        step = torch.compile(optimizer.step, backend="eager")
        expected = torch.ones(2)
        for k in range(4):
            step()
            expected = expected - (fs.linear(10)(k, 0.5) if scheduled else 0.5)
            if scheduled:
                scheduler.step()
        assert torch.allclose(weight, expected, rtol=1e-6)
        return sum(counters["graph_break"].values())

    assert breaks(scheduled=True) == breaks(scheduled=False)

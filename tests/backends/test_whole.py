"""Updates of whole tensors on a CPU: loops broadcast as torch does, and results replace what nothing reads again."""

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.backends.fused.loops import Loop, run_loop
from fallline.backends.fused.whole import stages
from fallline.backends.ir import trace
from fallline.core.optimizer import Optimizer
from fallline.rules.matrices import mean_square
from fallline.rules.ops import sqrt
from fallline.rules.rule import rule
from fallline.rules.update import update_for
from support.variants import normal

SUM = Loop((("x0", "s0 * a"), ("x1", "x0 + b"), ("x2", "sqrt(c)"), ("x3", "x1 * x2")), ("a", "b", "c"), ("x3",))


@pytest.mark.parametrize(
    ("shape", "others"),
    [
        ((), ((), ())),
        ((7,), ((1,), (7,))),
        ((5, 9), ((5, 1), (1, 9))),
        ((5, 9), ((), (5, 9))),
        ((300, 500), ((300, 1), (500,))),  # several pieces of work
        ((3, 4, 2, 5), ((3, 1, 1, 1), (4, 2, 5))),
        ((3, 4, 2, 5), ((3, 4, 1, 5), (1, 4, 2, 1))),
        ((2, 1, 3), ((2, 1, 1), (1, 1, 3))),
        ((3, 70_000), ((3, 1), (1, 70_000))),  # a row is divided
        ((0, 4), ((0, 1), (4,))),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loop_broadcasts_as_torch_does(shape, others, dtype):
    real = torch.float64 if dtype == torch.float64 else torch.float32
    columns = [
        [normal(*own, seed=10 * k + i).abs().to(dtype) for i in range(3)] for k, own in enumerate((shape, *others))
    ]
    targets = [[torch.empty(shape, dtype=real) for _ in range(3)]]
    scalars = np.array([[2.0], [-1.0], [0.5]], np.float64 if dtype == torch.float64 else np.float32)
    run_loop(SUM, columns, targets, scalars)
    for i, factor in enumerate((2.0, -1.0, 0.5)):
        a, b, c = (column[i].to(real) for column in columns)
        assert torch.allclose(targets[0][i], (factor * a + b) * c.sqrt(), rtol=1e-6)


def test_a_loop_can_overwrite_its_operand():
    kept = [normal(1000, seed=1), normal(1000, seed=2)]
    expected = [x * 3 for x in kept]
    run_loop(Loop((("x0", "s0 * a"),), ("a",), ("x0",)), [kept], [kept], np.array([[3.0], [3.0]], np.float32))
    assert all(map(torch.equal, kept, expected))


def test_muon_makes_two_loops():
    group = fl.Muon([torch.nn.Parameter(normal(3, 4))]).param_groups[0]
    update = update_for(fl.Muon.rule, group)
    first, second = stages(trace(update).passes[-1], ("param", "grad", *update.state))
    assert len(first.values) == 2  # the new momentum and what is orthogonalized
    assert [function for _, function, *_ in second.calls] == ["newton_schulz"]
    assert len(second.values) == 1


@rule(
    state={"total": None, "rows": None},
    shapes=lambda shape: {"rows": (*shape[:-1], 1)} if shape else {"rows": ()},
    ranges={},
    formula="",
    source="",
    whole=True,
)
def late(param, grad, total, rows, *, lr):
    """Need the old states after their new values are known; the new parameter replaces a state too."""
    new_total = total + grad
    new_rows = rows + mean_square(new_total, -1)
    size = mean_square(new_total * rows)
    new_param = param - lr * (total + grad / sqrt(size + 1.0))
    return new_param, new_total, new_rows


class Late(Optimizer):
    """An optimizer with that rule."""

    rule = late

    def __init__(self, params, lr=0.1, weight_decay=0.0, **options):
        super().__init__(params, lr=lr, weight_decay=weight_decay, **options)


@pytest.mark.parametrize("memory", ["contiguous", "strided gradient", "strided parameter"])
def test_a_state_is_kept_until_nothing_reads_it(memory):
    shape = (4, 6)
    start = normal(*shape, dtype=torch.float64)
    param = torch.nn.Parameter(start.mT.contiguous().mT if memory == "strided parameter" else start.clone())
    x, total, rows = start.numpy().copy(), np.zeros(shape), np.zeros((4, 1))
    opt = Late([param])
    for step in range(5):
        grad = normal(*shape, seed=step + 1, dtype=torch.float64)
        param.grad = grad.mT.contiguous().mT if memory == "strided gradient" and step % 2 else grad.clone()
        opt.step()
        new_total = total + grad.numpy()
        size = ((new_total * rows) ** 2).mean()
        x = x - 0.1 * (total + grad.numpy() / np.sqrt(size + 1))
        total, rows = new_total, rows + (new_total**2).mean(1, keepdims=True)
        assert np.allclose(param.detach().numpy(), x, rtol=1e-12)
        assert np.allclose(opt.state[param]["rows"].numpy(), rows, rtol=1e-12)


def test_muon_updates_parameters_in_place_and_tells_autograd():
    params = [torch.nn.Parameter(normal(8, 16, seed=k)) for k in range(3)]
    opt = fl.Muon(params, lr=0.1)
    for _ in range(2):
        before = [(p.data_ptr(), p._version) for p in params]
        for p in params:
            p.grad = normal(8, 16)
        opt.step()
        assert [p.data_ptr() for p in params] == [address for address, _ in before]
        assert all(p._version > version for p, (_, version) in zip(params, before, strict=True))

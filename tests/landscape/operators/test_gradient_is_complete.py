"""A parameter that the loss depends on and whose gradient is missing is an error, not a row of zeros."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fallline.errors import LandscapeWarning, LossError
from fallline.landscape import GaussNewton, Hessian
from support.landscapes import matrix

OPERATORS = pytest.mark.parametrize("operator", [Hessian, GaussNewton])
pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
    pytest.mark.filterwarnings("ignore:.*products are computed by finite-difference:fallline.errors.LandscapeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # forward mode imports what PyTorch has deprecated
]


def without_grad(f, x):
    with torch.no_grad():
        return f(x)


WHOLE = {  # no gradient arrives at all
    "reentrant checkpoint": lambda f, x: checkpoint(f, x, use_reentrant=True),
    "reentrant checkpoint of inputs with gradients": lambda f, x: checkpoint(
        f, x.clone().requires_grad_(), use_reentrant=True
    ),
    "detach": lambda f, x: f(x).detach(),
    "no_grad": without_grad,
    "NumPy": lambda f, x: torch.from_numpy(f(x).detach().numpy()),
}
PARTS = {  # the same weights are also used with a gradient
    "half detached": lambda f, x: f(x) + f(2 * x).detach(),
    "half in a reentrant checkpoint": lambda f, x: f(x) + checkpoint(f, 2 * x, use_reentrant=True),
    "straight-through estimator": lambda f, x: f(x) + ((4 * f(x)).round() / 4 - f(x)).detach(),
    "detached scale": lambda f, x: f(x) / f(x).norm().detach(),
}


class Net(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.first, self.last, self.run = nn.Linear(3, 4), nn.Linear(4, 2), run

    def forward(self, x):
        return self.last(self.run(lambda x: torch.tanh(self.first(x)), x))


def error(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def build(run, dtype=torch.float64):
    torch.manual_seed(0)
    return Net(run).to(dtype), (torch.randn(8, 3, dtype=dtype), torch.randn(8, 2, dtype=dtype))


@OPERATORS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", WHOLE)
def test_a_part_without_gradient_is_an_error(way, dtype, operator):
    model, batch = build(WHOLE[way], dtype)
    with pytest.raises(LossError, match=rf"^{operator.__name__}: .* got none for first.weight and 1 more"):
        operator(model, error, batch)


@OPERATORS
def test_without_the_part_it_can_be_measured(operator):
    model, batch = build(WHOLE["detach"])
    H = operator(model, error, batch, params=list(model.last.parameters()))
    x = torch.tanh(model.first(batch[0])).detach()
    x = torch.cat([x, torch.ones(8, 1, dtype=torch.float64)], 1)
    block = x.T @ x / 8  # of each of the two outputs: the mean over 16 numbers of squares
    right = torch.zeros(10, 10, dtype=torch.float64)
    for rows in ([0, 1, 2, 3, 8], [4, 5, 6, 7, 9]):
        right[torch.tensor(rows)[:, None], torch.tensor(rows)] = block
    assert (matrix(H) - right).abs().max() < 1e-12


@OPERATORS
@pytest.mark.parametrize("way", PARTS)
def test_a_part_of_the_gradient_that_is_missing_is_a_warning(way, operator):
    model, batch = build(PARTS[way])
    with pytest.warns(LandscapeWarning, match=rf"^{operator.__name__}: the gradient is not that of the loss, which"):
        operator(model, error, batch)


@OPERATORS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "run",
    [
        lambda f, x: checkpoint(f, x, use_reentrant=False),
        lambda f, x: f(x).relu(),
        lambda f, x: (8 * f(x)).relu().clamp(max=1),
        lambda f, x: f(x) / f(x).norm(),
    ],
    ids=["checkpoint", "relu", "clamp", "norm"],
)
def test_a_complete_gradient_is_silent(run, dtype, operator):
    model, batch = build(run, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LandscapeWarning)
        operator(model, error, batch)


@OPERATORS
def test_a_parameter_that_the_loss_does_not_use_is_legitimate(operator):
    model, batch = build(lambda f, x: f(x))
    model.unused = nn.Linear(2, 2).double()
    H = operator(model, error, batch)
    assert not matrix(H)[-6:].any() and matrix(H)[:-6].any()


@OPERATORS
def test_experts_that_only_some_batches_use_are_complete(operator):
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))

        def forward(self, x):
            return self.experts[int(x[0, 0] > 0)](x)

    torch.manual_seed(0)
    x = torch.randn(2, 4, 3)
    x[:, 0, 0] = torch.tensor([1.0, -1.0])
    data = [(x[i], torch.zeros(4, 2)) for i in range(2)]
    H = operator(Experts(), error, data)
    blocks = matrix(H).abs().sum(1).split(8)
    assert blocks[0].any() and blocks[1].any() and not blocks[2].any()


@OPERATORS
def test_an_unused_part_of_a_loss_with_rounding_is_legitimate(operator):
    """The value of the loss may differ between evaluations by rounding, as of atomic additions on an accelerator."""
    model, batch = build(lambda f, x: f(x), torch.float32)
    model.unused = nn.Linear(2, 2)
    calls = []

    def noisy(model, batch):
        calls.append(1)
        return error(model, batch) * (1 + 3e-7 * (len(calls) % 2))

    operator(model, noisy, batch)

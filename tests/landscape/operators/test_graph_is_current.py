"""A product is that of the present model, whatever has changed: no graph outlives the call that built it."""

import pytest
import torch
from torch import nn

from fallline.errors import StateError
from fallline.landscape import GaussNewton, Hessian, Preconditioned, classify_point, eigsh, spectral_density, trace
from fallline.landscape.operators import products
from support.landscapes import matrix

SETTINGS = {"factor": 1.0}


class Net(nn.Module):
    """A network whose loss reads all that a loss can read: weights, buffers, attributes, a tensor, a global."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("shift", torch.zeros(4))
        self.power, self.gain = 1, torch.ones(4)
        self.double()
        self.gain = self.gain.double()

    def forward(self, x):
        hidden = torch.tanh(self.first(x) + self.shift) ** self.power
        return self.last(hidden * self.gain) * SETTINGS["factor"]


def error(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def dense(model, batch, params):
    """The Hessian (n, n) by autograd, row by row."""
    grads = torch.autograd.grad(error(model, batch), params, create_graph=True)
    rows = []
    for element in torch.cat([g.reshape(-1) for g in grads]):
        row = torch.autograd.grad(element, params, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([g.reshape(-1) for g in row]))
    return torch.stack(rows)


def build():
    torch.manual_seed(0)
    model = Net()
    batch = [torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)]
    return model, batch


def swap_rows(model, batch):
    with torch.no_grad():
        model.first.weight.data.copy_(model.first.weight.data.flip(0).clone())  # same sum, same version


CHANGES = {
    "a weight that is not measured": lambda model, batch: model.last.weight.data.mul_(3),
    "a weight that is not measured, in place": lambda model, batch: model.last.weight.detach().mul_(3),
    "a weight, with the same sum": swap_rows,
    "a buffer": lambda model, batch: model.shift.add_(1),
    "an attribute": lambda model, batch: setattr(model, "power", 3),
    "a tensor that is no buffer": lambda model, batch: model.gain.data.mul_(3),
    "a global": lambda model, batch: SETTINGS.update(factor=3.0),
    "another layer": lambda model, batch: setattr(model, "last", nn.Linear(4, 2).double()),
    "the batch": lambda model, batch: batch[0].data.mul_(3),
    "a hook": lambda model, batch: model.register_forward_pre_hook(lambda m, args: (3 * args[0],)),
}


@pytest.fixture(autouse=True)
def same_settings():
    yield
    SETTINGS["factor"] = 1.0


@pytest.mark.parametrize("change", CHANGES)
def test_a_product_follows(change):
    model, batch = build()
    params = list(model.first.parameters())
    H = Hessian(model, error, tuple(batch), params=params)
    before = matrix(H)
    _ = H @ torch.ones(16)
    CHANGES[change](model, batch)
    right = dense(model, batch, params)
    assert (before - right).abs().max() > 0.01
    assert (matrix(H) - right).abs().max() < 1e-12
    assert (torch.stack([H @ v for v in torch.eye(16)], 1) - right).abs().max() < 1e-12
    assert eigsh(H, 1).values[0] == pytest.approx(torch.linalg.eigvalsh(right)[-1].item(), rel=1e-5)


def test_a_loader_of_one_batch_is_read_again():
    model, batch = build()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), batch_size=6)
    H = Hessian(model, error, loader)
    matrix(H)
    batch[0].mul_(3)
    assert (matrix(H) - dense(model, batch, list(model.parameters()))).abs().max() < 1e-12


def test_a_list_of_one_batch_may_grow():
    model, batch = build()
    data = [tuple(batch)]
    H = Hessian(model, error, data)
    matrix(H)
    data.append((3 * batch[0], batch[1]))
    whole = (torch.cat([batch[0], 3 * batch[0]]), torch.cat([batch[1], batch[1]]))
    assert (matrix(H) - dense(model, whole, list(model.parameters()))).abs().max() < 1e-12


@pytest.mark.parametrize("operator", [Hessian, GaussNewton])
def test_the_loss_is_the_present_one(operator):
    model, batch = build()
    H = operator(model, error, tuple(batch))
    model.last.weight.data.mul_(3)
    assert H.loss == pytest.approx(error(model, batch).item(), rel=1e-12)


def test_a_point_is_judged_by_the_present_loss():
    """With a gradient given, nothing else evaluates the loss."""
    model, batch = build()
    H = Hessian(model, error, tuple(batch))
    batch[1].mul_(1000)
    grads = torch.autograd.grad(error(model, batch), list(model.parameters()))
    given, own = classify_point(H, H.flatten(grads)), classify_point(H)
    assert given.tolerance == pytest.approx(own.tolerance) and given.stationary == own.stationary


@pytest.mark.parametrize("operator", [Hessian, GaussNewton])
def test_parameters_that_the_model_replaced_are_an_error(operator):
    model, batch = build()
    H = operator(model, error, tuple(batch))
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()}, assign=True)
    with pytest.raises(StateError, match=rf"^{operator.__name__}: .* got a new .*; create the {operator.__name__}"):
        H @ torch.ones(H.shape[0])


@pytest.mark.parametrize(
    "solve",
    [
        lambda H: eigsh(H, 2),
        lambda H: trace(H, 12),
        lambda H: trace(H, 100),
        lambda H: spectral_density(H, 2, 5),
        lambda H: classify_point(H),
        lambda H: eigsh(Preconditioned(H, 1 + torch.arange(26.0)), 2),
        matrix,
    ],
    ids=["eigsh", "trace", "exact trace", "density", "point", "preconditioned", "matrix"],
)
def test_a_solver_builds_one_graph_and_leaves_none(solve, monkeypatch):
    built = []
    original = products.gradients_with_graph
    monkeypatch.setattr(
        "fallline.landscape.operators.hessian.gradients_with_graph",
        lambda *args: built.append(1) or original(*args),
    )
    model, batch = build()
    H = Hessian(model, error, tuple(batch))
    solve(H)
    assert len(built) == 1 and H._kept is None
    with H.keep_graph():
        solve(H)
        solve(H)
        assert len(built) == 2
    assert H._kept is None

"""Surfaces: exactly centred, no row shifted, weighted by items, filter-normalised, and nothing changed."""

import copy
import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape import Surface, surface
from support import landscapes
from support.landscapes import Point, form, squares

batches = functools.partial(landscapes.batches, dtype=torch.float64)
OWN = torch.Generator().manual_seed(0)  # which nobody resets


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).to(dtype)


def test_every_cell_of_a_quadratic_is_the_closed_form():
    """Rows and columns are where they say; the transposed or shifted matrix is far off."""
    h = torch.tensor([[3.0, 0.7, 0.1], [0.7, 1.0, -0.2], [0.1, -0.2, 0.5]], dtype=torch.float64)
    model = Point(0.3, -1.2, 0.8)
    first, second = torch.tensor([1.0, 0.5, -2.0]), torch.tensor([0.0, 2.0, 1.0])
    found = surface(model, form(h), torch.zeros(1), ([first], [second]), span=(2.0, 0.5), n=7)
    a, b = np.linspace(-2, 2, 7), np.linspace(-0.5, 0.5, 7)
    w0, matrix = model.w.detach().numpy(), h.numpy()
    for i in range(7):
        for j in range(7):
            w = w0 + a[j] * first.double().numpy() + b[i] * second.double().numpy()
            assert found.values[i, j] == pytest.approx(w @ matrix @ w / 2, abs=1e-12)
    assert np.abs(found.values - found.values.T).max() > 1


@pytest.mark.parametrize("n", [3, 11, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("span", [1.0, 0.3])
def test_the_middle_is_the_weights_to_the_bit(n, span):
    model, data = net().eval(), batches(5)
    found = surface(model, squares, data, n=n, span=span)
    with torch.no_grad():
        assert found.centre == squares(model, data[0]).item()
    assert found.x[n // 2] == found.y[n // 2] == 0
    assert np.array_equal(found.x, -found.x[::-1]) and found.x[-1] == span


def test_ragged_batches_weigh_by_their_items():
    model, data = net(), batches(8, 2)
    parts = [surface(model, squares, [batch], n=3, span=0.5).values for batch in data]
    whole = surface(model, squares, [tuple(map(torch.cat, zip(*data, strict=True)))], n=3, span=0.5)
    found = surface(model, squares, data, n=3, span=0.5)
    assert found.values == pytest.approx((8 * parts[0] + 2 * parts[1]) / 10, rel=1e-14)
    assert found.values == pytest.approx(whole.values, rel=1e-13)
    assert np.abs(found.values / ((parts[0] + parts[1]) / 2) - 1).max() > 0.01  # the unweighted mean is another
    assert found.weight == 10 and found.evaluations == 18


def test_the_user_says_what_a_batch_weighs():
    model, data = net(), batches(8, 2)
    parts = [surface(model, squares, [batch], n=3).values for batch in data]
    found = surface(model, squares, data, n=3, weight=lambda batch: 1.0 if len(batch[0]) == 8 else 3.0)
    assert found.values == pytest.approx((parts[0] + 3 * parts[1]) / 4, rel=1e-14)


def test_an_iterator_is_gone_through_once():
    data = batches(4, 4)
    assert np.array_equal(surface(net(), squares, iter(data), n=3).values, surface(net(), squares, data, n=3).values)


def test_a_loss_that_is_not_finite_is_a_masked_cell():
    model = Point(0.0, 0.0)

    def loss(model, batch):  # log of a negative number where x < -0.5; Inf at y = 1
        x, y = model.w
        return torch.log(x + 0.75) + torch.where(y == 1, torch.inf, 0.0)

    pair = torch.eye(2, dtype=torch.float64)
    found = surface(model, loss, torch.zeros(1), [pair[0], pair[1]], n=5)
    assert found.mask.tolist() == [[True, False, False, False, False]] * 4 + [[True] * 5]
    assert np.array_equal(np.isnan(found.values), found.mask)
    assert found.values[0, 1] == pytest.approx(np.log(0.25))
    assert "null" in found.plot().to_json()


def everything(model):
    return copy.deepcopy(
        (
            list(model.state_dict().items()),
            [p.grad for p in model.parameters()],
            [m.training for m in model.modules()],
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        )
    )


def same(one, other):
    states = zip(one[0], other[0], strict=True)
    grads = zip(one[1], other[1], strict=True)
    return (
        all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)
        and all(x is y is None or torch.equal(x, y) for x, y in grads)
        and one[2:] == other[2:]
    )


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_as_before_to_the_bit(mode, error):
    model, data = net(), batches(6, 3)
    squares(model, data[0]).backward()
    model[3].eval()  # a mode that train() would lose
    before, tensors, calls = everything(model), list(model.parameters()), []

    def loss(model, batch):
        calls.append(None)
        torch.rand(1), np.random.rand(), random.random()
        model[1].running_mean.add_(1)
        if len(calls) == 7 and error:
            raise error
        return squares(model, batch)

    if error is None:
        surface(model, loss, data, n=3, mode=mode)
    else:
        with pytest.raises(error):
            surface(model, loss, data, n=3, mode=mode)
    assert same(before, everything(model))
    assert all(p is q for p, q in zip(model.parameters(), tensors, strict=True))


def test_cells_see_the_same_dropout():
    """Otherwise the noise of the masks would look like roughness of the loss."""
    model = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 2)).double()
    still = [torch.zeros_like(p) for p in model.parameters()]
    found = surface(model, squares, batches(4), (still, still), n=5, mode="train")
    assert np.ptp(found.values) == 0
    assert surface(model, squares, batches(4), (still, still), n=5).centre != found.centre


def test_frozen_parameters_stay_and_params_chooses():
    model, data = net(), batches(4)
    model[0].requires_grad_(False)
    assert surface(model, squares, data, n=3).names == ("1.weight", "1.bias", "4.weight", "4.bias")
    assert surface(model, squares, data, n=3, params=["4.weight"]).names == ("4.weight",)
    assert surface(model, squares, data, n=3, params=[model[0].weight]).names == ("0.weight",)


def test_tied_weights_move_together():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    model[1].weight = model[0].weight
    d = torch.ones(3, 3, dtype=torch.float64)
    found = surface(model, lambda m, x: m(x).sum(), torch.eye(3, dtype=torch.float64), ([d], [0 * d]), n=3)
    w = model[0].weight.detach() + 1
    assert found.values[1, 2] == pytest.approx((torch.eye(3, dtype=torch.float64) @ w.T @ w.T).sum().item())


def test_half_precision_weights_are_rounded_once():
    model = Point(1.0, 1.0).to(torch.bfloat16)
    pair = torch.eye(2)
    found = surface(model, lambda m, _: m.w.double().sum(), torch.zeros(1), [pair[0], pair[1]], span=2**-6, n=3)
    assert found.values[1].tolist() == [2 - 2**-6, 2, 2 + 2**-6]


def test_eigenvectors_can_be_given_or_computed_by_the_users_own_function():
    h = torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))
    pair = torch.linalg.eigh(h).eigenvectors.flip(1).T
    model = Point(0.0, 0.0)
    given = surface(model, form(h), torch.zeros(1), [pair[0], pair[1]], n=3)
    called = surface(model, form(h), torch.zeros(1), lambda: [pair[0], pair[1]], n=3)
    assert np.array_equal(given.values, called.values)
    assert given.values[1].tolist() == [4.5, 0, 4.5] and given.values[:, 1].tolist() == [0.5, 0, 0.5]
    assert given.kind == "given" and given.cosine == 0


@pytest.mark.parametrize("wrap", [list, iter])
def test_eig_takes_the_two_directions_of_largest_curvature(wrap):
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    h = turn @ torch.diag(torch.tensor([9.0, 4.0, 1.0, 0.1], dtype=torch.float64)) @ turn.T
    model = Point(0.0, 0.0, 0.0, 0.0)
    found = surface(model, form(h), wrap([torch.zeros(1)]), "eig", n=3)
    assert found.kind == "eig" and found.cosine == pytest.approx(0, abs=1e-8)
    assert found.values[1] == pytest.approx([4.5, 0, 4.5], abs=1e-6)
    assert found.values[:, 1] == pytest.approx([2, 0, 2], abs=1e-6)
    assert found.values[0, 0] == pytest.approx(6.5, abs=1e-6)


def test_progress_says_beforehand_what_it_costs_and_counts_to_the_end():
    seen = []
    surface(net(), squares, batches(2, 2), n=3, progress=seen.append)
    assert [(step.done, step.total) for step in seen] == [(k, 18) for k in range(19)]
    assert seen[0].seconds > 0 and seen[-1].seconds == 0
    assert seen[0].bytes == 3 * 34 * 8  # the weights of a cell and two directions
    assert str(seen[0]).startswith("0 of at most 18 forward passes, about ")


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"n": 10}, ArgumentError, "n must be an odd int >= 3, got n=10"),
        ({"n": 1.0}, ArgumentError, "n must be an odd int"),
        ({"seed": 1.5}, ArgumentError, "seed must be an integer of at most 64 bits, got seed=1.5"),
        ({"span": 0}, ArgumentError, "span must be a finite number > 0 or two of them, got span=0"),
        ({"directions": "hessian"}, ArgumentError, "directions must be filter, eig, pca, a pair or a function"),
        ({"directions": "pca"}, ArgumentError, "path must have at least 3 points"),
        ({"directions": [torch.zeros(3)]}, ArgumentTypeError, "directions must be a pair"),
        (
            {"directions": [torch.zeros(3)] * 2},
            ArgumentError,
            "must have 34 elements, as many as the parameters, got 3",
        ),
        ({"directions": [[torch.zeros(3)]] * 2}, ArgumentError, "must have a tensor for each of 0.weight"),
        ({"directions": [torch.full((34,), torch.nan)] * 2}, ArgumentError, "finite, got NaN or Inf in 0.weight"),
        ({"directions": [{"0.weight": torch.zeros(4, 3)}] * 2}, ArgumentError, "got none for 0.bias"),
        ({"mode": "test"}, ArgumentError, "mode must be one of eval, train, got 'test'"),
        ({"vectors": "none"}, ArgumentError, "vectors must be one of zero, element, tensor"),
        ({"params": ["0.wait"]}, ArgumentError, "params must be names or parameters of the model, got 0.wait"),
        ({"params": []}, ArgumentError, "params must have a parameter, got none"),
        ({"data": []}, LossError, "data must have a batch, got none"),
        ({"data": 3}, ArgumentTypeError, "data must be a batch"),
        ({"model": 3}, ArgumentTypeError, "model must be a torch.nn.Module"),
        (
            {"loss_fn": lambda m, b: 1.0},
            LossError,
            "the loss must be a tensor, got 1.0; return the tensor, not loss.item",
        ),
        ({"loss_fn": lambda m, b: m(b[0])}, LossError, r"one real number, got a tensor of shape \(4, 2\)"),
        (
            {"data": [batches(4)[0], (torch.full((4, 3), torch.nan, dtype=torch.float64), torch.zeros(4, 2))]},
            LossError,
            "finite, got nan for batch 1; every parameter is finite, so check that batch",
        ),
        (
            {"loss_fn": lambda m, b: squares(m, b) * torch.rand((), generator=OWN)},
            LossError,
            "same at every evaluation",
        ),
        ({"weight": lambda b: 0}, ArgumentError, "weight must return a finite number > 0"),
        ({"loss_fn": None}, ArgumentTypeError, "loss_fn must be a function of model and batch, got None"),
        ({"loss_fn": lambda m, b: m(b[0]).argmax()}, LossError, "one real number, got a tensor of .* torch.int64"),
        (
            {"loss_fn": lambda m, b: (squares(m, b) * (1 + torch.rand((), generator=OWN))).bfloat16()},
            LossError,
            "same at every evaluation",  # a bfloat16 has steps of a 256th, and no more
        ),
        (
            {"model": nn.ParameterDict({"w": torch.ones(2, dtype=torch.complex64)})},
            ArgumentError,
            "surface: parameters must be real, got w of torch.complex64; pass params= without it",
        ),
        ({"data": [{}]}, ArgumentTypeError, "weight: must be given for batches without a tensor"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        surface(**{"model": net(), "loss_fn": squares, "data": batches(4), "n": 3, **arguments})


def test_a_picture_has_a_cell_for_each_loss():
    found = surface(net(), squares, batches(4), n=5)
    assert isinstance(found, Surface)
    spec = found.plot().to_dict()
    assert len(spec["layer"][0]["data"]["values"]) == 25
    assert f"{found.centre:.4g}" in spec["title"]

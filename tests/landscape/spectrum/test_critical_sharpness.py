"""Critical sharpness: where along a direction the loss is higher than at the start, by forward passes alone."""

import math

import pytest
import torch

from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape import critical_sharpness
from support.landscapes import energy

AXES = torch.tensor([4.0, 3.0, 0.5], dtype=torch.float64)


def test_critical_sharpness_of_a_quadratic_is_its_curvature_along_the_gradient():
    model, loss_fn, data = energy(AXES)
    g = AXES * model.weight.detach()[0]
    found = critical_sharpness(model, loss_fn, data, -g, tol=1e-4)
    right = (g @ (AXES * g) / (g @ g)).item()
    low, high = found.bracket
    assert 2 / high <= right <= 2 / low
    assert found.value == pytest.approx(right, rel=1e-3) and found.eta == pytest.approx(2 / right, rel=1e-3)
    # Along an update of length lr, 2 says that the loss would be what it was.
    assert critical_sharpness(model, loss_fn, data, [-found.eta * g[None]]).value == pytest.approx(2, rel=0.01)
    assert critical_sharpness(model, loss_fn, data, [-found.eta * g[None]]).evaluations < 20


@pytest.mark.parametrize("first", [2.0**-25, 1.0, 2.0**25])
def test_the_first_step_may_be_far_from_the_critical_one(first):
    model, loss_fn, data = energy(AXES)
    g = AXES * model.weight.detach()[0]
    found = critical_sharpness(model, loss_fn, data, -g, first=first, tol=0.1)
    low, high = found.bracket
    assert low < 2 * (g @ g / (g @ (AXES * g))).item() <= high < low * 1.12
    assert found.eta == pytest.approx((low + high) / 2) and found.value == pytest.approx(2 / found.eta)


def test_a_loss_that_never_rises_has_no_critical_sharpness():
    model = torch.nn.Linear(1, 1, bias=False)
    found = critical_sharpness(model, lambda m, x: m.weight.sum(), torch.ones(1), torch.tensor([-1.0]))
    assert found.value == 0 and found.eta == math.inf
    with pytest.raises(ArgumentError, match="direction must lower the loss"):
        critical_sharpness(model, lambda m, x: m.weight.sum(), torch.ones(1), torch.tensor([1.0]))
    for direction, message in (
        ([torch.ones(3)], r"must have a tensor for each of weight, .*got shapes \[\(3,\)\]"),
        (torch.ones(3), "a flat direction must have 1 elements, as many as the parameters, got 3"),
        ("down", "must be a state dict, a list of tensors or a flat tensor, got a str"),
    ):
        with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
            critical_sharpness(model, lambda m, x: m.weight.sum(), torch.ones(1), direction)


def test_a_loss_that_overflows_far_away_counts_as_higher():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)

    def steep(m, x):
        w = m.weight.sum()
        return (w * w).exp() if w > -2 else w.new_tensor(float("nan")) * w

    found = critical_sharpness(model, steep, torch.ones(1), torch.tensor([-1.0]), first=10.0)
    assert found.eta == pytest.approx(2.0, rel=0.01)


def test_a_loss_that_falls_until_it_is_nan_has_risen_there():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)  # the loss is √(4 − w): it falls along +1, until it ends at w = 4
    found = critical_sharpness(model, lambda m, x: (4 - m.weight).sqrt().sum(), torch.ones(1), torch.tensor([1.0]))
    low, high = found.bracket
    assert low <= 3 < high and found.eta == pytest.approx(3, rel=0.01)


def test_steps_and_directions_that_are_not_finite_are_refused():
    model, loss_fn, data = energy(AXES)
    for options, message in (
        ({"direction": -AXES, "first": math.inf}, "first must be finite and > 0"),
        ({"direction": -AXES, "first": math.nan}, "first must be finite and > 0"),
        ({"direction": AXES * math.nan}, "a direction, or a point of a path, must be finite, got NaN or Inf in weight"),
        ({"direction": None}, "a direction, .* got a NoneType"),
        ({"direction": 1.0}, "a direction, .* got a float"),
    ):
        with pytest.raises((ArgumentError, ArgumentTypeError), match=f"^critical_sharpness: {message}"):
            critical_sharpness(model, loss_fn, data, **options)


def test_a_rise_of_the_loss_at_the_start_is_no_error_of_the_loss():
    model, _, data = energy(AXES)
    with pytest.raises(LossError, match=r"^critical_sharpness: loss must be finite, got nan"):
        critical_sharpness(model, lambda m, x: m.weight.sum() * float("nan"), data, -AXES)


def test_a_loss_that_draws_from_its_own_generator_has_no_critical_sharpness():
    model, loss_fn, data = energy(AXES)
    own = torch.Generator().manual_seed(0)
    with pytest.raises(LossError, match=r"^critical_sharpness: loss must be the same at every evaluation"):
        critical_sharpness(model, lambda m, x: loss_fn(m, x) * torch.rand((), generator=own), data, -AXES)

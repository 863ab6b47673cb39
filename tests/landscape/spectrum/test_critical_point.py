"""What kind of point the curvature makes: as its eigenvalues say, and no surer than their bounds."""

import pytest
import torch

from fallline.errors import ArgumentError
from fallline.landscape import Eigen, Hessian, classify_point
from fallline.landscape.spectrum import critical_point as point
from fallline.landscape.spectrum.critical_point import _kind
from support.landscapes import energy


@pytest.mark.parametrize(
    ("values", "kind", "condition"),
    [
        ([5.0, 1.0, 0.1], "minimum", 50.0),
        ([5.0, 1.0, -0.1], "saddle", None),
        ([5.0, 1.0, 0.0], "undetermined", 5.0),
        ([5.0, 0.0, 0.0], "undetermined", None),
        ([0.0, 0.0, 0.0], "flat", None),
        ([-1.0, -2.0, -3.0], "saddle", None),
    ],
)
def test_points_are_what_their_eigenvalues_say(values, kind, condition):
    found = classify_point(torch.diag(torch.tensor(values, dtype=torch.float64)))
    assert found.kind == kind
    assert found.condition == (None if condition is None else pytest.approx(condition))
    assert found.smallest == pytest.approx(min(values), abs=1e-9)
    assert str(found).startswith(f"{kind}: λmin = ")


def test_a_hessian_brings_its_gradient_and_its_loss():
    model, loss_fn, data = energy(torch.tensor([2.0, -1.0, 1.0], dtype=torch.float64))
    model.weight.data.copy_(torch.tensor([[0.5, 0.0, 0.0]]))
    found = classify_point(Hessian(model, loss_fn, data))
    assert found.gradient == pytest.approx(1.0) and found.stationary is False
    model.weight.data.zero_()
    found = classify_point(Hessian(model, loss_fn, data))
    assert found.stationary and found.gradient == 0


def test_curvature_at_tiny_parameters_is_no_flatness():
    model, loss_fn, data = energy(torch.tensor([4.0, 1.0, -0.5], dtype=torch.float64))
    model.weight.data.fill_(1e-6)
    assert classify_point(Hessian(model, lambda m, x: 1 + loss_fn(m, x), data)).kind == "saddle"


def test_curvature_within_the_tolerance_is_none():
    matrix = torch.diag(torch.tensor([1e-5, -1e-5], dtype=torch.float64))
    assert classify_point(matrix).kind == "saddle"
    assert classify_point(matrix, tolerance=1e-3).kind == "flat"


@pytest.mark.parametrize(
    ("values", "bounds", "converged", "kind"),
    [
        ([-0.5, 1.0], [0.4, 0.1], False, "saddle"),
        ([-0.5, 1.0], [0.6, 0.1], True, "undetermined"),
        ([0.5, 1.0], [0.6, 0.1], True, "undetermined"),
        ([0.5, 1.0], [0.4, 0.1], True, "minimum"),
        ([0.5, 1.0], [0.4, 0.1], False, "undetermined"),
        ([-0.005, 0.005], [0.004, 0.004], True, "flat"),
        ([-0.005, 0.005], [0.006, 0.004], True, "undetermined"),
    ],
)
def test_a_kind_counts_the_bound_of_its_eigenvalue(values, bounds, converged, kind):
    assert _kind(values, bounds, 0.01, converged) == kind


def test_the_condition_number_leaves_out_what_its_bound_does_not_tell_from_zero(monkeypatch):
    values, bound = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 1.0, 4.0], [0.6, 0.1, 0.1]))
    found = Eigen(values, torch.eye(3), bound, bound, True, 9, 0.0, 0.0)
    monkeypatch.setattr(point, "eigsh", lambda *args, **options: found)
    assert classify_point(torch.eye(3)).condition == 4


def test_curvature_that_changes_the_loss_by_rounding_is_none():
    model, loss_fn, data = energy(torch.tensor([1e-9, 2e-9, 3e-9], dtype=torch.float64))
    model.weight.data.fill_(1.0)
    found = classify_point(Hessian(model, lambda m, x: 5 + loss_fn(m, x), data))
    assert found.kind == "flat" and found.tolerance == pytest.approx(2 * 2**-26 * 5 / 3)


def test_a_point_is_stationary_where_a_newton_step_gains_less_than_a_thousandth():
    model, loss_fn, data = energy(torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64))
    for gain, stationary in ((0.9e-3, True), (1.1e-3, False)):
        model.weight.data.copy_(torch.tensor([[gain**0.5, 0.0, 0.0]]))  # g = 2·w, λmax = 2: g²/4 = w²
        H = Hessian(model, lambda m, x, w=gain: 1 - w + loss_fn(m, x), data)  # the loss is 1
        assert classify_point(H).stationary is stationary


def test_what_is_no_gradient_and_no_tolerance_is_refused():
    for options, message in (
        ({"grad": [1.0, 2.0]}, r"grad must have shape \(2,\), got list; pass H.flatten\(grads\)"),
        ({"grad": torch.ones(3)}, r"grad must have shape \(2,\), got \(3,\)"),
        ({"tolerance": "small"}, "tolerance must be >= 0, got tolerance='small'"),
    ):
        with pytest.raises(ArgumentError, match=f"^classify_point: {message}"):
            classify_point(torch.eye(2), **options)


def test_too_few_products_are_no_minimum():
    values = torch.linspace(0.1, 1, 100, dtype=torch.float64)
    assert classify_point(torch.diag(values), max_matvecs=20).kind == "undetermined"
    assert classify_point(torch.diag(values)).kind == "minimum"

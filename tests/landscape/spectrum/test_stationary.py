"""A critical point needs a gradient that the curvature explains; elsewhere the sign of the curvature is reported."""

import pytest
import torch

from fallline.landscape import Hessian, classify_point
from support.landscapes import Point, form


def classify(curvatures, point, loss=1.0, **options):
    """Classify a point of a quadratic function, whose value there is `loss`."""
    h = torch.diag(torch.tensor(curvatures, dtype=torch.float64))
    w = torch.tensor(point, dtype=torch.float64)
    level = loss - (w @ h @ w / 2).item()
    return classify_point(Hessian(Point(*point), lambda m, x: level + form(h)(m, x), [torch.zeros(1)]), **options)


@pytest.mark.parametrize(
    ("curvatures", "point", "kind", "curvature"),
    [
        ([2.0, -1.0], (0.0, 0.0), "saddle", "negative"),
        ([2.0, -1.0], (0.0, 0.01), "saddle", "negative"),
        ([2.0, -1.0], (0.0, 0.48), "not stationary", "negative"),
        ([1000.0, -1.0], (0.0, 0.48), "not stationary", "negative"),  # by λmax, this gradient is small
        ([2.0, -1.0], (0.48, 0.0), "not stationary", "negative"),
        ([2.0, -1.0], (0.48, 0.96), "not stationary", "negative"),  # g'·H·g is 0.92: the two parts cancel in part
        ([2.0, -2.0], (0.48, 0.48), "not stationary", "negative"),  # g'·H·g is 0
        ([2.0, 0.1], (0.0, 0.0), "minimum", "positive"),
        ([2.0, 0.1], (0.0, 3.0), "not stationary", "positive"),
        ([1000.0, 0.1], (0.0, 3.0), "not stationary", "positive"),
        ([1000.0, 0.1], (0.001, 0.0), "minimum", "positive"),
        ([2.0, 0.0], (0.0, 3.0), "undetermined", "undetermined"),
        ([2.0, 0.0], (0.5, 3.0), "not stationary", "undetermined"),
        ([0.0, 0.0], (1.0, 1.0), "flat", "zero"),
    ],
)
def test_a_kind_needs_a_small_gradient(curvatures, point, kind, curvature):
    found = classify(curvatures, point)
    assert (found.kind, found.curvature) == (kind, curvature)
    assert found.stationary is (kind != "not stationary")


def test_a_gradient_without_curvature_is_not_stationary():
    model = Point(0.0, 0.0)
    H = Hessian(model, lambda m, x: 1 + m.w[0].square() + 0.1 * m.w[1], [torch.zeros(1)])
    assert classify_point(H).kind == "not stationary" and classify_point(H, tolerance=0.0).kind == "not stationary"


def test_a_given_gradient_decides():
    assert classify([2.0, -1.0], (0.0, 0.0), grad=torch.tensor([0.0, 0.5])).kind == "not stationary"
    assert classify([2.0, -1.0], (0.0, 0.48), grad=torch.zeros(2)).kind == "saddle"


def test_without_a_loss_the_curvature_decides():
    matrix = torch.diag(torch.tensor([2.0, -1.0]))
    found = classify_point(matrix, torch.tensor([0.0, 0.48]))
    assert found.kind == "saddle" and found.stationary is None and found.gradient == pytest.approx(0.48)


def test_the_sentence_does_not_name_a_saddle():
    found = classify([2.0, -1.0], (0.0, 0.48))
    assert str(found).startswith("not stationary; negative curvature: λmin = −1.0")
    assert str(found).endswith("‖g‖ = 0.48; condition number undefined with negative curvature")
    assert str(classify([2.0, 0.1], (0.0, 3.0))).startswith("not stationary; positive curvature: ")
    assert str(classify([2.0, -1.0], (0.0, 0.0))).startswith("saddle: ")

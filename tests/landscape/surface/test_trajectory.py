"""Paths of a training in the plane of their principal directions."""

import numpy as np
import pytest
import torch

from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.landscape import surface, trajectory
from support.landscapes import Point, form


def test_a_path_gives_its_principal_directions_and_their_span():
    model = Point(0.0, 0.0, 0.0)
    path = [torch.tensor([4.0 - k, 0.1 * (-1) ** k, 0.0], dtype=torch.float64) for k in range(5)]
    found = surface(model, form(torch.eye(3, dtype=torch.float64)), torch.zeros(1), "pca", n=3, path=path)
    assert found.x[-1] == pytest.approx(4.4, rel=1e-3)
    assert found.values[1, 2] == pytest.approx(4.4**2 / 2, rel=1e-3)
    assert found.plot(trajectory(model, path)).to_dict()


def test_a_path_in_a_plane_is_held_by_it():
    model = Point(1.0, 1.0, 1.0)
    u, v = np.array([2.0, 2.0, 1.0]) / 3, np.array([-2.0, 1.0, 2.0]) / 3
    inside = np.array([[4, 1], [3, -1], [1, 1], [0.5, 0], [0, 0]])
    path = [{"w": torch.tensor(1 + a * u + b * v)} for a, b in inside]
    found = trajectory(model, path)
    assert sum(found.explained) == pytest.approx(1, rel=1e-12)
    assert found.distance == pytest.approx(np.zeros(5), abs=1e-12)
    products = found.points @ found.points.T  # whatever the signs and the turn of the axes
    assert products == pytest.approx(inside @ inside.T, abs=1e-12)


def test_the_shares_are_those_of_numpys_svd():
    generator = np.random.default_rng(0)
    path = np.cumsum(generator.standard_normal((12, 40)), 0)
    model = Point(*path[-1])
    found = trajectory(model, [torch.tensor(row) for row in path])
    singular = np.linalg.svd(path - path.mean(0), compute_uv=False) ** 2
    assert found.explained == pytest.approx(tuple(singular[:2] / singular.sum()), rel=1e-10)
    assert sum(found.explained) < 0.95
    assert found.points[-1] == pytest.approx([0, 0], abs=1e-12)
    whole = np.linalg.norm(path - path[-1], axis=1)
    assert np.hypot(*found.points.T) ** 2 + found.distance**2 == pytest.approx(whole**2, rel=1e-10)


def test_what_is_no_path_is_refused():
    model = torch.nn.Linear(2, 1)
    with pytest.raises(ArgumentError, match="path must have at least 3 points, got NoneType"):
        trajectory(model, None)
    with pytest.raises(ArgumentTypeError, match=r"a point of a path, must be a state dict, .* got a str"):
        trajectory(model, ["a", "b", "c"])


def test_given_directions_are_made_orthonormal():
    model = Point(0.0, 0.0)
    path = [torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])]
    found = trajectory(model, path, ([torch.tensor([2.0, 0.0])], [torch.tensor([5.0, 1.0])]))
    assert found.points == pytest.approx(np.array([[3, 1], [1, 2], [0, 0]]), abs=1e-12)
    assert sum(found.explained) == pytest.approx(1)
    assert found.span == pytest.approx((3.3, 2.2))
    assert found.plot().to_dict()
    with pytest.raises(ArgumentError, match="must span a plane"):
        trajectory(model, path, ([torch.tensor([2.0, 0.0])], [torch.tensor([5.0, 0.0])]))
    with pytest.raises(ArgumentError, match="a point of a path, must be finite, got NaN or Inf in"):
        trajectory(model, [*path, [p.detach() / 0 for p in model.parameters()]])
    with pytest.raises(ArgumentError, match="at least 3 points, got 2"):
        trajectory(model, path[:2])

"""The surfaces are what they say: their minima and saddles, the ravine's condition, the plateau's flatness."""

import pytest
import torch

from fallline.problems import PROBLEMS

EVERY_PROBLEM = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def point(coordinates):
    return torch.tensor(coordinates, dtype=torch.float64, requires_grad=True)


def gradient(problem, coordinates):
    at = point(coordinates)
    return torch.autograd.grad(problem(at), at)[0]


def curvatures(problem, coordinates):
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(problem.function, point(coordinates)))


@EVERY_PROBLEM
def test_the_gradient_vanishes_at_minima_and_saddles(problem):
    assert problem.minima
    for where in (*problem.minima, *problem.saddles):
        assert torch.equal(gradient(problem, where), torch.zeros(2, dtype=torch.float64))


@EVERY_PROBLEM
def test_minima_curve_up_and_are_the_lowest_points_at_value_0(problem):
    for where in problem.minima:
        assert problem(point(where)).item() == 0
        assert (curvatures(problem, where) > 0).all()
    axes = [torch.linspace(*limits, 201, dtype=torch.float64) for limits in problem.domain]
    assert problem(torch.cartesian_prod(*axes)).min() >= 0


@EVERY_PROBLEM
def test_saddles_curve_up_and_down(problem):
    for where in problem.saddles:
        assert curvatures(problem, where).sign().tolist() == [-1, 1]


def test_there_is_a_saddle():
    assert PROBLEMS["saddle"].saddles


def test_the_ravine_is_100_times_as_steep_across_as_along():
    low, high = curvatures(PROBLEMS["ravine"], PROBLEMS["ravine"].start)
    assert high / low == pytest.approx(100, rel=1e-12)  # a few roundings of float64


def test_the_plateau_is_flat_where_descent_begins():
    problem = PROBLEMS["plateau"]
    steepest = gradient(problem, (1.0, 0.0)).norm()
    assert gradient(problem, problem.start).norm() < steepest / 700


def test_the_saddle_is_ten_times_as_steep_across_as_down():
    assert curvatures(PROBLEMS["saddle"], (0.0, 0.0)).tolist() == [-1, 10]


@EVERY_PROBLEM
def test_the_domain_holds_start_and_minima(problem):
    for where in (problem.start, *problem.minima, *problem.saddles):
        assert all(low < c < high for c, (low, high) in zip(where, problem.domain, strict=True))


@EVERY_PROBLEM
def test_a_grid_is_a_batch_of_points(problem):
    points = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(problem(points)[2, 1], problem(points[2, 1]))


@EVERY_PROBLEM
def test_a_problem_is_described_in_one_sentence(problem):
    assert problem.summary.endswith(".") and "\n" not in problem.summary

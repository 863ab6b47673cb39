"""The ravine shows what it is for: momentum and Adam are ahead of SGD, and all of it is in the picture."""

import numpy as np
import pytest

from fallline.lab.race import race
from fallline.lab.race.runs import ARMS
from fallline.lab.race.scene import contours
from fallline.problems import PROBLEMS, Problem


@pytest.fixture(scope="module")
def runs():
    return {run.arm: run for run in race("ravine").runs}


def test_momentum_and_adam_are_far_ahead_of_sgd(runs):
    assert list(runs) == list(ARMS)
    for arm in ("momentum", "adam"):
        assert runs[arm].reached < 0.4 * runs["sgd"].reached
    assert runs["sgd"].reached < 200  # SGD arrives too


def test_every_track_is_inside_the_frame(runs):
    (left, right), (low, high) = PROBLEMS["ravine"].domain
    for run in runs.values():
        assert ((run.points > [left, low]) & (run.points < [right, high])).all(), run.arm


def test_every_contour_is_closed_and_one_contains_the_start():
    problem = PROBLEMS["ravine"]
    lines = contours(problem)
    assert len(lines) == 8  # one for each level: a coarser grid tears the thin ones apart
    assert all(np.array_equal(line[0], line[-1]) for line in lines)
    outermost = max(lines, key=lambda line: float(np.ptp(line[:, 0])))
    assert contains(outermost, problem.start) and contains(outermost, problem.minima[0])


def contains(line, point):
    """Whether a closed line winds around a point."""
    away = line - point
    angles = np.unwrap(np.arctan2(away[:, 1], away[:, 0]))
    return abs(angles[-1] - angles[0]) > np.pi


def test_a_surface_of_the_users_own_has_closed_contours_if_the_frame_has_room():
    def bowl(points):
        return points.square().sum(-1)

    for size, closed in ((3.0, True), (1.1, False)):
        domain = ((-size, size), (-size, size))
        lines = contours(Problem("bowl", bowl, (1.0, 1.0), ((0.0, 0.0),), (), domain))
        assert all(np.array_equal(line[0], line[-1]) for line in lines) is closed

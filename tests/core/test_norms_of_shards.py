"""Norms over parameters that are spread out are those of the whole, also where a process holds nothing of one."""

import numpy as np
import pytest

from support import norm_runs
from support.ranks import on_ranks
from support.variants import normal

VALUES = [normal(1, 7, seed=1).double().numpy(), normal(5, seed=2).double().numpy()]
GRADS = [normal(1, 7, seed=3).double().numpy(), normal(5, seed=4).double().numpy()]
NORM = np.sqrt(sum((g * g).sum() for g in GRADS))


def close(found, expected):
    return all(np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
def test_ratio_radius_and_clipping_are_of_the_whole():
    first, second = on_ranks(2, norm_runs.scale_run)
    assert (first["parts"], second["parts"]) == ([7, 3], [0, 2])
    for found in (first, second):
        # LAMB's first update without eps and decay is the sign of the gradient.
        ratios = [np.linalg.norm(v) / np.sqrt(v.size) for v in VALUES]
        lamb = [v - 0.1 * r * np.sign(g) for v, r, g in zip(VALUES, ratios, GRADS, strict=True)]
        assert close(found["lamb"], lamb)
        assert close(found["climbed"], [v + 0.5 * g / NORM for v, g in zip(VALUES, GRADS, strict=True)])
        assert close(found["descended"], [v - 0.1 * g for v, g in zip(VALUES, GRADS, strict=True)])
        assert close(found["clipped"], [v - 0.1 * g * 0.01 / (NORM + 1e-6) for v, g in zip(VALUES, GRADS, strict=True)])
        assert found["norm"] == pytest.approx(NORM, rel=1e-6)


@pytest.mark.slow
def test_norms_and_random_numbers_go_over_both_dimensions_of_a_mesh():
    for found in on_ranks(4, norm_runs.grid_run):
        assert len(found) == 8
        for case, (far, norm) in found.items():
            # Squares are summed in another order, in float64; stochastic rounding is of the same numbers to the bit.
            assert far <= (1e-14 if case.startswith("LAMB") else 0) and norm <= 1e-14, case


@pytest.mark.slow
@pytest.mark.parametrize(
    ("climbing", "expected"),
    [(False, ([True, False, True, True], 4.0, 3.0)), (True, ([True, False, False, True], 2.0, 2.0))],
    ids=["plain", "sam"],
)
def test_an_overflow_on_one_process_skips_the_step_on_all(climbing, expected):
    assert on_ranks(2, norm_runs.overflow_run, climbing) == [expected] * 2

"""The levels of the looks hold over all looks together, and do not waste much."""

import numpy as np
import pytest
from scipy.special import stdtr

from fallline.lab.gate.levels import _crossing, nominal_levels


def first_crossings(level, most, paired, count):
    """The share of series without a difference that cross at each look for the first time."""
    g = np.random.default_rng(7)
    first, second = g.standard_normal((2, count, most))
    crossed, shares = np.zeros(count, bool), []
    for n, nominal in zip(range(4, most + 1, 4), nominal_levels(level, most, paired), strict=True):
        x, y = first[:, :n], second[:, :n]
        variance = (x - y).var(1, ddof=1) if paired else x.var(1, ddof=1) + y.var(1, ddof=1)
        t = (x - y).mean(1) / np.sqrt(variance / n)
        found = ~crossed & (stdtr((n - 1) * (1 if paired else 2), -t) < nominal)
        shares.append(found.mean())
        crossed |= found
    return np.array(shares)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n", [8, 16, 32])
@pytest.mark.parametrize("nominal", [0.4, 0.05, 1e-5])
def test_without_a_bound_at_the_look_before_a_crossing_has_the_nominal_level(n, paired, nominal):
    """To within 3 %, the largest error of the quadrature; all looks together leave more of the level unused."""
    assert _crossing(n, paired, 1e-12, nominal) == pytest.approx(nominal, rel=0.03)


@pytest.mark.parametrize("paired", [False, True])
def test_two_looks_spend_exactly_their_shares(paired):
    """With two looks the bound of each is exact; 200,000 series give the shares to within 0.0017 (4 SE)."""
    shares = first_crossings(0.05, 8, paired, 200_000)
    assert shares == pytest.approx([0.0125, 0.0375], abs=0.0017)


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
def test_four_looks_keep_the_level_and_use_most_of_it(paired):
    total = first_crossings(0.05, 16, paired, 200_000).sum()
    assert 0.045 < total < 0.0515  # 0.05 + 3 SE


@pytest.mark.parametrize("level", [0.05, 0.025 / 99, 1e-6])
@pytest.mark.parametrize("paired", [False, True])
def test_a_look_has_at_least_what_it_spends_and_never_more_than_the_level(level, paired):
    spent = [level * (n**2 - (n - 4) ** 2) / 1024 for n in range(4, 33, 4)]
    nominal = nominal_levels(level, 32, paired)
    assert all(a <= b < level for a, b in zip(spent, nominal, strict=True))


@pytest.mark.slow
def test_the_nodes_are_enough(monkeypatch):
    """Levels with twice as many nodes differ by less than 1 %."""
    from fallline.lab.gate import levels

    few = np.array([nominal_levels.__wrapped__(0.025, 12, paired) for paired in (False, True)])
    monkeypatch.setattr(levels, "_NODES", 128)
    monkeypatch.setattr(levels, "_angles", levels._angles.__wrapped__)
    many = np.array([nominal_levels.__wrapped__(0.025, 12, paired) for paired in (False, True)])
    assert few == pytest.approx(many, rel=0.01)

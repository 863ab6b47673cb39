"""The smoothed loss rises where the losses do, not before, and a constant loss does no harm."""

import numpy as np
import pytest

from fallline.landscape.lr_range.slope import local_lines, read

RATES = np.geomspace(1e-5, 1, 100)
FALL = 2.3 / (1 + 20 * RATES)


def diverging(at, factor, noise=0.0, seed=0, after=4):
    """Losses that fall until a rate, and then grow by a factor per update for some updates."""
    last = int(np.searchsorted(RATES, at))
    losses = FALL + noise * np.random.default_rng(seed).standard_normal(len(RATES))
    losses[last + 1 :] = losses[last] * factor ** np.arange(1, len(RATES) - last)
    return RATES[: last + 1 + after], losses[: last + 1 + after], RATES[last]


@pytest.mark.parametrize("after", [1, 2, 4, 8])
@pytest.mark.parametrize("factor", [1.5, 3, 10, 1e6])
@pytest.mark.parametrize("at", [0.02, 0.1, 0.35])
def test_the_loss_stops_falling_where_it_rises(at, factor, after):
    rates, losses, last = diverging(at, factor, after=after)
    found = read(rates, losses, FALL[0], True)
    if (factor, after) == (1.5, 1):
        return  # one loss that is a little higher is no rise
    assert found.high == pytest.approx(last)
    assert found.suggestion <= last
    before = rates <= last
    assert np.abs(found.smooth[before] - losses[before]).max() < 0.02 * FALL[0]


@pytest.mark.parametrize("seed", range(20))
def test_noise_moves_the_end_by_little(seed):
    rates, losses, last = diverging(0.35, 3.0, noise=0.02, seed=seed)
    found = read(rates, losses, FALL[0], True)
    assert 0.6 * last <= found.high <= 1.2 * last


def test_a_gradual_rise_ends_at_the_lowest_loss():
    losses = 1 + (np.log10(RATES) + 2) ** 2
    found = read(RATES, losses, losses[0], False)
    assert found.high == pytest.approx(1e-2, rel=0.3)


def test_a_jump_upwards_before_the_end_is_the_end():
    losses = FALL.copy()
    losses[60:] = 5.0
    assert read(RATES, losses, FALL[0], False).high == pytest.approx(RATES[59])


@pytest.mark.parametrize("value", [2.3, 1.0, 1e-8, -3.7, 0.0])
def test_a_constant_loss_does_no_harm(value):
    found = read(RATES, np.full(100, value), value, False)
    assert found.high == RATES[-1]
    assert "the loss is the same at every lr up to 1; check that it depends on the trained parameters" in found.verdict


@pytest.mark.parametrize("value", [2.3, -3.7])
def test_a_constant_loss_up_to_rounding_does_no_harm(value):
    rounding = value * (1 + 1e-15 * np.random.default_rng(0).standard_normal(100))
    assert read(RATES, rounding, value, False).high == RATES[-1]


def test_a_flat_loss_that_rises_is_harmed_where_it_rises():
    losses = np.full(100, 2.3)
    losses[70:] += np.geomspace(0.1, 100, 30)
    found = read(RATES, losses, 2.3, True)
    assert found.high == pytest.approx(RATES[69])


def test_lines_are_local():
    value, slope = local_lines(np.log10(RATES), FALL)
    assert np.abs(value - FALL).max() < 0.02 and (slope <= 0).all()

"""What a curve of losses over rates says: where it falls fastest, and where it stops."""

import numpy as np
import pytest

from fallline.landscape.lr_range.slope import local_lines, read


def noisy(seed, sigma=0.02):
    """A loss of which the truth is known: a step in log lr down at 1e-3, up at 1e-1."""
    rates = np.geomspace(1e-7, 10, 100)
    x = np.log10(rates)
    truth = 2.3 - 1.2 / (1 + np.exp(-6 * (x + 3))) + np.exp(6 * (x + 0.7))
    return rates, truth, truth + sigma * np.random.default_rng(seed).standard_normal(100)


def test_the_slope_is_against_log_lr():
    """Against lr itself, the noise of the lowest rates would win: its denominators are the smallest."""
    for seed in range(20):
        rates, _, losses = noisy(seed)
        naive = rates[np.gradient(losses, rates).argmin()]
        found = read(rates, losses, 2.3, True)
        assert naive < 1e-6
        assert 10**-3.4 < found.suggestion < 10**-2.6
        assert 10**-4 < found.low < 10**-3 < 10**-2.5 < found.high < 10**-1
        assert found.noise == pytest.approx(0.02, rel=0.6)


def test_a_loss_that_rises_and_falls_again_has_stopped_falling_where_it_rose():
    rates, truth, _ = noisy(0)
    lucky = np.where((rates > 0.02) & (rates < 0.2), 0.5, truth) + 0.8 * np.exp(-((np.log10(rates) + 2) ** 2) / 0.02)
    assert read(rates, lucky, 2.3, True).high < 0.01


def test_the_suggestion_is_before_the_end_however_steep_the_loss_falls_after_it():
    rates = np.geomspace(1e-7, 10, 100)
    x = np.log10(rates)
    first, second = 0.6 / (1 + np.exp(-6 * (x + 4))), 1.2 / (1 + np.exp(-20 * (x + 1)))
    found = read(rates, 2.3 - first - second + np.exp(-10 * (x + 2.6) ** 2), 2.3, True)  # a hump between them
    assert 10**-4.3 < found.suggestion < 10**-3.7 and found.low < found.suggestion < found.high < 10**-3


def test_the_range_begins_where_a_tenth_of_the_fall_is_done():
    rates, truth, _ = noisy(0)
    tenth = 10 ** (-3 - np.log(9) / 6)  # of a logistic fall of steepness 6 about 1e-3
    assert read(rates, truth, 2.3, True).low == pytest.approx(tenth, rel=0.25)  # smoothing begins it a little earlier


def test_local_lines_are_numpys_weighted_fits():
    x, y = np.linspace(-7, 1, 40), np.random.default_rng(0).standard_normal(40)
    value, slope = local_lines(x, y)
    for k in range(40):
        distance = np.abs(x - x[k])
        reach = max(0.4, 1.001 * np.sort(distance)[6])
        weights = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
        expected = np.polyfit(x - x[k], y, 1, w=np.sqrt(weights))
        assert (slope[k], value[k]) == pytest.approx(tuple(expected), abs=1e-10)


@pytest.mark.parametrize(
    ("losses", "diverged", "sentence"),
    [
        (np.full(50, 1.0), False, "the same at every lr up to 10"),
        (1 + 0.1 * np.random.default_rng(0).standard_normal(50), False, "does not fall by more than its noise"),
        (np.linspace(1, 3, 50), True, "does not fall by more than its noise"),
        (np.linspace(1, 0.1, 50), False, "still falls at the highest lr, 10; increase high"),
        (np.array([1e9, np.inf]), True, "within 2 updates: every learning rate was too high; decrease low"),
        (np.array([np.nan]), True, "within 1 update: every learning rate"),
        (np.full(50, -5.0) - np.linspace(0, 1, 50), False, "increase high"),
    ],
)
def test_there_is_always_an_answer(losses, diverged, sentence):
    rates = np.geomspace(1e-5, 10, len(losses)) if len(losses) > 1 else np.array([1e-5])
    start = -5.0 if losses[0] < 0 else 1.0
    found = read(rates, losses, start, diverged)
    assert sentence in found.verdict
    assert 0 < found.low <= found.suggestion <= found.high
    assert np.isfinite(found.smooth).all() and np.isfinite(found.slope).all()

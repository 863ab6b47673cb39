"""The range test on noisy losses: no single batch stops it or draws its bounds, and divergence is still found."""

import numpy as np
import pytest
import torch

from fallline.landscape import lr_range
from fallline.landscape.lr_range.training import RisingRate
from fallline.loss_curves import spikes
from support.landscapes import Point

RUNS = 400


def noise(kind, batch, runs=RUNS, updates=101):
    rng = np.random.default_rng(batch)
    if kind == "normal":
        return rng.chisquare(batch, (runs, updates)) / batch
    return (rng.standard_t(3, (runs, updates, batch)) ** 2).mean(2)


class Replay:
    """Losses that are known beforehand, whatever the parameter is."""

    def __init__(self, losses):
        self.losses = iter(losses)

    def __call__(self, model, batch):
        return (0 * model.w).sum() + next(self.losses)


def replay(losses, steps=100, **options):
    model = Point(1.0)
    return lr_range(model, torch.optim.SGD(model.parameters()), Replay(losses), torch.ones(1), steps=steps, **options)


def stops(losses):
    """Return after how many losses the check of the range test stops, or None."""
    point = Point(1.0)
    test = RisingRate(point, torch.optim.SGD(point.parameters()), None, 1, None, None, None)
    return next((k for k in range(2, len(losses) + 1) if test._has_diverged(losses[:k])), None)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "batch"), [("normal", 1), ("normal", 2), ("normal", 4), ("normal", 8), ("t3", 32)])
def test_at_most_one_percent_of_tests_without_divergence_stop(kind, batch):
    assert sum(stops(row) is not None for row in noise(kind, batch).tolist()) <= 0.01 * RUNS


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "batch"), [("normal", 1), ("normal", 32), ("t3", 32)])
def test_a_loss_that_explodes_stops_the_test_soon(kind, batch):
    """From update 60 on, the loss is multiplied by 3 per update."""
    grown = noise(kind, batch, 200) * 3.0 ** np.maximum(0, np.arange(101) - 60)
    found = [stops(row) for row in grown.tolist()]
    assert None not in found and sum(k <= 60 for k in found) <= 0.02 * len(found)
    assert np.median(found) <= (75 if batch == 1 else 70)


def test_a_loss_that_explodes_at_once_stops_the_test():
    losses = [2.3, *(1e5 * noise("normal", 32, 1)[0]).tolist()]
    assert stops(losses) <= 12
    found = replay(losses)
    assert found.diverged and found.start == pytest.approx(2.3)


def test_a_first_batch_of_little_loss_neither_stops_the_test_nor_draws_its_bounds():
    """A fall from 2 to 1 at lr 0.1, and a first loss of 0.01 by chance."""
    rates = np.geomspace(1e-7, 10, 100)
    curve = 2 - 1 / (1 + (0.01 / rates) ** 2)
    curve = curve * (1 + 0.02 * np.random.default_rng(0).standard_normal(100))
    usual, unlucky = (replay([first, *curve.tolist()]) for first in (2.0, 0.01))
    assert not usual.diverged and not unlucky.diverged and len(unlucky.lrs) == 100
    assert unlucky.suggestion == usual.suggestion and unlucky.verdict == usual.verdict
    assert np.array_equal(unlucky.smooth, usual.smooth)


def test_a_spike_near_the_end_of_a_test_is_no_divergence():
    losses = [2.0] * 50 + [1e6] * 2 + [1.5] * 20 + [1e6] + [1.0] * 30
    assert not replay(losses).diverged


def test_the_first_loss_alone_decides_no_spikes():
    quiet = [1.0 + 0.01 * (k % 3) for k in range(100)]
    quiet[60] = 3.0
    assert spikes([1000.0, *quiet[1:]]) == spikes(quiet) == [60]
    assert spikes([1e-6, *[1.0 + 0.001 * (k % 2) for k in range(60)], 1.05, 1.0]) == []  # under 10 % of the level

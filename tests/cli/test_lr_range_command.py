"""`fallline lr-range` measures what a study trains: the task's accumulation and weights, from a seeded start."""

import numpy as np
import pytest

from fallline.cli.lr_range import _measure
from fallline.lab.design.arms import make_arms
from fallline.lab.tasks import get_task

TASK = '''
import fallline
import torch


@fallline.task(steps=20, accumulate=2)
class Ragged:
    """Fits a number to batches of one token and of three."""

    def model(self):
        return torch.nn.Linear(1, 1, bias=False)

    def batches(self, split, generator):
        for _ in iter(int, 1 if split == "train" else 0):
            yield torch.full((1, 1), 5.0)
            yield torch.full((1, 3), 1.0)

    def size(self, batch):
        return batch.numel()

    def loss(self, model, batch):
        return (model.weight.sum() - batch).square().mean()
'''


@pytest.fixture
def measured(tmp_path):
    (tmp_path / "ragged.py").write_text(TASK)
    (arm,) = make_arms(["sgd"], ["constant"])

    def call(accumulate=None, seed=0):
        task = get_task(f"{tmp_path / 'ragged.py'}:Ragged")
        return _measure(task, arm, 1e-6, 0.1, 10, accumulate, seed, "cpu")

    return call


def test_updates_take_the_batches_of_the_task_weighted_by_its_sizes(measured):
    """Of the four tokens 5, 1, 1, 1, with mean 2 and variance 3, the loss at w is (w − 2)² + 3; descent is by hand."""
    found = measured()
    assert (found.batches, measured(accumulate=1).batches) == (22, 11)
    factors = np.cumprod(1 - 2 * found.lrs)
    assert found.losses == pytest.approx(3 + (found.start - 3) * factors**2, rel=1e-5)


def test_a_seed_decides_the_start(measured):
    assert measured(seed=1).start == measured(seed=1).start != measured(seed=2).start

"""Tasks whose data come with Python or scikit-learn: their splits, their trivial losses, and what they learn."""

import collections
import math
import statistics

import pytest
import torch
from sklearn import datasets

from fallline.lab.tasks import get_task
from support.task_data import fixed

SIZES = {
    "breast-cancer": (341, 114, 114),
    "diabetes": (266, 88, 88),
    "digits-autoencoder": (1077, 360, 360),
    "digits-diffusion": (1077, 360, 360),
}


def validation_rows(task):
    val = task.split_indices(sum(SIZES[task.name]), SIZES[task.name][1], SIZES[task.name][2])["val"]
    return val.tolist()


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def expected_trivial_loss(task):
    """Computed from scikit-learn's arrays; for diffusion, from the noise of the validation batch."""
    if task.name == "breast-cancer":
        labels = datasets.load_breast_cancer().target[validation_rows(task)].tolist()
        return entropy(count / len(labels) for count in collections.Counter(labels).values())
    if task.name == "diabetes":
        target = datasets.load_diabetes().target
        return statistics.pvariance(target[validation_rows(task)].tolist()) / statistics.pvariance(target.tolist())
    if task.name == "digits-autoencoder":
        means = (datasets.load_digits().data[validation_rows(task)] / 16).mean(0).tolist()
        return sum(entropy((mean, 1 - mean)) for mean in means)
    _, noise = next(task.batches("val", fixed()))
    return statistics.mean(statistics.pvariance(pixel) for pixel in noise.T.tolist())


def best_constant(name, targets):
    """The output of a network that ignores its input and has the least loss on these targets."""
    if name == "breast-cancer":
        return (torch.bincount(targets) / len(targets)).log()
    mean = targets.mean(0).reshape(-1)
    return mean.clamp(min=1e-9).logit() if name == "digits-autoencoder" else mean  # some pixels are always black


@pytest.mark.parametrize("name", SIZES)
def test_the_splits_are_disjoint_and_the_trivial_loss_is_that_of_the_best_constant(name):
    task = get_task(name)
    parts = [task.load(split) for split in ("train", "val", "test")]
    assert tuple(len(targets) for _, targets in parts) == SIZES[name]
    rows = [bytes(row.contiguous().numpy().data) for inputs, _ in parts for row in inputs]
    assert len(set(rows)) == len(rows) == sum(SIZES[name])  # no row of these tables occurs twice
    assert task.trivial_loss() == pytest.approx(expected_trivial_loss(task), rel=1e-5)
    (batch,) = task.batches("val", fixed())
    constant = best_constant(name, batch[1])
    assert task.loss(lambda inputs: constant.expand(len(inputs), -1), batch).item() == pytest.approx(
        task.trivial_loss(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "steps", "settings"),
    [
        ("breast-cancer", 40, {}),
        ("diabetes", 40, {}),
        ("digits-autoencoder", 60, {}),
        ("digits-diffusion", 40, {}),
        ("text-gru", 40, {"batch_size": 4}),
        ("text-large", 20, {"batch_size": 2}),
    ],
)
def test_a_short_run_beats_the_trivial_loss_and_repeats_bit_for_bit(name, steps, settings):
    task = get_task(name, **settings)
    model, losses = train(task, steps)
    assert train(task, 3)[1] == losses[:3]
    batch = next(task.batches("val", fixed()))
    with torch.no_grad():
        assert task.loss(model, batch).item() < task.trivial_loss()


def train(task, steps):
    torch.manual_seed(0)
    model, batches = task.model(), task.batches("train", fixed(1))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    torch.manual_seed(steps)  # batches may draw from their own generator only
    for _ in range(steps):
        loss = task.loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_noisy_digit_without_its_noise_is_the_digit(split):
    task = get_task("digits-diffusion")
    inputs, noise = (part.double() for part in next(task.batches(split, fixed())))
    noisy, angles = inputs[:, :-1], inputs[:, -1:] * math.pi / 2
    clean = (noisy - angles.sin() * noise) / angles.cos()
    early = inputs[:, -1] < 0.9  # later, the image is divided by nearly 0
    digits = {tuple(row) for row in datasets.load_digits().data.astype(int).tolist()}
    assert {tuple(row) for row in ((clean[early] + 1) * 8).round().long().tolist()} <= digits

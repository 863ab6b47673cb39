"""NumPy's and Python's random numbers are decided by the trial, as torch's are: not by what its process did before."""

import functools
import random

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import generator_states, restore_generators
from fallline.lab.run.loop import Checkpoint
from fallline.lab.run.trial import run
from fallline.lab.tasks import Digits, get_task
from support.killing import interrupt_training


class Noisy(Digits):
    """Initial weights, batches and loss have noise from NumPy and `random`; and so has what `__init__` prepares."""

    def __init__(self):
        self.scale = 1 + 0.1 * np.random.rand() + 0.1 * random.random()

    def model(self):
        model = super().model()
        with torch.no_grad():
            next(model.parameters()).mul_(1 + 0.1 * np.random.rand() + 0.1 * random.random())
        return model

    def batches(self, split, generator):
        for images, labels in super().batches(split, generator):
            yield images * (1 + 0.1 * (np.random.rand() + random.gauss(0, 1)) * (split == "train")), labels

    def loss(self, model, batch):
        noise = 0.1 * np.random.randn() + 0.1 * random.random()
        return self.scale * super().loss(model, batch) * (1 + noise * model.training)


@pytest.fixture
def noisy(monkeypatch):
    monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": Noisy})


def trial(seed=7, steps=40):
    return Trial("tune", "digits", "arm", "sgd", "cosine", steps, 0, seed, {"lr": 1e-2})


def test_a_trial_does_not_depend_on_what_its_process_did_before(noisy):
    first, _ = run(trial())
    np.random.rand(5), random.random()
    again, _ = run(trial())
    assert first == again
    assert run(trial(seed=8))[0] != first


def test_what_a_task_draws_when_it_is_made_is_the_same_in_every_trial(noisy):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert get_task("digits").scale == get_task("digits").scale
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_a_checkpoint_restores_all_generators(noisy, tmp_path, monkeypatch):
    whole, _ = run(trial())
    interrupt_training(monkeypatch, 18)
    checkpoint = Checkpoint(tmp_path / "run.pt", 7)
    with pytest.raises(KeyboardInterrupt):
        run(trial(), checkpoint=checkpoint)
    assert run(trial(), checkpoint=checkpoint)[0] == whole


def test_states_are_restored_with_the_spare_gaussian_number():
    random.gauss(0, 1), np.random.randn(), torch.randn(1)
    states = generator_states()
    first = random.gauss(0, 1), np.random.randn(), np.random.rand(), torch.randn(1).item()
    restore_generators(states)
    assert first == (random.gauss(0, 1), np.random.randn(), np.random.rand(), torch.randn(1).item())


def test_what_a_process_loads_once_does_not_shift_the_numbers_of_its_first_trial(monkeypatch):
    @functools.cache
    def data(split):
        return torch.randn(64, 4) + np.random.rand() + random.random()  # as an import may draw, too

    class Cached(Noisy):
        def batches(self, split, generator):
            while True:
                yield data(split)
                if split != "train":
                    return

        def model(self):
            return torch.nn.Linear(4, 1)

        def loss(self, model, batch):
            return (model(batch) + np.random.rand() - batch.sum(1, keepdim=True)).square().mean()

        def trivial_loss(self):
            return None

    outcomes = []
    for _ in range(2):  # two processes, in effect: the cache and what is known of it are empty
        data.cache_clear()
        monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": type("Cached", (Cached,), {"evaluate": _nothing})})
        np.random.rand(), random.random(), torch.rand(1)
        outcomes += [run(trial())[0], run(trial())[0]]
    assert outcomes[0] == outcomes[1] == outcomes[2] == outcomes[3]


def _nothing(self, model, batch):
    return {}


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    file = tmp_path / "noisy_digits.py"
    file.write_text(
        "import random, numpy as np, fallline as fl\nfrom fallline.lab.tasks import Digits\n"
        "@fl.task(steps=40)\nclass Mine(Digits):\n"
        "    def loss(self, model, batch):\n"
        "        noise = model.training * (np.random.rand() + random.random())\n"
        "        return super().loss(model, batch) * (1 + 0.1 * noise)\n"
    )
    tables = []
    for jobs in (0, 2):
        out = tmp_path / str(jobs)
        study = fl.compare(f"{file}:Mine", ["sgd", "adam"], trials=2, seeds=2, jobs=jobs, out=out)
        tables.append((study.store.folder / "results.csv").read_text())
    assert tables[0] == tables[1]

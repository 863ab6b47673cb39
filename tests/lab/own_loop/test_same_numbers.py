"""The same study gives the same numbers as a task, as a function `train(trial)` and as a command."""

import math

import pytest
import torch

import fallline as fl
from support.scripts import THREE, write_script

OPTIONS = {"optimizers": ("adamw", "momentum"), "trials": 4, "seeds": 4, "equal": "steps", "steps": 40}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check_equal(one, two):
    for arm in (row["arm"] for row in one.leaderboard()):
        for a, b in zip(one.confirmation_trials(arm), two.confirmation_trials(arm), strict=True):
            assert (a.options, a.seed) == (b.options, b.seed)
            for name in ("val_loss", "test_loss"):
                assert one.outcome(a).metrics[name] == two.outcome(b).metrics[name]
            assert (one.record.items[a.id]["metric"] == two.record.items[b.id]["metric"]).all()
    found, other = (next(iter(study.record.comparisons.values())).comparison for study in (one, two))
    assert found.design.scope.startswith("with new seeds and new test examples")
    # A task identifies its test examples by content and a loop by position; the order of sums over them differs.
    assert [found.low, found.high, found.p] == pytest.approx([other.low, other.high, other.p], rel=1e-12)


def test_a_task_and_a_function_give_the_same_numbers(tmp_path):
    write_script(tmp_path, THREE)
    task = fl.compare("train.py:AsTask", out="task", jobs=0, **OPTIONS)
    check_equal(task, fl.compare("train.py:as_function", out="function", jobs=0, **OPTIONS))


def test_a_function_that_diverges_is_an_outcome_of_its_arm():
    def train(trial):
        loss = torch.tensor(math.nan if trial.params["lr"] > 0.5 else 0.5 + trial.params["lr"] + trial.seed * 1e-12)
        trial.result(val_loss=loss, test_losses=loss.expand(8))

    study = fl.compare(train, ["adamw", "momentum@lr=1.0"], trials=1, seeds=2, jobs=0)
    assert study.leaderboard()[1]["failed"] == 2


@pytest.mark.slow
def test_a_task_a_function_and_a_command_give_the_same_numbers(tmp_path):
    arms = ("adamw@lr=1e-2", "momentum@lr=1e-2")  # without a range that the study may extend
    options = {**OPTIONS, "optimizers": arms, "trials": 1, "seeds": 2}
    command = write_script(tmp_path, THREE)
    task = fl.compare("train.py:AsTask", out="task", jobs=0, **options)
    check_equal(task, fl.compare("train.py:as_function", out="function", jobs=1, **options))
    loop = {"command": command, "settings": {"skip": "deterministic,seed,lr"}}
    check_equal(task, fl.compare(**loop, out="command", jobs=2, **options))

"""Trials in the calling process: the numbers of a worker, and no trace in the caller."""

import errno
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import StudyError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.spec import Spec
from fallline.lab.executors.in_process import CallingProcess
from fallline.lab.executors.pool import LocalPool
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.search.trials import tune
from fallline.lab.storage.store import Store
from fallline.lab.tasks.custom import name_of

TRIALS = tune(Spec("digits", 40, make_arms(["adam", "momentum"], ["cosine"]), 1, 2), {})[0]


def surroundings():
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
    )


@pytest.fixture
def changed_surroundings():
    """What a notebook may have set."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.set_grad_enabled(False)
    yield
    torch.set_num_threads(before)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.set_grad_enabled(True)


@pytest.mark.slow
def test_the_numbers_are_those_of_a_worker_and_the_caller_is_left_alone(tmp_path, changed_surroundings):
    before = surroundings()
    folders = [tmp_path / name for name in ("here", "pool")]
    with CallingProcess(folders[0]) as here, LocalPool(folders[1], 1) as pool:
        done = [list(executor.run(TRIALS)) for executor in (here, pool)]
    assert surroundings() == before
    assert done[0] == TRIALS and len(done[1]) == len(TRIALS) > 2
    for trial in TRIALS:
        here, there = (asdict(Store(folder).outcome(trial)) for folder in folders)
        assert repr(here) == repr(there) and here["curve"]


class Line:
    def model(self):
        return nn.Linear(4, 1)

    def batches(self, split, generator):
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(len(split)))
        while split == "train":
            chosen = torch.randperm(64, generator=generator)[:16]
            yield x[chosen], x[chosen].sum(1, keepdim=True)
        yield x, x.sum(1, keepdim=True)

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def trivial_loss(self):
        return 4.0


def test_a_task_of_this_process_runs_here_and_a_worker_says_what_to_do(tmp_path):
    trial = replace(TRIALS[0], task=name_of(fl.task(steps=40)(Line)), options={"lr": 0.1})
    assert trial.task == "here:Line"
    assert list(CallingProcess(tmp_path).run([trial])) == [trial]
    assert Store(tmp_path).outcome(trial).metrics["val_loss"] < 1.0
    with (
        LocalPool(tmp_path, 1) as pool,
        pytest.raises(ValueError, match="got 'here:Line' in another process; pass jobs=0"),
    ):
        list(pool.run([trial]))


def test_trials_run_one_by_one_as_they_are_asked_for(tmp_path):
    run = CallingProcess(tmp_path).run(TRIALS[:2])
    assert next(run) == TRIALS[0]
    assert [Store(tmp_path).outcome(trial) is None for trial in TRIALS[:2]] == [False, True]


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path):
    calls = []

    class Cut(Line):
        def loss(self, model, batch):
            calls.append(model.training)
            if model.training and sum(calls) == 25:
                raise KeyboardInterrupt
            return super().loss(model, batch)

    trial = replace(TRIALS[0], task=name_of(fl.task(steps=40)(Cut)), options={"lr": 0.1})
    here = CallingProcess(tmp_path, checkpoint_every=10)
    with pytest.raises(KeyboardInterrupt):
        list(here.run([trial]))
    list(here.run([trial]))
    assert sum(calls) == 25 + 20  # it went on with the 21st step
    list(CallingProcess(tmp_path / "whole").run([trial]))
    assert repr(Store(tmp_path).outcome(trial)) == repr(Store(tmp_path / "whole").outcome(trial))


def test_errors_come_back_and_surroundings_too(tmp_path, monkeypatch):
    torch.manual_seed(5)
    before = surroundings()
    with pytest.raises(ValueError, match="got 'sdg'"):
        list(CallingProcess(tmp_path).run([replace(TRIALS[0], optimizer="sdg")]))

    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(StudyError, match="the study must be written to"):
        list(CallingProcess(tmp_path).run(TRIALS[:1]))
    assert surroundings() == before


def test_within_inference_mode_gradients_are_on_as_in_a_worker():
    with torch.inference_mode(), as_in_a_worker():
        weight = torch.ones(2, requires_grad=True)
        weight.sum().backward()
    assert weight.grad.tolist() == [1.0, 1.0]

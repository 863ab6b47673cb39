"""The pool of workers: errors come back, dead workers are replaced, and nobody waits for ever."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fallline.errors import ArgumentError, StudyError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.spec import Spec
from fallline.lab.executors import make_executor
from fallline.lab.executors import pool as local
from fallline.lab.run.trial import run
from fallline.lab.search.trials import tune
from fallline.lab.storage.store import Store
from fallline.lab.user_code.imports import digest_of
from support.killing import FRAIL

TRIAL, OTHER = tune(Spec("digits", 40, make_arms(["adam"], ["cosine"]), 1, 2), {})[0]


def test_a_full_disk_ends_the_study_with_one_sentence(tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "save", full)
    error = local.run_and_save(TRIAL, tmp_path)
    assert isinstance(error, StudyError)
    assert "out: the study must be written to" in str(error) and "No space left on device; free up disk space" in str(
        error
    )


def test_an_error_of_a_trial_is_given_back(tmp_path):
    broken = replace(TRIAL, optimizer="sdg")
    with local.LocalPool(tmp_path, 1) as pool, pytest.raises(ValueError, match="got 'sdg'"):
        list(pool.run([broken]))
    assert pool._workers == []


def test_an_accelerator_runs_one_trial_at_a_time(tmp_path):
    options = {"shard": None, "ray": None, "checkpoint_every": None, "device": "cuda:0"}
    assert make_executor(tmp_path, jobs=None, **options).jobs == 1
    with pytest.raises(ArgumentError, match=r"^jobs: must be 1 on an accelerator, got jobs=2 with device='cuda:0'"):
        make_executor(tmp_path, jobs=2, **options)


def start_dying(monkeypatch, *said):
    """Let workers say something and die; return the list of those started."""
    started = []

    def start(self):
        ours, theirs = local.multiprocessing.Pipe()
        for word in said:
            theirs.send(word)
        theirs.close()
        process = local.multiprocessing.get_context("spawn").Process(target=Path.cwd, daemon=True)
        process.start()
        started.append(local._Worker(process, ours))
        return started[-1]

    monkeypatch.setattr(local.LocalPool, "_start", start)
    return started


def test_a_worker_that_dies_in_a_trial_is_replaced_twice_and_then_given_up(tmp_path, monkeypatch):
    started = start_dying(monkeypatch, None)  # None: it is ready
    with local.LocalPool(tmp_path, 1) as pool, pytest.raises(StudyError, match=rf"{TRIAL.id} \(adam\) killed its"):
        list(pool.run([TRIAL]))
    assert len(started) == 3


def test_workers_that_die_before_their_first_trial_end_the_study_and_blame_no_trial(tmp_path, monkeypatch):
    started = start_dying(monkeypatch)
    with local.LocalPool(tmp_path, 1) as pool, pytest.raises(StudyError, match=r"^3 worker processes ended before"):
        list(pool.run([TRIAL]))
    assert len(started) == 3


@pytest.mark.slow
def test_a_worker_that_starts_late_delays_nothing(tmp_path, monkeypatch):
    """The first of two workers never gets ready; the second runs everything."""
    silent, start = [], local.LocalPool._start

    def first_is_silent(self):
        if silent:
            return start(self)
        ours, theirs = local.multiprocessing.Pipe()
        process = local.multiprocessing.get_context("spawn").Process(target=Path.cwd, daemon=True)
        process.start()
        silent.append((ours, theirs))
        return local._Worker(process, ours)

    monkeypatch.setattr(local.LocalPool, "_start", first_is_silent)
    with local.LocalPool(tmp_path, 2) as pool:
        assert list(pool.run([TRIAL, OTHER])) == [TRIAL, OTHER]
    assert len(silent) == 1


class Unpicklable(Exception):
    def __init__(self, message, cause):
        super().__init__(message)


@pytest.mark.slow
def test_an_error_of_the_users_class_is_the_trials_outcome(tmp_path):
    (tmp_path / "mine.py").write_text(RAISING)
    file = tmp_path / "mine.py"
    trial = replace(TRIAL, optimizer=f"{file}:Mine", options={}, sources={str(file): digest_of(file)})
    with local.LocalPool(tmp_path / "study", 1) as pool:
        assert list(pool.run([trial, OTHER])) == [trial, OTHER]
    store = Store(tmp_path / "study")
    assert store.outcome(trial).failure["cause"] == "Strange: no buffer (mine.py, line 10)"
    assert 'raise Strange("no buffer", None)' in store.log(trial).read_text()
    assert store.outcome(OTHER).failure is None and not store.log(OTHER).exists()


def test_an_error_that_cannot_be_sent_is_told_by_its_words():
    error = local.sendable(Unpicklable("no batch", 3), TRIAL, Path())
    assert f"Trial {TRIAL.id} (adam) raised an error: Unpicklable: no batch. Fix it" in str(error)
    known = ArgumentError("x")
    assert local.sendable(known, TRIAL, Path()) is known


RAISING = """
import torch

class Strange(Exception):
    def __init__(self, message, cause):
        super().__init__(message)

class Mine(torch.optim.SGD):
    def step(self, closure=None):
        raise Strange("no buffer", None)
"""


def test_an_error_of_reading_is_no_full_disk(tmp_path, monkeypatch):
    def missing(*arguments, **keywords):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "data.bin")

    monkeypatch.setattr("fallline.lab.run.attempt.start", missing)
    assert local.run_and_save(TRIAL, tmp_path) is None
    cause = Store(tmp_path).outcome(TRIAL).failure["cause"]
    assert cause.startswith("FileNotFoundError: [Errno 2] No such file or directory: 'data.bin' (test_pool.py, line")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_in_a_trial_is_no_outcome_of_it(code, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fallline.lab.run.attempt.start", full)
    assert "free up disk space" in str(local.run_and_save(TRIAL, tmp_path))
    assert Store(tmp_path).outcome(TRIAL) is None


@pytest.mark.slow
def test_a_killed_trial_goes_on_from_its_checkpoint(tmp_path):
    """The task kills its worker once, after a checkpoint; the curve is that of an uninterrupted run."""
    (tmp_path / "mine.py").write_text(FRAIL)
    (tmp_path / "conductor").write_text(str(os.getpid()))
    place = f"{tmp_path / 'mine.py'}:Frail"
    trial = replace(TRIAL, task=place, options={"lr": 0.1}, settings={"marker": str(tmp_path / "killed")})
    with local.LocalPool(tmp_path / "study", 1, checkpoint_every=10) as pool:
        assert list(pool.run([trial])) == [trial]
    steps = [int(line) for line in (tmp_path / "killed").read_text().split()]
    assert steps == [15]  # it was killed there, and once
    store = Store(tmp_path / "study")
    uninterrupted, _ = run(trial)
    assert store.outcome(trial) == uninterrupted
    assert list((tmp_path / "study" / "checkpoints").iterdir()) == []

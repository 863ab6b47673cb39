"""An error that a task, a loss or an optimizer raises in a trial is that trial's outcome, and the study continues."""

import json
import re
from dataclasses import replace

import pytest
import torch

from fallline.cli import show
from fallline.errors import StudyError
from fallline.lab.comparison import compare
from fallline.lab.contract.contract import Examination
from fallline.lab.design.trial import Trial
from fallline.lab.executors.in_process import CallingProcess
from fallline.lab.executors.pool import LocalPool
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.report.render import to_markdown_page
from fallline.lab.report.topics import document
from fallline.lab.report.topics.leaderboard import leaderboard
from fallline.lab.run.attempt import attempt
from fallline.lab.run.reproduce import reproduce
from fallline.lab.run.timing import time_arms
from fallline.lab.storage.store import Store
from fallline.lab.tasks import Digits
from fallline.lab.user_code.imports import digest_of
from support.task_data import LINE

TASK = (
    LINE
    + """

class Base:
    def model(self):
        return torch.nn.Linear(1, 1)

    def batches(self, split, generator):
        return batches(split, generator)

    def loss(self, model, batch):
        loss = torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        self.check(model, loss)
        return loss

    def check(self, model, loss):
        pass

@fl.task(steps=40)
class Normal(Base):
    def check(self, model, loss):  # of a diverging model, a distribution whose parameters are NaN
        if loss > 1e3:
            torch.distributions.Normal(loss * float("nan"), 1.0)

@fl.task(steps=40)
class Memory(Base):
    def check(self, model, loss):
        if model.training and loss > 1e3:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")

@fl.task(steps=40)
class Address(Base):
    def check(self, model, loss):
        if loss > 1e3:
            raise MemoryError(f"no room beside {object()}")
"""
)


def trial(tmp_path, name="Normal", lr=2.0, **options):
    (tmp_path / "mine.py").write_text(TASK)
    file = tmp_path / "mine.py"
    sources = {str(file): digest_of(file)}
    place = f"{file}:{name}"
    return Trial("confirm", place, "sgd", "sgd", "cosine", 40, 0, 7, {"lr": lr, **options}, sources=sources)


RAISES = 1 + TASK.split("\n").index('            torch.distributions.Normal(loss * float("nan"), 1.0)')


def test_an_error_is_a_failure_with_its_step_its_cause_and_the_users_line(tmp_path):
    outcome, costs, traceback, output = attempt(trial(tmp_path))
    place = f"mine.py, line {RAISES}"
    failure = outcome.failure
    assert output == ""
    assert failure["state"] == "error" and 0 < failure["step"] < 40 and failure["source"] == f"ValueError ({place})"
    assert failure["cause"].startswith("ValueError: Expected parameter loc") and failure["cause"].endswith(f"({place})")
    assert outcome.curve and outcome.curve[-1]["step"] <= failure["step"]  # as far as it had come
    assert outcome.metrics["val_loss"] == outcome.curve[-1]["val_loss"] and "test_loss" not in outcome.metrics
    assert costs.step_ms > 0 and "distributions/distribution.py" in traceback


def test_what_the_process_did_before_does_not_decide_whether_a_distribution_raises(tmp_path):
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)  # as torch.compile does at its first use
    try:
        with as_in_a_worker():
            assert attempt(trial(tmp_path)).outcome.failure["state"] == "error"
        assert not torch.distributions.Distribution._validate_args  # the caller's setting
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize(("name", "error"), [("Memory", "OutOfMemoryError"), ("Address", "MemoryError")])
def test_memory_that_runs_out_is_an_outcome(name, error, tmp_path):
    failure = attempt(trial(tmp_path, name)).outcome.failure
    assert failure["state"] == "error" and failure["cause"].startswith(f"{error}: ")


def test_an_error_of_the_optimizer_is_an_outcome(tmp_path):
    outcome = attempt(replace(trial(tmp_path), optimizer="torch.optim:SGD", options={"lr": -1.0})).outcome
    assert outcome.failure["state"] == "error" and outcome.failure["step"] == 0
    assert "ValueError: Invalid learning rate: -1.0" in outcome.failure["cause"]


@pytest.mark.slow
def test_an_error_is_the_same_in_every_executor_and_when_it_is_reproduced(tmp_path):
    ones = [trial(tmp_path, name) for name in ("Normal", "Memory", "Address")]  # of the last, an address is in it
    texts = []
    for name, executor in (("here", CallingProcess), ("pool", lambda folder: LocalPool(folder, 2))):
        folder = tmp_path / name
        Store(folder)
        with executor(folder) as pool:
            assert len(list(pool.run(ones))) == 3
        texts.append([(folder / "trials" / one.id / "trial.json").read_text() for one in ones])
    assert texts[0] == texts[1]
    assert str(tmp_path) not in json.dumps(json.loads(texts[0][0])["outcome"])


def test_a_study_in_which_trials_raise_ends_with_a_report_that_names_them(tmp_path):
    place = trial(tmp_path).task
    study = compare(place, ["sgd@lr=0.3", "sgd@lr=2"], trials=1, seeds=2, jobs=0, out=tmp_path / "study")
    bad = study.arms[1]
    failed = [t for t in study.trials if study.outcome(t).failure]
    assert failed and {t.arm for t in failed} == {bad}
    text = to_markdown_page(document(study.record), {}, {})
    reason = r"1 of 1 tuning trials failed: 1 error \(at step \d+: ValueError: (.*); traceback in (\S+)\)"
    said = re.search(reason, text)
    assert said is not None and "mine.py, line" in said[1]
    assert "ValueError" in (tmp_path / "study" / said[2].replace("\\", "")).read_text()
    with show.console.capture() as capture:
        show.verdict(study)
    printed = capture.get()
    assert "tuning trials failed: " in printed
    assert re.search(rf"{re.escape(str(tmp_path))}/study/trials/\w+/traceback\.txt", "".join(printed.split()))
    table = leaderboard(study.record)
    ranks = {row["arm"]: table.columns[0].cell(row) for row in table.records}
    assert ranks == {study.arms[0]: "1", bad: "–"}
    lines = [line.split()[:2] for line in printed.splitlines()]
    assert ["1", study.arms[0]] in lines and ["–", bad] in lines
    again = reproduce(tmp_path / "study", failed[0].id)
    assert again.equal and again.again.failure["state"] == "error"


FLAKY = (
    TASK
    + """
import pathlib

@fl.task(steps=40)
class Flaky(Base):
    def check(self, model, loss):
        if pathlib.Path("broken").exists():
            assert loss < 0, f"no negative loss: {loss.item()}"
"""
)


def test_an_error_that_all_trials_share_ends_the_study_and_is_no_outcome(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "fallline.lab.contract.preflight.examine", lambda task: Examination([])
    )  # it would find the error first
    (tmp_path / "mine.py").write_text(FLAKY)
    (tmp_path / "broken").touch()
    options = {"trials": 2, "seeds": 2, "jobs": 0, "out": tmp_path / "study"}
    with pytest.raises(StudyError) as caught:
        compare("mine.py:Flaky", ["sgd", "adam"], **options)
    shared = r"All 6 trials of all arms raised the same error: AssertionError: no negative loss.* To continue, fix it"
    assert re.search(shared, str(caught.value))
    assert "AssertionError" in (tmp_path / "study" / "traceback.txt").read_text()
    assert list((tmp_path / "study" / "trials").iterdir()) == []
    (tmp_path / "broken").unlink()
    study = compare("mine.py:Flaky", ["sgd", "adam"], **options)
    assert all(row["failed"] == 0 for row in study.leaderboard())


class Ending(Digits):
    def batches(self, split, generator):
        for number, batch in enumerate(super().batches(split, generator)):
            if split == "train" and number == 3:
                return
            yield batch


def test_a_task_that_breaks_the_contract_ends_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Ending())
    with pytest.raises(StudyError, match="must yield batches indefinitely, got an end in step 3"):
        attempt(trial(tmp_path))


def test_timing_leaves_out_what_raises(tmp_path):
    good, bad = trial(tmp_path, lr=0.1), trial(tmp_path, lr=2.0)
    assert list(time_arms({"good": good, "bad": bad}, 0.1, skip_errors=True)) == ["good"]
    with pytest.raises(ValueError, match="Expected parameter loc"):
        time_arms({"good": good, "bad": bad}, 0.1)

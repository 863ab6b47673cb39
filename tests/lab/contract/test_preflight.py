"""The contract runs first, once, in dry runs too; an arm that cannot take the parameters is refused before trials."""

import json

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, StudyError, TaskWarning
from fallline.lab import load
from fallline.lab.contract import checks, preflight
from fallline.lab.specify import specify

TINY = {"trials": 2, "seeds": 2, "jobs": 0}
WORDS = ["--trials", "2", "--seeds", "2", "-j", "0"]
FILE = """
import fallline, torch
from torch import nn
POINTS = torch.randn(96, 4, generator=torch.Generator().manual_seed(96))
SPLITS = {"train": slice(0, 64), "val": slice(64, 80), "test": slice(80, 96)}
@fallline.task(steps=20, CHECKS)
class Mine:
    def model(self):
        return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    def batches(self, split, generator):
        points = POINTS[SPLITS[split]]
        while split ENDLESS:
            yield {"text": "a text", "x": points[torch.randperm(len(points), generator=generator)][:16]}
        yield {"text": "a text", "x": points}
    def loss(self, model, batch):
        return LOSS * nn.functional.cross_entropy(model(batch["x"]), (batch["x"][:, 0] > 0).long())
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(endless='== "train"', loss="1", checks="skip_checks=()"):
        text = FILE.replace("ENDLESS", endless).replace("LOSS", loss).replace("CHECKS", checks)
        (tmp_path / "mine.py").write_text(text)
        return "mine.py:Mine"

    return write


@pytest.fixture
def examined(monkeypatch):
    """The tasks that were examined."""
    seen, examine = [], preflight.examine

    def counted(task, *more):
        seen.append(task.name)
        return examine(task, *more)

    monkeypatch.setattr(preflight, "examine", counted)
    return seen


def test_a_batch_that_begins_with_a_text_is_a_study_like_any_other(mine, tmp_path):
    study = fl.compare(mine(), ["sgd"], out=tmp_path / "out", **TINY)
    assert study.leaderboard()[0]["failed"] == 0


@pytest.mark.filterwarnings("ignore::fallline.errors.TaskWarning")  # that it could not be read in time
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_validation_that_never_ends_is_told_however_little_time_there_is(mine, monkeypatch, seconds):
    monkeypatch.setattr(checks, "SECONDS", seconds)
    monkeypatch.setattr(checks, "ENDLESS", 100)
    with pytest.raises(StudyError, match=r'task Mine: batches\("val", …\) must end after one pass'):
        specify(mine(endless='!= "none"'), ["sgd"], ["cosine"])


@pytest.mark.parametrize("command", [["compare", "--dry-run", *WORDS], ["compare", *WORDS]])
def test_the_contract_runs_in_a_dry_run_too(mine, fallline, command, tmp_path):
    code, _, err = fallline(command[0], mine(loss="float('nan')"), "--optimizers", "sgd", *command[1:])
    assert code != 0 and "loss must be finite at the start" in " ".join(err.split())
    assert not (tmp_path / "fallline-runs").exists()


@pytest.mark.parametrize("command", ["lr-range", "landscape"])
def test_measurements_of_training_check_what_they_need(mine, fallline, command):
    code, _, err = fallline(command, mine(loss="float('nan')"))
    assert code != 0 and "(check 'loss')" in " ".join(err.split())


def test_a_measurement_of_training_does_not_read_validation(mine, fallline):
    code, _, err = fallline("lr-range", mine(endless='!= "none"'), "--steps", "10")
    assert code == 0, err


@pytest.mark.slow
def test_a_study_is_examined_once_and_not_again_when_it_is_completed(mine, examined, tmp_path):
    place, out = mine(), tmp_path / "out"
    specify(place, ["sgd"], ["cosine"], out=out)
    fl.compare(place, ["sgd", "adam"], out=out, **TINY)
    assert examined == ["Mine"]
    preflight._examined.clear()  # as in another process
    fl.compare(place, ["sgd", "adam"], out=out, **TINY)
    load(out).report(tmp_path / "report.html")
    assert examined == ["Mine"]
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n# edited\n")
    specify(place, ["sgd"], ["cosine"], out=out)
    assert examined == ["Mine", "Mine"]


def test_a_study_in_its_usual_folder_is_not_examined_again_either(mine, examined):
    fl.compare(mine(), ["sgd"], **TINY)
    preflight._examined.clear()
    fl.compare(mine(), ["sgd"], **TINY)
    assert examined == ["Mine"]


@pytest.mark.slow
def test_the_report_lists_skipped_checks(mine, tmp_path):
    study = fl.compare(mine(checks='skip_checks=("overlap", "overfit")'), ["sgd"], out=tmp_path / "out", **TINY)
    manifest = json.loads((tmp_path / "out" / "study.json").read_text())["manifest"]
    assert manifest["skipped_checks"] == ["overlap", "overfit"]
    (warning,) = [text for text in study.warnings() if "skip_checks" in text]
    assert warning.startswith("the checks overlap and overfit of the task were skipped")
    assert warning in study.report(tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_the_contract_warns_of_is_a_warning_once(mine):
    place = mine(loss="(0.3 + 0.7 * 0.5)")  # an ordinary factor: nothing to warn of
    specify(place, ["sgd"], ["cosine"])
    mine(endless='== "train"')
    text = (
        (preflight.Path("mine.py")).read_text().replace("torch.randperm(len(points), generator=generator)", "slice(64)")
    )
    preflight.Path("mine.py").write_text(text)
    with pytest.warns(TaskWarning, match="in a different order for another seed"):
        specify(place, ["sgd"], ["cosine"])
    specify(place, ["sgd", "adam"], ["cosine"])


@pytest.mark.parametrize("optimizer", ["torch.optim:Muon", "torch.optim:LBFGS"])
def test_an_arm_that_cannot_take_the_parameters_is_refused_before_the_first_trial(optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = "digits"
    if "LBFGS" in optimizer:  # it takes one group only

        class Grouped(fl.lab.tasks.Digits):
            def param_groups(self, model):
                return [{"params": [p], "lr": 0.1} for p in model.parameters()]

        monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": Grouped})
    with pytest.raises(
        ArgumentError, match=rf"^optimizers: {optimizer} must accept the parameters of task digits, got an"
    ):
        fl.compare(place, ["sgd", optimizer], steps=20, **TINY)
    assert not (tmp_path / "fallline-runs").exists()
    assert torch.get_default_dtype() == torch.float32

"""Studies of commands and functions, and ten ways in which a script can break them."""

import json
import math

import pytest

import fallline as fl
from fallline.errors import ArgumentError, StudyError, TaskWarning
from support.scripts import PRETEND, write_script

SMALL = {"trials": 4, "seeds": 4, "jobs": 0}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def compare(command, optimizers=("adamw", "lion"), **options):
    return fl.compare(command=command, optimizers=optimizers, **{**SMALL, **options})


ARGUMENTS = " --optimizer {optimizer} --lr {lr} --seed {seed}"


def test_a_command_is_compared_as_it_stands(tmp_path):
    study = compare(write_script(tmp_path) + ARGUMENTS, search="lr=1e-5..1e-1", settings={"test_metric": "test_loss"})
    assert study.baseline == "adamw"
    assert all(1e-4 < trial.options["lr"] < 1e-1 for trial in study.confirmation_trials("adamw"))
    text = study.report("report.html").read_text(encoding="utf-8")
    assert "on this test set" in text
    assert "fallline compare --command" in text
    (trial, *_) = study.confirmation_trials("lion")
    outputs = study.store.folder / "trials" / trial.id / "output.txt"
    assert outputs.read_text().startswith("$ ")
    assert f"--seed {trial.seed % 2**31}" in outputs.read_text()
    again = compare(write_script(tmp_path) + ARGUMENTS, search="lr=1e-5..1e-1", settings={"test_metric": "test_loss"})
    assert again.leaderboard() == study.leaderboard()


def test_variants_of_a_command_are_compared_without_a_search(tmp_path):
    study = compare(write_script(tmp_path) + " --seed {seed}", ["adamw"], variants={"plain": "", "rope": "--rope"})
    assert str(study.record.comparisons["rope"].verdict) == "worse"
    text = study.report("report.html").read_text(encoding="utf-8")
    assert "on the validation data used for tuning" in text
    assert "Sensitivity to the learning rate" not in text


def test_a_metric_in_a_file(tmp_path):
    command = write_script(tmp_path) + ARGUMENTS + " --json {arm}/{trial}.json"
    settings = {"metric_file": "{arm}/{trial}.json:val_loss"}
    study = compare(command, ["adamw"], settings=settings)
    found = json.loads((tmp_path / "adamw" / f"{study.confirmation_trials('adamw')[0].id}.json").read_text())
    assert study.confirmation("adamw")[0].metrics["val_loss"] == found["val_loss"]


def test_steps_that_the_study_sets_are_shared_by_all_arms(tmp_path):
    study = compare(write_script(tmp_path) + ARGUMENTS + " --steps {steps}", steps=200)
    assert {trial.steps for trial in study.trials} == {200}
    assert "200 steps" in study.report("report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_gpu_has_a_worker_of_its_own(tmp_path):
    script = PRETEND + "print('gpu', os.environ.get('CUDA_VISIBLE_DEVICES'))"
    study = compare(write_script(tmp_path, script) + ARGUMENTS, jobs=None, devices=("cuda:3", "cuda:5"), trials=1)
    found = {path.read_text().split("gpu ")[1].strip() for path in study.store.folder.glob("trials/*/output.txt")}
    assert found == {"3", "5"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": ("cuda",)}, "devices: must be cuda:N, each once, got cuda"),
        ({"devices": ("cuda:0", "cuda:0")}, "got cuda:0, cuda:0"),
        ({"devices": ("cuda:0",), "jobs": 3}, "devices: must be given without jobs, got jobs=3"),
    ],
)
def test_devices_that_cannot_be_used(tmp_path, options, words):
    with pytest.raises(ArgumentError) as error:
        compare(write_script(tmp_path) + ARGUMENTS, **{"jobs": None, **options})
    assert words in str(error.value)


def test_a_test_metric_stands_in_the_same_file(tmp_path):
    script = PRETEND.replace('{"val_loss": loss}', '{"val_loss": loss, "test_loss": loss + 1}')
    settings = {"metric_file": "out/{trial}.json:val_loss", "test_metric": "test_loss"}
    study = compare(
        write_script(tmp_path, script) + ARGUMENTS + " --json out/{trial}.json", ["adamw"], settings=settings
    )
    metrics = study.confirmation("adamw")[0].metrics
    assert metrics["test_loss"] == metrics["val_loss"] + 1


def test_an_old_file_is_not_taken_for_that_of_a_run(tmp_path):
    (tmp_path / "study").mkdir()
    script = PRETEND.replace("if args.json:", "if args.json and args.lr < 5e-3:")
    settings = {"metric_file": "{trial}.json:val_loss"}
    command = write_script(tmp_path, script) + ARGUMENTS + " --json ./{trial}.json"
    study = compare(command, ["adamw"], settings=settings, search="lr=1e-4..1e-1")
    failed = next(trial for trial in study.trials if study.outcome(trial).failure)
    assert "wrote no val_loss to" in study.outcome(failed).failure["cause"]
    (tmp_path / f"{failed.id}.json").write_text('{"val_loss": 0.0}')  # from somebody else
    study.store.discard(failed)
    again = compare(command, ["adamw"], settings=settings, search="lr=1e-4..1e-1")
    assert again.outcome(failed).failure


def test_another_range_reuses_the_trials_that_are_equal(tmp_path):
    command = write_script(tmp_path) + ARGUMENTS
    first = compare(command, ["adamw"], out="study", search="lr=1e-4..1e-2")
    second = compare(command, ["adamw"], out="study", search="lr=1e-5..1e-2", fork=True)
    assert first.trials[0].id == second.trials[0].id  # the default, which a range does not change


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("digits", {"search": "lr=1e-4..1e-2"}, "search: must be given with a command or a function train(trial), got"),
        ("digits", {"metric": "val_accuracy"}, "metric: must be given with a command or a function train(trial)"),
    ],
)
def test_arguments_of_a_training_loop_are_refused_with_a_task(task, options, words):
    with pytest.raises(ArgumentError) as error:
        fl.compare(task, ["adamw"], **SMALL, **options)
    assert words in str(error.value)
    assert "metric_name" not in str(error.value)


BREAKS = {
    "never printed": ("print('done')", "the command printed no number after val_loss"),
    "NaN": ("print('val_loss: nan')", "val_loss is nan"),
    "exit code": ("import sys; print('val_loss: 1'); sys.exit('no data')", "ended with exit code 1: no data"),
    "ignores the seed": ("print('val_loss: 1.5')", "two seeds must give different results, got val_loss 1.5 for both"),
    "hangs": ("import time; time.sleep(60)", "exceeded its time limit"),
    "dies after the result": (
        "import os, signal; print('val_loss: 1', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
        "was ended by signal SIGKILL",
    ),
    "raises": ("print(1 / 0)", "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_script_that_breaks_the_contract_is_one_sentence_before_the_study(tmp_path, kind):
    text, words = BREAKS[kind]
    command = write_script(tmp_path, text)
    with pytest.raises(StudyError) as error:
        compare(command + " --lr {lr} --seed {seed}", ["adamw"], settings={"timeout": 2.0})
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("fallline-runs/*/trials/*"))


def test_a_learning_rate_that_is_not_used(tmp_path):
    script = PRETEND.replace("math.log10(args.lr / best) ** 2", "0")
    with pytest.raises(StudyError, match=r"two learning rates, one of them ten times smaller, .* skip_checks lr"):
        compare(write_script(tmp_path, script) + ARGUMENTS)
    study = compare(write_script(tmp_path, script) + ARGUMENTS, settings={"skip": "lr"})
    assert study.record.manifest["skipped_checks"] == ["lr"]


def test_a_script_that_is_not_deterministic_is_measured(tmp_path):
    script = PRETEND.replace("random.seed(args.seed)", "random.seed()")
    with pytest.warns(TaskWarning, match=r"two runs with the same seed must give the same val_loss, got a difference"):
        compare(write_script(tmp_path, script) + ARGUMENTS)


def test_a_run_that_fails_in_the_study_is_an_outcome_with_its_output(tmp_path):
    script = PRETEND.replace("random.seed(args.seed)", "random.seed(args.seed)\nassert args.lr < 5e-3, 'too high'")
    study = compare(write_script(tmp_path, script) + ARGUMENTS, search="lr=1e-4..1e-1")
    failed = [t for t in study.trials if study.outcome(t).failure]
    assert failed
    failure = study.outcome(failed[0]).failure
    assert "AssertionError: too high" in failure["cause"]
    assert "too high" in (study.store.folder / "trials" / failed[0].id / failure["log"]).read_text()
    assert f"output in trials/{failed[0].id}/output.txt" in study.report("report.html").read_text(encoding="utf-8")


def test_code_that_is_edited_between_two_runs_is_refused(tmp_path):
    command = write_script(tmp_path) + ARGUMENTS
    (tmp_path / "helper.py").write_text("a = 1\n")
    compare(command, out="study")
    (tmp_path / "helper.py").write_text("a = 2\n")
    with pytest.raises(StudyError, match="holds a study with another specification"):
        compare(command, out="study", seeds=4)


def test_what_a_training_loop_of_the_user_cannot_do_is_said(tmp_path):
    command = write_script(tmp_path) + ARGUMENTS
    with pytest.raises(ArgumentError, match="vary: must be left out for a training loop of your own"):
        compare(command, vary={"warmup": [0, 0.1]})
    with pytest.raises(ArgumentError, match="landscape: needs a task with model, batches and loss"):
        compare(command, landscape=True)
    with pytest.raises(ArgumentError, match=r"a placeholder must be one of .* got \{learning_rate\}|\{learning_rate\}"):
        compare(command + " {learning_rate}")


def no_argument():
    pass


def test_a_function_without_an_argument_is_refused():
    with pytest.raises(ArgumentError, match=r"must take one argument, the trial, got no_argument\(\)"):
        fl.compare(no_argument, ["adamw"], **SMALL)


def test_a_function_that_reports_nothing_is_one_sentence():
    def train(trial):
        trial.log(1, train_loss=1.0)

    with pytest.raises(StudyError, match=r"the function returned without trial.result"):
        fl.compare(train, ["adamw"], **SMALL)


def test_a_function_in_a_notebook_with_a_decorator():
    @fl.task(metric="val_accuracy", mode="max", steps=50)
    def train(trial):
        """A pretended training."""
        trial.log(25, train_loss=1.0, val_accuracy=0.5)
        trial.log(50, train_loss=0.5, val_accuracy=0.5 + trial.params["lr"])
        assert trial.steps in (20, 50)  # the checks are shorter
        noise = trial.seed % 997 * 1e-6
        trial.result(val_accuracy=0.5 + noise + min(0.4, trial.params["lr"]), test_accuracy=0.5 + noise)

    study = fl.compare(train, ["adamw", "momentum"], **SMALL)
    assert (study.record.metric, study.record.mode) == ("val_accuracy", "max")
    assert "test accuracy" in study.report("report.html").read_text(encoding="utf-8")
    assert math.isfinite(study.leaderboard()[0]["test_accuracy"])

"""A study from beginning to end: any number of workers, killed and resumed, told apart or not."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fallline as fl
from fallline.lab import load
from fallline.lab.verdicts import Verdict

TINY = {"steps": 40, "trials": 2, "seeds": 2}
COMMAND = [sys.executable, "-c", "from fallline.cli import main; main()", "compare", "digits"]
COMMAND += ["--optimizers", "momentum,adam", "--steps", "300", "--trials", "4", "--seeds", "3", "-j", "2"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return fl.compare("digits", ["momentum", "adam"], out=tmp_path_factory.mktemp("tiny"), jobs=1, **TINY)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run([*COMMAND, "--out", folder], check=True, capture_output=True)
    return (folder / "results.csv").read_bytes()


def finished(folder):
    return len(list(folder.glob("trials/[!.]*")))


def start_and_wait(folder, trials, **options):
    folder.mkdir(exist_ok=True)
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen([*COMMAND, "--out", folder], stdout=subprocess.DEVNULL, stderr=errors, **options)
    deadline = time.monotonic() + 60
    while finished(folder) < trials:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)  # polls for an event, waits for no fixed time
    return process


def children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(child) for child in found]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_number_of_workers_and_the_order_of_arms_change_no_byte(tiny, tmp_path):
    fl.compare("digits", ["adam", "momentum"], out=tmp_path, jobs=2, **TINY)
    assert (tmp_path / "results.csv").read_bytes() == (tiny.store.folder / "results.csv").read_bytes()


def test_the_same_call_runs_nothing_again(tiny):
    calls = []
    again = fl.compare("digits", ["momentum", "adam"], out=tiny.store.folder, progress=calls.append, **TINY)
    assert calls == []
    assert again.leaderboard() == tiny.leaderboard()


def test_a_deleted_trial_is_run_again_and_gives_the_same(tiny):
    table = (tiny.store.folder / "results.csv").read_bytes()
    trial = tiny.trials[1]
    (tiny.store.folder / "trials" / trial.id / "trial.json").unlink()
    calls = []
    fl.compare("digits", ["momentum", "adam"], out=tiny.store.folder, progress=calls.append, **TINY)
    assert len(calls) == 1 and calls[0].seconds_left >= 0
    assert (tiny.store.folder / "results.csv").read_bytes() == table


def test_a_loaded_study_has_the_same_tables(tiny):
    loaded = load(tiny.store.folder)
    assert loaded.leaderboard() == tiny.leaderboard()
    assert {a: r.sentence for a, r in loaded.results.items()} == {a: r.sentence for a, r in tiny.results.items()}
    assert loaded.baseline == "momentum" and loaded.confirmed("adam") == tiny.confirmed("adam")


def test_only_confirmation_runs_enter_the_headline(tiny):
    confirmed = {t.seed for t in tiny.trials if t.stage == "confirm"}
    assert len(confirmed) == 2 and not confirmed & {t.seed for t in tiny.trials if t.stage == "tune"}
    row = next(row for row in tiny.leaderboard() if row["arm"] == "adam")
    assert row["test_loss"] == pytest.approx(sum(tiny.confirmed("adam")) / 2)


def test_an_arm_that_always_fails_is_ranked_last_and_said_to_fail(tmp_path):
    study = fl.compare("digits", ["adam", "sgd@lr=1e30"], out=tmp_path, **TINY)
    assert study.results["sgd@lr=1e30"].verdict is Verdict.FAILED
    assert [row["arm"] for row in study.leaderboard()] == ["adam", "sgd@lr=1e30"]
    assert any("every tuning trial failed" in warning for warning in study.warnings())
    assert study.report(tmp_path / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_and_repeated_gives_the_numbers_of_an_uninterrupted_run(tmp_path, uninterrupted, whole_group):
    process = start_and_wait(tmp_path, 5, start_new_session=True)
    workers = children(process.pid)
    assert workers
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))  # workers end with their parent
    assert finished(tmp_path) < 16
    subprocess.run([*COMMAND, "--out", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "results.csv").read_bytes() == uninterrupted


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path, uninterrupted):
    process = start_and_wait(tmp_path, 3)
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(process.pid)}
    os.kill(next(pid for pid, command in commands.items() if "spawn_main" in command), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "results.csv").read_bytes() == uninterrupted


@pytest.mark.slow
def test_ctrl_c_is_one_sentence_and_loses_nothing(tmp_path, uninterrupted):
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # ignored by jobs in the background
    process = start_and_wait(tmp_path, 3, start_new_session=True, **heard)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    assert process.wait(timeout=30) == 130
    assert (
        tmp_path / "errors"
    ).read_text().strip() == "fallline: stopped; finished trials are kept, and the same command goes on from here"
    subprocess.run([*COMMAND, "--out", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "results.csv").read_bytes() == uninterrupted


@pytest.mark.slow
def test_self_check_finds_no_difference_and_a_planted_bad_arm_is_worse(tmp_path):
    study = fl.compare("digits", ["adamw"], self_check=True, trials=8, out=tmp_path / "self")
    assert study.results["adamw (again)"].verdict is Verdict.NOT_DISTINGUISHABLE
    best = study.searches["adamw"].points[study.searches["adamw"].best]["lr"]
    planted = f"adamw@lr={best / 100:.3g}"
    study = fl.compare("digits", ["adamw", planted], trials=8, out=tmp_path / "planted")
    assert study.results[planted].verdict is Verdict.WORSE
    assert study.leaderboard()[-1]["arm"] == planted


def test_an_arm_with_a_failed_seed_has_no_mean(tiny, monkeypatch):
    lost = next(trial.id for trial in tiny.trials if trial.stage == "confirm" and trial.arm == "adam")
    outcome = type(tiny).outcome

    def with_a_failure(self, trial):
        found = outcome(self, trial)
        return found if trial.id != lost else type(found)({"state": "nonfinite", "step": 3, "cause": "planted"}, {}, [])

    monkeypatch.setattr(type(tiny), "outcome", with_a_failure)
    study = load(tiny.store.folder)
    row = next(row for row in study.leaderboard() if row["arm"] == "adam")
    assert (row["failed"], row["seeds"]) == (1, 2)
    assert math.isnan(row["test_loss"]) and math.isnan(row["val_loss"])  # the survivors are not averaged

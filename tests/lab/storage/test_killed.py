"""A study that is killed, again and again, loses nothing: repeated, it has the bytes of an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

import fallline as fl
from support.killing import finished, kill, wait_until
from support.terminals import without_progress

pytestmark = pytest.mark.slow
ARMS = ["momentum", "adam", "adamw", "rmsprop"]
SIZE = {"steps": 40, "trials": 16, "seeds": 8}
COMMAND = [sys.executable, "-c", "from fallline.cli import main; main()", "compare", "digits", "-j", "2"]
COMMAND += ["--optimizers", ",".join(ARMS), *(word for k, v in SIZE.items() for word in (f"--{k}", str(v)))]
KILLS = 10


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The uninterrupted study: its number of trials and its table."""
    study = fl.compare("digits", ARMS, out=tmp_path_factory.mktemp("uninterrupted"), jobs=2, **SIZE)
    return len(study.trials), (study.store.folder / "results.csv").read_bytes()


def start(folder, **options):
    folder.mkdir(exist_ok=True)
    with (folder / "errors").open("w") as errors:
        command = [*COMMAND, "--out", folder]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True, **options)


def test_a_hundred_and_twenty_trials_killed_at_ten_moments_lose_no_byte(tmp_path, uninterrupted):
    trials, table = uninterrupted
    assert trials >= 120
    generator = random.Random(0)
    process = start(tmp_path)
    for moment in sorted(generator.sample(range(trials), KILLS)):
        if process.poll() is not None:
            process = start(tmp_path)
        wait_until(lambda least=moment: len(finished(tmp_path)) >= least, process)
        kill(process, generator.choice(["worker", "conductor", "all"]))
        for folder in finished(tmp_path):  # whole, whenever anybody looks
            assert json.loads((folder / "trial.json").read_text())["outcome"]["curve"]
    if process.poll() is not None:
        process = start(tmp_path)
    assert process.wait(timeout=120) == 0, (tmp_path / "errors").read_text()
    assert (tmp_path / "results.csv").read_bytes() == table
    ledger = [json.loads(line)["id"] for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert len(ledger) == len(set(ledger)) == len(finished(tmp_path)) == trials
    assert not list(tmp_path.rglob(".draft*"))


def test_ctrl_c_is_one_sentence_and_loses_nothing(tmp_path, uninterrupted):
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # ignored by jobs in the background
    process = start(tmp_path, **heard)
    wait_until(lambda: len(finished(tmp_path)) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    assert process.wait(timeout=30) == 130
    said = "fallline: stopped; finished trials are kept; rerun the same command to resume"
    assert without_progress((tmp_path / "errors").read_text()) == [said]
    assert start(tmp_path).wait(timeout=120) == 0
    assert (tmp_path / "results.csv").read_bytes() == uninterrupted[1]

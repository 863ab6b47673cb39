"""Shares of a study: each trial runs in one of them, and together they are the study."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fallline as fl
from fallline.errors import ArgumentError, StudyError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.outcome import Costs, Outcome
from fallline.lab.design.spec import Spec
from fallline.lab.executors import make_executor, shard
from fallline.lab.executors.shard import Shard, parse_shard, share_of
from fallline.lab.search.trials import tune
from fallline.lab.storage.store import Store
from fallline.lab.storage.study_file import read_study
from support import scripts
from support.terminals import without_progress

TRIALS = tune(Spec("digits", 40, make_arms(["adam", "sgd"], ["cosine"]), 16, 2), {})[0]
OUTCOME = Outcome(None, {"val_loss": 0.1}, [])


class Recorder:
    """A pool that writes an outcome for each trial and keeps a list of them."""

    def __init__(self, store, seconds=0.0):
        self.store, self.seconds, self.ran = store, seconds, []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.ran.append("closed")

    def run(self, trials):
        for trial in trials:
            self.store.save(trial, OUTCOME, Costs(self.seconds, 1.0, 1.0, 1))
            self.ran.append(trial)
            yield trial


def sharded(folder, number, of, patience=0.0, seconds=0.0):
    pool = Recorder(Store(folder), seconds)
    return pool, Shard(pool, folder, number, of, patience)


def test_every_trial_runs_in_one_shard_and_is_seen_by_all(tmp_path):
    ran, seen = [], []
    for number in (1, 2, 3):
        pool, executor = sharded(tmp_path, number, 3)
        try:
            for trial in executor.run(TRIALS):
                seen.append((number, trial.id))
        except StudyError:
            assert number < 3  # only the last finds all others' outcomes
        ran += pool.ran
    assert sorted(t.id for t in ran) == sorted(t.id for t in TRIALS)
    assert sorted(key for number, key in seen if number == 3) == sorted(t.id for t in TRIALS)


def test_an_outcome_that_appears_while_a_shard_waits_is_yielded(tmp_path, monkeypatch):
    _, executor = sharded(tmp_path, 1, 2, patience=60.0)
    others = [t for t in TRIALS if share_of(t.id, 2) == 2]

    def another_shard_goes_on(seconds):
        Store(tmp_path).save(others.pop(), OUTCOME, Costs(1.0, 1.0, 1.0, 1))

    monkeypatch.setattr(shard.time, "sleep", another_shard_goes_on)
    assert sorted(t.id for t in executor.run(TRIALS)) == sorted(t.id for t in TRIALS)
    assert others == []


def test_a_half_written_outcome_is_waited_for(tmp_path, monkeypatch):
    _, executor = sharded(tmp_path, 1, 2, patience=60.0)
    late = next(t for t in TRIALS if share_of(t.id, 2) == 2)
    (tmp_path / "trials" / late.id).mkdir()
    (tmp_path / "trials" / late.id / "trial.json").write_text("{")
    naps = []

    def repair_later(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            Store(tmp_path).save(late, OUTCOME, Costs(1.0, 1.0, 1.0, 1))

    monkeypatch.setattr(shard.time, "sleep", repair_later)
    assert list(executor.run([late])) == [late] and len(naps) == 3


def test_a_shard_left_alone_stops_and_says_what_is_missing(tmp_path):
    _, executor = sharded(tmp_path, 2, 3)
    counts = [sum(share_of(t.id, 3) == number for t in TRIALS) for number in (1, 2, 3)]
    said = (
        rf"^The other shards have written no new .* for 0 s, and {counts[0] + counts[2]} trials are missing "
        rf"\({counts[0]} of shard 1/3, {counts[2]} of shard 3/3\)\. .*rerun this command to resume\.$"
    )
    with pytest.raises(StudyError, match=said):
        list(executor.run(TRIALS))


def test_a_shard_waits_longer_where_trials_are_long(tmp_path, monkeypatch):
    """Three times the longest trial, however short its patience: another one of that length may be running."""
    clock = [0.0]
    monkeypatch.setattr(shard.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(shard.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    _, executor = sharded(tmp_path, 1, 2, patience=10.0, seconds=100.0)
    with pytest.raises(StudyError, match=r"no new outcome to .* for 30[01] s"):
        list(executor.run(TRIALS))


def test_the_pool_is_closed_with_the_shard(tmp_path):
    pool, executor = sharded(tmp_path, 1, 1)
    with executor as entered:
        assert list(entered.run(TRIALS)) == TRIALS
    assert pool.ran == [*TRIALS, "closed"]


@pytest.mark.parametrize("text", ["5/4", "0/4", "3", "1/0", "/", "a/b", "-1/4", "1.0/2", "1/2/3", "", "²/3"])
def test_a_mistyped_shard_is_told(text, tmp_path):
    with pytest.raises(ArgumentError, match=re.escape(f"shard: must be I/N with 1 <= I <= N, got {text!r}")):
        make_executor(tmp_path / "study", jobs=None, shard=text, ray=None, checkpoint_every=None)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_read(tmp_path):
    assert parse_shard("3/4") == (3, 4)
    executor = make_executor(tmp_path, jobs=2, shard="3/4", ray=None, checkpoint_every=None)
    assert (executor.number, executor.of, executor.patience) == (3, 4, 1800.0)


def test_the_slurm_script_of_the_docs_runs_each_share(tmp_path):
    page = (Path(__file__).parents[3] / "docs/clusters.md").read_text(encoding="utf-8")
    script = page.partition("```bash\n")[2].partition("```")[0]
    for name, text in (("srun", '"$@"'), ("fallline", 'echo "$PWD" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    count = re.search(r"--array=1-(\d+)", script)[1]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "16"}
    environment |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": count}
    said = subprocess.run(["bash", "-eu", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split()[:3] == [str(tmp_path), "compare", "my_task.py:Mine"]
    assert said.stdout.endswith(f"--out {tmp_path}/runs/mine -j 16 --checkpoint-every 1000 --shard 3/{count}\n")


@pytest.mark.slow
def test_shards_at_once_give_the_bytes_of_one_process(tmp_path):
    options = {"steps": 40, "trials": 4, "seeds": 2}
    fl.compare("digits", ["momentum", "adam"], out=tmp_path / "whole", jobs=1, **options)
    command = [sys.executable, "-c", "from fallline.cli import main; main()", "compare", "digits"]
    command += ["--optimizers", "momentum,adam", "--out", tmp_path / "shards", "-j", "1"]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    shards = [subprocess.Popen([*command, "--shard", f"{i}/3"], **pipes) for i in (1, 2, 3)]
    said = [process.communicate(timeout=240) for process in shards]
    assert [process.returncode for process in shards] == [0, 0, 0], said
    assert [without_progress(errors) for _, errors in said] == [[], [], []]
    assert (tmp_path / "shards/results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()
    assert read_study(tmp_path / "shards")["spec"] == read_study(tmp_path / "whole")["spec"]
    ledger = (tmp_path / "shards/ledger.jsonl").read_text().splitlines()
    assert len(ledger) == len(list((tmp_path / "shards/trials").iterdir()))  # no trial was run twice
    assert not list((tmp_path / "shards").rglob(".draft*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["command", "function"])
def test_shards_of_a_training_loop_give_the_bytes_of_one_process(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if kind == "command":
        command = scripts.write_script(tmp_path) + " --optimizer {optimizer} --lr {lr} --seed {seed}"
        task, loop = {"command": command}, ["--command", command]
    else:
        scripts.write_script(tmp_path, scripts.TRIAL)
        task, loop = {"task": "train.py:train"}, ["train.py:train"]
    options = {"trials": 1, "seeds": 2}
    words = [sys.executable, "-c", "from fallline.cli import main; main()", "compare", *loop, "--out", "shards"]
    words += ["--optimizers", "adamw,lion", "-j", "0"]
    words += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    shards = [subprocess.Popen([*words, "--shard", f"{i}/2"], stderr=subprocess.PIPE, text=True) for i in (1, 2)]
    fl.compare(**task, optimizers=["adamw", "lion"], out="whole", jobs=0, **options)
    said = [process.communicate(timeout=240)[1] for process in shards]
    assert [process.returncode for process in shards] == [0, 0], said
    assert (tmp_path / "shards/results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()
    ledger = (tmp_path / "shards/ledger.jsonl").read_text().splitlines()
    assert len(ledger) == len(list((tmp_path / "shards/trials").iterdir()))  # no trial was run twice

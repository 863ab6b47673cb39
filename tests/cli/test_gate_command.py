"""`fallline gate`: its lines, its JSON, its exit codes, and that a killed call resumes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.cells import cell_len

from fallline.lab.gate.ledger import Ledger
from support.gates import command, write_script


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder of a training script, which is the current one."""
    write_script(tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


FIRST = ["--baseline", command(), "--metric", "val_loss", "--seed", "1"]


def test_the_answer_has_at_most_six_lines_of_80_columns(fallline, work):
    code, out, _ = fallline("gate", *FIRST, "--candidate", command("gain=0.5"), "--margin", "0.001", "--check")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 6 and max(map(cell_len, lines)) <= 80
    assert lines[0] == "KEEP: stopped after 4 pairs because the improvement is significant"
    assert lines[1].startswith("val_loss improves by 0.5 (95 % interval 0.") and lines[1].endswith("margin 0.001")
    assert lines[2] == "4 of at most 32 seeds per arm, independent noise, deterministic"
    assert lines[3].startswith("smallest improvement found with 80 % power: 0.0")
    assert lines[4] == "proposal 1 at level 0.025 (family); 99 proposals left, next level 0.000253"


def test_a_failed_candidate_prints_why_and_exits_with_1(fallline, work):
    write_script(work, then="if gain: raise ValueError('a message that is long ' * 20)")
    code, out, _ = fallline("gate", *FIRST, "--candidate", command("gain=0.5"))
    lines = out.splitlines()
    assert code == 1 and len(lines) <= 6 and max(map(cell_len, lines)) <= 80
    assert lines[0].startswith("NOT SHOWN: the candidate with seed ")
    assert "ValueError: a message that is long" in " ".join(lines)


def test_json_is_one_object_with_everything(fallline, work):
    code, out, _ = fallline("gate", *FIRST, "--candidate", command("gain=-1"), "--json")
    found = json.loads(out)
    assert code == found["exit_code"] == 1
    assert found["verdict"] == "not shown" and len(found["seeds"]) == len(found["candidate"]) == found["pairs"] == 4
    assert found["gain"] == pytest.approx(-1) and found["detectable"] > 0


def test_what_cannot_be_judged_exits_with_2(fallline, work):
    write_script(work, then="sys.exit('no data')")
    words = ["gate", *FIRST, "--candidate", command("gain=0.5")]
    code, out, err = fallline(*words)
    assert (code, out) == (2, "") and "fallline: CANNOT BE JUDGED: The baseline with seed" in err
    code, out, _ = fallline(*words, "--json")
    found = json.loads(out)
    assert code == 2 and found["verdict"] == "cannot be judged" and "no data" in found["reason"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--metric", "loss", "--candidate", "python a {seed}"], "baseline: must be given in the first call"),
        (["--baseline", "python a {seed}", "--candidate", "python b {seed}"], "metric: must be given in the first"),
        ([*FIRST, "--candidate", "python train.py"], "candidate: must contain {seed}, because both arms run with many"),
        ([*FIRST, "--candidate", "python a {seed} {lr}"], "candidate: placeholders must be {seed} or {out}, got {lr}"),
        ([*FIRST, "--candidate", "no-such {seed}"], "candidate: the program must exist, got 'no-such'"),
        ([*FIRST, "--candidate", command()], "candidate: must differ from the current baseline in its command"),
        ([*FIRST, "--candidate", command("a=b"), "--baseline-rev", "HEAD"], "must be used in a git repository"),
        (["--baseline", "sh a", *FIRST[2:], "--candidate", command("a=b")], "baseline: must contain {seed}, because"),
        ([], "No session has begun in 'fallline-runs/gate'. Pass --baseline, --candidate and --metric"),
        (["--final"], "No session has begun in"),
        (["--max-seeds", "30"], "max_seeds must be a multiple of 4 up to 128, because"),
        (["--max-seeds", "200"], "got max_seeds=200; pass 128"),
        (["--margin", "-1"], "margin must be a finite number >= 0, got margin=-1.0; pass it in the unit of the metric"),
        (["--control", "none"], "control: must be one of family, fdr, got 'none'"),
        (["--mode", "low"], "mode: must be min or max, got 'low'"),
        (["--metric", "throughput"], "mode: must be given for a metric whose name does not imply it"),
        (["--metric-regex", "loss"], "metric_regex: must have one group"),
        (["-j", "0"], "jobs must be an int >= 1, got jobs=0"),
        (["--timeout", "0"], "timeout must be a finite number > 0, got timeout=0.0; pass seconds"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence_and_begins_no_session(fallline, work, words, sentence):
    code, out, err = fallline("gate", *words)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert sentence in err
    assert not (work / "fallline-runs/gate/ledger.jsonl").exists()


def test_settings_are_those_of_the_session(fallline, work):
    assert fallline("gate", *FIRST, "--candidate", command("gain=-1"))[0] == 1
    for words in (["--margin", "0.5"], ["--baseline", command("a=b")], ["--metric", "loss"], ["--control", "fdr"]):
        code, _, err = fallline("gate", "--candidate", command("gain=0.5"), *words)
        assert code == 2 and ": must be that of the session, " in err and "or choose another --session than" in err


def git(*words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def test_an_edited_file_is_compared_with_its_revision_and_then_with_what_was_kept(fallline, work):
    git("init", "-q")
    git("add", "train.py")
    git("commit", "-qm", "first")
    write_script(work, gain=0.5)
    code, out, _ = fallline("gate", *FIRST, "--candidate", command(), "--baseline-rev", "HEAD", "--json")
    assert code == 0 and json.loads(out)["gain"] == pytest.approx(0.5)
    write_script(work, gain=0.75)
    code, out, _ = fallline("gate", "--candidate", command(), "--json")
    found = json.loads(out)
    assert found["gain"] == pytest.approx(0.25) and found["proposal"] == 2
    final = ["gate", "--final", "--final-command", command(), "--json"]
    code, out, _ = fallline(*final)
    whole = json.loads(out)
    assert code == 0 and whole["gain"] == pytest.approx(0.75) and (whole["proposal"], whole["level"]) == (0, 0.05)
    assert not set(whole["seeds"]) & set(found["seeds"])
    before = (work / "fallline-runs/gate/ledger.jsonl").read_bytes()
    assert fallline(*final)[:2] == (0, out)
    assert (work / "fallline-runs/gate/ledger.jsonl").read_bytes() == before


def test_the_hold_out_needs_a_command_and_a_kept_change(fallline, work):
    assert fallline("gate", *FIRST, "--candidate", command("gain=-1"))[0] == 1
    assert "final_command: must be given for the hold-out test" in fallline("gate", "--final")[2]
    code, _, err = fallline("gate", "--final", "--final-command", "{command}")
    assert code == 2 and "No change has been kept in this session" in err
    assert fallline("gate", "--candidate", command("gain=0.5"))[0] == 0
    code, _, err = fallline("gate", "--final", "--final-command", command())
    assert code == 2 and "final_command: must differ between the first and the current baseline" in err
    code, out, _ = fallline("gate", "--final", "--final-command", "{command} split=test")
    assert code == 0 and out.splitlines()[-1] == "hold-out, level 0.05"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills a process with a signal of POSIX")
def test_a_killed_call_resumes_with_the_same_answer_and_spends_nothing(fallline, work, tmp_path):
    log = tmp_path / "log"
    slow = f"log = open({str(log)!r}, 'a'); print(*sys.argv[1:], file=log, flush=True); time.sleep(0.1)"
    write_script(work, then=slow)
    words = ["gate", *FIRST, "--candidate", command("gain=0.002", "own=1"), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "fallline", *words], stdout=subprocess.DEVNULL)
    ledger = work / "fallline-runs/gate/ledger.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and (not ledger.exists() or ledger.read_text().count('"run"') < 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {(r["arm"], r["seed"]) for r in Ledger(ledger.parent).find("run")}
    assert 5 <= len(done) < 16
    before = log.read_text().splitlines()
    _, out, _ = fallline(*words)
    resumed = json.loads(out)
    assert resumed["proposal"] == 1 and len(Ledger(ledger.parent).find("proposal")) == 1
    again = log.read_text().splitlines()[len(before) :]
    assert again and not set(again) & {f"seed={seed}{' gain=0.002 own=1' * (arm == 'candidate')}" for arm, seed in done}
    _, out, _ = fallline(*words, "--session", tmp_path / "whole")
    whole = json.loads(out)
    assert resumed | {"session": ""} == whole | {"session": ""}

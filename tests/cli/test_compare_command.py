"""`fallline compare --command`: a script on trial from the command line."""

import pytest
from rich.cells import cell_len

from support.scripts import write_script

ARGUMENTS = " --optimizer {optimizer} --lr {lr} --seed {seed}"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_script_is_compared_and_its_cost_estimated(fallline, tmp_path):
    command = write_script(tmp_path) + ARGUMENTS
    words = ["compare", "--command", command, "--optimizers", "adamw,lion", "--trials", "4", "--seeds", "4"]
    code, out, err = fallline(*words, "--dry-run")
    assert code == 0
    assert "command: 4 + 1 tuning trials and 4 confirmation seeds per arm" in out
    assert "checking the command with up to four runs" in err
    code, out, err = fallline(*words, "-j", "0", "--test-metric", "test_loss", "--out", "study")
    assert code == 0, err
    assert "report: study/report.html" in out
    assert max(map(cell_len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--command", "python x.py | tee log"], "command: must be a program with arguments, because no shell runs it"),
        (["--command", "nothing-here --seed {seed}"], "got 'nothing-here', which does not exist"),
        (["--command", "true {lr} {size} {seed}"], "search: {size} in the command must have a range"),
        (["--command", "true", "--arm", "rope"], "arm: must be NAME=ARGUMENTS, got 'rope'; try --arm 'rope=--rope'"),
        (["--command", "true", "--metric", "speed"], "mode: must be given for a metric whose name does not imply it"),
        (["--command", "true", "--budget", "10m"], "budget: must be left out for a training loop of your own"),
        (["--command", "true --seed {seed}"], "the command printed no number after val_loss"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(fallline, words, sentence):
    code, out, err = fallline("compare", "--optimizers", "adamw", "-j", "0", *words)
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err

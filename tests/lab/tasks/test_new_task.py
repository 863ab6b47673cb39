"""The file that `fallline new-task` writes keeps to the contract and learns as it is."""

import subprocess
import sys

import pytest

from fallline.cli.new_task import new_task
from fallline.errors import ArgumentError
from fallline.lab.contract.contract import find_breaches
from fallline.lab.design.trial import Trial
from fallline.lab.run.trial import run
from fallline.lab.tasks import get_task
from fallline.lab.tasks.template import write_task


@pytest.fixture
def name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_task("mine.py")


def test_the_written_task_keeps_to_the_contract(name):
    assert name == "mine.py:Mine"
    assert find_breaches(get_task(name)) == []


@pytest.mark.slow
def test_a_trial_on_it_learns(name):
    options = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8}
    outcome, _ = run(Trial("confirm", name, "adam", "adam", "cosine", get_task(name).steps, 0, 0, options))
    assert outcome.failure is None
    assert outcome.metrics["test_accuracy"] > 0.9  # a third by chance


def test_it_is_written_as_code_is_here(name):
    commands = ["format", "--check"], ["check"]
    for command in commands:
        arguments = [*command, "--isolated", "--line-length", "120", "mine.py"]
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_next_command_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    new_task("tasks/spirals.py")
    command = "fallline compare tasks/spirals.py:Mine --quick --optimizers momentum,adam,adamw"
    assert capsys.readouterr().out == f"task: tasks/spirals.py\nnext: {command}\n"
    assert command in (tmp_path / "tasks" / "spirals.py").read_text(encoding="utf-8")


def test_nothing_is_overwritten(name, tmp_path):
    (tmp_path / "mine.py").write_text("precious")
    with pytest.raises(ArgumentError, match=r"FILE: must not exist yet, got 'mine.py'; choose another name"):
        write_task("mine.py")
    assert (tmp_path / "mine.py").read_text() == "precious"


def test_other_names_are_refused_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"FILE: must end in .py, got 'mine'; pass 'mine.py'"):
        write_task("mine")
    with pytest.raises(ArgumentError, match=r"FILE: must be writable, got 'no/mine.py' \(No such file or directory\)"):
        write_task("no/mine.py")
    assert list(tmp_path.iterdir()) == []

"""The script and the command of the tutorial run as a study."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from fallline.lab import load

PAGE = Path(__file__).parents[3] / "docs" / "tutorial.md"
FEWER = {
    "python train.py": f"{sys.executable} train.py",
    "adamw,lion,momentum": "adamw@lr=3e-3,lion@lr=1e-3",  # without a range that the study may extend
    "--quick": "--trials 1 --seeds 2 --skip-checks deterministic,seed,lr",
}


@pytest.mark.slow
def test_the_command_of_the_tutorial_compares_its_script(tmp_path, monkeypatch, fallline):
    text = PAGE.read_text(encoding="utf-8")
    model, _, loop, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(re.findall(r"# \d$", loop, re.MULTILINE)) == 5
    monkeypatch.chdir(tmp_path)
    assert "steps = 32, 48, 4, 3, 8, 100" in model
    short = model.replace("steps = 32, 48, 4, 3, 8, 100", "steps = 32, 48, 4, 3, 8, 40")
    (tmp_path / "train.py").write_text(short + loop, encoding="utf-8")
    (command,) = re.findall(r"^\$ fallline (compare .*)", text, re.MULTILINE)
    for text, other in FEWER.items():
        assert text in command
        command = command.replace(text, other)
    code, out, err = fallline(*shlex.split(command))
    assert code == 0, err
    assert "report: study/report.html" in out
    study = load("study")
    assert len(study.leaderboard()) == 2 and all(outcome.curve for outcome in study.confirmation(study.baseline))
    (found,) = study.record.comparisons.values()
    assert found.comparison.design.scope.startswith("with new seeds and new test examples")

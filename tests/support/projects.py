"""A task of the user's in a folder of its own, with a helper file that it depends on."""

import sys
from pathlib import Path

import pytest

from fallline.lab.user_code.imports import user_file

TINY = {"optimizers": ["momentum"], "steps": 40, "trials": 2, "seeds": 2}
TASK = """
import torch, fallline
HEAD

@fallline.task(steps=40)
class Mine:
    def model(self):
        return torch.nn.Linear(3, 1)

    def batches(self, split, generator):
        BATCHES
        x = torch.randn(32, 3, generator=torch.Generator().manual_seed(len(split)))
        while split == "train":
            yield x[torch.randperm(32, generator=generator)[:8]]
        yield x

    def loss(self, model, batch):
        LOSS
        return (model(batch) - helper.FACTOR * batch.sum(1, keepdim=True)).square().mean()
"""
HELPER = "FACTOR = 1\n"


def write_task(folder, name="mine.py", head="", batches="", loss=""):
    """Write a task that depends on helper.py."""
    text = TASK.replace("HEAD", head).replace("BATCHES", batches or "pass").replace("LOSS", loss or "pass")
    (folder / name).write_text(text)
    (folder / "helper.py").write_text(HELPER)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder, which is the current one, and the modules and paths of this process put back afterwards."""
    monkeypatch.chdir(tmp_path)
    others = [entry for entry in sys.path if Path(entry, "mine.py").exists()]  # folders of other tests
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in others])
    for name in ("mine", "helper"):  # another test's, imported by name
        sys.modules.pop(name, None)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if user_file(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def outcomes(folder):
    return {path.parent.name: path.read_bytes() for path in Path(folder).glob("trials/*/trial.json")}

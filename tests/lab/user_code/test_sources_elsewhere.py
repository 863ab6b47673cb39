"""Data that change while a study runs, and what a notebook's task depends on."""

import importlib.util
import sys

import pytest
import torch

import fallline as fl
from fallline.errors import StudyError
from fallline.lab.user_code.sources import imports_for, sources_of
from support.projects import TINY, outcomes, project, write_task
from support.task_data import ROWS

__all__ = ["project"]


DATA = """
import pathlib, torch, fallline
FILE = pathlib.Path(__file__).with_name("data.pt")

@fallline.task(steps=40)
class Mine:
    def model(self):
        return torch.nn.Linear(3, 1)

    def data_files(self, progress=None):
        return [FILE]

    def batches(self, split, generator):
        parts = dict(zip(("train", "val", "test"), torch.load(FILE).split(16)))
        while split == "train":
            yield parts["train"][torch.randperm(16, generator=generator)[:8]]
        yield parts[split]

    def loss(self, model, batch):
        once = FILE.with_name("once")
        if model.training and once.exists() and list(FILE.parent.glob("study/*.json")):
            once.unlink()
            torch.save(torch.load(FILE) + 1, FILE)
        return (model(batch) - batch.sum(1, keepdim=True)).square().mean()
"""


@pytest.mark.parametrize("jobs", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_data_edited_while_a_trial_runs_are_refused_and_the_trial_is_not_stored(project, jobs):
    (project / "mine.py").write_text(DATA)
    data = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    torch.save(data, "data.pt")
    (project / "once").touch()
    with pytest.raises(StudyError, match=r"it ran: the data were edited\. Trial \w+ \(momentum\) was not"):
        fl.compare("mine.py:Mine", jobs=jobs, out="study", **TINY)
    assert outcomes("study") == {} and not (project / "once").exists()
    with pytest.raises(StudyError, match=r"another specification \(data: hash"):
        fl.compare("mine.py:Mine", jobs=jobs, out="study", **TINY)
    torch.save(data, "data.pt")
    fl.compare("mine.py:Mine", jobs=jobs, out="study", **TINY)


def load_generated(name, path, monkeypatch):
    """Load a file under a name, as compilers load the code that they generate."""
    path.write_text("FACTOR = 1\n")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)


@pytest.mark.parametrize("owner", ["torch._inductor.runtime.compile_tasks", "numpy", "fallline.backends.fused"])
def test_code_that_an_installed_package_generates_is_not_a_source(project, owner, monkeypatch):
    """Whether it is first loaded during a study depends on what the process did before, and so would every id."""
    write_task(project)
    with imports_for("mine.py:Mine"):
        load_generated(f"{owner}.c3fg", project / "c3fg.py", monkeypatch)
        load_generated("mine_too.c3fh", project / "c3fh.py", monkeypatch)  # not of a package that is installed
    assert set(sources_of("mine.py:Mine")) == {"mine.py", "c3fh.py"}


def test_a_module_that_the_user_adds_to_an_installed_package_is_a_source(project, monkeypatch):
    write_task(project)
    monkeypatch.setattr(torch, "__path__", [*torch.__path__, str(project)])
    with imports_for("mine.py:Mine"):
        load_generated("torch.added", project / "added.py", monkeypatch)
    assert set(sources_of("mine.py:Mine")) == {"mine.py", "added.py"}


CELL = (
    """
import torch, helper
FACTOR = 1
count = 0

def target(batch):
    return FACTOR * batch.sum(1, keepdim=True)

class Mine:
    def model(self):
        return torch.nn.Linear(3, 1)

"""
    + ROWS
    + """    def loss(self, model, batch):
        global count
        count += 1
        return (model(batch) - helper.FACTOR * target(batch)).square().mean()
"""
)


def test_a_task_of_a_notebook_brings_what_other_cells_define_and_its_files(project, monkeypatch):
    write_task(project)
    monkeypatch.syspath_prepend(str(project))
    space = {"__name__": "nowhere"}  # as a notebook's, its module has no file

    def run(cell, old="", new="", **more):
        exec(cell.replace(old, new), space)
        study = fl.compare(fl.task(steps=40)(space["Mine"]), jobs=0, out="study", **{**TINY, **more})
        return study.trials[0].sources

    assert set(run(CELL)) == {"here:Mine", "helper.py"}
    before = outcomes("study")
    run(CELL)  # the same again; the counter is no code
    assert outcomes("study") == before
    for old, new in (("FACTOR = 1", "FACTOR = 2"), ("return FACTOR *", "return 3 *")):
        with pytest.raises(StudyError, match="here:Mine: edited"):
            run(CELL, old, new)
    (project / "helper.py").write_text("FACTOR = 5")
    with pytest.raises(StudyError, match=r"helper\.py was edited after it was imported; restart this process"):
        run(CELL)

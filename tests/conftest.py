"""Put tests/ on the import path, for `from oracles import ...`, and make what several files ask for."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# pytest's default import mode has done it already; `--import-mode=importlib` does not.
if (TESTS := str(Path(__file__).parent)) not in sys.path:
    sys.path.insert(0, TESTS)

# With a process per core, threads that wait for those of another process spin: the suite took twice as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure, and every run tries the same inputs.
settings.register_profile("fallline", deadline=None, derandomize=True)
settings.load_profile("fallline")


@pytest.fixture
def fallline(monkeypatch, capsys):
    """Run the command in this process; return exit code, output and errors."""
    from fallline.cli import app

    monkeypatch.setenv("COLUMNS", "80")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["fallline", *map(str, words)])
        code = app.run()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty folder, which is where built-in tasks look for their data."""
    monkeypatch.setenv("FALLLINE_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def cifar_archive(data_folder):
    """The path of a CIFAR-10 of 300 + 50 images."""
    from support.task_data import cifar_parts, write_archive

    return write_archive(data_folder / "cifar-10-binary.tar.gz", cifar_parts())


@pytest.fixture
def clothes(data_folder):
    """What a Fashion-MNIST of 90 + 20 images holds."""
    from support.task_data import write_clothes

    return write_clothes(data_folder)


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """A study in which two arms learn and one fails, made once: `studies` has copies to change."""
    import fallline as fl

    arms = ["momentum", "adam", "sgd@lr=1e30"]
    return fl.compare("digits", arms, steps=40, trials=2, seeds=2, out=tmp_path_factory.mktemp("study"), jobs=0)


@pytest.fixture(scope="session")
def page(study):
    """The report of that study."""
    return study.report(study.store.folder / "report.html")

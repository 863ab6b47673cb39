"""Reports and status of a folder that is read-only, without the task's files, with brackets, in any locale."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fallline as fl
from fallline.errors import StudyError
from fallline.lab import load
from support.projects import project, write_task
from support.terminals import without_progress

__all__ = ["project"]
ARMS = {"steps": 40, "trials": 2, "seeds": 2, "jobs": 0}


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in sorted(folder.rglob("*"))}


@pytest.fixture
def read_only(monkeypatch):
    """Return a function that makes a folder refuse everything that creates, replaces or removes files, for root too."""

    def forbid(folder):
        def guarded(real, names):
            def call(*arguments, **options):
                paths = [options.get("dir"), *arguments[:names]]
                for path in filter(None, paths):
                    if isinstance(path, str | os.PathLike) and Path(path).resolve().is_relative_to(folder):
                        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                return real(*arguments, **options)

            return call

        for module, name, names in (
            (os, "mkdir", 1),
            (os, "unlink", 1),
            (os, "rename", 2),
            (os, "replace", 2),
            (os, "rmdir", 1),
            (os, "chmod", 1),
            (tempfile, "mkstemp", 0),
            (tempfile, "mkdtemp", 0),
            (tempfile, "TemporaryFile", 0),
        ):
            monkeypatch.setattr(module, name, guarded(getattr(module, name), names))

    return forbid


@pytest.mark.slow
def test_report_and_status_of_a_read_only_folder_write_elsewhere_and_nothing_there(
    fallline, study, tmp_path, read_only
):
    folder = tmp_path / "study"
    shutil.copytree(study.store.folder, folder)
    (folder / "report.html").unlink(missing_ok=True)
    before = snapshot(folder)
    read_only(folder)
    code, out, err = fallline("report", folder, "--format", "html,csv,md", "--out", tmp_path / "elsewhere")
    assert (code, err) == (0, "") and (tmp_path / "elsewhere" / "report.html").stat().st_size > 1e5
    code, out, err = fallline("compare", "--status", "--out", folder)
    assert (code, err) == (0, "") and "all trials are finished" in out
    code, out, err = fallline("report", folder)
    assert code == 2 and "Read-only file system" in err and err.count("\n") == 1
    assert snapshot(folder) == before


@pytest.mark.slow
def test_report_and_status_need_none_of_the_users_files(fallline, project):
    write_task(project, head="import helper")
    (project / "own.py").write_text("import torch\nclass Own(torch.optim.SGD):\n    pass\n")
    (project / "shape.py").write_text("def flat(steps, ramp):\n    return lambda k: 1 - k / steps\n")
    arms = ["momentum", "own.py:Own"]
    study = fl.compare("mine.py:Mine", arms, ["cosine", "shape.py:flat"], out="study", **ARMS)
    with_files = study.report("with.html").read_text(encoding="utf-8")
    for name in ("mine.py", "helper.py", "own.py", "shape.py"):
        (project / name).unlink()
    for name in [name for name in sys.modules if name.startswith(("mine_", "own_", "shape_", "helper"))]:
        del sys.modules[name]
    from fallline.lab.design.optimizers import get_space

    get_space.cache_clear()
    code, out, err = fallline("report", "study", "--out", "elsewhere")
    assert code == 0 and not without_progress(err) and "own.py:Own" in out
    assert load("study").report("without.html").read_text(encoding="utf-8") == with_files
    code, out, err = fallline("compare", "mine.py:Mine", "--status", "--out", "study")
    assert (code, err) == (0, "") and "all trials are finished" in out
    with pytest.raises(StudyError, match="was read without its task"):
        load("study").spec.learning.model()


@pytest.mark.slow
def test_brackets_in_names_are_printed_as_they_are(fallline, project):
    write_task(project, name="mine[red].py", head="import helper")
    (project / "own[a].py").write_text("import torch\nclass Own(torch.optim.SGD):\n    pass\n")
    words = ["--optimizers", "momentum,own[a].py:Own", "--steps", 40, "--trials", 2, "--seeds", 2, "-j", 0]
    code, out, err = fallline("compare", "mine[red].py:Mine", *words, "--out", "out[/b]")
    assert code == 0 and not without_progress(err)
    assert "mine[red].py:Mine" in out and "own[a].py:Own" in out and "report: out[/b]/report.html" in out
    code, status, err = fallline("compare", "--status", "--out", "out[/b]")
    assert (code, err) == (0, "") and "own[a].py:Own" in status and "folder: out[/b]" in status
    code, dry, err = fallline("compare", "mine[red].py:Mine", *words, "--dry-run")
    assert (code, err) == (0, "") and "own[a].py:Own" in dry
    code, _, err = fallline("compare", "none[/x].py:Mine")
    assert code == 2 and "none[/x].py must be a file" in err


@pytest.mark.slow
def test_files_are_utf8_in_any_locale(project):
    write_task(project, head="import helper")
    text = (project / "mine.py").read_text().replace("@fallline.task(", "@fallline.task(summary='Größe → 1', ")
    (project / "mine.py").write_text(text, encoding="utf-8")
    plain = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    strict = [sys.executable, "-X", "warn_default_encoding", "-m", "fallline"]  # other packages warn, too
    ours = str(Path(fl.__file__).parent).encode()
    words = ["--optimizers", "momentum,adam", "--steps", "40", "--trials", "2", "--seeds", "2", "-j", "1"]
    command = [*strict, "compare", "mine.py:Mine", *words, "--out", "study"]
    found = subprocess.run(command, env=plain, capture_output=True, check=False)
    assert found.returncode == 0 and ours not in found.stderr
    command = [*strict, "report", "study", "--format", "html,md,csv"]
    found = subprocess.run(command, env=plain, capture_output=True, check=False)
    assert found.returncode == 0 and ours not in found.stderr
    assert "Größe → 1" in (project / "study" / "report.html").read_text(encoding="utf-8")
    assert "momentum" in found.stdout.decode("ascii")  # what the locale cannot print is replaced


def test_no_file_is_opened_in_the_encoding_of_the_locale():
    """Every call that opens a text file names its encoding."""
    import ast

    import fallline

    for path in Path(fallline.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".read_text", ".write_text", "fdopen")):
                assert "encoding" in {keyword.arg for keyword in node.keywords}, (path.name, node.lineno)

"""The wheel works away from the source."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel and unpack it into an empty environment that borrows only the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("fallline-*.whl")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    code = "import fallline; print(fallline.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(target))  # and not the source
    return wheel, folder, environment


def test_the_wheel_holds_the_template_and_the_types(installed):
    names = zipfile.ZipFile(installed[0]).namelist()
    assert "fallline/lab/report/page.html.j2" in names and "fallline/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]


def test_it_compares(installed):
    _, folder, environment = installed
    command = [sys.executable, "-m", "fallline", "compare", "digits", "--quick", "--steps", "60", "--out", "study"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert (folder / "study" / "report.html").exists() and "report: study/report.html" in done.stdout


def test_it_passes_the_goldens(installed):
    _, folder, environment = installed
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "float64",
        ROOT / "tests" / "optimizers" / "test_golden.py",
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]

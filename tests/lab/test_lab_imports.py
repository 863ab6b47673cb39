"""Analysis and report take the results of a study: they know neither its folder nor the object that users hold."""

import ast
from pathlib import Path

import pytest

import fallline.lab

ROOT = Path(fallline.lab.__file__).parent
ABOVE = ("study", "stages", "estimate", "comparison", "exercises")
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


def lab_imports(name):
    """What a file of the lab imports from it, those inside functions and those for types included."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {module.removeprefix("fallline.lab.") for module in found if module.startswith("fallline.lab.")}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("analysis/", "report/"))])
def test_analysis_and_report_read_no_folder_and_know_no_study(name):
    assert not {m for m in lab_imports(name) if m.partition(".")[0] in ABOVE or m.startswith("storage.store")}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("report/", "race/"))])
def test_nothing_below_imports_the_report(name):
    above = name == "study.py"  # what users hold: it writes reports
    assert above or not {module for module in lab_imports(name) if module.partition(".")[0] == "report"}

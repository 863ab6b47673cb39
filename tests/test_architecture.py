"""The source keeps to its layers: imports point down, rules are pure, nothing prints."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fallline

ROOT = Path(fallline.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
EVERY_FILE = pytest.mark.parametrize("name", FILES)
TESTS = sorted(Path(__file__).parent.rglob("*.py"))
DECISIONS = sorted((Path(__file__).parents[1] / "docs" / "decisions").glob("*.md"))

# Layer (a module or package of fallline) to the layers it may import. A new one needs a line here.
_CORE = {
    "errors",
    "ops",
    "rule",
    "scalars",
    "shards",
    "backends",
    "checkpoint",
    "options",
    "plan",
    "planning",
    "state",
    "base",
}
_PARTS = {
    "optimizers",
    "schedules",
    "recipes",
    "landscape",
    "levels",
    "linting",
    "problems",
    "spikes",
    "testing",
    "wrappers",
}
MAY_IMPORT = {
    "errors": set(),
    "batches": set(),
    "ops": {"errors"},
    "rule": {"errors", "ops"},
    "scalars": set(),
    "shards": set(),
    "backends": {"errors", "ops", "rule", "shards"},
    "checkpoint": {"errors", "rule", "shards"},
    "options": {"errors", "rule"},
    "plan": {"errors", "rule", "backends"},
    "state": {"errors", "rule", "shards"},
    "planning": {"errors", "rule", "shards", "backends", "plan", "state"},
    "base": _CORE,
    "optimizers": {"errors", "ops", "rule", "base"},
    "schedules": {"errors", "scalars"},
    "landscape": {"batches", "errors", "levels", "spikes"},
    "levels": set(),
    "problems": {"errors"},
    "spikes": set(),
    "wrappers": {"errors", "rule", "base", "optimizers"},
    "recipes": {"errors", "optimizers", "schedules"},
    "linting": {"errors", "rule", "base", "optimizers", "schedules", "spikes"},
    "testing": _CORE | {"optimizers"},
    "lab": _CORE | _PARTS | {"batches"},
    "cli": _CORE | _PARTS | {"batches", "lab"},
    "__main__": {"cli"},
    "__init__": _CORE | _PARTS,
}


def layer(name):
    return name.partition("/")[0].removesuffix(".py")


def tree(name):
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def is_for_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node, deferred=True):
    """Yield the modules that a tree imports when it runs; those inside functions only if `deferred`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield child.module
            if child.module.partition(".")[0] == "fallline":
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not is_for_types_only(child) and (deferred or not isinstance(child, ast.FunctionDef)):
            yield from imports(child, deferred)


@EVERY_FILE
def test_imports_point_down(name):
    for module in imports(tree(name)):
        if module.startswith("fallline."):
            target = module.split(".")[1]
            allowed = MAY_IMPORT[layer(name)] | {layer(name)}
            assert target in allowed or (f"{target}.py" not in FILES and f"{target}/__init__.py" not in FILES), module


def test_imports_make_no_circle():
    """Among whole modules, at import time."""
    graph = {}
    for name in FILES:
        module = ".".join(["fallline", *name.removesuffix(".py").removesuffix("/__init__").split("/")])
        graph[module] = {m for m in imports(tree(name), deferred=False) if m.startswith("fallline.")} - {module}
    modules = {module: needed & graph.keys() for module, needed in graph.items()}
    assert len(list(TopologicalSorter(modules).static_order())) == len(FILES)  # raises CycleError


@EVERY_FILE
def test_a_layer_imports_no_module_that_is_none_of_its_business(name):
    """A rule is numbers; the kernels are Numba's; what draws, prints or downloads belongs to the lab and above."""
    above = {"altair", "jinja2", "pooch", "rich", "scipy", "sklearn", "typer", "vl_convert", "pandas", "ray"}
    banned = {
        "optimizers": {"torch", "numba", "numpy", *above},
        "rule": {"torch", "numba", "numpy", *above},
        "lab": {"numba", "typer"},
        "cli": {"numba"},
    }.get(layer(name), above if layer(name) == "backends" else above | {"numba"})
    if name in (
        "schedules/plot.py",
        "landscape/drawing.py",
    ):  # `plot()` imports altair when it is called, and says if it is missing
        banned -= {"altair"}
    assert not {module.partition(".")[0] for module in imports(tree(name))} & banned


@EVERY_FILE
def test_a_file_has_at_most_300_lines(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 300


@EVERY_FILE
def test_only_the_command_line_prints(name):
    calls = {ast.unparse(node.func) for node in ast.walk(tree(name)) if isinstance(node, ast.Call)}
    assert layer(name) == "cli" or not calls & {"print", "sys.stdout.write", "sys.stderr.write"}


@EVERY_FILE
def test_errors_are_raised_by_their_own_names(name):
    """No bare Exception."""
    raised = {ast.unparse(node.exc) for node in ast.walk(tree(name)) if isinstance(node, ast.Raise) and node.exc}
    assert not [text for text in raised if text.startswith(("Exception", "BaseException", "AssertionError"))]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_a_test_file_has_at_most_300_lines_and_lends_nothing(path):
    """What tests share is in a helper beside them: a test file that is imported runs as another's."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert not [module for module in imports(ast.parse(text)) if module.startswith("test_")]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_what_guards_a_decision_exists(path):
    guards = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", path.read_text(encoding="utf-8"))
    for name, test in guards:
        assert f"def {test}" in (Path(__file__).parents[1] / name).read_text(encoding="utf-8"), (name, test)

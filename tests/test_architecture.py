"""The source keeps to its layers: imports point down and make no circle, folders are small, rules are pure."""

import ast
import functools
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fallline

ROOT = Path(fallline.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
TESTS = sorted(Path(__file__).parent.rglob("*.py"))
DECISIONS = sorted((Path(__file__).parents[1] / "docs" / "decisions").glob("*.md"))

# Every room, from the ground up, with the rooms that it may import besides itself. A room is a folder; a file at the
# top of the package, of lab/ or of landscape/ is a room of its own, and so is the __init__.py of these two.
MAY_IMPORT = {
    "errors": "",
    "arguments": "errors",
    "formatting": "",
    "dtensor": "",
    "group_values": "arguments",
    "wrappers": "",
    "routing": "errors wrappers",
    "step_record": "wrappers",
    "loss_curves": "",
    "guard": "errors",
    "problems": "errors",
    "folders": "errors",
    "notices": "",
    "plotting": "errors arguments",
    "rules": "errors arguments dtensor",
    "backends": "errors dtensor rules backends/fused",  # only to choose it
    "backends/fused": "errors folders notices rules backends",
    "core": "errors arguments dtensor group_values wrappers rules backends",
    "optimizers": "errors arguments group_values routing rules core "
    "optimizers/schedule_free optimizers/two_momenta optimizers/factored optimizers/orthogonal",  # only to list them
    "optimizers/orthogonal": "errors arguments group_values routing rules core optimizers",
    "optimizers/schedule_free": "rules core optimizers",
    "optimizers/two_momenta": "rules core optimizers",
    "optimizers/factored": "errors arguments rules core optimizers",
    "sam": "errors dtensor group_values wrappers rules core",
    "schedules": "errors arguments group_values wrappers step_record plotting",
    "recipes": "errors arguments wrappers optimizers schedules",
    "linting": "errors arguments guard wrappers routing loss_curves optimizers schedules",
    "testing": "errors rules core optimizers",
    "landscape/progress": "",
    "landscape/loss": "errors arguments guard",
    "landscape/operators": "errors arguments landscape/progress landscape/loss",
    "landscape/spectrum": "errors arguments formatting landscape/progress landscape/loss landscape/operators",
    "landscape/surface": "errors arguments formatting plotting landscape/progress landscape/loss "
    "landscape/operators landscape/spectrum",
    "landscape/lr_range": "errors arguments loss_curves plotting landscape/progress landscape/loss",
    "landscape/monitor": "errors arguments guard loss_curves landscape/loss",
    "landscape": "landscape/progress landscape/operators landscape/spectrum landscape/surface landscape/lr_range "
    "landscape/monitor",
}
_LAB = {
    "lab/command": "errors",
    "lab/user_code": "errors folders",
    "lab/isolation": "",
    "lab/gate": "errors arguments formatting lab/command lab/isolation",
    "lab/tasks": "errors arguments folders landscape/loss lab/command lab/user_code lab/isolation lab/tasks/networks",
    "lab/tasks/networks": "",
    "lab/design": "errors arguments optimizers sam schedules lab/command lab/user_code lab/isolation lab/tasks",
    "lab/storage": "errors lab/design",
    "lab/provenance": "landscape/loss lab/user_code lab/isolation lab/tasks lab/design",
    "lab/run": "errors arguments loss_curves sam schedules landscape landscape/progress landscape/loss "
    "landscape/surface lab/command lab/user_code lab/isolation lab/tasks lab/design lab/storage lab/provenance",
    "lab/search": "lab/isolation lab/tasks lab/design",
    "lab/contract": "errors optimizers landscape/loss lab/user_code lab/isolation lab/tasks lab/design lab/storage "
    "lab/run lab/search",
    "lab/own_study": "errors lab/user_code lab/tasks lab/design lab/contract",
    "lab/executors": "errors arguments notices lab/user_code lab/isolation lab/design lab/storage lab/provenance "
    "lab/run",
    "lab/analysis": "errors lab/design lab/search",
    "lab/report": "errors folders formatting plotting lab/design lab/storage lab/run lab/analysis lab/report/topics "
    "lab/report/survey",
    "lab/report/topics": "errors formatting optimizers lab/command lab/user_code lab/design lab/search lab/analysis "
    "lab/report",
    "lab/report/survey": "errors formatting lab/design lab/storage lab/analysis lab/report lab/report/topics",
    "lab/race": "errors arguments formatting optimizers problems lab/design lab/run lab/report",
    "lab/stages": "errors lab/design lab/storage lab/search lab/executors lab/analysis",
    "lab/study": "lab/design lab/storage lab/search lab/analysis lab/report lab/stages",
    "lab/display": "formatting notices",
    "lab/specify": "errors arguments lab/user_code lab/tasks lab/design lab/provenance lab/run lab/search lab/contract "
    "lab/own_study",
    "lab/comparison": "errors lab/user_code lab/tasks lab/design lab/storage lab/provenance lab/run lab/contract "
    "lab/specify lab/executors lab/analysis lab/stages lab/study lab/display",
    "lab/estimate": "errors lab/own_study lab/specify lab/user_code lab/design lab/storage lab/run lab/search",
    "lab/surveys": "errors lab/user_code lab/tasks lab/contract lab/analysis lab/study lab/comparison",
    "lab/exercises": "errors",
    "lab": "lab/tasks lab/run lab/stages lab/study lab/comparison lab/surveys",
}
MAY_IMPORT |= _LAB
MAY_IMPORT |= {
    "integrations": "errors linting lab",
    "cli": " ".join({*MAY_IMPORT} - {"backends", "backends/fused", "core", "dtensor", "group_values", "step_record"}),
    "__main__": "cli",
    ".": "errors integrations landscape lab lab/gate linting optimizers recipes sam schedules",
}
CLIENTS = {"transformers", "accelerate", "lightning", "pytorch_lightning", "skorch", "fastai"}  # of the integrations
MOST_MODULES = 14  # in a folder; more is a floor without rooms
# Files that only list names, written by tools/names.py, and the entry point that Python asks for.
REGISTRIES = {"optimizers/registry.py", "__main__.py"}


def room(name):
    """Return the room of a file."""
    path = Path(name)
    folder = path.parent.as_posix()
    return (
        path.with_suffix("").as_posix() if folder in (".", "lab", "landscape") and path.stem != "__init__" else folder
    )


@functools.cache
def tree(name):
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def module_of(name):
    return ".".join(["fallline", *Path(name).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(name): name for name in FILES}


def imports(node):
    """Yield the modules that a tree imports anywhere: when it is loaded, inside functions, or for types only."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                submodule = f"{child.module}.{alias.name}"
                yield submodule if submodule in MODULES else child.module


def imported_files(name):
    """Return the files of fallline that a file imports."""
    return {MODULES[module] for module in imports(tree(name)) if module in MODULES} - {name}


def test_imports_point_down():
    wrong = {}
    for name in FILES:
        allowed = {*MAY_IMPORT[room(name)].split(), room(name)}
        wrong[name] = {other for other in imported_files(name) if room(other) not in allowed}
    assert not {name: others for name, others in wrong.items() if others}


def test_the_order_of_the_rooms_is_the_order_of_imports():
    order = list(MAY_IMPORT)
    for place, names in MAY_IMPORT.items():
        above = [name for name in names.split() if order.index(name) > order.index(place)]
        # A package chooses among its own parts, or hands their names on; parts do not know of the choice.
        assert all(name.startswith(f"{place}/") for name in above), (place, above)


def test_imports_make_no_circle():
    """Among all modules, deferred and type-only imports included."""
    graph = {name: imported_files(name) for name in FILES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")
    assert len(order) == len(FILES)


def test_a_folder_has_few_modules():
    modules = [Path(name).parent.as_posix() for name in FILES if not name.endswith("__init__.py")]
    counted = Counter(Path(name).parent.as_posix() for name in FILES if name not in REGISTRIES)
    assert modules and not {folder: count for folder, count in counted.items() if count - 1 > MOST_MODULES}


def test_a_layer_imports_no_package_that_is_none_of_its_business():
    """A rule is numbers; the kernels are Numba's; what draws, prints or downloads belongs to the lab and above."""
    above = {"altair", "jinja2", "pooch", "rich", "scipy", "sklearn", "typer", "vl_convert", "pandas", "ray"}
    above |= CLIENTS
    pure = {"torch", "numba", "numpy", *above}
    banned = {"optimizers": pure, "rules": pure, "lab": {"numba", "typer"}, "cli": {"numba"}, "backends": above}
    exempt = {
        "rules/ops.py": {"torch", "numpy"},  # the functions that a rule may call, on numbers of either kind
        "rules/matrices.py": {"torch"},  # the same on whole matrices
        "rules/eigenbases.py": {"torch"},  # the same
        "optimizers/orthogonal/muon.py": {"torch"},  # it takes the model, whose modules decide
        "plotting.py": {"altair"},  # imported when something is drawn; says how to install it if it is missing
    }
    for name in FILES:
        top = name.partition("/")[0].removesuffix(".py")
        used = {module.partition(".")[0] for module in imports(tree(name))}
        exempt_here = exempt.get(name, CLIENTS if top == "integrations" else set())
        assert not used & (banned.get(top, above | {"numba"}) - exempt_here), name


def test_no_two_files_of_tests_have_the_same_name():
    """pytest imports them by their names alone."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) > 100
    assert not {name for name in names if names.count(name) > 1}


def test_a_file_has_at_most_300_lines():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert not {name: count for name, count in lines.items() if count > 300}


# Files under 30 lines that are a topic of their own, not cut off another because of the limit above.
SHORT = {
    "__main__.py": "the entry point of python -m fallline",
    "cli/new_task.py": "one command a file",
    "cli/report.py": "one command a file",
    "lab/command/git.py": "the only place that asks git about files",
    "lab/executors/base.py": "the interface of all executors",
    "lab/report/text.py": "how names are shown in a report",
    "lab/tasks/networks/gru.py": "one network a file",
}


def test_a_short_file_is_a_topic_of_its_own():
    texts = {name: path.read_text(encoding="utf-8").splitlines() for name, path in FILES.items()}
    short = {name for name, lines in texts.items() if len(lines) < 30 and not name.endswith("__init__.py")}
    assert short == SHORT.keys()


def test_only_the_command_line_prints():
    for name in FILES:
        calls = {ast.unparse(node.func) for node in ast.walk(tree(name)) if isinstance(node, ast.Call)}
        assert room(name) == "cli" or not calls & {"print", "sys.stdout.write", "sys.stderr.write"}, name


def test_errors_are_raised_by_their_own_names():
    """No bare Exception."""
    for name in FILES:
        raised = {ast.unparse(node.exc) for node in ast.walk(tree(name)) if isinstance(node, ast.Raise) and node.exc}
        assert not [t for t in raised if t.startswith(("Exception", "BaseException", "AssertionError"))], name


def test_a_test_file_has_at_most_300_lines_and_lends_nothing():
    """What tests share is in tests/support: a test file that is imported runs as another's."""
    for path in TESTS:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        assert not [module for module in imports(ast.parse(text)) if module.startswith("test_")], path


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_what_guards_a_decision_exists(path):
    guards = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", path.read_text(encoding="utf-8"))
    for name, test in guards:
        assert f"def {test}" in (Path(__file__).parents[1] / name).read_text(encoding="utf-8"), (name, test)

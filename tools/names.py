"""Write the files that only list names: what is public, which optimizers there are, and how schedulers are called.

python tools/names.py [--check]
"""

import ast
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fallline"
EAGER = ("optimizers", "sam", "schedules")  # packages whose __all__ is public and cheap to import
MODULES = ("errors", "landscape", "recipes", "schedules")  # public as modules: fl.schedules.cosine
LAZY = {"compare": "lab", "task": "lab"}  # names that need the extra `lab`, imported at first use

TEMPLATE = '''"""Fallline: which optimizer, how to run it, and why it behaves so.

Written by `make names`; `make check` fails when it is stale.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fallline import {modules}
{imports}

if TYPE_CHECKING:
{typing}

__all__ = [
{names}
]

_LAZY = {lazy}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fallline' has no attribute {{name!r}}")
    return getattr(import_module(_LAZY[name]), name)
'''


REGISTRY = '''"""The optimizers by the names of their rules. Written by `make names`."""

from fallline.core.optimizer import Optimizer
{imports}

_CLASSES: tuple[type[Optimizer], ...] = (
{classes}
)
OPTIMIZERS: dict[str, type[Optimizer]] = {{cls.rule.name: cls for cls in _CLASSES}}
'''
OPTIMIZERS = '''"""The optimizers, one a file. Written by `make names`."""

{imports}

__all__ = [
{names}
]
'''


STUB = """# The package for type checkers, with the constructors that are derived at run time. Written by `make names`.
from collections.abc import Sequence

from torch.optim import Optimizer

{imports}

{classes}

__all__ = [
{names}
]
"""


def optimizers() -> dict[str, str]:
    """Return the classes of optimizers and the modules they are in, in the order of the modules."""
    found = {}
    for path in sorted((PACKAGE / "optimizers").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "Optimizer" in [getattr(base, "id", "") for base in node.bases]:
                found[node.name] = path.stem
    return found


def registry() -> str:
    """Return the text that optimizers/registry.py must have."""
    found = optimizers()
    imports = (f"from fallline.optimizers.{module} import {name}" for name, module in found.items())
    return REGISTRY.format(imports="\n".join(imports), classes="\n".join(f"    {name}," for name in found))


def package() -> str:
    """Return the text that optimizers/__init__.py must have."""
    found = {**optimizers(), "OPTIMIZERS": "registry", "create_optimizer": "create"}
    found |= dict.fromkeys(("StepInBackward", "step_in_backward"), "step_in_backward")
    modules = {module: sort([name for name in found if found[name] == module]) for module in found.values()}
    lines = sorted(imported(f"optimizers.{module}", names) for module, names in modules.items())
    names = "\n".join(f'    "{name}",' for name in sort(list(found)))
    return OPTIMIZERS.format(imports="\n".join(lines), names=names)


def schedules() -> str:
    """Return the text that schedules/__init__.pyi must have."""
    from fallline import schedules  # signatures exist only once the decorators have run

    public = {name: getattr(schedules, name) for name in schedules.__all__}
    derived = [name for name, value in public.items() if hasattr(value.__init__, "__signature__")]
    lines = []
    for node in ast.parse((PACKAGE / "schedules" / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            kept = [alias.name for alias in node.names if alias.name not in derived]
            lines.append(f"from {node.module} import {', '.join(kept)}")
    return STUB.format(
        imports="\n".join(lines),
        classes="\n\n".join(stub(name, inspect.signature(public[name])) for name in derived),
        names="\n".join(f'    "{name}",' for name in public),
    )


def stub(name: str, signature: inspect.Signature) -> str:
    """Return a scheduler class as a stub file has it."""
    parameters = [str(p).replace("collections.abc.", "").replace("'", '"') for p in signature.parameters.values()]
    listed = "".join(f"        {p},\n" for p in ["self", *parameters]).replace("torch.optim.optimizer.", "")
    return f"class {name}(Scheduler):\n    def __init__(\n{listed}    ) -> None: ..."


def exported(package: str) -> list[str]:
    """Return the capitalised and function names in a package's __all__, read without importing it."""
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [name for name in ast.literal_eval(node.value) if name != "OPTIMIZERS"]
    raise SystemExit(f"{package}/__init__.py has no __all__")


def render() -> str:
    """Return the text that src/fallline/__init__.py must have."""
    public = {package: exported(package) for package in EAGER}
    public["schedules"] = [
        name for name in public["schedules"] if name[0].isupper()
    ]  # the pure ones stay in their module
    public["linting"] = ["lint", "watch"]  # the checks stay in their package
    names = sorted([*MODULES, *LAZY, *(name for group in public.values() for name in group)])
    return TEMPLATE.format(
        modules=", ".join(MODULES),
        imports="\n".join(imported(p, sort(group)) for p, group in sorted(public.items())),
        typing="\n".join(
            "    " + imported(p, sort([name for name, package in LAZY.items() if package == p]))
            for p in sorted(set(LAZY.values()))
        ),
        names="\n".join(f'    "{name}",' for name in sort(names)),
        lazy="{" + ", ".join(f'"{n}": "fallline.{p}"' for n, p in LAZY.items()) + "}",
    )


def imported(package: str, names: list[str]) -> str:
    """Return an import as ruff formats it."""
    line = f"from fallline.{package} import {', '.join(names)}"
    if len(line) <= 120:
        return line
    return f"from fallline.{package} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def sort(names: list[str]) -> list[str]:
    """Sort as ruff does: constants, classes, functions."""
    return sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))


FILES = {
    "optimizers/registry.py": registry,
    "optimizers/__init__.py": package,
    "__init__.py": render,
    "schedules/__init__.pyi": schedules,
}

if __name__ == "__main__":
    for name, text in FILES.items():  # each may read what those before it write
        target = PACKAGE / name
        if "--check" not in sys.argv:
            target.write_text(text(), encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text():
            sys.exit(f"src/fallline/{name} is stale; run: make names")

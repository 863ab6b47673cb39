"""What users name by where it is: FILE.py:NAME or package.module:NAME, found again in every worker."""

import functools
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from fallline.errors import ArgumentError


def is_path(text: str) -> bool:
    """Return whether a text names an object by where it is, not by a name of ours."""
    return ":" in text


def load_object(what: str, text: str) -> Any:
    """Return the object at FILE.py:NAME or package.module:NAME.

    Args:
        what: the argument, for messages.
        text: where the object is; a relative FILE is sought in the current folder.

    Raises:
        ArgumentError: the file, the module or the object is not there.

    Example:
        >>> load_object("optimizers", "torch.optim:NAdam").__name__
        'NAdam'
    """
    place, _, name = text.rpartition(":")
    module = _file(what, text, place) if place.endswith(".py") else _module(what, text, place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(n for n in vars(module) if not n.startswith("_")) or "nothing"
            raise ArgumentError(f"{what}: {place} must define {name!r}, got {text!r}; it has {known}")
        found = getattr(found, part)
    return found


def source_digest(text: str) -> str | None:
    """Return the hash of the FILE in FILE.py:NAME; None when it names a module, whose version the manifest has."""
    place = text.rpartition(":")[0]
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()[:16] if place.endswith(".py") else None


def _module(what: str, text: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise ArgumentError(f"{what}: {place!r} must be a module or a .py file, got {text!r} ({error})") from None


def _file(what: str, text: str, place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise ArgumentError(f"{what}: {place} must be a file, got {text!r}; it is sought in {Path.cwd()}")
    return _execute(path, path.stat().st_mtime_ns)


@functools.cache
def _execute(path: Path, changed: int) -> ModuleType:
    """Return the module in a file, run once in a process unless the file has changed."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    sys.path.insert(0, str(path.parent))  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module

"""What users name by where it is: FILE.py:NAME or package.module:NAME, found again in every worker."""

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fallline.errors import ArgumentError, FalllineError
from fallline.folders import PACKAGE
from fallline.lab.user_code.imports import RecordingLoader, digest_of, recorded

_HERE = "here"  # the place of what only this process knows: classes of notebooks and prompts
_known_here: dict[str, Any] = {}
_PACKAGES = tuple(str(path) for path in (PACKAGE, Path(torch.__file__).parent))


def is_path(text: str) -> bool:
    """Return whether a text names an object by where it is, not by a name of ours."""
    return ":" in text


def is_here(text: str) -> bool:
    """Return whether a text names an object that only the process that defined it can find."""
    return text.startswith(_HERE + ":")


def load_object(what: str, text: str) -> Any:
    """Return the object at FILE.py:NAME, package.module:NAME or here:NAME.

    Args:
        what: the argument, for messages.
        text: where the object is; a relative FILE is sought in the current folder, a module there too.

    Raises:
        ArgumentError: the file, the module or the object is not there.

    Example:
        >>> load_object("optimizers", "torch.optim:NAdam").__name__
        'NAdam'
    """
    place, _, name = text.rpartition(":")
    if place == _HERE:
        return _here(what, text, name)
    module = load_module(what, text)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(n for n in vars(module) if not n.startswith("_")) or "nothing"
            raise ArgumentError(f"{what}: {place} must define {name!r}, got {text!r}; it has {known}")
        found = getattr(found, part)
    return found


def load_module(what: str, text: str) -> ModuleType:
    """Return the module in which FILE.py:NAME or package.module:NAME is.

    Raises:
        ArgumentError: the file or the module is not there.
    """
    place = text.rpartition(":")[0]
    return _file(what, text, place) if place.endswith(".py") else _module(what, text, place)


def path_of(thing: Any) -> str:
    """Return the text with which `load_object` finds a class or function, in another process where that is possible.

    It is FILE.py:NAME for what stands in a script or was loaded from a file (relative to the current folder when it is
    below it), package.module:NAME for what can be imported, and here:NAME for the rest: what a notebook, a prompt or a
    function defines is found in this process only.

    Example:
        >>> path_of(ArgumentError)
        'fallline.errors:ArgumentError'
        >>> path_of(type("Mine", (), {}))
        'here:Mine'
    """
    module = sys.modules.get(thing.__module__)
    if module is not None and _at(module, thing.__qualname__) is thing:
        if (path := _script(module)) is not None:
            place = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            return f"{place.as_posix()}:{thing.__qualname__}"
        spec = getattr(module, "__spec__", None)  # `python -m package.module` runs it under another name
        if spec is not None and spec.origin is not None and module.__name__ != "builtins":
            return f"{spec.name}:{thing.__qualname__}"
    _known_here[thing.__qualname__] = thing
    return f"{_HERE}:{thing.__qualname__}"


def folder_name(text: str) -> str:
    """Return a name for the folder of what a text names, without the path to it.

    Example:
        >>> folder_name("examples/unet_shapes.py:Shapes"), folder_name("digits")
        ('unet_shapes-Shapes', 'digits')
    """
    place, _, name = text.rpartition(":")
    return "-".join(filter(None, (Path(place).name.removesuffix(".py"), re.sub(r"\W+", "-", name).strip("-"))))


def _script(module: ModuleType) -> Path | None:
    """Return the file of a module that was run or loaded as a file; None of one that is imported by its name."""
    file = getattr(module, "__file__", None)
    if file is None or not (path := Path(file).resolve()).is_file() or path.suffix != ".py":
        return None
    run = module.__name__ == "__main__" and getattr(module, "__spec__", None) is None
    return path if run or module.__name__ == _name(path) else None


def _at(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _here(what: str, text: str, name: str) -> Any:
    if name not in _known_here:
        raise ArgumentError(
            f"{what}: what a notebook, a prompt or a function defines must be used in that process, got {text!r} in "
            "another; pass jobs=0 to run the trials where it was defined, or move it to the top level of a .py file"
        )
    return _known_here[name]


def _module(what: str, text: str, place: str) -> ModuleType:
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)  # the command line does not put it there, as `python -m` does
    try:
        with recorded():
            return importlib.import_module(place)
    except ImportError as error:
        raise ArgumentError(
            f"{what}: {place!r} must be a module or a .py file, got {text!r} ({error}); check the spelling"
        ) from None


def _file(what: str, text: str, place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise ArgumentError(f"{what}: {place} must be a file, got {text!r}; it is sought in {Path.cwd()}")
    try:
        return _execute(path)
    except FalllineError:  # from a decorator in the file: a sentence already
        raise
    except Exception as error:
        raise ArgumentError(f"{what}: {place} must run without an error, got {describe(error, path)}") from error


def describe(error: BaseException, *files: Path | None) -> str:
    """Return an error as `TypeError: message (my_task.py, line 7)`, with the place that `place_of` returns."""
    place = place_of(error, *files)
    return " ".join(f"{type(error).__name__}: {error}".split()) + (f" ({place})" if place else "")


def place_of(error: BaseException, *files: Path | None) -> str:
    """Return the innermost line of an error as `my_task.py, line 7`; "" when it has none.

    It is that of `files` if given, else the innermost outside Fallline and PyTorch, else the innermost of all.
    """
    frames, known = traceback.extract_tb(error.__traceback__), set(filter(None, files))
    within = [frame for frame in frames if known and Path(frame.filename).resolve() in known]
    within = within or [frame for frame in frames if not frame.filename.startswith(_PACKAGES)] or frames[-1:]
    return f"{Path(within[-1].filename).name}, line {within[-1].lineno}" if within else ""


def _name(path: Path) -> str:
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _execute(path: Path) -> ModuleType:
    """Return the module in a file, run once in a process unless the file has changed."""
    name, content = _name(path), digest_of(path)
    known = sys.modules.get(name)
    loader = getattr(getattr(known, "__spec__", None), "loader", None)
    if known is not None and isinstance(loader, RecordingLoader) and loader.digest == content:
        return known
    loader = RecordingLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    folder = str(path.parent)
    sys.path.insert(0, folder)  # it may import its neighbours
    try:
        with recorded():
            loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)  # and may do so inside its methods, but must shadow nothing of ours
    return module

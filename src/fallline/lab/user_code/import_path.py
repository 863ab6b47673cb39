"""Load the objects that users name by location, FILE.py:NAME or package.module:NAME, in any process."""

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

from fallline.errors import ArgumentError, FalllineError, suggest
from fallline.folders import PACKAGE
from fallline.lab.user_code.imports import RecordingLoader, digest_of, recorded

_HERE = "here"  # place of objects that only this process can find: classes defined in a notebook or at a prompt
_known_here: dict[str, Any] = {}
_PACKAGES = tuple(str(path) for path in (PACKAGE, Path(torch.__file__).parent))


def is_path(text: str) -> bool:
    """Return whether a text names an object by its location, in contrast to a built-in name."""
    return ":" in text


def is_here(text: str) -> bool:
    """Return whether a text names an object that can be found only in the process that defined it."""
    return text.startswith(_HERE + ":")


def load_object(what: str, text: str) -> Any:
    """Return the object at FILE.py:NAME, package.module:NAME or here:NAME.

    Args:
        what: name of the argument, for error messages.
        text: location of the object; relative files and modules are looked up in the current folder.

    Raises:
        ArgumentError: the file, the module or the object does not exist.

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
            hint = suggest(part, vars(found), f"it has {known}")
            raise ArgumentError(f"{what}: {place} must define {name!r}, got {text!r}; {hint}")
        found = getattr(found, part)
    return found


def load_module(what: str, text: str) -> ModuleType:
    """Return the module that contains FILE.py:NAME or package.module:NAME.

    Raises:
        ArgumentError: the file or the module does not exist.
    """
    place = text.rpartition(":")[0]
    if not place:
        raise ArgumentError(
            f"{what}: a location must be FILE.py:NAME or package.module:NAME, got {text!r}; name the file"
        )
    return _file(what, text, place) if place.endswith(".py") else _module(what, text, place)


def path_of(thing: Any) -> str:
    """Return the text with which `load_object` finds a class or function, in other processes too if possible.

    It is FILE.py:NAME for objects in a script or in a module loaded from a file (relative to the current folder for
    files below it), package.module:NAME for objects that can be imported, and here:NAME for objects that are defined in
    a notebook, at a prompt or inside a function, which can be found only in this process.

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
        spec = getattr(module, "__spec__", None)  # `python -m package.module` runs the module under another name
        if spec is not None and spec.origin is not None and module.__name__ != "builtins":
            return f"{spec.name}:{thing.__qualname__}"
    _known_here[thing.__qualname__] = thing
    return f"{_HERE}:{thing.__qualname__}"


def folder_name(text: str) -> str:
    """Return a folder name for the object that a text names, without its path.

    Example:
        >>> folder_name("examples/unet_shapes.py:Shapes"), folder_name("digits")
        ('unet_shapes-Shapes', 'digits')
    """
    place, _, name = text.rpartition(":")
    return "-".join(filter(None, (Path(place).name.removesuffix(".py"), re.sub(r"\W+", "-", name).strip("-"))))


def _script(module: ModuleType) -> Path | None:
    """Return the file of a module that was run or loaded as a file; None if it was imported by name."""
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
            f"{what}: an object defined in a notebook, at a prompt or in a function must be used in that process, got "
            f"{text!r} in another process; pass jobs=0, or move it to the top level of a .py file"
        )
    return _known_here[name]


def _module(what: str, text: str, place: str) -> ModuleType:
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)  # `python -m` adds the current folder, the installed command does not
    try:
        with recorded():
            return importlib.import_module(place)
    except FalllineError:  # raised by a Fallline decorator in the module, already a readable message
        raise
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{place}.".startswith(f"{missing}."):
            raise ArgumentError(
                f"{what}: {place!r} must be a module or a .py file, got {text!r} ({error}); check the spelling"
            ) from None
        raise ArgumentError(f"{what}: {place} must run without an error, got {describe(error)}; fix it") from error


def _file(what: str, text: str, place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise ArgumentError(
            f"{what}: {place} must be a file, got {text.removesuffix(':')!r}; relative paths start at {Path.cwd()}"
        )
    try:
        return _execute(path)
    except FalllineError:  # raised by a Fallline decorator in the file, already a readable message
        raise
    except (Exception, SystemExit) as error:
        raise ArgumentError(
            f"{what}: {place} must run without an error, got {describe(error, path)}; fix it"
        ) from error


def describe(error: BaseException, *files: Path | None) -> str:
    """Return an error as `TypeError: message (my_task.py, line 7)`, with the location that `place_of` returns.

    For a syntax error, it is the location of the error, and the line itself is shown.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        shown = f": {error.text.strip()}" if error.text and error.text.strip() else ""
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno}{shown})"
    place = place_of(error, *files)
    return " ".join(f"{type(error).__name__}: {error}".split()) + (f" ({place})" if place else "")


def place_of(error: BaseException, *files: Path | None) -> str:
    """Return the innermost relevant line of an error as `my_task.py, line 7`; "" if the error has no traceback.

    It is the innermost line in `files`, else the innermost line outside Fallline and PyTorch, else the innermost line.
    """
    frames, known = traceback.extract_tb(error.__traceback__), set(filter(None, files))
    within = [frame for frame in frames if known and Path(frame.filename).resolve() in known]
    within = within or [frame for frame in frames if not frame.filename.startswith(_PACKAGES)] or frames[-1:]
    return f"{Path(within[-1].filename).name}, line {within[-1].lineno}" if within else ""


def _name(path: Path) -> str:
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _execute(path: Path) -> ModuleType:
    """Execute a file as a module; return the loaded module if the file has not changed since."""
    name, content = _name(path), digest_of(path)
    known = sys.modules.get(name)
    loader = getattr(getattr(known, "__spec__", None), "loader", None)
    if known is not None and isinstance(loader, RecordingLoader) and loader.digest == content:
        return known
    loader = RecordingLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up the module of a class
    folder = str(path.parent)
    sys.path.insert(0, folder)  # the file may import modules from its folder
    try:
        with recorded():
            loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)  # its functions may do so later; last on the path, so that it shadows nothing
    return module

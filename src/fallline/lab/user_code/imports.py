"""Find the user's files that a module imports, and the content from which this process has loaded them.

NOTE [bytecode]: Python considers a cached .pyc current if the source has the same size and the same modification time
in whole seconds. After an edit within one second of the last import, Python may therefore run the old code. To avoid
this, user files are compiled from source here, and the digest of the source is stored with the module.
"""

import ast
import contextlib
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from fallline.folders import PACKAGE

_INSTALLED = {"site-packages", "dist-packages"}
_SUFFIXES = (".py", ".pyc", *EXTENSION_SUFFIXES)
_STANDARD = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib"))


def digest(content: bytes) -> str:
    """Return the hash of the content of a file."""
    return hashlib.sha256(content).hexdigest()[:16]


def digest_of(path: Path) -> str | None:
    """Return the hash of a file as it is on disk now, or None if it cannot be read."""
    try:
        return digest(path.read_bytes())
    except OSError:
        return None


@functools.cache
def user_file(text: str | None) -> Path | None:
    """Return the real path of a module's file if it is a user file, else None.

    Files of the standard library, of installed packages and of this package are not user files. Files of packages that
    are installed in editable mode are.
    """
    if text is None or not text.endswith(_SUFFIXES):
        return None
    path = Path(text).resolve()
    if _INSTALLED & set(path.parts) or any(path.is_relative_to(folder) for folder in (PACKAGE, *_STANDARD)):
        return None
    return path if path.is_file() else None


def module_file(name: str, file: str | None) -> Path | None:
    """Return the real path of a module's file if the module is the user's, else None.

    Code that an installed package generates and loads as its own submodule, as `torch.compile` does, is not the user's,
    although its file is in a cache folder.
    """
    path, top = user_file(file), sys.modules.get(name.partition(".")[0])
    above = vars(top).get("__file__") if isinstance(top, ModuleType) else None
    if path is None or not isinstance(above, str) or user_file(above) is not None:
        return path
    folders = [Path(folder).resolve() for folder in getattr(top, "__path__", ())]
    return path if any(map(path.is_relative_to, folders)) else None


class RecordingLoader(SourceFileLoader):
    """Loads a source file without its .pyc, see NOTE [bytecode], and stores the digest of the source."""

    digest: str | None = None

    def get_code(self, fullname: str) -> Any:
        """Compile the current content of the file."""
        content = self.get_data(self.path)
        self.digest = digest(content)
        return self.source_to_code(content, self.path)


class _Recorder:
    """A finder that delegates to the other finders and assigns user files a `RecordingLoader`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = _ask_finders(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or user_file(spec.origin) is None:
            return None  # Python then asks the other finders itself
        spec.loader = RecordingLoader(spec.loader.name, spec.loader.path)
        return spec


_RECORDER = _Recorder()


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """Load user files with a `RecordingLoader` if they are imported within the block."""
    if _RECORDER in sys.meta_path:
        yield
        return
    sys.meta_path.insert(0, _RECORDER)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(_RECORDER)


def modules_used(names: Iterable[str]) -> dict[str, Path]:
    """Return the user files that modules consist of and import, directly or indirectly, by module name.

    All import statements count, including those inside functions, except under `if TYPE_CHECKING`. The modules that
    define the classes and functions in a module's namespace count too, however they got there.

    Args:
        names: names of loaded modules.
    """
    found: dict[str, Path] = {}
    waiting = list(names)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = _spec(name)
        if spec is None:
            continue
        path = module_file(name, spec.origin)
        if path is None and (spec.origin is not None or spec.submodule_search_locations is None):
            continue  # not a user file; a namespace package has no file but may contain user modules
        if path is not None:
            found[name] = path
            waiting.extend(_imported(name, path, spec.submodule_search_locations is not None))
        if name in sys.modules:
            waiting.extend(_namespace_modules(sys.modules[name]))
        if parent := name.rpartition(".")[0]:
            waiting.append(parent)
    return found


def _spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module, loaded or not, without importing it."""
    module = sys.modules.get(name)
    if module is not None:
        spec = getattr(module, "__spec__", None)
        file = vars(module).get("__file__")
        return spec if spec is not None or file is None else ModuleSpec(name, None, origin=file)
    parent = name.rpartition(".")[0]
    path: Sequence[str] | None = None
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    return _ask_finders(name, path, None)


def _ask_finders(name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not _RECORDER and hasattr(finder, "find_spec"):
            with contextlib.suppress(ImportError, ValueError, AttributeError):
                if (spec := finder.find_spec(name, path, target)) is not None:
                    return spec
    return None


def _namespace_modules(module: ModuleType) -> Iterator[str]:
    """Yield the modules that define the classes and functions in a module's namespace."""
    for value in list(vars(module).values()):
        if isinstance(value, type):
            yield from (base.__module__ for base in value.__mro__ if isinstance(base.__module__, str))
        elif isinstance(value, FunctionType) and isinstance(value.__module__, str):
            yield value.__module__
        elif isinstance(value, ModuleType) and not value.__name__.startswith(module.__name__ + "."):
            yield value.__name__  # a submodule becomes an attribute when any code imports it


def _imported(name: str, path: Path, is_package: bool) -> list[str]:
    """Return the absolute names of the modules that the import statements of a file may load."""
    try:
        stated = _statements(path.read_bytes()) if path.suffix == ".py" else ()
    except OSError:
        stated = ()
    package = name if is_package else name.rpartition(".")[0]
    names = []
    for level, target, parts in stated:
        base = target
        if level:
            above = package.rsplit(".", level - 1)[0] if level > 1 else package
            base = ".".join(filter(None, (above, target)))
        if base.partition(".")[0] in sys.stdlib_module_names:
            continue
        names += [base, *(f"{base}.{part}" for part in parts)]
    return [each for each in names if each]


@functools.lru_cache(maxsize=1024)
def _statements(content: bytes) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """Return level, module and names of every import in a source, including calls of `import_module("name")`."""
    try:
        waiting: list[ast.AST] = [ast.parse(content)]
    except (SyntaxError, ValueError):
        return ()
    found: list[tuple[int, str, tuple[str, ...]]] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(a.name for a in node.names if a.name != "*")))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            constants = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            found += [(0, text, ()) for text in constants if not text.startswith(".")]
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))
    return tuple(found)


def user_modules() -> dict[str, Path]:
    """Return the files of the user's modules that this process has loaded, by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if not isinstance(file, str) or name in ("__main__", "__mp_main__"):
            continue
        path = module_file(name, file)
        if path is not None:
            found[name] = path
    return found

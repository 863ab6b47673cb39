"""Store compiled kernels on disk and load them.

The name of a file contains a hash of its source and of the helpers that it is compiled with. The source contains the
whole update, so a changed rule gets a new file, and an outdated kernel is never loaded (decision 0001).
"""

import hashlib
import importlib.util
import os
import pickle
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from numba.core.caching import FunctionCache

from fallline.errors import CacheWarning
from fallline.folders import cache_folder, create_private_folder, require_trusted
from fallline.notices import notify

_lock = threading.Lock()
_HELPERS = ("denormals.py", "formats.py", "intrinsics.py", "../blocks.py")
# Cache folders of which a warning has been given. Python's filter "once" starts again whenever a library changes the
# filters.
_reported: set[Path] = set()


def _fingerprint(source: str) -> str:
    """Return a hash of what a kernel depends on; Numba's files contain the name of the package too."""
    helpers = b"".join((Path(__file__).parent / name).read_bytes() for name in _HELPERS)
    return hashlib.sha256(source.encode() + helpers + str(__package__).encode()).hexdigest()[:16]


def load_module(stem: str, source: str) -> ModuleType:
    """Import compiled code from the disk cache, or compile it in memory if the cache cannot be used."""
    with _lock:  # if two threads need the same new update at the same time, it is compiled only once
        return _load(f"{stem}_{_fingerprint(source)}", source)


def _load(name: str, source: str) -> ModuleType:
    folder = cache_folder()
    try:
        create_private_folder(folder)
        require_trusted(folder)  # NOTE [trust]
        path = folder / f"{name}.py"
        if not path.exists():
            notify("compiling optimizer kernels (a few seconds, on the first run only)")
        _write_once(path, source)
        for file in _code_files(path):
            require_trusted(file)
        return _import(f"{__package__}.{name}", path)  # so the lab knows it as a module of Fallline
    # Numba raises RuntimeError if no folder is writable, and unpickles its files even if they are damaged.
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        _warn_unusable(folder, str(error))
        module = ModuleType(name)
        exec(compile(source.replace("cache=True", "cache=False"), f"<{name}>", "exec"), module.__dict__)
        return module


def _code_files(path: Path) -> Iterator[Path]:
    """Yield what is executed when a kernel is loaded: its source, Python's and Numba's files, and their folders."""
    python_folder = path.parent / "__pycache__"
    with suppress(OSError):  # then Numba chooses another folder
        create_private_folder(python_folder)
    folders = {path.parent, python_folder, _numba_folder(path)}
    yield from filter(Path.exists, folders)
    for folder in folders:
        for file in folder.glob(f"{path.stem}.*"):
            if file.suffix in (".py", ".pyc", ".nbi", ".nbc"):  # others are temporary and may vanish
                yield file


def _numba_folder(path: Path) -> Path:
    """Return the folder of Numba's files for a source file: `__pycache__` unless NUMBA_CACHE_DIR names another one."""
    namespace: dict[str, Any] = {}
    exec(compile("def kernel(): pass", str(path), "exec"), namespace)
    return Path(FunctionCache(namespace["kernel"]).cache_path)  # type: ignore[no-untyped-call]


def _warn_unusable(folder: Path, reason: str) -> None:
    """Warn once per process and folder."""
    if folder in _reported:
        return
    _reported.add(folder)
    warnings.warn(
        f"fallline: the kernel cache {folder} must be intact and writable for this user only, got {reason}; delete it, "
        "remove the write permission of others (chmod -R go-w), or set FALLLINE_CACHE_DIR to a folder of your own; "
        "until then every process compiles its kernels again (one second each)",
        CacheWarning,
        stacklevel=2,
    )


def _import(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OSError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Numba looks up the module of a cached function by name
    spec.loader.exec_module(module)
    return module


def _write_once(path: Path, text: str) -> None:
    """Write `path` atomically with a fixed modification time, because Numba's cache index compares time and size."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.utime(temporary, (0, 0))
    Path(temporary).replace(path)

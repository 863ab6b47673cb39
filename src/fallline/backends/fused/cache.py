"""Keep the source of compiled kernels on disk, and load them.

A file is named by the hash of its own text and of the helpers it is compiled with. The text is the whole update, so a
changed rule is another file: a stale kernel cannot be loaded (decision 0001).
"""

import functools
import hashlib
import importlib.util
import os
import pickle
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from types import ModuleType

from fallline.errors import CacheWarning
from fallline.folders import cache_folder

_lock = threading.Lock()


def _fingerprint(source: str) -> str:
    helpers = Path(__file__).with_name("intrinsics.py").read_bytes()
    return hashlib.sha256(source.encode() + helpers).hexdigest()[:16]


def load_module(stem: str, source: str) -> ModuleType:
    """Import compiled code from the disk cache, or from memory when the cache cannot be written."""
    with _lock:  # two threads that meet a new update at once compile it once
        return _load(f"{stem}_{_fingerprint(source)}", source)


def _load(name: str, source: str) -> ModuleType:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.py"
        _write_once(path, source)
        return _import(f"fallline_kernels.{name}", path)
    # Numba raises RuntimeError when it finds no folder to write to, and unpickles what it finds, damaged or not.
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        _warn_unusable(cache_folder(), str(error))
        module = ModuleType(name)
        exec(compile(source.replace("cache=True", "cache=False"), f"<{name}>", "exec"), module.__dict__)
        return module


@functools.cache  # once a process; Python's own "once" ends whenever a library touches the filters
def _warn_unusable(folder: Path, reason: str) -> None:
    warnings.warn(
        f"fallline: the kernel cache {folder} must be whole and writable, got {reason}; delete it, or let "
        "FALLLINE_CACHE_DIR name another; until then kernels are compiled anew in every process (a second each)",
        CacheWarning,
        stacklevel=2,
    )


def _import(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OSError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Numba looks the module of a cached function up by name
    spec.loader.exec_module(module)
    return module


def _write_once(path: Path, text: str) -> None:
    """Create `path` in one step, with a fixed time stamp: Numba's index compares time and size with those it saw."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.utime(temporary, (0, 0))
    Path(temporary).replace(path)

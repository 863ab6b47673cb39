"""Turn an update into a compiled kernel: write its source, keep it on disk, load it.

The file is named by the hash of its own text and of the helpers it is compiled with. The text is the whole update,
so a changed rule is another file: a stale kernel cannot be loaded (decision 0001).
"""

import functools
import hashlib
import importlib.util
import math
import os
import pickle
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fallline.backends.trace import trace
from fallline.errors import CacheWarning
from fallline.rule import Update

_TEMPLATE = '''"""Written by fallline from the rule {rule}; edits are lost."""

from numba import njit, types
from numpy import sqrt
from fallline.backends.memory import *

signature = types.void(types.int64[:, ::1], types.int64[:, ::1], types.{real}[:, ::1], types.int64[::1])


# Contraction only: assuming finite values ("nnan", "ninf") would let a NaN or Inf gradient vanish.
@njit(signature, cache=True, nogil=True, fastmath={{"contract"}}, error_model="numpy")
def kernel(table, work, scalars, ticket):
    while True:
        w = take_ticket(ticket.ctypes.data)
        if w >= work.shape[0]:
            return
        t, start, n = work[w, 0], work[w, 1], work[w, 2]
        row = table[t, {width}]
{load_scalars}
{pointers}
        for i in range(n):
{loop}
'''

_STORAGE = {  # dtype name: address reader, bytes, how an element is read, how it is written
    "float32": ("float32_at", 4, "{}", "{}"),
    "float64": ("float64_at", 8, "{}", "{}"),
    "bfloat16": ("uint16_at", 2, "load_bfloat16({})", "store_bfloat16({})"),
    "float16": ("uint16_at", 2, "load_float16({})", "store_float16({})"),
}
DTYPES = tuple(_STORAGE)
_lock = threading.Lock()


@dataclass(frozen=True)
class Kernel:
    """A compiled update.

    Attributes:
        scalars: hyperparameters by keyword to the tuple of numbers that the kernel's loop needs.
        run: `(table, work, scalars, ticket)`; returns when no work is left, so several threads may call it at once.
        width: how many numbers `scalars` returns.
    """

    scalars: Callable[..., tuple[float, ...]]
    run: Callable[..., None]
    width: int


def cache_folder() -> Path:
    """Return where compiled kernels are kept: `FALLLINE_CACHE_DIR`, or the user's cache folder."""
    chosen = os.environ.get("FALLLINE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    home = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
    return Path(home or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fallline"


@functools.cache
def compile_update(update: Update, dtypes: tuple[str, ...]) -> Kernel:
    """Return the kernel of `update` for a parameter, gradient and states of the given dtypes (names from DTYPES)."""
    traced = trace(update)
    source = kernel_source(update, dtypes)
    with _lock:  # two threads that meet a new update at once compile it once
        module = _load(f"{update.rule.name}_{_fingerprint(source)}", source)
    code = f"lambda *, {', '.join(traced.arguments)}: ({''.join(s + ', ' for s in traced.scalars)})"
    scalars = eval(code, {"sqrt": math.sqrt, "divide": _divide, "maximum": max, "inf": math.inf})
    return Kernel(scalars, module.kernel, len(traced.scalars))


def kernel_source(update: Update, dtypes: tuple[str, ...]) -> str:
    """Return the Python source of the kernel that `compile_update` compiles."""
    traced = trace(update)
    names = ("param", "grad", *update.state)
    pointers, loads, stores = [], [], []
    for column, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        reader, size, load, _ = _STORAGE[dtype]
        pointers.append(f"{name}_at = {reader}(table[t, {column}] + {size} * start)")
        loads.append(f"{name} = {load.format(f'{name}_at[i]')}")
    written = (("param", dtypes[0]), *zip(update.state, dtypes[2:], strict=True))
    for (name, dtype), result in zip(written, traced.results, strict=True):
        stores.append(f"{name}_at[i] = {_STORAGE[dtype][3].format(result)}")
    assignments = [f"{name} = {expression}" for name, expression in traced.elements]
    return _TEMPLATE.format(
        rule=update.rule.name,
        real=dtypes[0] if dtypes[0] == "float64" else "float32",
        width=len(names),
        load_scalars=_indent(8, [f"s{k} = scalars[row, {k}]" for k in range(len(traced.scalars))]),
        pointers=_indent(8, pointers),
        loop=_indent(12, loads + assignments + stores),
    )


def _indent(spaces: int, lines: list[str]) -> str:
    return "\n".join(" " * spaces + line for line in lines)


def _divide(x: float, y: float) -> float:
    """Divide as floating-point hardware does: by zero gives Inf or NaN, not an exception."""
    if y == 0:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return x / y


def _fingerprint(source: str) -> str:
    helpers = Path(__file__).with_name("memory.py").read_bytes()
    return hashlib.sha256(source.encode() + helpers).hexdigest()[:16]


def _load(name: str, source: str) -> ModuleType:
    """Import the kernel from the disk cache, or from memory when the cache cannot be written."""
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
    if path.exists() and path.read_text() == text:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.utime(temporary, (0, 0))
    Path(temporary).replace(path)

"""Hash the behaviour of code, and check whether a loaded module agrees with its file."""

import ast
import contextlib
import dis
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fallline.lab.user_code.imports import digest

_PLAIN = (bool, int, float, str, tuple, dict, type(None))  # values that are hashed with the code that uses them
_WRITES = ("STORE_GLOBAL", "STORE_DEREF")


def code_digest(thing: Any) -> tuple[str, set[str]]:
    """Return a hash of the code of a class or function defined in a notebook, and the modules that it uses.

    The hash includes the classes, functions and plain values that the code uses, unless they are defined in a file.
    """
    used: set[str] = set()
    seen: dict[int, int] = {}

    def describe(value: Any) -> Any:
        if isinstance(value, ModuleType):
            used.add(value.__name__)
            return value.__name__
        if isinstance(value, _PLAIN):
            return _constant(value)
        value = getattr(value, "__func__", value)
        if not isinstance(value, type | FunctionType):
            return type(value).__qualname__
        if id(value) in seen:
            return seen[id(value)]
        seen[id(value)] = len(seen)
        if value is not thing and _has_file(value.__module__):
            used.add(value.__module__)
            return f"{value.__module__}.{value.__qualname__}"
        return _members(value) if isinstance(value, type) else _function(value)

    def _members(cls: type) -> Any:
        used.update(base.__module__ for base in cls.__mro__)
        members = inspect.getmembers_static(cls) if hasattr(inspect, "getmembers_static") else inspect.getmembers(cls)
        return [(k, describe(v)) for k, v in members if k[:2] != "__" or k in ("__init__", "__call__")]

    def _function(function: FunctionType) -> Any:
        code = function.__code__
        inner = list(_codes(code))
        written = {i.argval for each in inner for i in dis.get_instructions(each) if i.opname in _WRITES}
        named = {name for each in inner for name in each.co_names} & function.__globals__.keys()
        variables = {name: function.__globals__[name] for name in named}
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        variables |= {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
        values = [function.__defaults__, function.__kwdefaults__]
        values += [variables[name] for name in sorted(variables.keys() - written)]  # not variables that it assigns
        return [_instructions(code), *map(describe, values)]

    described = repr(describe(thing))
    return digest(described.encode()), {name for name in used if name in sys.modules}


def _has_file(name: str) -> bool:
    """Return whether a module was loaded from a file, the user's or an installed one, or is built in."""
    module = sys.modules.get(name)
    return module is not None and (name == "builtins" or getattr(module, "__file__", None) is not None)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # the variable has no value yet
        return False


def agrees(module: ModuleType, content: bytes) -> bool:
    """Return whether the functions and literal values of a loaded module agree with a source, as far as detectable."""
    file = vars(module)["__file__"]
    if not file.endswith(".py") or type(getattr(module.__spec__, "loader", None)) is not SourceFileLoader:
        return True  # compiled in another way, for example by pytest
    try:
        tree = ast.parse(content)
        codes = {_instructions(code) for code in _codes(compile(content, file, "exec", dont_inherit=True))}
    except (SyntaxError, ValueError):
        return False
    holders = [module, *(v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)]
    functions = (getattr(v, "__func__", v) for holder in holders for v in list(vars(holder).values()))
    own = [f.__code__ for f in functions if isinstance(f, FunctionType) and f.__code__.co_filename == file]
    return all(_instructions(code) in codes for code in own) and all(
        _constant(vars(module)[name]) == _constant(value)
        for name, value in _literals(tree).items()
        if name in vars(module)
    )


def _literals(tree: ast.Module) -> dict[str, Any]:
    """Return the names that a source assigns exactly once, at the top level, to a literal, with their values."""
    found: dict[str, Any] = {}
    stored = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    once = {name for name, times in stored.items() if times == 1}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in once:
            with contextlib.suppress(ValueError, TypeError, SyntaxError):
                found[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _instructions(code: CodeType) -> tuple[Any, ...]:
    """Return the instructions and constants of a function, without its location."""
    constants = (_instructions(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts)
    return (code.co_code, code.co_names, *constants)


def _constant(value: Any) -> str:
    # The order of a set differs between processes.
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)

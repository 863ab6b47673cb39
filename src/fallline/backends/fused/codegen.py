"""Write an update as the source of a compiled kernel."""

import functools
import re
from typing import Any

from fallline.backends.fused.cache import load_module
from fallline.backends.fused.stores import with_writes
from fallline.backends.ir import Pass, Trace, trace
from fallline.backends.rounding import rounded_columns
from fallline.rules.update import Update

_HEAD = '''"""Written by fallline from the rule {rule}; edits are lost."""

from numba import cfunc
from numpy import float64, sqrt
from fallline.backends.fused.intrinsics import *
'''
_PASS = """

@cfunc(entry, cache=True, fastmath={flags}, error_model="numpy")
def {name}(call):
    table, work, shares = table_of(call, 0, int64_at), table_of(call, 1, int64_at), table_of(call, 2, int64_at)
    scalars, squares = table_of(call, 3, {real}_at), table_of(call, 4, float64_at)
    while True:
        ticket = take_ticket(call)
        if ticket >= shares.shape[0]:
            return
        for w in range(shares[ticket, 0], shares[ticket, 1]):
            t, start, n = work[w, 0], work[w, 1], work[w, 2]
            row = table[t, {width}]
{before}
{loops}
{after}
"""
# "nnan" and "ninf" would let a NaN or Inf gradient vanish. Sums need "reassoc" to be vectorised; for one compiled
# kernel the order is fixed, whatever the number of threads.
_FLAGS = {True: '{"contract", "reassoc"}', False: '{"contract"}'}

_STORAGE = {  # dtype name: address reader, bytes, how an element is read, how it is written
    "float32": ("float32_at", 4, "{}", "{}"),
    "float64": ("float64_at", 8, "{}", "{}"),
    "bfloat16": ("uint16_at", 2, "load_bfloat16({})", "store_bfloat16({})"),
    "float16": ("uint16_at", 2, "load_float16({})", "store_float16({})"),
}
DTYPES = tuple(_STORAGE)


@functools.cache
def compile_update(update: Update, dtypes: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the kernels of the passes of an update, as Numba's C functions; `threads.Call` calls them.

    A kernel takes five tables: addresses, work and shares, as `FusedBucket` lays them out, scalars and squares. It
    returns when no work is left, so that several threads may call it at once. A pass that sums writes the sum of work
    item w to `squares[w]`.

    Args:
        update: what the kernels do.
        dtypes: from DTYPES, of parameter, gradient and states.
    """
    module = load_module(update.rule.name, kernel_source(update, dtypes))
    return tuple(getattr(module, name) for name in _names(trace(update)))


def _names(traced: Trace) -> list[str]:
    return [f"sum{i}" if sweep.scope else "update" for i, sweep in enumerate(traced.passes)]


def kernel_source(update: Update, dtypes: tuple[str, ...]) -> str:
    """Return the Python source of the kernels that `compile_update` compiles."""
    traced = trace(update)
    columns = dict(zip(("param", "grad", *update.state), dtypes, strict=True))
    rounded = rounded_columns(update, {name: dtype for name, dtype in columns.items() if name != "grad"})
    text = _HEAD.format(rule=update.rule.name)
    exact = [name for name, dtype in columns.items() if dtype == _real(columns)]
    for name, (sweep, results) in zip(_names(traced), with_writes(traced, list(columns), exact), strict=True):
        text += _pass_source(name, sweep, results, columns, rounded)
    return text


def _pass_source(name: str, sweep: Pass, results: dict[str, str], columns: dict[str, str], rounded: list[str]) -> str:
    """Return the source of one pass.

    Args:
        name: of the function.
        sweep: the pass.
        results: what it writes, column to element.
        columns: the dtype of the parameter, the gradient and every state.
        rounded: which of them are rounded stochastically.
    """
    # Two arrays give so little to compute that loads alone count: with vectors of 64 bytes they took a sixth longer.
    before = ["use_narrow_vectors()"] if len(columns) == 2 and not sweep.scope else []
    before += [f"s{k} = scalars[row, {k}]" for k in range(len(sweep.scalars))]
    loop, after = [], []
    text = " ".join([*(expression for _, expression in sweep.lines), *sweep.outputs])
    copies = {key: result for key, result in results.items() if _is_copy(key, result, columns, text)}
    written = [key for key in results if key not in copies]
    for column, (key, dtype) in enumerate(columns.items()):
        reader, size, load, _ = _STORAGE[dtype]
        if key in written or re.search(rf"\b{key}\b", text):
            before.append(f"{key}_at = {reader}(table[t, {column}] + {size} * start)")
        if re.search(rf"\b{key}\b", text):
            loop.append(f"{key} = {load.format(f'{key}_at[i]')}")
    alone = bool(sweep.scope) and len(loop) == 1 and not results
    loop += [f"{element} = {expression}" for element, expression in sweep.lines]
    if sweep.scope:
        before += [f"total{k} = 0.0" for k in range(len(sweep.outputs))]
        loop += [f"total{k} += float64(x) * float64(x)".replace("x", x) for k, x in enumerate(sweep.outputs)]
        after = [f"squares[w, {k}] = total{k}" for k in range(len(sweep.outputs))]
    elif rounded:
        begin, each = _draws(len(columns), len(rounded))
        before, loop = before + begin, loop + each
    for key, result in copies.items():
        size, places = _STORAGE[columns[key]][1], [list(columns).index(name) for name in (key, result)]
        target, source = (f"table[t, {place}] + {size} * start" for place in places)
        before.append(f"copy_past_cache({target}, {source}, {size} * n)")
    for key in written:
        store = _STORAGE[columns[key]][3]
        if key in rounded:
            number = rounded.index(key)
            store = f"round_bfloat16({{}}, random{number - number % 2}, {16 * (number % 2)})"
        loop.append(f"{key}_at[i] = {store.format(results[key])}")
    return _PASS.format(
        name=name,
        real=_real(columns),
        flags=_FLAGS[bool(sweep.scope)],
        width=len(columns),
        before=_indent(12, before),
        loops=_indent(12, _in_streams(loop) if alone else _over("n", loop)),
        after=_indent(12, after),
    )


def _real(columns: dict[str, str]) -> str:
    """Return the dtype of the arithmetic."""
    return "float64" if columns["param"] == "float64" else "float32"


def _over(elements: str, loop: list[str]) -> list[str]:
    return [f"for i in range({elements}):", *("    " + line for line in loop)]


def _in_streams(loop: list[str]) -> list[str]:
    """Return a loop over four parts of a chunk at once: one array read from end to end leaves memory half idle."""
    parts = [line.replace("[i]", f"[i + {part} * part]") for part in range(4) for line in loop]
    return ["part = n // 4", *_over("part", parts), *_over("4 * part, n", loop)]


def _draws(columns: int, rounded: int) -> tuple[list[str], list[str]]:
    """Return what to do before the loop and in it, so that there are random bits for every column that is rounded."""
    before, loop = [f"first = start + table[t, {columns + 2}]"], []
    for pair in range(0, rounded, 2):  # an element's 32 random bits serve two columns
        parts = f"low{pair}, high{pair}"
        before.append(f"{parts} = draw_key(table[t, {columns + 1}], first, {pair})")
        loop.append(f"random{pair} = draw({parts}, i)")
    return before, loop


def _is_copy(key: str, result: str, columns: dict[str, str], text: str) -> bool:
    """Return whether a column, which no expression of the pass reads, becomes what another one was."""
    return not re.search(rf"\b{key}\b", text) and columns.get(result) == columns[key]


def _indent(spaces: int, lines: list[str]) -> str:
    return "\n".join(" " * spaces + line for line in lines)

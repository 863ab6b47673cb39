"""In which pass of a kernel each result is written: a state before the norms of tensors, where it need not wait."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from fallline.backends.ir import Pass, Trace
from fallline.rules.rule import TENSOR

Line = tuple[str, str]


def with_writes(traced: Trace, columns: Sequence[str], exact: Collection[str]) -> list[tuple[Pass, dict[str, str]]]:
    """Return the passes, each with what it writes: column to element.

    LAMB's means are finished before the norms for its ratio are known. Written in the pass that sums for those norms,
    they need not be computed twice: the last pass reads them, and not the gradient. That took a sixth off the step.

    Args:
        traced: what the update does.
        columns: of the kernel: the parameter, the gradient, the states.
        exact: the columns that are read back as they were before they were written, not rounded.
    """
    *before, last = traced.passes
    late = dict(zip([name for name in columns if name != "grad"], last.outputs, strict=True))
    early: dict[str, str] = {}
    if [sweep.scope for sweep in before].count(TENSOR) == 1:
        for name, element in list(late.items()):
            others = [result for key, result in late.items() if key != name]
            lines = _needed([(e, name if e == element else code) for e, code in last.lines], others)
            still_old = name in others or any(name in _words(code) for e, code in lines if e != element)
            if name in exact and element in dict(before[-1].lines) and not still_old:
                early[name] = late.pop(name)
                last = dataclasses.replace(last, lines=tuple(lines), outputs=tuple(others))
    written: list[Mapping[str, str]] = [*({} for _ in before[:-1]), *([early] if before else []), late]
    return list(zip([*before, last], map(dict, written), strict=True))


def _needed(lines: Iterable[Line], outputs: Iterable[str]) -> list[Line]:
    """Return the lines that the outputs need."""
    wanted, kept = set(outputs), []
    for element, code in reversed(list(lines)):
        if element in wanted:
            kept.append((element, code))
            wanted |= _words(code)
    return kept[::-1]


def _words(code: str) -> set[str]:
    return set(re.findall(r"\w+", code))

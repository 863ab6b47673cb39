"""Write docs/optimizers/: a page and a picture for every optimizer.  python tools/docs.py [--check].

The pages are generated from the declarations: the formulas by running the rule (`equations.py`), the rest from
docstrings, signatures, search spaces and docs/benchmarks.md (`declaration.py`).
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from declaration import (
    ROOT,
    arguments,
    arms,
    low_bytes,
    machine,
    meanings,
    rule_sections,
    searched,
    sections,
    state_bytes,
    step_times,
    use_when,
)
from declaration import items as entries
from equations import accepts, equations, symbols, variants
from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer
from fallline.optimizers import OPTIMIZERS
from fallline.problems import PROBLEMS
from picture import LRS, STEPS, svg
from typeset import letter

FOLDER = ROOT / "docs" / "optimizers"
NOTE = "<!-- Written by `make pages` from the declarations in src/fallline; edit those. -->"
DECAY: dict[str, Any] = {"weight_decay": 0.1}  # any but 0, to be shown
ABSENT = "–"


def render() -> dict[str, str]:
    """Return every file of docs/optimizers by its name."""
    classes = list(OPTIMIZERS.values())
    pages = {f"{cls.rule.name}.md": page(cls) for cls in classes}
    pictures = {f"{cls.rule.name}.svg": svg(cls) for cls in classes}
    return {"README.md": index(classes), "options.md": options(classes), **pages, **pictures}


def stale(files: dict[str, str], folder: Path = FOLDER) -> list[str]:
    """Return the names of files that are missing, differ, or belong to nothing any more."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*")}
    return sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))


def page(cls: type[Optimizer]) -> str:
    """Return the page of an optimizer."""
    return _joined([*_head(cls), *_update(cls), *_arguments(cls), *_cost(cls), *_source(cls)])


def _head(cls: type[Optimizer]) -> Iterator[str]:
    name = cls.rule.name
    yield NOTE
    yield f"# {cls.__name__}"
    yield sections(cls)[""]
    yield f"**Use when** {use_when(cls)[1]}"
    yield f"```pycon\n{sections(cls)['Example']}\n```"
    yield f"![The path of {cls.__name__} on a ravine, compared with that of plain SGD]({name}.svg)"
    yield (
        f"*{STEPS} steps on [the ravine](README.md#the-pictures), from the ring towards the minimum at the plus. Each "
        "optimizer has the learning rate that is best for it here, and no weight decay.*"
    )


def _update(cls: type[Optimizer]) -> Iterator[str]:
    yield "## Update"
    yield _math(equations(cls, DECAY))
    mode = cls.rule.weight_decay_modes[0]
    legend = [f"{_inline(letter('param'))} parameter", f"{_inline(letter('grad'))} gradient"]
    if any("t" in re.findall(r"\^\{(t)\}", line) for line in equations(cls, DECAY)):
        legend.append(f"{_inline('t')} number of updates of this parameter, 1 in its first update")
    yield (
        f"{'; '.join(legend)}; the other letters are explained below. Weight decay is shown in its default mode, "
        f"`{mode}`. The [options](options.md) of every optimizer describe the other modes, clipping and averaging."
    )
    if cls.rule.adapt is not None:
        before, after = (_inline(letter(name + cls.rule.group_state[0])) for name in ("", "next_"))
        yield (
            f"{before} is a number of the parameter group, and {after} its value after the step, which depends on sums "
            f"over all parameters; see [semantics](../semantics.md#{cls.rule.name})."
        )
    for option, (on, off) in variants(cls).items():
        without = equations(cls, {**DECAY, **off})
        yield f"With {_set(on)}{' instead' if on[option] is False else ''}:"
        yield _math([line for line in equations(cls, {**DECAY, **on}) if line not in without])


def _set(on: dict[str, Any]) -> str:
    return " and ".join(f"`{k}={v}`" if isinstance(v, bool) else f"`{k}`" for k, v in on.items())


def _arguments(cls: type[Optimizer]) -> Iterator[str]:
    yield "## Arguments"
    letters = symbols(cls)
    yield _table(
        ("argument", "", "default", "meaning"),
        [
            (f"`{name}`", _inline(letters[name]) if name in letters else "", f"`{_short(default)}`", text)
            for name, (default, text) in arguments(cls).items()
        ],
    )
    yield "The options that all optimizers share are described [on their own page](options.md)."
    if arms(cls):
        names = ", ".join(f"`{arm}`" for arm in arms(cls))
        found = "not searched" if searched(cls, "lr") is None else f"searched in {_range(cls, 'lr')}"
        yield f"Names in the lab (`fallline compare`): {names}. The learning rate is {found}."


def _cost(cls: type[Optimizer]) -> Iterator[str]:
    yield "## Memory and time"
    always, more = state_bytes(cls)
    extra = "".join(f"; {count} more with `{option}`" for option, count in more.items())
    low = low_bytes(cls)
    texts = [f'{size} with `state_dtype="{dtype}"`' for dtype, size in low.items()]
    switched = "It is" if always or not more else f"With {' or '.join(f'`{option}`' for option in more)}, it is"
    fewer = f" {switched} {' and '.join(texts)}; see [how few bytes](../scale/few-bytes.md)." if low else ""
    square = " of a large square matrix" if cls.rule.shapes else ""
    yield f"**{always} bytes of state per parameter**{square}{extra} (float32).{fewer}"
    texts = entries(rule_sections(cls)["State"])
    if cls.rule.state:
        rows = [
            (f"`{key}`", _inline(letter(key, "t")), texts.get(key, ""))
            for key in (*cls.rule.state, *cls.rule.scalar_state)
        ]
        yield _table(("state", "", "meaning"), rows)
    if times := step_times(cls):
        rows = [(o or "plain", row["fallline"], _best_torch(row)) for o, row in times.items()]
        yield _table(("GPT-2 small (124 M), ms per step", "fallline", "fastest in torch"), rows, right=2)
        yield f"[Measured](../benchmarks.md) on {machine()}."


def _best_torch(row: dict[str, str]) -> str:
    numbers = [row[name] for name in row if name.startswith("torch") and row[name] != ABSENT]
    return min(numbers, key=float, default=ABSENT)


def _source(cls: type[Optimizer]) -> Iterator[str]:
    yield "## Source"
    yield f"{_linked(cls.rule.source)}."
    if differs := rule_sections(cls).get("Differs"):
        yield f"Differences from the source: {' '.join(differs.split())}"
    path = Path(inspect.getfile(cls)).relative_to(ROOT).as_posix()
    yield f"Source code of the rule and the class: [`{path}`](../../{path})."


def _linked(source: str) -> str:
    return re.sub(r"arXiv:([\w.]+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def index(classes: Iterable[type[Optimizer]]) -> str:
    """Return the list of optimizers with the table that compares them."""
    rows = []
    for cls in classes:
        always, more = state_bytes(cls)
        row = step_times(cls).get("", {})
        state = f"{always}" + (f" – {always + sum(more.values())}" if more else "")
        rows.append(
            (
                f"[{cls.__name__}]({cls.rule.name}.md)",
                *(f"{_short(arguments(cls)[name][0])} ({_range(cls, name)})" for name in ("lr", "weight_decay")),
                use_when(cls)[0],
                state,
                row.get("fallline", ABSENT),
                _best_torch(row),
            )
        )
    columns = ("", "learning rate", "weight decay", "use when", "state, B", "step, ms", "torch, ms")
    return _joined(
        [
            NOTE,
            "# Optimizers",
            "This table helps to choose a first optimizer; `fallline compare` measures which is best for your model.",
            _table(columns, rows, right=3),
            "Learning rate and weight decay: the default and, in parentheses, the range that the lab searches. State: "
            "bytes per float32 parameter, without and with all options. Step: time per step on GPT-2 small (124 M "
            "parameters), compared with the fastest of torch's loop, foreach and fused implementations, "
            f"[measured](../benchmarks.md) on {machine()}.",
            "The options that all optimizers share (clipping, averaging, the modes of weight decay) are described "
            "[on their own page](options.md). [`SAM(base)`](../sam.md) wraps any of these optimizers, or one of "
            "PyTorch.",
            "## The pictures",
            PICTURES,
        ]
    )


LONGEST = 240  # characters of LaTeX in a line; what is longer is left to docs/semantics.md
PICTURES = f"""\
Each page shows {STEPS} steps on the surface `ravine` of `fallline.problems`. {PROBLEMS["ravine"].summary} Every
optimizer, and plain SGD, runs with the learning rate, out of {len(LRS)}, that has the lowest mean value over the steps.
There is no weight decay, and the other settings are those of the lab's arm of the same name. Two dimensions without
noise show how an optimizer moves, not how well it trains a network."""


def options(classes: Sequence[type[Optimizer]]) -> str:
    """Return the page of the options that every optimizer has, their formulas shown on the one without state."""
    simple = [cls for cls in classes if cls.rule.shapes is None]
    first = min(simple, key=lambda cls: state_bytes(cls)[0])  # plain gradient descent, where each option shows best
    plain = equations(first, {})
    shown: list[str] = []
    rest: list[tuple[str, ...]] = []
    for name, text in meanings(CommonOptions).items():
        text = f"{text[0].upper()}{text[1:]}"
        if name == "weight_decay_mode":
            shown += [f"## `{name}`", text, *_decay_modes(first), _table(*_modes_of(classes))]
        elif (lines := _changed(first, name, plain)) and max(map(len, lines)) <= LONGEST:
            shown += [f"## `{name}`", text, _math(lines)]
        else:
            rest.append((f"`{name}`", text))
    intro = (
        f"The formulas on this page show each option on [{first.__name__}]({first.rule.name}.md) without momentum. "
        "Without any of the options its update is:"
    )
    head = [NOTE, "# Options of every optimizer", intro, _math(plain)]
    return _joined([*head, *shown, "## How a step runs", _table(("option", "meaning"), rest)])


def _changed(cls: type[Optimizer], name: str, plain: list[str]) -> list[str]:
    """Return the equations that differ when an option is used."""
    for value in (True, 0.5):
        if accepts(cls, {name: value}):
            return [line for line in equations(cls, {name: value}) if line not in plain]
    return []


def _decay_modes(cls: type[Optimizer]) -> Iterator[str]:
    for mode in cls.rule.weight_decay_modes:
        yield f'`"{mode}"`:'
        yield _math(equations(cls, {**DECAY, "weight_decay_mode": mode}))
    for other in OPTIMIZERS.values():
        for mode in set(other.rule.weight_decay_modes) - set(cls.rule.weight_decay_modes):
            yield f'`"{mode}"`: see [{other.__name__}]({other.rule.name}.md#update).'


def _modes_of(classes: Iterable[type[Optimizer]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for cls in classes:
        default, *others = (f"`{mode}`" for mode in cls.rule.weight_decay_modes)
        rows.append((f"[{cls.__name__}]({cls.rule.name}.md)", default, ", ".join(others)))
    return ("", "default", "other modes"), rows


def _range(cls: type[Optimizer], name: str) -> str:
    limits = searched(cls, name)
    return ABSENT if limits is None else "\u00a0–\u00a0".join(_short(f"{limit:.2g}") for limit in limits)


def _short(number: str) -> str:
    """Return a number as people write it: 1e-08 as 1e-8, 0.0001 as 1e-4."""
    return re.sub(r"e-0", "e-", "1e-4" if number == "0.0001" else number)


def _math(lines: list[str]) -> str:
    body = " \\\\\n".join(lines)
    return f"```math\n\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n```"


def _inline(latex: str) -> str:
    return f"$`{latex}`$"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: int = 0) -> str:
    """Return a table, its last `right` columns aligned to the right."""
    marks = ["---"] * (len(head) - right) + ["--:"] * right
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *escaped))


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    files = render()
    if "--check" in sys.argv:
        if wrong := stale(files):
            sys.exit(f"docs/optimizers: {', '.join(wrong)} must be regenerated; run: make pages")
    else:
        FOLDER.mkdir(exist_ok=True)
        for name in stale(files):
            if name in files:
                (FOLDER / name).write_text(files[name], encoding="utf-8")
            else:
                (FOLDER / name).unlink()

"""What the docs say about an optimizer, read off its class, its rule, the lab's search spaces and the benchmarks."""

import inspect
import math
import re
from collections.abc import Mapping
from pathlib import Path

from fallline.core.optimizer import Optimizer
from fallline.lab.design.spaces import SPACES
from fallline.rules.memory import bytes_by_dtype

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
FLOAT32 = 4  # bytes
SHAPE = (64, 64)  # of the matrix whose state is counted
_SECTION = re.compile(r"^(Use when|Args|Raises|Example):", re.MULTILINE)
_RULE_SECTION = re.compile(r"^(State|Hyper|Follows|Differs):", re.MULTILINE)
_ITEM = re.compile(r"^(\w+): ", re.MULTILINE)


def sections(cls: type) -> dict[str, str]:
    """Return the parts of a class's docstring by their titles, dedented; what precedes them all is ""."""
    return _split(inspect.getdoc(cls) or "", _SECTION)


def use_when(cls: type) -> tuple[str, str]:
    """Return when to use an optimizer: the first sentence, without its full stop, and all of it.

    Raises SystemExit when its docstring does not say.
    """
    if "Use when" not in sections(cls):
        raise SystemExit(f"{cls.__name__}: its docstring must have a paragraph 'Use when: …', got none; add one")
    text = _flowing(sections(cls)["Use when"])
    return re.split(r"\.(?: |$)", text, maxsplit=1)[0], text


def arguments(cls: type) -> dict[str, tuple[str, str]]:
    """Return the documented constructor arguments but for `params`: name to default, as Python writes it, and text."""
    parameters = inspect.signature(cls).parameters
    return {name: (_default(parameters, name), text) for name, text in meanings(cls).items() if name != "params"}


def meanings(cls: type) -> dict[str, str]:
    """Return what the section `Args` of a class's docstring says of each argument."""
    return items(sections(cls)["Args"])


def _default(parameters: Mapping[str, inspect.Parameter], name: str) -> str:
    return repr(parameters[name].default) if name in parameters else ""


def items(text: str) -> dict[str, str]:
    """Return the entries of a section, by name: lines that begin with it, and those that go on."""
    parts = _ITEM.split("\n".join(line for line in text.splitlines() if not re.match(r"\w+, .*…:", line)))
    return {name: _flowing(part) for name, part in zip(parts[1::2], parts[2::2], strict=True)}


def rule_sections(cls: type[Optimizer]) -> dict[str, str]:
    """Return the sections of the docstring of an optimizer's rule: State, Hyper, Follows, Differs."""
    return _split(inspect.getdoc(cls.rule.function) or "", _RULE_SECTION)


def _split(text: str, titles: re.Pattern[str]) -> dict[str, str]:
    first, *rest = titles.split(text)
    return {"": first.strip()} | {
        title: inspect.cleandoc(" " * len(title + ":") + body).strip()
        for title, body in zip(rest[::2], rest[1::2], strict=True)
    }


def _flowing(text: str) -> str:
    return " ".join(text.split())


def low_bytes(cls: type[Optimizer]) -> dict[str, str]:
    """Return what `bytes_by_dtype` of the library finds for a matrix of `SHAPE`, as text."""
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    return {dtype: f"{size:.3g}" for dtype, size in bytes_by_dtype(cls.rule, SHAPE, defaults).items()}


def state_bytes(cls: type[Optimizer]) -> tuple[int, dict[str, int]]:
    """Return the bytes of float32 state per element of a matrix of `SHAPE`, and how many come with each option."""
    rule, defaults = cls.rule, {name: p.default for name, p in inspect.signature(cls).parameters.items()}

    def count(**given: bool) -> int:
        shapes = rule.state_shapes(SHAPE, {**defaults, **dict.fromkeys(options, False), **given})
        return FLOAT32 * sum(math.prod(shape) for shape in shapes.values()) // math.prod(SHAPE)

    options = [option for option in rule.state.values() if option]
    return count(), {option: count(**{option: True}) - count() for option in options}


def searched(cls: type[Optimizer], name: str) -> tuple[float, float] | None:
    """Return the range of a hyperparameter that the lab searches over all arms of an optimizer; None without arms."""
    spaces = [space for space in SPACES.values() if space.optimizer == cls.rule.name]
    found = [dimension for space in spaces for dimension in space.dimensions if dimension.name == name]
    return (min(d.low for d in found), max(d.high for d in found)) if found else None


def arms(cls: type[Optimizer]) -> list[str]:
    """Return the lab's names for configurations of an optimizer."""
    return [arm for arm, space in SPACES.items() if space.optimizer == cls.rule.name]


def step_times(cls: type[Optimizer]) -> dict[str, Mapping[str, str]]:
    """Return the measured rows of an optimizer on GPT-2 small: configuration ("" is plain) to the cells by column."""
    found = {}
    for row in _table("GPT-2 small:"):
        name, _, options = row["optimizer"].partition(", ")
        if name == cls.__name__:
            found[options] = row
    return found


def machine() -> str:
    """Return what the benchmarks say about the machine."""
    match = re.search(r"^Machine: (.*?)\.(?= |$)(?: `|$)", BENCHMARKS.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else "a machine that the benchmarks do not name"


def _table(title: str) -> list[dict[str, str]]:
    """Return the rows of the table under the heading that begins so."""
    text = BENCHMARKS.read_text(encoding="utf-8")
    _, _, section = text.partition(f"## {title}")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]] if rows else []

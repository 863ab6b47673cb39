"""Write docs/optimizers/: a page and a picture for each optimizer, and a table of all.

python tools/docs.py [--check]

Everything comes from the declarations: equations from running the rule on symbols, defaults from the signature, ranges
from the lab's search spaces, advice from the docstring ("Use when: …"), times from docs/benchmarks.md.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import torch
from equations import equations, symbols, variants
from picture import svg

from fallline.base import Optimizer
from fallline.lab.spaces import SPACES, Dimension
from fallline.optimizers import OPTIMIZERS
from fallline.rule import NON_NEGATIVE, WEIGHT_DECAY_MODES

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "optimizers"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
SOURCE = "Written by `make docs` from the declarations; do not edit."


def advice(cls: type[Optimizer]) -> str:
    """Return what the docstring says under "Use when"."""
    found = re.search(r"Use when: (.*?)\n\s*\n", inspect.getdoc(cls) or "", re.DOTALL)
    if found is None:
        raise SystemExit(f"{cls.__name__}: the docstring must say when to use it; add a line 'Use when: …'")
    return " ".join(found.group(1).split())


def typeset(lines: list[str]) -> str:
    """Return equations as a block that GitHub typesets."""
    return "```math\n\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}\n```"


def state_bytes(cls: type[Optimizer], **options: object) -> int:
    """Return the bytes of state that a float32 parameter has, its step count aside."""
    made: type = cls
    opt = made([param := torch.nn.Parameter(torch.zeros(1000))], backend="reference", **options)
    param.grad = torch.ones(1000)
    opt.step()
    return sum(v.numel() * v.element_size() for k, v in opt.state[param].items() if k != "step") // 1000


def span(name: str, dimension: str) -> str:
    """Return the range that the lab searches for an optimizer, over all its arms; empty if it searches none."""
    found: list[Dimension] = [
        d for space in SPACES.values() if space.optimizer == name for d in space.dimensions if d.name == dimension
    ]
    return f"{min(d.low for d in found):.2g} to {max(d.high for d in found):.2g}" if found else ""


def step_time(cls: type[Optimizer]) -> str:
    """Return the measured milliseconds of a step with the defaults, on GPT-2 small."""
    table = BENCHMARKS.read_text().split("\n## ")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    times = {row[0]: row[rows[0].index("fallline")] for row in rows}
    return times.get(cls.__name__, "–")


def page(name: str, cls: type[Optimizer]) -> str:
    """Return the page of one optimizer."""
    rule = cls.rule
    summary = (inspect.getdoc(cls) or "").split("\n\n")[0]
    modes = ", ".join(f"`{mode}`" for mode in rule.weight_decay_modes)
    extra = "".join(f"; `{key}` comes with `{option}`" for key, option in rule.state.items() if option)
    parts = [
        f"# {cls.__name__}",
        summary,
        f"**Use when:** {advice(cls)}",
        f"![Path of {cls.__name__} on the ravine]({name}.svg)",
        "Forty steps in a valley 30 times as steep across as along, beside plain SGD; each at the learning rate "
        "that does best there.",
        "## Update",
        typeset(equations(cls, {})),
    ]
    for on, _ in variants(cls).values():
        given = ", ".join(f"{key}={value}" for key, value in on.items())
        parts += [f"With `{given}`:", typeset(equations(cls, on))]
    parts += [
        f"Weight decay is {modes.split(', ')[0]} unless asked otherwise; it may be {modes} "
        "([what they mean](options.md)).",
        "## Hyperparameters",
        hyperparameters(name, cls),
        "## State",
        f"{state_bytes(cls)} bytes a float32 parameter{extra}. `state_dtype=torch.bfloat16` halves it. A step of GPT-2 "
        f"small took {step_time(cls)} ms ([measured](../benchmarks.md)).",
        "## Source",
        f"{rule.source}.",
        SOURCE,
    ]
    return "\n\n".join(parts) + "\n"


def hyperparameters(name: str, cls: type[Optimizer]) -> str:
    """Return the table of hyperparameters."""
    parameters, letters = inspect.signature(cls).parameters, symbols(cls)
    rows = ["| name | | default | may be | the lab searches |", "|---|---|---|---|---|"]
    for key in ("lr", *cls.rule.ranges, "weight_decay"):
        allowed = cls.rule.ranges.get(key, NON_NEGATIVE)
        rows.append(f"| `{key}` | ${letters[key]}$ | {parameters[key].default} | {allowed} | {span(name, key)} |")
    return "\n".join(rows)


def index() -> str:
    """Return the table of all optimizers."""
    rows = [
        f"| [{cls.__name__}]({name}.md) | {span(name, 'lr')} | "
        f"{inspect.signature(cls).parameters['weight_decay'].default:g} ({span(name, 'weight_decay')}) | "
        f"{advice(cls)} | {state_bytes(cls)} | {step_time(cls)} |"
        for name, cls in OPTIMIZERS.items()
    ]
    machine = next(line for line in BENCHMARKS.read_text().splitlines() if line.startswith("Machine:"))
    head = ["| optimizer | learning rate | weight decay | use when | bytes | ms |", "|---|---|---|---|--:|--:|"]
    parts = [
        "# Optimizers",
        "Learning rates that the lab searches; the default of weight decay, and what the lab searches in brackets; "
        "bytes of state a float32 parameter; milliseconds a step of GPT-2 small (124 M parameters).",
        "\n".join([*head, *rows]),
        machine,
        "[Options that all of them have](options.md). `SAM(base, rho)` wraps any of them, or one of PyTorch's: see its "
        "docstring and the [examples](../../examples).",
        SOURCE,
    ]
    return "\n\n".join(parts) + "\n"


def options() -> str:
    """Return the page of the options that every optimizer has, shown on AdamW."""
    cls = OPTIMIZERS["adamw"]
    shown: list[dict[str, Any]] = [{"weight_decay_mode": mode} for mode in WEIGHT_DECAY_MODES]
    shown += [{"maximize": True}, {"clip_grad_value": 1.0}, {"clip_grad_norm": 1.0}, {"ema_decay": 0.999}]
    described = (inspect.getdoc(Optimizer) or "").split("Args:\n")[1]
    parts = ["# Options of every optimizer", f"```text\n{inspect.cleandoc(chr(10) + described)}\n```", "On AdamW:"]
    for given in shown:
        ((key, value),) = given.items()
        parts += [f"`{key}={value!r}`", typeset(equations(cls, given))]
    parts.append("$\\eta_0$ is the learning rate before any schedule; norms are over all parameters of all groups.")
    return "\n\n".join([*parts, SOURCE]) + "\n"


def files() -> dict[str, str]:
    """Return every generated file by its name."""
    texts = {"README.md": index(), "options.md": options()}
    for name, cls in OPTIMIZERS.items():
        texts |= {f"{name}.md": page(name, cls), f"{name}.svg": svg(cls)}
    return texts


if __name__ == "__main__":
    found = {path.name: path.read_text() for path in TARGET.glob("*")} if TARGET.is_dir() else {}
    wanted = files()
    if "--check" in sys.argv:
        stale = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if stale:
            sys.exit(f"docs/optimizers: {', '.join(stale)} stale; run: make docs")
    else:
        TARGET.mkdir(parents=True, exist_ok=True)
        for name in found.keys() - wanted.keys():
            (TARGET / name).unlink()
        for name, text in wanted.items():
            (TARGET / name).write_text(text)

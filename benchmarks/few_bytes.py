"""Measure optimizers with low-bit state.  python benchmarks/few_bytes.py [--rounds N] [--write [FILE]]

Every optimizer makes steps on GPT-2 small and on 1,000 small tensors, alone and next to one and two busy processes. The
optimizers take turns, as in `run.py`. All with float32 weights update the same parameters, as do those with bfloat16
weights. This needs 12 GB of memory, and a C++ compiler for the optimizers of DeepSpeed and torchao.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peers import construct
from run import SUITES, alternate, busy_processes, parameters, processor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

HALF = torch.bfloat16
SLOW_ROUNDS = 2
BUSY = ("alone", "1 busy process", "2 busy processes")
PAGE = Path("docs/scale/few-bytes.md")
BEGIN, END = "<!-- begin: measured by make bench -->\n", "<!-- end -->\n"


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer, and the dtype of the weights and gradients that it gets."""

    name: str
    module: str
    cls: str
    options: dict[str, Any]
    dtype: torch.dtype = torch.float32
    slow: bool = False  # makes only SLOW_ROUNDS rounds


def adamw(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Contender:
    """Return Fallline's AdamW with some options."""
    return Contender(f"Fallline AdamW{name}", "fallline", "AdamW", options, dtype)


BASE = Contender("torch AdamW, fused", "torch.optim", "AdamW", {"fused": True})
INT8 = adamw(", int8 state", state_dtype="int8")
SPLIT_INT8 = adamw(", split24, int8 state", HALF, master_weights="split24", state_dtype="int8")
DECAY = {"weight_decay": 0.01}  # the default of torch and Fallline
CONTENDERS = (
    BASE,
    Contender("DeepSpeed CPUAdam", "deepspeed.ops.adam", "DeepSpeedCPUAdam", {"adamw_mode": True, **DECAY}),
    Contender("torchao AdamW8bit", "torchao.optim", "AdamW8bit", DECAY, slow=True),
    Contender("bitsandbytes AdamW8bit", "bitsandbytes.optim", "AdamW8bit", DECAY, slow=True),
    adamw(""),
    adamw(", bfloat16 state", state_dtype=HALF),
    INT8,
    Contender("Fallline Lion, int8 state", "fallline", "Lion", {"state_dtype": "int8"}),
    Contender("Fallline LAMB, int8 state", "fallline", "LAMB", {"state_dtype": "int8"}),
    adamw(", float32 master weights", HALF, master_weights=True),
    adamw(", split32", HALF, master_weights="split32"),
    adamw(", split24", HALF, master_weights="split24"),
    adamw(", split24, bfloat16 state", HALF, master_weights="split24", state_dtype=HALF),
    SPLIT_INT8,
)
PEERS = {c.name: c.module.partition(".")[0] for c in CONTENDERS if c.module not in ("torch.optim", "fallline")}


@dataclasses.dataclass(frozen=True)
class Timing:
    """The step time of one optimizer, and the medians of its ratios per round to others."""

    milliseconds: float
    to_torch: float
    to_int8: float


class Suite:
    """The optimizers that make a step on tensors of some shapes, and the reasons why others do not."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        """Construct the optimizers and make a first step of each, which creates the state and compiles kernels."""
        params = parameters(shapes)
        self.params = {torch.float32: params, HALF: rounded(params)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.reasons: dict[str, str] = {}
        for contender in CONTENDERS:
            name, params = contender.name, self.params[contender.dtype]
            try:
                optimizer = construct(contender.module, contender.cls, params, contender.options)
                optimizer.step()
            except Exception as error:  # compilers raise errors of their own
                if name not in PEERS:
                    raise
                self.reasons[name] = reason(error, PEERS[name])
                warnings.warn(f"{name}: {self.reasons[name]}", stacklevel=2)
            else:
                self.optimizers[name] = optimizer

    def weight(self, contender: Contender) -> int:
        """Return the bytes of a weight, which are also those of a gradient."""
        return self.params[contender.dtype][0].element_size()

    def state(self, contender: Contender) -> float:
        """Return the bytes of state per parameter; a tensor that several parameters share counts once."""
        values = [value for state in self.optimizers[contender.name].state.values() for value in state.values()]
        sizes = {part.data_ptr(): part.nbytes for value in values for part in parts(value)}
        return sum(sizes.values()) / sum(param.numel() for param in self.params[contender.dtype])

    def traffic(self, contender: Contender) -> float:
        """Return the bytes that a step must move per parameter: the gradient once, weight and state twice."""
        return 3 * self.weight(contender) + 2 * self.state(contender)

    def measure(self, rounds: int) -> dict[str, Timing]:
        """Time the steps of all optimizers; in the rounds of the slow ones, only those take turns that are compared."""
        slow = {c.name for c in CONTENDERS if c.slow}
        compared = {*slow, BASE.name, INT8.name}
        steps = {name: optimizer.step for name, optimizer in self.optimizers.items()}
        few = alternate({name: step for name, step in steps.items() if name in compared}, SLOW_ROUNDS)
        many = alternate({name: step for name, step in steps.items() if name not in slow}, rounds)
        return {name: timing(name, few if name in slow else many) for name in steps}


def timing(name: str, times: dict[str, list[float]]) -> Timing:
    """Return the medians for one of the optimizers that took turns."""
    ratios = [statistics.median(a / b for a, b in zip(times[name], times[c.name], strict=True)) for c in (BASE, INT8)]
    return Timing(statistics.median(times[name]), *ratios)


def rounded(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Return bfloat16 copies of parameters and their gradients."""
    copies = [torch.nn.Parameter(param.detach().to(HALF)) for param in params]
    for copy, param in zip(copies, params, strict=True):
        copy.grad = None if param.grad is None else param.grad.to(HALF)
    return copies


def reason(error: Exception, package: str) -> str:
    """Return why a public optimizer did not make a step."""
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return "not installed"
    origin = error.__cause__ or error
    first_line = str(origin).strip().partition("\n")[0]
    return f"did not run ({type(origin).__name__}: {first_line})"


def parts(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors that a value in a state consists of, such as the codes, scales and table of torchao's."""
    if is_traceable_wrapper_subclass(value):
        for name in value.__tensor_flatten__()[0]:
            yield from parts(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value


def listed(numbers: list[float], digits: int = 2) -> str:
    """Return numbers, in the order of BUSY, as text."""
    texts = [f"{number:.{digits}f}" for number in numbers]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def table(suite: Suite, timings: list[dict[str, Timing]]) -> Iterator[str]:
    """Yield a row per contender, and why some did not run."""
    columns = ["optimizer", "weights", "bytes per parameter: weights + gradient", "state"]
    columns += [text for busy in BUSY for text in (f"{busy}: milliseconds", "÷ torch fused")]
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|" + "--:|" * (len(columns) - 2)
    for contender in CONTENDERS:
        name = contender.name
        cells = [name, str(contender.dtype).removeprefix("torch."), f"{2 * suite.weight(contender):.2f}"]
        if name in suite.reasons:
            cells += ["–", suite.reasons[name].partition(" (")[0], *"–" * (2 * len(BUSY) - 1)]
        else:
            cells.append(f"{suite.state(contender):.2f}")
            cells += [f"{x:.2f}" for busy in timings for x in (busy[name].milliseconds, busy[name].to_torch)]
        yield f"| {' | '.join(cells)} |"
    for name, text in suite.reasons.items():
        yield f"\n{name}: {text}."


def conclusions(suite: Suite, timings: list[dict[str, Timing]]) -> Iterator[str]:
    """Yield the ratios that have targets."""
    yield "\nAlone, next to one busy process and next to two, in this order:\n"
    for contender, text, target in (
        (INT8, "AdamW with int8 state", 0.65),
        (SPLIT_INT8, "AdamW with bfloat16 weights and gradients, `split24` and int8 state", 0.55),
    ):
        ratios = listed([busy[contender.name].to_torch for busy in timings])
        moved = suite.traffic(contender) / suite.traffic(BASE)
        yield (
            f"- A step of {text} takes {ratios} times as long as one of torch's fused AdamW (target: {target}). It "
            f"has to move {moved:.2f} times as many bytes."
        )
    slow = [c.name for c in CONTENDERS if c.slow and c.name in suite.optimizers]
    if slow:
        fastest = min(slow, key=lambda name: timings[0][name].milliseconds)
        ratios = listed([busy[fastest].to_int8 for busy in timings], 0)
        yield (
            f"- A step of {fastest}, the fastest of the public 8-bit optimizers above, takes {ratios} times as long as "
            "one of AdamW with int8 state (target: at least 10)."
        )


def introduction(suite: Suite, rounds: int) -> str:
    """Return what was measured, where and how."""
    packages = sorted({package for name, package in PEERS.items() if name in suite.optimizers})
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return (
        f"Machine: {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {', '.join(versions)}. "
        f"Times are medians per step over {rounds} rounds on GPT-2 small and {5 * rounds} on the small tensors, in "
        "which the optimizers take turns. A ratio is the median of the ratios per round. The 8-bit optimizers of "
        f"torchao and bitsandbytes are so slow that they make only {SLOW_ROUNDS} rounds, in which they take turns with "
        "torch's fused AdamW and Fallline's AdamW with int8 state."
    )


def report(rounds: int) -> Iterator[str]:
    """Yield the Markdown that goes between the lines BEGIN and END of the page."""
    for title, shapes in SUITES.items():
        suite = Suite(shapes)
        small = len(shapes) >= 500
        if not small:
            yield introduction(suite, rounds)
        timings = []
        for count in range(len(BUSY)):
            with busy_processes(count):
                timings.append(suite.measure(5 * rounds if small else rounds))
        yield f"\n### {title}\n"
        yield from table(suite, timings)
        yield from conclusions(suite, timings)
        del suite  # gigabytes of state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds that count on GPT-2 small (default 21)")
    parser.add_argument("--write", type=Path, nargs="?", const=PAGE, help=f"page to write to (default {PAGE})")
    arguments = parser.parse_args()
    page: Path | None = arguments.write
    text = page.read_text(encoding="utf-8") if page and page.exists() else ""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if page and not end:
        parser.error(f"--write: {page} must have the lines {BEGIN.strip()} and {END.strip()}")
    lines = []
    for line in report(arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    if page:
        page.write_text("\n".join([before + BEGIN, *lines, "", END + after]), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Step times of every optimizer against torch's, in one run.  python benchmarks/run.py [--rounds N] [--write FILE]

All contenders of a row step the same parameters in turn, round after round, so that a slow moment of the machine hits
all of them; a cell is the median of the rounds, a ratio the median of the rounds' ratios.
"""

import argparse
import contextlib
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, clip_step_average, peers

import fallline

BLOCK = [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
BLOCK += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
SUITES = {
    "GPT-2 small: 148 tensors, 124 M": [(50257, 768), (1024, 768), *BLOCK * 12, (768,), (768,)],
    "1,000 tensors of 64 and 4,096": [(64, 64), (64,)] * 500,
}
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}),
    "SGD, momentum": ("SGD", {"momentum": 0.9}),
    "SGD, Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop, centered, momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {}),
    "AdamW, amsgrad": ("AdamW", {"amsgrad": True}),
    "NAdamW": ("NAdamW", {}),
    "Lion": ("Lion", {}),
    "LAMB": ("LAMB", {}),
    "AdamW, clip": ("AdamW", {"clip_grad_norm": 1.0}),
    "AdamW, EMA": ("AdamW", {"ema_decay": 0.999}),
    "AdamW, bfloat16 state": ("AdamW", {"state_dtype": torch.bfloat16}),
}
OURS = ("clip_grad_norm", "ema_decay", "state_dtype")
HEAD = "| optimizer | torch loop | torch foreach | torch fused | fallline | ÷ fused | ÷ best torch | GB/s | share |"
RULE = "|---|--:|--:|--:|--:|--:|--:|--:|--:|"


def parameters(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Return parameters of these shapes, each with a gradient."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = 1e-3 * torch.randn(param.shape, generator=generator)
    return params


def milliseconds(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def alternate(calls: dict[str, Callable[[], object]], rounds: int, block: int = 1) -> dict[str, list[float]]:
    """Time every call once a round, or `block` times in a row, after two rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            elapsed = [milliseconds(call) for _ in range(block)]
            if number >= 2:
                times[name] += elapsed
    return times


def contenders(params: list[torch.nn.Parameter], cls: str, options: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return the step of torch's three implementations, where they exist, and of ours."""
    ours = getattr(fallline, cls)(params, lr=1e-4, **options).step
    if not hasattr(torch.optim, cls):
        return {"fallline": ours}
    options = {key: value for key, value in options.items() if key not in OURS}  # torch has nothing of the kind
    flags = {"torch loop": {"foreach": False}, "torch foreach": {"foreach": True}, "torch fused": {"fused": True}}
    steps: dict[str, Callable[[], object]] = {}
    for name, flag in flags.items():
        with contextlib.suppress(TypeError):  # torch's RMSprop has no fused kernel
            steps[name] = getattr(torch.optim, cls)(params, lr=1e-4, **options, **flag).step
    return {**steps, "fallline": ours}


def traffic(params: list[torch.nn.Parameter], cls: str, options: dict[str, Any]) -> int:
    """Return the bytes that a step must move: gradient once, parameter and states twice, and what norms need."""
    optimizer = getattr(fallline, cls)(params[:1], **options)
    optimizer.step()
    (state,) = optimizer.state.values()
    update = optimizer.rule.update_for(optimizer.param_groups[0])
    again = 1 if update.clip_norm else 2 if update.rule.takes_norms else 0  # the gradient, or parameter and update
    written = 4 + sum(value.element_size() for key, value in state.items() if key != "step")
    return sum(p.numel() for p in params) * (4 + 2 * written + 4 * again)


MOVED = 12 << 26  # bytes that `mover` reads and writes


def mover() -> Callable[[], object]:
    """Return a call of `a.add_(b)` on arrays far larger than any cache: as fast as memory goes."""
    a, b = torch.ones(1 << 26), torch.ones(1 << 26)
    return lambda: a.add_(b)


def peak(times: dict[str, list[float]]) -> float:
    """Return the GB/s of the rounds in which `a.add_(b)` took its turn; it changes from one minute to the next."""
    return MOVED / 1e6 / statistics.median(times.pop("add_"))


def table(shapes: list[tuple[int, ...]], names: list[str], rounds: int) -> Iterator[str]:
    """Yield the rows of one suite."""
    yield HEAD
    yield RULE
    params = parameters(shapes)
    still = None if _large(params) else peak(alternate({"add_": mover()}, 11))  # or it would empty their caches
    move = None if still else mover()
    for name in names:
        cls, options = OPTIMIZERS[name]
        calls = contenders(params, cls, options)
        times = alternate({**calls, "add_": move} if move else calls, rounds)
        floor = still or peak(times)
        ms = {who: statistics.median(values) for who, values in times.items()}
        best = min((who for who in ms if who != "fallline"), key=lambda who: ms[who], default="")
        ratio = {
            who: statistics.median(a / b for a, b in zip(times["fallline"], times[who], strict=True)) for who in ms
        }
        reached = traffic(params, cls, options) / 1e6 / ms["fallline"]
        cells = [f"{ms[who]:.2f}" if who in ms else "–" for who in ("torch loop", "torch foreach", "torch fused")]
        fused = f"{ratio['torch fused']:.2f}" if "torch fused" in ratio else "–"
        cells += [
            f"{ms['fallline']:.2f}",
            fused,
            f"{ratio[best]:.2f}" if best else "–",
            f"{reached:.0f}",
            f"{reached / floor:.0%}",
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def in_blocks(shapes: list[tuple[int, ...]], names: list[str], rounds: int) -> str:
    """Return how small tensors do in a loop of their own, where no other contender has just emptied the caches."""
    cells = []
    for name in names:
        calls = contenders(parameters(shapes), *OPTIMIZERS[name])
        times = alternate({who: calls[who] for who in ("torch fused", "fallline")}, rounds, block=20)
        ms = {who: statistics.median(values) for who, values in times.items()}
        cells.append(f"{name} {ms['fallline']:.2f} ms, {ms['fallline'] / ms['torch fused']:.2f} × torch fused")
    return f"In blocks of 20 steps: {'; '.join(cells)} (reach: 0.2)."


def _large(params: list[torch.nn.Parameter]) -> bool:
    return sum(p.numel() for p in params) > 1 << 24


def against_peers(params: list[torch.nn.Parameter], rounds: int) -> Iterator[str]:
    """Yield a table of LAMB and Lion beside public Python implementations."""
    yield "| optimizer | milliseconds | fastest ÷ fallline |"
    yield "|---|---|--:|"
    for name in PEERS:
        calls = {"fallline": getattr(fallline, name)(params, lr=1e-5).step, **peers(name, params)}
        if len(calls) > 1:
            times = alternate(calls, rounds)
            ms = {who: statistics.median(values) for who, values in times.items()}
            best = min((who for who in ms if who != "fallline"), key=lambda who: ms[who])
            ratio = statistics.median(a / b for a, b in zip(times[best], times["fallline"], strict=True))
            yield f"| {name} | {', '.join(f'{who} {value:.0f}' for who, value in ms.items())} | {ratio:.1f} |"
        del calls  # gigabytes of state


def one_call(params: list[torch.nn.Parameter], rounds: int) -> str:
    """Return how clipping, AdamW and averages in one call compare with torch's three."""
    options = {"clip_grad_norm": 1.0, "ema_decay": 0.999}
    calls = {"torch": clip_step_average(params), "fallline": fallline.AdamW(params, lr=1e-4, **options).step}
    times = alternate({**calls, "add_": mover()}, rounds)
    floor = traffic(params, "AdamW", options) / 1e6 / peak(times)
    ms = {who: statistics.median(values) for who, values in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["fallline"], times["torch"], strict=True))
    return (
        f"Clipping by norm, AdamW and an average in one call: {ms['fallline']:.0f} ms, {ms['fallline'] / floor:.2f} × "
        f"the floor of {floor:.0f} ms (reach: 1.2). torch's `clip_grad_norm_`, fused AdamW and foreach `lerp_`: "
        f"{ms['torch']:.0f} ms; ratio {ratio:.2f} (reach: 0.85)."
    )


def two_phases(params: list[torch.nn.Parameter], rounds: int) -> str:
    """Return what SAM adds to the step of its base."""
    opt = fallline.SAM(fallline.SGD(params, lr=1e-4), rho=0.05)
    times = alternate({"climb": opt.first_step, "back": opt._descend, "add_": mover()}, rounds)
    # The gradient for the norm; parameter and gradient in, parameter and copy out; the copy back.
    floor = sum(p.numel() for p in params) * (4 + 16 + 8) / 1e6 / peak(times)
    ms = {name: statistics.median(values) for name, values in times.items()}
    return (
        f"SAM adds {ms['climb']:.0f} ms for the climb and {ms['back']:.0f} ms for the way back, "
        f"{sum(ms.values()) / floor:.2f} × the floor of {floor:.0f} ms (reach: 1.2)."
    )


def spin() -> None:
    """Keep one core busy, as a data loader would."""
    while True:
        sum(range(100_000))


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Run `spin` in another process for the duration of the block."""
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    time.sleep(3)  # until it has imported torch and really spins
    try:
        yield
    finally:
        process.kill()
        process.join()


def in_new_process(code: str, runs: int) -> float:
    """Return the median of the number that `code` prints, over new processes."""
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(runs)
    ]
    return statistics.median(float(output.stdout) for output in outputs)


FIRST_STEP = """
import time, torch, fallline
p = torch.nn.Parameter(torch.zeros(1000)); p.grad = torch.ones(1000)
opt = fallline.AdamW([p]); start = time.perf_counter(); opt.step(); print(time.perf_counter() - start)"""
IMPORT = "import time, torch; start = time.perf_counter(); import fallline; print(time.perf_counter() - start)"


def report(rounds: int) -> Iterator[str]:
    """Yield the whole report in Markdown."""
    still = peak(alternate({"add_": mover()}, rounds))
    yield "# Benchmarks\n"
    yield "Written by `make bench`; milliseconds a step, medians; float32; contenders alternate within one run.\n"
    yield (
        f"Machine: {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}. `a.add_(b)` moves {still:.1f} GB/s "
        "at the start; the share is of what it moves in a row's own rounds.\n"
    )
    for suite, shapes in SUITES.items():
        yield f"\n## {suite}\n"
        yield from table(shapes, list(OPTIMIZERS), rounds if len(shapes) < 500 else 5 * rounds)
    yield "\n" + in_blocks(shapes, ["SGD", "SGD, momentum", "AdamW"], rounds)
    large = parameters(next(iter(SUITES.values())))
    yield "\n## GPT-2 small, public Python implementations\n"
    yield from against_peers(large, rounds)
    yield "\n" + one_call(large, rounds)
    yield "\n" + two_phases(large, rounds)
    with busy_process():
        yield "\n## GPT-2 small beside one busy process\n"
        yield from table(next(iter(SUITES.values())), ["SGD", "AdamW"], rounds)
    yield "\n## Start\n"
    yield f"First `AdamW.step()` of a process, kernels cached: {in_new_process(FIRST_STEP, 5):.2f} s (reach: 0.8 s)."
    yield f"\n`import fallline` after torch: {in_new_process(IMPORT, 5):.3f} s (reach: 0.1 s)."


def processor() -> str:
    """Return the processor's name where the system tells it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="rounds that count (default 11)")
    parser.add_argument("--write", type=Path, default=Path("docs/benchmarks.md"), help="Markdown file to write")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")

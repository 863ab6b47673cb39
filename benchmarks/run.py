"""Measure the step time of every optimizer and of torch's.  python benchmarks/run.py [--rounds N] [--write FILE]

In every round each contender of a row makes a step on the same parameters, so that a slow moment of the machine affects
all of them. A cell is the median over the rounds, and a ratio the median of the ratios per round. Everything below the
line KEPT in the written file is preserved.
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
from peers import clip_step_average, peers

import fallline
from fallline.rules.update import update_for

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
    "Adagrad": ("Adagrad", {}),
    "Adam": ("Adam", {}),
    "Adamax": ("Adamax", {}),
    "RAdam": ("RAdam", {}),
    "AdamW": ("AdamW", {}),
    "AdamW, amsgrad": ("AdamW", {"amsgrad": True}),
    "NAdam": ("NAdam", {}),
    "NAdamW": ("NAdamW", {}),
    "AdEMAMix": ("AdEMAMix", {}),
    "Adan": ("Adan", {}),
    "ScheduleFreeSGD": ("ScheduleFreeSGD", {}),
    "ScheduleFreeAdamW": ("ScheduleFreeAdamW", {}),
    "Prodigy": ("Prodigy", {}),
    "Lion": ("Lion", {}),
    "LAMB": ("LAMB", {}),
    "AdamW, clip": ("AdamW", {"clip_grad_norm": 1.0}),
    "AdamW, cautious": ("AdamW", {"cautious": True}),
    "AdamW, EMA": ("AdamW", {"ema_decay": 0.999}),
    "AdamW, bfloat16 state": ("AdamW", {"state_dtype": torch.bfloat16}),
}
OURS = ("clip_grad_norm", "cautious", "ema_decay", "state_dtype")
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
    options = {key: value for key, value in options.items() if key not in OURS}  # torch has no such options
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
    state = optimizer.state.get(params[0], {})  # plain SGD has none
    update = update_for(optimizer.rule, optimizer.param_groups[0])
    # A pass before the update reads the gradient, or parameter and update, or what is summed, or everything.
    again = 1 if update.clip_norm else 2 if update.rule.takes_norms else 4 if update.rule.sums else 0
    again += 2 + len(update.state) if update.cautious else 0
    written = 4 + sum(value.element_size() for value in state.values() if value.shape == params[0].shape)
    return sum(p.numel() for p in params) * (4 + 2 * written + 4 * again)


KEPT = "<!-- `make bench` keeps everything below this line. -->"
MOVED = 12 << 26  # bytes that `mover` reads and writes


def mover() -> Callable[[], object]:
    """Return a call of `a.add_(b)` on arrays far larger than any cache, which is limited by memory bandwidth."""
    a, b = torch.ones(1 << 26), torch.ones(1 << 26)
    return lambda: a.add_(b)


def peak(times: dict[str, list[float]]) -> float:
    """Return the GB/s of `a.add_(b)` in these rounds; the bandwidth changes from one minute to the next."""
    return MOVED / 1e6 / statistics.median(times.pop("add_"))


def table(shapes: list[tuple[int, ...]], names: list[str], rounds: int) -> Iterator[str]:
    """Yield the rows of one suite."""
    yield HEAD
    yield RULE
    params = parameters(shapes)
    # Small tensors stay in the caches, from which `a.add_(b)` in the same rounds would evict them.
    still = None if _large(params) else peak(alternate({"add_": mover()}, 11))
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
    """Return the step times on small tensors in blocks, in which no other contender evicts the caches."""
    cells = []
    for name in names:
        calls = contenders(parameters(shapes), *OPTIMIZERS[name])
        times = alternate({who: calls[who] for who in ("torch fused", "fallline")}, rounds, block=20)
        ms = {who: statistics.median(values) for who, values in times.items()}
        cells.append(f"{name} {ms['fallline']:.2f} ms, {ms['fallline'] / ms['torch fused']:.2f} × torch fused")
    return (
        "In blocks of 20 consecutive steps, so that no other contender evicts the caches: "
        f"{'; '.join(cells)} (target: 0.2)."
    )


def _large(params: list[torch.nn.Parameter]) -> bool:
    return sum(p.numel() for p in params) > 1 << 24


def against_peers(params: list[torch.nn.Parameter], rounds: int) -> Iterator[str]:
    """Yield a table of LAMB and Lion compared with public Python implementations."""
    yield "| optimizer | milliseconds | fastest ÷ fallline |"
    yield "|---|---|--:|"
    for name in ("LAMB", "Lion"):
        calls = {"fallline": getattr(fallline, name)(params, lr=1e-5).step, **peers(name, params)}
        if len(calls) > 1:
            times = alternate(calls, rounds)
            ms = {who: statistics.median(values) for who, values in times.items()}
            best = min((who for who in ms if who != "fallline"), key=lambda who: ms[who])
            ratio = statistics.median(a / b for a, b in zip(times[best], times["fallline"], strict=True))
            yield f"| {name} | {', '.join(f'{who} {value:.0f}' for who, value in ms.items())} | {ratio:.1f} |"
        del calls  # gigabytes of state


def of_matrices(rounds: int) -> Iterator[str]:
    """Yield a table of the optimizers of whole matrices, compared with torch and public Python implementations."""
    block = [shape for shape in BLOCK if len(shape) == 2]
    yield "| optimizer | tensors | milliseconds | fastest ÷ fallline |"
    yield "|---|---|---|--:|"
    for name, tensors, shapes, steps in (
        ("Muon", "the 48 matrices of the blocks", block * 12, 1),
        ("Adafactor", "all 148", next(iter(SUITES.values())), 1),
        ("SOAP", "the 4 matrices of a block, 10 steps with one update of the bases", block, 10),
    ):
        params = parameters(shapes)
        calls = {"fallline": getattr(fallline, name)(params, lr=1e-5).step, **peers(name, params)}
        times = alternate({who: repeated(call, steps) for who, call in calls.items()}, max(3, rounds // steps))
        ms = {who: statistics.median(values) for who, values in times.items()}
        best = min((who for who in ms if who != "fallline"), key=lambda who: ms[who])
        ratio = statistics.median(a / b for a, b in zip(times[best], times["fallline"], strict=True))
        cells = ", ".join(f"{who} {value:.0f}" for who, value in ms.items())
        yield f"| {name} | {tensors} | {cells} | {ratio:.2f} |"


def repeated(call: Callable[[], object], times: int) -> Callable[[], object]:
    """Return a call that makes a call several times."""
    return lambda: [call() for _ in range(times)]


def one_call(params: list[torch.nn.Parameter], rounds: int) -> str:
    """Return the time of clipping, AdamW and averages in one call, compared with torch's three calls."""
    options = {"clip_grad_norm": 1.0, "ema_decay": 0.999}
    calls = {"torch": clip_step_average(params), "fallline": fallline.AdamW(params, lr=1e-4, **options).step}
    times = alternate({**calls, "add_": mover()}, rounds)
    floor = traffic(params, "AdamW", options) / 1e6 / peak(times)
    ms = {who: statistics.median(values) for who, values in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["fallline"], times["torch"], strict=True))
    return (
        "One call that clips by norm, makes an AdamW step and updates averages of the parameters takes "
        f"{ms['fallline']:.0f} ms, {ms['fallline'] / floor:.2f} × the {floor:.0f} ms needed to move its bytes at the "
        "bandwidth of `a.add_(b)` (target: 1.2). torch's `clip_grad_norm_`, fused AdamW and foreach `lerp_` together "
        f"take {ms['torch']:.0f} ms; the ratio is {ratio:.2f} (target: 0.85)."
    )


def two_phases(params: list[torch.nn.Parameter], rounds: int) -> str:
    """Return the time that SAM adds to a step of its base optimizer."""
    opt = fallline.SAM(fallline.SGD(params, lr=1e-4), rho=0.05)
    times = alternate({"climb": opt.first_step, "back": opt._restore, "add_": mover()}, rounds)
    # The gradient for the norm; parameter and gradient in, parameter and copy out; the copy back.
    floor = sum(p.numel() for p in params) * (4 + 16 + 8) / 1e6 / peak(times)
    ms = {name: statistics.median(values) for name, values in times.items()}
    return (
        f"SAM adds {ms['climb']:.0f} ms for its first phase and {ms['back']:.0f} ms for restoring the parameters, "
        f"together {sum(ms.values()) / floor:.2f} × the {floor:.0f} ms needed to move their bytes at the bandwidth of "
        "`a.add_(b)` (target: 1.2)."
    )


def spin() -> None:
    """Keep one core busy, as a data loader would."""
    while True:
        sum(range(100_000))


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run `spin` in so many other processes for the duration of the block."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    time.sleep(3 * count)  # until each has imported torch and keeps a core busy
    try:
        yield
    finally:
        for process in processes:
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
    yield (
        "Written by `make bench`, except for the last section. Times are medians in milliseconds per step, for float32 "
        "parameters. The contenders of a row take turns within one run.\n"
    )
    yield (
        f"Machine: {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}. `a.add_(b)` moves {still:.1f} GB/s at the start. The "
        "column GB/s is the memory bandwidth that Fallline reaches, and the share is its ratio to the bandwidth of "
        "`a.add_(b)`, measured in the rounds of the same row (for small tensors, before the table)."
    )
    for suite, shapes in SUITES.items():
        yield f"\n## {suite}\n"
        yield from table(shapes, list(OPTIMIZERS), rounds if len(shapes) < 500 else 5 * rounds)
    yield "\n" + in_blocks(shapes, ["SGD", "SGD, momentum", "AdamW"], rounds)
    large = parameters(next(iter(SUITES.values())))
    yield "\n## GPT-2 small, public Python implementations\n"
    yield from against_peers(large, rounds)
    yield "\n## GPT-2 small, optimizers of whole matrices\n"
    yield from of_matrices(rounds)
    yield "\n" + one_call(large, rounds)
    yield "\n" + two_phases(large, rounds)
    with busy_processes(1):
        yield "\n## GPT-2 small next to one busy process\n"
        yield from table(next(iter(SUITES.values())), ["SGD", "AdamW"], rounds)
    yield "\n## Startup\n"
    first = in_new_process(FIRST_STEP, 5)
    yield f"The first `AdamW.step()` of a process, with cached kernels, takes {first:.2f} s (target: 0.8 s)."
    yield f"\n`import fallline` after torch takes {in_new_process(IMPORT, 5):.3f} s (target: 0.1 s)."


def processor() -> str:
    """Return the name of the processor, as far as the system reports it."""
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
    before = arguments.write.read_text(encoding="utf-8") if arguments.write.exists() else ""
    _, line, kept = before.partition(KEPT)
    text = "\n".join(lines) + "\n" + (f"\n{line}{kept}" if kept else "")
    arguments.write.write_text(text, encoding="utf-8")

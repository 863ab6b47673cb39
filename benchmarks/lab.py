"""Measure the overhead of the lab over a bare training loop.  python benchmarks/lab.py [--rounds N] [--write FILE]

This measures the time of a quick study, the trials per minute of the worker pool and of one process per trial, and the
time of a run in the lab and of a bare loop that makes the same steps. Both alternate, so that a slow moment of the
machine affects both. The last section is that of `benchmarks/process_start.py`.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import process_start
import torch
from run import processor

from fallline.lab.design.arms import make_arms
from fallline.lab.design.optimizers import build_optimizer
from fallline.lab.design.outcome import Costs, Outcome
from fallline.lab.design.schedules import learning_rates
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.executors.pool import LocalPool
from fallline.lab.isolation import derive
from fallline.lab.provenance.identity import describe_study
from fallline.lab.provenance.manifest import manifest
from fallline.lab.run.trial import start
from fallline.lab.search.selection import Search
from fallline.lab.search.trials import confirm, tune
from fallline.lab.storage.store import Store
from fallline.lab.tasks import get_task

ARMS = ("momentum", "adam", "adamw")
TASKS = {"digits": 400, "digits-cnn": 100, "text": 30}  # and the steps of a run: a second or two
CORES = 2

# One trial in a separate process, as in a shell loop over configurations.
ONE = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fallline.lab.executors.pool import run_and_save
from fallline.lab.design.trial import Trial
error = run_and_save(Trial(**json.loads(sys.argv[1])), Path(sys.argv[2]))
if error: raise error"""


def trials_of(task: str, count: int) -> list[Trial]:
    """Return the tuning trials of a study of ARMS."""
    return tune(Spec(task, get_task(task).steps, make_arms(ARMS, ["cosine"]), count, 5), {})[0]


def quick_study() -> float:
    """Return the seconds that `fallline compare digits --quick` takes, including the report."""
    command = [sys.executable, "-c", "from fallline.cli import main; main()", "compare", "digits", "--quick"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--optimizers", ",".join(ARMS), "-j", str(CORES), "--out", folder]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began


def in_a_pool(trials: Sequence[Trial]) -> float:
    """Return the trials per minute of the lab's pool, including the start of its workers."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with LocalPool(Path(folder), CORES) as pool:
            done = sum(1 for _ in pool.run(trials))
        return 60 * done / (time.perf_counter() - began)


def in_processes(trials: Sequence[Trial]) -> float:
    """Return the trials per minute with one process per trial and one trial per core at a time."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CORES) as threads:
        commands = [[sys.executable, "-c", ONE, json.dumps(asdict(trial)), folder] for trial in trials]
        began = time.perf_counter()
        list(threads.map(lambda command: subprocess.run(command, check=True, capture_output=True), commands))
        return 60 * len(trials) / (time.perf_counter() - began)


def in_the_lab(trial: Trial) -> float:
    """Return the CPU seconds of a run in the lab, without its evaluations."""
    began = time.process_time()
    training = start(trial)
    training.run()
    return time.process_time() - began - training.clock.evaluation


def by_hand(trial: Trial) -> float:
    """Return the CPU seconds of the same steps in a loop that does nothing else and does not even read the loss."""
    began = time.process_time()
    task = get_task(trial.task)
    torch.manual_seed(derive(trial.seed, "init"))
    model = task.model()
    optimizer = build_optimizer(trial.optimizer, model.parameters(), **trial.options)
    base = optimizer.param_groups[0]["lr"]
    batches = task.batches("train", torch.Generator().manual_seed(derive(trial.seed, "data")))
    for factor, batch in zip(learning_rates(trial.schedule, trial.steps, trial.warmup), batches, strict=False):
        optimizer.param_groups[0]["lr"] = base * factor
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    return time.process_time() - began


def overhead(task: str, steps: int, rounds: int) -> tuple[float, float, float]:
    """Return the median milliseconds per step in the lab and in a bare loop, and the median ratio of a round."""
    trial = replace(next(t for t in trials_of(task, 1) if t.arm == "adamw"), steps=steps, evaluations=1)
    times = [(in_the_lab(trial), by_hand(trial)) for _ in range(rounds + 1)][1:]  # the first loads data and kernels
    lab, hand = (1e3 * statistics.median(column) / steps for column in zip(*times, strict=True))
    return lab, hand, statistics.median(a / b for a, b in times)


def large_study(folder: Path) -> int:
    """Write a study of 30 arms whose outcomes are invented, and return how many trials it has."""
    arms = make_arms([f"adam@beta1={0.8 + 0.005 * i:.3f}" for i in range(30)], ["cosine"])
    spec = Spec("digits", 400, arms, trials=4, seeds=3)
    store = Store(folder)
    store.claim(spec, {"baseline": None, "margin": None}, manifest(), False, describe_study(spec))
    known: dict[str, Outcome] = {}
    searches: dict[str, Search] = {}
    missing = tune(spec, known)[0]
    while missing:
        for trial in missing:
            known[trial.id] = invented(trial)
            store.save(trial, known[trial.id], Costs(1.0, 1.0, 0.5, 64))
        trials, searches = tune(spec, known)
        missing = [trial for trial in trials if trial.id not in known]
    for trial in (trial for search in searches.values() for trial in confirm(spec, search)):
        known[trial.id] = invented(trial)
        store.save(trial, known[trial.id], Costs(1.0, 1.0, 0.5, 64))
    return len(known)


def invented(trial: Trial) -> Outcome:
    """Return an outcome with the curve and the trace of a real one, best at a learning rate of 0.01."""
    level = 0.3 + 0.1 * abs(math.log10(trial.options["lr"] / 0.01)) + int(trial.id, 16) % 1000 * 2e-5
    rows = [(step, level + 2 * math.exp(-step / 50)) for step in range(8, trial.steps + 1, 8)]
    curve = [
        {"step": s, "lr_factor": 1 - s / trial.steps, "train_loss": v, "val_loss": v} for s, v in rows if s % 20 == 0
    ]
    trace = [{"step": s, "loss": v, "grad_norm": 1 / s, "update_norm": 0.01 / s} for s, v in rows]
    metrics = {"train_loss": level, "val_loss": level, "test_loss": level, "spikes": 0.0}
    return Outcome(None, metrics, curve, trace)


def large_report() -> tuple[int, float]:
    """Return the number of trials of a large study, and the CPU seconds of reading it and writing its report."""
    with tempfile.TemporaryDirectory() as name:
        trials = large_study(Path(name) / "study")
        code = "import sys, time; from fallline.lab import load; load(sys.argv[1]).report(sys.argv[2]); "
        code += "print(time.process_time())"
        command = [sys.executable, "-c", code, str(Path(name) / "study"), str(Path(name) / "report.html")]
        runs = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(5)]
        return trials, statistics.median(runs)


def report(rounds: int) -> Iterator[str]:
    """Yield the report in Markdown."""
    torch.set_num_threads(1)
    yield "# What the lab costs\n"
    yield (
        f"Written by `make bench`. Machine: {processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"torch {torch.__version__}; {CORES} workers with one thread each.\n"
    )
    study = [quick_study() for _ in range(3)]
    yield (
        f"The command `fallline compare digits --quick` with the optimizers {', '.join(ARMS)} takes "
        f"{statistics.median(study):.0f} s (target: 60 s).\n"
    )
    pool, processes = in_a_pool(trials_of("digits", 16)), in_processes(trials_of("digits", 4))
    yield (
        f"The pool of workers runs {pool:.0f} trials of `digits` per minute, including its start. One process per "
        f"trial runs {processes:.0f} per minute. The ratio is {pool / processes:.1f} (target: 5).\n"
    )
    count, seconds = large_report()
    yield (
        f"Writing the report of a study with {count} trials and 30 arms takes {seconds:.1f} s of CPU time, including "
        "the start of the process (target: 4 s).\n"
    )
    yield (
        "CPU time per step with AdamW on one thread, without evaluations, including the set-up of the run (target for "
        "the ratio: 1.10):\n"
    )
    yield "| task | steps | in the lab, ms | bare loop, ms | ratio |\n|---|--:|--:|--:|--:|"
    for task, steps in TASKS.items():
        lab, hand, ratio = overhead(task, steps, rounds)
        yield f"| {task} | {steps} | {lab:.3f} | {hand:.3f} | {ratio:.3f} |"
    yield ""
    yield from process_start.report(rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="runs of each kind that count (default 11)")
    parser.add_argument("--write", type=Path, default=Path("docs/lab-benchmarks.md"), help="Markdown file to write")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")

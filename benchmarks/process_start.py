"""Measure what a trial costs more as a command than as a function.  python benchmarks/process_start.py [--rounds N]

A command starts Python and imports torch and Fallline in every trial; a worker that runs functions does so once. CPU
time is measured, because it depends little on what else the machine does. All kinds of run alternate.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fallline.lab.command import run_process
from fallline.lab.design.spec import Spec
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.run.attempt import attempt
from fallline.lab.search.trials import tune
from fallline.lab.specify import specify

PAGE = Path(__file__).parents[1] / "docs" / "lab-benchmarks.md"
TITLE = "## One process per trial"
LENGTHS = (1, 10, 60)  # seconds of training

SCRIPT = """
import torch
import fallline as fl

def train(trial):
    torch.manual_seed(trial.seed)
    model = torch.nn.Linear(8, 1)
    inputs = torch.randn(64, 8)
    optimizer, scheduler = trial.optimizer(model, total_steps=10)
    for _ in range(10):
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    trial.result(val_loss=loss)

if __name__ == "__main__":
    train(fl.trial())
"""
STEP = """
import torch
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 8)).sum().backward()
optimizer.step()
"""
PARTS = {
    "a process that starts Python": "pass",
    "… and imports torch": "import torch",
    "… and makes a step with torch.optim.AdamW, which imports torch._dynamo": STEP,
}


def own_seconds(run: Callable[[], object]) -> float:
    """Return the CPU seconds that a call takes in this process."""
    began = time.process_time()
    run()
    return time.process_time() - began


def child_seconds(run: Callable[[], object]) -> float:
    """Return the CPU seconds that a call takes in this process and in those that it starts and waits for."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.process_time() - began + children


def run_trial(spec: Spec) -> None:
    """Run the first trial of a study, which must succeed."""
    with as_in_a_worker():
        failure = attempt(tune(spec, {})[0][0]).outcome.failure
    if failure is not None:
        sys.exit(json.dumps(failure))


def measure(rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of the start of a process, in parts, and of a trial as a function and a command."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.py"
        file.write_text(SCRIPT, encoding="utf-8")
        size = {"trials": 1, "seeds": 2, "examined": True}
        function = specify(f"{file}:train", ["adamw"], ["cosine"], **size)
        command = specify("", ["adamw"], ["cosine"], loop={"command": f"{sys.executable} {file}"}, **size)
        times: dict[str, list[float]] = {name: [] for name in ("function", "command", *PARTS)}
        for _ in range(rounds + 1):
            times["function"].append(own_seconds(lambda: run_trial(function)))
            times["command"].append(child_seconds(lambda: run_trial(command)))
            for name, code in PARTS.items():
                words = (sys.executable, "-c", code)
                times[name].append(child_seconds(lambda words=words: run_process(words)))
    return {name: statistics.median(column[1:]) for name, column in times.items()}  # the first compiles and caches


def report(rounds: int) -> Iterator[str]:
    """Yield the section of the page in Markdown."""
    found = measure(rounds)
    more = found["command"] - found["function"]
    yield TITLE + "\n"
    yield (
        f"A trial of a command (`--command`) with `fl.trial()` takes {more:.1f} s of CPU time more than the same trial "
        f"as a function `train(trial)`, whose workers run for the whole study. {found[list(PARTS)[-1]]:.1f} s of them "
        "are those of any script with PyTorch. Written by `python benchmarks/process_start.py`: medians of "
        f"{rounds} alternating runs of each kind on one thread, with a training of 10 steps.\n"
    )
    yield "| run | CPU time, s |\n|---|--:|"
    for name in (*PARTS, "command", "function"):
        label = {"command": "a trial as a command", "function": "the same trial as a function"}.get(name, name)
        yield f"| {label} | {found[name]:.3f} |"
    yield "\n| training of a trial | share of the start of a process |\n|---|--:|"
    for length in LENGTHS:
        yield f"| {length} s | {more / (more + length):.0%} |".replace("%", " %")


def main() -> None:
    """Measure, and replace the section of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="runs of each kind that count (default 11)")
    parser.add_argument("--write", type=Path, default=PAGE, help="Markdown file with the section")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    lines = "\n".join(report(arguments.rounds))
    print(lines)
    before = arguments.write.read_text(encoding="utf-8").partition(TITLE)[0].rstrip()
    arguments.write.write_text(f"{before}\n\n{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

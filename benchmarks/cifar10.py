"""Measure the accuracy on CIFAR-10 against the CPU time of training on one thread, for the networks of two tasks.

    python benchmarks/cifar10.py --data-dir DIR [--seconds 15,30,60,120,300]

The learning rate of SGD with momentum is tuned on validation images at the shortest time. Every longer run then has its
own schedule, a warm-up and a cosine over the steps that fit into the time. Accuracies are those on the 10,000 test
images. The times count everything that a training step does, including the preparation of its batch, but no evaluation.
The table is printed, and the figure is written to docs/studies/cifar10/.
"""

import argparse
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import torch
import vl_convert

import fallline as fl
from fallline.lab.run.device import choose_precision, precision
from fallline.lab.tasks import Task, get_task

FIGURE = Path(__file__).parent.parent / "docs" / "studies" / "cifar10" / "accuracy.svg"
RATES = {"cifar10": (0.1, 0.2, 0.4), "cifar10-resnet": (0.05, 0.15, 0.5)}
PROBE = 20  # steps whose time determines how many steps fit
WARMUP = 0.1


def train(task: Task, steps: int, rate: float, seed: int) -> tuple[torch.nn.Module, float]:
    """Return the model after training, and the CPU seconds of the steps."""
    torch.manual_seed(seed)
    model, generator = task.model(), torch.Generator().manual_seed(seed)
    optimizer = fl.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = fl.schedules.WarmupCosine(optimizer, warmup_steps=round(WARMUP * steps), total_steps=steps)
    batches = task.batches("train", generator)
    began = time.process_time()
    for _ in range(steps):
        batch = next(batches)
        with precision(task, "cpu"):
            loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model, time.process_time() - began


def accuracy(task: Task, model: torch.nn.Module, split: str) -> float:
    """Return the fraction of the images of a split that are classified correctly."""
    model.eval()
    right, count = 0.0, 0
    with torch.no_grad(), precision(task, "cpu"):
        for batch in task.batches(split, torch.Generator()):
            right += task.size(batch) * task.evaluate(model, batch)["accuracy"]
            count += task.size(batch)
    return right / count


def curve(name: str, seconds: Sequence[int], seeds: int) -> list[dict[str, object]]:
    """Return a row for every time: steps, CPU seconds, and the test accuracy of every seed."""
    task = get_task(name, precision=choose_precision("cpu"))
    train(task, 2, RATES[name][0], 0)  # loads the data and compiles the kernel
    per_step = train(task, PROBE, RATES[name][0], 0)[1] / PROBE
    steps = [round(length / per_step) for length in seconds]
    tried = {rate: accuracy(task, train(task, steps[0], rate, 0)[0], "val") for rate in RATES[name]}
    rate = max(tried, key=lambda value: tried[value])
    print(f"{name}: {per_step * 1000:.1f} ms per step, learning rate {rate} of {tried}", flush=True)
    rows: list[dict[str, object]] = []
    for count in steps:
        for seed in range(1, seeds + 1):
            model, spent = train(task, count, rate, seed)
            found = accuracy(task, model, "test")
            rows.append({"task": name, "steps": count, "seconds": spent, "accuracy": found, "seed": seed})
            print(f"{name}: {count} steps, {spent:.1f} s, test accuracy {found:.2%}", flush=True)
    return rows


def draw(rows: list[dict[str, object]]) -> str:
    """Return the figure as SVG."""
    data = alt.Chart(alt.InlineData(values=rows), width=640, height=300).encode(
        x=alt.X("seconds:Q", scale=alt.Scale(type="log", nice=False, padding=15), title="CPU seconds of training"),
        y=alt.Y("accuracy:Q", scale=alt.Scale(zero=False), axis=alt.Axis(format=".0%"), title="test accuracy"),
        color=alt.Color("task:N", title=None, scale=alt.Scale(range=["#0072B2", "#D55E00"])),
    )
    chart = data.mark_line(strokeWidth=2) + data.mark_point(filled=True, size=60, opacity=1)
    return str(vl_convert.vegalite_to_svg(chart.to_dict(validate=False)))


def main() -> None:
    """Print the table and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", required=True, help="directory of the data set")
    parser.add_argument("--seconds", default="15,30,60,120,300", help="CPU times of training")
    parser.add_argument("--seeds", type=int, default=1, help="runs at every time")
    given = parser.parse_args()
    os.environ["FALLLINE_DATA"] = given.data_dir
    torch.set_num_threads(1)
    seconds = [int(part) for part in given.seconds.split(",")]
    rows = [row for name in RATES for row in curve(name, seconds, given.seeds)]
    print(f"{platform.machine()}, torch {torch.__version__}, {choose_precision('cpu')}, one thread")
    print("| task | steps | CPU seconds | test accuracy |\n|---|---|---|---|")
    for row in rows:
        print(f"| `{row['task']}` | {row['steps']} | {row['seconds']:.0f} | {row['accuracy']:.1%} |")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(draw(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

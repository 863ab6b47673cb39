"""Run a trial whose training loop belongs to the user, and turn what it reports into an outcome."""

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import TrialStopped
from fallline.lab.command import Finished, run_process
from fallline.lab.design.outcome import ITEM, OUTPUT, Costs, Failure, Outcome
from fallline.lab.design.own_arms import fill_values
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import derive, seed_everything
from fallline.lab.run.live_trial import VARIABLE, LiveTrial
from fallline.lab.run.run_record import RunRecord, RunRecordFile
from fallline.lab.tasks.own_loop import CommandTask, FunctionTask, OwnLoop
from fallline.loss_curves import count_spikes


def describe_trial(trial: Trial, task: OwnLoop) -> dict[str, Any]:
    """Return what a training script needs to know of its trial, as plain data."""
    names = ("arm", "optimizer", "schedule", "warmup", "steps", "seed", "options", "stage", "device")
    return {**{name: getattr(trial, name) for name in names}, "trial": trial.id, "metric": task.metric_name}


def run_function(trial: Trial, task: FunctionTask) -> tuple[Outcome, Costs]:
    """Call the training function of a task, with the global generators seeded, and return outcome and costs."""
    began = time.perf_counter()
    record = RunRecord()
    seed_everything(derive(trial.seed, "function"))
    with contextlib.suppress(TrialStopped):  # the record holds the failure
        type(task).function(LiveTrial(describe_trial(trial, task), record))
    outcome = make_outcome(trial, task, record, "the function returned without trial.result(…)")
    return outcome, Costs(time.perf_counter() - began, 0.0, 0.0, 0)


def run_command(trial: Trial, task: CommandTask) -> tuple[Outcome, Costs, str]:
    """Run the command of a task, and return outcome, costs and output.

    Raises:
        ArgumentError: the command has a placeholder without a value, or its program does not exist.
    """
    values = fill_values(trial, task.spelling)
    words = task.template.fill(values)
    with tempfile.TemporaryDirectory(prefix="fallline-") as name:
        folder = Path(name)
        described = folder / "trial.json"
        described.write_text(json.dumps(describe_trial(trial, task)), encoding="utf-8")
        readings = {name: source.prepare(values) for name, source in task.sources.items()}
        done = run_process(words, task.timeout or None, {VARIABLE: str(described)})
        record = RunRecordFile(folder).read()
    found = {name: reading.find(done) for name, reading in readings.items()}
    printed = {name: value for name, value in found.items() if value is not None}
    if printed and not any("result" in entry for entry in record.entries):
        record.write({"result": printed})
    outcome = make_outcome(trial, task, record, _missing(task), done)
    text = f"$ {' '.join(words)}\n{done.stdout}" + (f"\nstandard error:\n{done.stderr}" if done.stderr else "")
    return outcome, Costs(done.seconds, 0.0, 0.0, 0), text


def _missing(task: CommandTask) -> str:
    """Return the sentence about a command that ended without its metric."""
    source = task.sources[task.metric_name]
    if source.file:
        return f"the command wrote no {source.file.rpartition(':')[2]} to {source.file.rpartition(':')[0]}"
    if source.regex:
        return f"no output of the command matches the regular expression {source.regex!r}"
    return f"the command printed no number after {source.metric}"


def make_outcome(trial: Trial, task: OwnLoop, record: RunRecord, missing: str, done: Finished | None = None) -> Outcome:
    """Return the outcome of a run from what it has reported.

    Args:
        trial, task: the specification of the run.
        record: what it has reported.
        missing: the sentence to use if it has reported no metric.
        done: the end of its process, if it had one.
    """
    result: dict[str, float] = next((entry["result"] for entry in record.entries if "result" in entry), {})
    logged = [entry["log"] for entry in record.entries if "log" in entry]
    step = int(logged[-1]["step"]) if logged else trial.steps
    failure: Failure | None = next((entry["failure"] for entry in record.entries if "failure" in entry), None)
    if failure is not None and result and math.isfinite(result.get(task.metric_name, math.nan)):
        failure = None  # the script has continued, and the run has recovered
    metrics = {_key(task, name): value for name, value in result.items()}
    if failure is None and done is not None and done.problem:
        shown = " ".join(done.last_lines.split())[-300:]
        cause = f"the command {done.problem}" + (f": {shown}" if shown else "")
        failure = {"state": "error", "step": step, "cause": cause, "source": f"the command {done.problem}"}
    if failure is None and task.metric not in metrics:
        failure = {"state": "error", "step": step, "cause": missing, "source": missing}
    if failure is None and not math.isfinite(metrics[task.metric]):
        cause = f"{task.metric_name} is {metrics[task.metric]}"
        failure = {"state": "nonfinite", "step": step, "cause": cause}
    test_set: dict[str, Any] = {}
    items = None
    test = "test_" + task.metric.removeprefix("val_")
    if trial.stage == "tune":  # the test data decide nothing
        metrics = {name: value for name, value in metrics.items() if not name.startswith("test_")}
    elif failure is None:
        items = None if record.items is None or test not in metrics else _items(record.items)
        kind = "validation" if test not in metrics else "reported" if items is None else "example"
        metrics.setdefault(test, metrics[task.metric])
        test_set = {"items": 0 if items is None else len(items), "kind": kind}
        if not math.isfinite(metrics[test]):
            failure = {"state": "nonfinite", "step": step, "cause": f"{test} is {metrics[test]}"}
    if done is not None and failure is not None:
        failure["log"] = OUTPUT
    curve = _curve(task, logged)
    losses = [row["train_loss"] for row in logged if math.isfinite(row.get("train_loss", math.nan))]
    metrics["spikes"] = float(count_spikes(losses)) if losses else 0.0
    return Outcome(failure, metrics, curve, test_set=test_set, items=items)


def _key(task: OwnLoop, name: str) -> str:
    """Return the name in tables of a metric that a run has reported."""
    if name == task.metric_name:
        return task.metric
    return "".join(c if c.isalnum() else "_" for c in name)


def _items(values: np.ndarray) -> np.ndarray:
    """Return the values of single test examples as items; their position identifies them."""
    items = np.empty(len(values), ITEM)
    items["metric"] = values
    items["example"] = np.arange(1, len(values) + 1)
    return items


def _curve(task: OwnLoop, logged: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return a row for every report of the metric, with the mean training loss since the row before."""
    rows, losses = [], []
    for record in logged:
        if "train_loss" in record:
            losses.append(record["train_loss"])
        if task.metric_name in record:
            mean = math.fsum(losses) / len(losses) if losses else math.nan
            rows.append({"step": record["step"], task.metric: record[task.metric_name], "train_loss": mean})
            losses = []
    return rows

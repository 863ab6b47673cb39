"""Kill the processes of a study at a moment that is waited for, or let a task kill its own."""

import os
import signal
import subprocess
import time
from pathlib import Path

from fallline.lab.run.loop import Training
from support.task_data import ROWS

# A task that kills its process once, at step 15 of a trial, unless it is the conductor's; it notes in which it ran.
FRAIL = (
    """
import os, signal
from pathlib import Path
import torch
import fallline

@fallline.task(steps=40, marker="")
class Frail:
    def model(self):
        self.step = 0
        with Path(self.marker).with_name("pids").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        return torch.nn.Linear(3, 1)

"""
    + ROWS
    + """    def loss(self, model, batch):
        self.step += model.training
        conductor = int(Path(self.marker).with_name("conductor").read_text())
        if self.step == 15 and os.getpid() != conductor and not Path(self.marker).exists():
            Path(self.marker).write_text("15")
            os.kill(os.getpid(), signal.SIGKILL)
        return (model(batch) - batch.sum(1, keepdim=True)).square().mean()
"""
)


def interrupt_training(monkeypatch, *calls):
    """Raise KeyboardInterrupt at these calls of `Training.step`, from 1; return the list of steps that were begun."""
    step, begun = Training.step, []

    def interrupted(self, number):
        begun.append(number)
        if len(begun) in calls:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(Training, "step", interrupted)
    return begun


def finished(folder):
    return list(folder.glob("trials/[!.]*"))


def wait_until(true, process, seconds=60):
    """Poll for an event, and wait for no fixed time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def workers(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    commands = {int(pid): Path(f"/proc/{pid}/cmdline") for pid in found.split()}
    return [pid for pid, path in commands.items() if path.exists() and "spawn_main" in path.read_text()]


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def kill(process, what):
    """Kill a worker, the process that conducts the study, or all of them at once."""
    own = workers(process)
    if what == "worker":
        for pid in own[:1]:
            os.kill(pid, signal.SIGKILL)
        return
    (os.killpg if what == "all" else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while not all(map(is_gone, own)) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert all(map(is_gone, own))  # workers end with their parent

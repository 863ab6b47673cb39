"""Under accelerate, one and two processes train as the plain loop does, resume, and can be linted and watched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.clients import STEPS, batches, classes_loss, equal, loop, network, weights

pytest.importorskip("accelerate", reason='accelerate is not installed: pip install "fallline[clients]"')
pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]


def launch(processes, folder):
    """Return the results of a run and of one that resumes it, started as the documentation of accelerate says."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [
        sys.executable,
        *(several if processes > 1 else []),
        str(TESTS / "support" / "accelerate_run.py"),
        folder,
    ]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(lines) == 1, done.stderr
    return json.loads(lines[0].removeprefix("RESULT"))


def averaged_loss(model, batch):
    """The mean of the losses of two halves, which is what two processes minimize."""
    halves = zip(*(part.chunk(2) for part in batch), strict=True)
    return sum(classes_loss(model, half) / 2 for half in halves)


@pytest.mark.parametrize(("processes", "loss"), [(1, classes_loss), (2, averaged_loss)], ids=["one", "two"])
def test_launched_processes_equal_the_plain_loop_and_resume(processes, loss, tmp_path):
    model = network()
    rates = loop(model, batches(), loss)
    found, again = launch(processes, str(tmp_path))
    assert found["processes"] == again["processes"] == processes
    assert found["rates"] == rates and again["rates"] == rates[3:]
    for result in (found, again):
        own = {name: torch.tensor(value) for name, value in result["weights"].items()}
        if processes == 1:
            assert equal(own, weights(model))
        torch.testing.assert_close(own, dict(weights(model)), rtol=1e-5, atol=1e-6)  # gradients are added in any order
    assert "not-inspected" not in found["findings"]
    assert (found["steps"], found["not_zeroed"]) == (STEPS, 0)

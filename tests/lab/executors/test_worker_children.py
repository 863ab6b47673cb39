"""Tasks that start processes of their own, as a DataLoader with workers does: they run, and none is left behind."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

import fallline as fl
from support.killing import finished, is_gone, wait_until, workers

LOADER = """
import os, signal
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
import fallline

def note_process(number):
    with Path(__file__).with_name("loaders").open("a") as file:
        file.write(f"{os.getpid()}\\n")

@fallline.task(steps=40, stay=False)
class Mine:
    def model(self):
        if self.stay and Path(__file__).with_name("stay").exists():
            if not (child := os.fork()):  # as no library's watchdog would end it
                while True:
                    signal.pause()
            with Path(__file__).with_name("children").open("a") as file:
                file.write(f"{child}\\n")
            signal.pause()
        return torch.nn.Linear(3, 1)

    def batches(self, split, generator):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(len(split)))
        data = TensorDataset(x, x.sum(1, keepdim=True))
        options = {"num_workers": 2, "generator": generator, "worker_init_fn": note_process}
        while True:
            yield from DataLoader(data, batch_size=2 if split == "train" else 64, shuffle=split == "train", **options)
            if split != "train":
                return

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean()
"""
STUDY = {"optimizers": ["momentum"], "steps": 40, "trials": 1, "seeds": 2}


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(LOADER)
    return "mine.py:Mine"


def pids(path):
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def all_gone(found, seconds=10):
    deadline = time.monotonic() + seconds
    while not all(map(is_gone, found)):
        if time.monotonic() > deadline:
            return False
    return True


@pytest.mark.slow
def test_a_data_loader_with_workers_gives_the_same_numbers_in_a_pool_and_in_this_process(task, tmp_path):
    study = fl.compare(task, jobs=0, out="here", **STUDY)
    here = set(pids(tmp_path / "loaders"))
    fl.compare(task, jobs=2, out="pool", **STUDY)
    assert (tmp_path / "here/results.csv").read_bytes() == (tmp_path / "pool/results.csv").read_bytes()
    assert study.outcome(study.trials[0]).failure is None
    assert len(here) > 2 and len(set(pids(tmp_path / "loaders")) - here) > 2 and all_gone(pids(tmp_path / "loaders"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the package ray")
def test_a_data_loader_with_workers_gives_the_same_numbers_on_ray(task, tmp_path):
    import ray

    fl.compare(task, jobs=0, out="here", **STUDY)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        fl.compare(task, ray="auto", out="ray", **STUDY)
    finally:
        ray.shutdown()
    assert (tmp_path / "here/results.csv").read_bytes() == (tmp_path / "ray/results.csv").read_bytes()
    assert all_gone(pids(tmp_path / "loaders"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "setpgid"), reason="needs process groups")
@pytest.mark.parametrize("end", ["kill the conductor", "interrupt", "kill the worker"])
def test_the_children_of_a_worker_end_with_it_however_it_ends(task, tmp_path, end):
    words = "--optimizers momentum --steps 40 --trials 1 --seeds 2 -j 1 --out study --set stay=True"
    command = [sys.executable, "-m", "fallline", "compare", task, *words.split()]
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, **heard)
    wait_until(lambda: (tmp_path / "study" / "study.json").exists(), process)
    (tmp_path / "stay").touch()  # from here on, a trial stops where its model is made
    wait_until(lambda: pids(tmp_path / "children"), process)
    (worker,) = workers(process)
    (tmp_path / "stay").unlink()
    children = [*pids(tmp_path / "children"), worker]
    if end == "kill the worker":
        os.kill(worker, signal.SIGKILL)
        assert process.wait(timeout=60) == 0 and finished(tmp_path / "study")  # a new worker has run the trial
    else:
        os.kill(process.pid, signal.SIGINT if end == "interrupt" else signal.SIGKILL)
        process.wait(timeout=30)
    process.stderr.close()
    assert all_gone(children)

"""timm's schedulers set the learning rates of Fallline's optimizers, and Fallline's drive timm's optimizers.

`import timm` needs torchvision, whose wheels need a CUDA build of torch. Its optimizers and schedulers do not, and are
imported without the rest.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

import fallline as fl
from support.clients import STEPS, batches, classes_loss, equal, loop, network, weights

if (SPEC := importlib.util.find_spec("timm")) is None:
    # No extra lists timm: it requires torchvision, whose wheels may need another build of torch (see pyproject.toml).
    pytest.skip("timm is not installed: make slow installs it without torchvision", allow_module_level=True)
pytestmark = pytest.mark.slow


@pytest.fixture
def timm(monkeypatch):
    """Return a function that imports a module of timm without its models."""
    for name in ("timm", "timm.optim", "timm.scheduler"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(SPEC.submodule_search_locations[0], *name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, name, package)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith("timm."):
            del sys.modules[name]


def train(model, optimizer, scheduler, steps):
    rates = []
    for k in steps:
        optimizer.zero_grad()
        classes_loss(model, batches()[k]).backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step_update(k + 1)
    return rates


def cosine(timm, optimizer):
    cls = timm("timm.scheduler.cosine_lr").CosineLRScheduler
    return cls(optimizer, t_initial=STEPS, warmup_t=2, warmup_lr_init=0.01, t_in_epochs=False)


def test_its_cosine_gives_the_rates_that_it_gives_torchs_optimizer(timm):
    runs = []
    for cls in (fl.AdamW, torch.optim.AdamW):
        model = network()
        optimizer = cls(model.parameters(), lr=0.05)
        runs.append((train(model, optimizer, cosine(timm, optimizer), range(STEPS)), model))
    (ours, model), (theirs, other) = runs
    assert ours == theirs and len(set(ours)) > 4
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # float32


def test_a_run_with_its_cosine_resumes(timm):
    whole, model = network(), network()
    optimizer = fl.AdamW(whole.parameters(), lr=0.05)
    train(whole, optimizer, cosine(timm, optimizer), range(STEPS))
    optimizer = fl.AdamW(model.parameters(), lr=0.05)
    scheduler = cosine(timm, optimizer)
    train(model, optimizer, scheduler, range(3))
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer = fl.AdamW(model.parameters(), lr=0.05)
    scheduler = cosine(timm, optimizer)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    train(model, optimizer, scheduler, range(3, STEPS))
    assert equal(weights(model), weights(whole))


def test_fallline_schedules_its_optimizers(timm):
    model = network()
    optimizer = timm("timm.optim.lion").Lion(model.parameters(), lr=0.05)
    rates = loop(model, batches(), classes_loss, optimizer)
    assert rates == [0.05 * fl.schedules.warmup_cosine(2, STEPS)(k) for k in range(STEPS)]
    assert not equal(weights(model), weights(network()))

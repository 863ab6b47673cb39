"""Under accelerate, a step that its GradScaler skips is reported as skipped, and no scheduler counts it."""

import pytest
import torch

import fallline as fl
from fallline import schedules as fs
from support.schedulers import lrs, parameter
from support.wrapped import Prepared


def new_scaler():
    return torch.amp.GradScaler("cpu", init_scale=8.0)


def prepare(optimizer):
    """Return the optimizer as accelerate prepares it, with a scaler for the CPU."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: its own wrapper is not tested")
    accelerate.Accelerator(cpu=True)
    from accelerate.optimizer import AcceleratedOptimizer

    return AcceleratedOptimizer(optimizer, scaler=new_scaler())


EVERY_WRAPPER = pytest.mark.parametrize(
    "wrap",
    [lambda optimizer: Prepared(optimizer, scaler=new_scaler()), pytest.param(prepare, marks=pytest.mark.slow)],
    ids=["stand-in", "accelerate"],
)
OPTIMIZERS = {
    "ours": lambda params: fl.AdamW(params, lr=1.0),
    "SAM": lambda params: fl.SAM(fl.SGD(params, lr=1.0)),
    "SAM around torch": lambda params: fl.SAM(torch.optim.SGD(params, lr=1.0)),
    "torch": lambda params: torch.optim.SGD(params, lr=1.0),  # a GradScaler does not call it for a skipped step
}
EVERY_OPTIMIZER = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def step(prepared, weight, skip):
    inner = prepared.optimizer
    for phase in ("first", "second") if isinstance(inner, fl.SAM) else ("only",):
        inner.zero_grad()
        prepared.scaler.scale(weight.sum()).backward()
        if skip and phase != "first":
            weight.grad[0] = torch.inf
        if phase == "first":
            prepared.scaler.unscale_(inner)
            inner.first_step()
    prepared.step()


@EVERY_WRAPPER
@EVERY_OPTIMIZER
def test_a_skipped_step_is_reported_and_not_counted(make, wrap):
    weight = parameter()
    prepared = wrap(make([weight]))
    scheduler, counted = fs.Linear(prepared, 10), 0
    for skip in (True, False, True, True, False, False):
        before = weight.detach().clone()
        step(prepared, weight, skip)
        assert prepared.step_was_skipped == skip == torch.equal(weight, before)
        scheduler.step()
        scheduler.step()  # accelerate calls it once per process
        counted += 2 * (not skip)
        assert (scheduler.last_epoch, lrs(prepared)) == (counted, [pytest.approx(fs.linear(10)(counted))])
        assert scheduler.state_dict()["skipped"] == skip


@EVERY_OPTIMIZER
def test_a_call_per_epoch_counts_if_its_last_step_was_skipped(make):
    weight = parameter()
    prepared = Prepared(make([weight]), scaler=new_scaler())
    scheduler = fs.Linear(prepared, 10)
    for epoch in (1, 2, 3):
        for skip in (False, True):
            step(prepared, weight, skip)
        scheduler.step()
        assert scheduler.last_epoch == epoch

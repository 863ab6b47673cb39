"""The schedulers of PyTorch drive our optimizers as they drive PyTorch's."""

import pytest
import torch
from torch.optim import lr_scheduler

import fallline as fl
from fallline.optimizers import OPTIMIZERS
from support.variants import distance, params_for, train


def can_cycle(opt):
    """Return whether an optimizer has a momentum or a β1 that PyTorch's cyclic schedulers can change."""
    return not {"momentum", "betas"}.isdisjoint(opt.defaults)


SCHEDULERS = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda k: 1 / (1 + k)),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda k: 0.9),
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 2, 0.5),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [1, 4], 0.5),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, 0.4, 4),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, 0.4, total_iters=4),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, 0.9),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, 4, 0.9),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 5),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 2),
    # Momentum or β1 cycles against it.
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 0.001, 0.1, step_size_up=2, cycle_momentum=can_cycle(opt)),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=8, cycle_momentum=can_cycle(opt)),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=1, factor=0.5),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    ),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(opt, 0.5, 3), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
    "SWALR": lambda opt: torch.optim.swa_utils.SWALR(opt, 0.05, anneal_epochs=4),
}


def test_every_scheduler_of_torch_is_tried():
    assert set(lr_scheduler.__all__) - {"LRScheduler"} <= SCHEDULERS.keys()


# A scheduler sees only the groups: one optimizer with momentum and one with betas stand for all in the fast suite.
@pytest.mark.parametrize(
    ("cls", "torch_cls"),
    [
        pytest.param(cls, torch_cls, id=cls.__name__, marks=() if cls in (fl.SGD, fl.AdamW) else pytest.mark.slow)
        for cls in OPTIMIZERS.values()
        if (torch_cls := getattr(torch.optim, cls.__name__, None)) is not None
    ],
)
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["float lr", "tensor lr"])
def test_torchs_schedulers_drive_it(cls, torch_cls, name, tensor):
    make = (lambda: torch.tensor(0.01, dtype=torch.float64)) if tensor else (lambda: 0.01)
    ours, theirs = (each(params_for(cls, dtype=torch.float64), lr=make()) for each in (cls, torch_cls))
    limit = 1e-9 if cls.rule.scalar_state else 1e-14  # torch keeps mu_product in float32; others measured 6.9e-16
    schedules, seen = [SCHEDULERS[name](ours), SCHEDULERS[name](theirs)], set()
    for step in range(7):
        seen.add(float(ours.param_groups[0]["lr"]))
        assert distance(train(ours, [step]), train(theirs, [step])) <= limit
        for schedule in schedules:
            schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        mine, other = ours.param_groups[0], theirs.param_groups[0]
        assert float(mine["lr"]) == pytest.approx(float(other["lr"]), rel=1e-12)
        assert [mine.get(key) for key in ("momentum", "betas")] == [other.get(key) for key in ("momentum", "betas")]
    assert len(seen) > 1

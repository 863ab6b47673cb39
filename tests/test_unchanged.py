"""A measurement leaves everything as it was, whether it succeeds, fails or is interrupted."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from fallline.landscape import (
    GaussNewton,
    Hessian,
    classify_point,
    critical_sharpness,
    eigsh,
    sharpness,
    spectral_density,
    trace,
)
from landscapes import loss


class Scene:
    """A model in mid-training: gradients, hooks, mixed modes, statistics; and a record of all of it."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 2))
        self.model.double()
        self.batch = (torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,)))
        self.hooked = []
        self.handles = [
            self.model[0].weight.register_hook(lambda g: self.hooked.append("tensor")),
            self.model[4].weight.register_post_accumulate_grad_hook(lambda p: self.hooked.append("accumulated")),
            self.model.register_forward_hook(lambda *args: None),
        ]
        loss(self.model, self.batch).backward()
        self.model[0].bias.grad = None
        self.model[4].bias.requires_grad_(False)
        self.model[2].eval()
        self.hooked.clear()

    def record(self):
        model = self.model
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {
            "values": {name: (id(t), t.detach().numpy().tobytes()) for name, t in tensors.items()},
            "grads": {
                name: None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes())
                for name, p in model.named_parameters()
            },
            "required": [p.requires_grad for p in model.parameters()],
            "modes": [module.training for module in model.modules()],
            "hooks": [len(p._backward_hooks or ()) for p in model.parameters()]
            + [len(module._forward_hooks) for module in model.modules()],
            "random": (
                torch.get_rng_state().numpy().tobytes(),
                random.getstate(),
                np.random.get_state()[1].tobytes(),
            ),
            "fired": list(self.hooked),
        }


def drawing(model, batch):
    """A loss that draws from every generator."""
    factor = 1 + 0.1 * torch.rand(()) + 0.1 * random.random() + 0.1 * np.random.rand()
    return factor * loss(model, batch)


def down(scene):
    params = [p for p in scene.model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss(scene.model, scene.batch), params)
    return [-g for g in grads]


MEASUREMENTS = {
    "product": lambda s, f: Hessian(s.model, f, s.batch) @ torch.ones(64, dtype=torch.float64),
    "train mode": lambda s, f: Hessian(s.model, f, [s.batch, s.batch], mode="train") @ torch.ones(64).double(),
    "finite difference": lambda s, f: Hessian(s.model, f, s.batch, hvp="finite-difference") @ torch.ones(64).double(),
    "jvp": lambda s, f: Hessian(s.model, f, s.batch, hvp="jvp") @ torch.ones(64).double(),
    "frozen parameters": lambda s, f: Hessian(s.model, f, s.batch, params=[s.model[4].bias]) @ torch.ones(2).double(),
    "gauss-newton": lambda s, f: GaussNewton(s.model, f, s.batch) @ torch.ones(64, dtype=torch.float64),
    "eigsh": lambda s, f: eigsh(Hessian(s.model, f, s.batch)),
    "trace": lambda s, f: trace(Hessian(s.model, f, s.batch)),
    "density": lambda s, f: spectral_density(Hessian(s.model, f, s.batch), 2, 5),
    "point": lambda s, f: classify_point(Hessian(s.model, f, s.batch)),
    "sharpness": lambda s, f: sharpness(Hessian(s.model, f, s.batch)),
    "critical": lambda s, f: critical_sharpness(s.model, f, s.batch, s.direction, mode="eval"),
}


@pytest.fixture
def scene():
    found = Scene()
    found.model[1].eval()
    found.direction = down(found)
    found.model[1].train()
    found.hooked.clear()
    return found


pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_nothing_changes(scene, name):
    before = scene.record()
    MEASUREMENTS[name](scene, drawing)
    assert scene.record() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_nothing_changes_when_it_ends_early(scene, name, error):
    """At every evaluation of the loss in turn, after the forward pass has done its work."""
    before = scene.record()
    for survived in range(12):
        calls = 0

        def failing(model, batch, survived=survived):
            nonlocal calls
            calls += 1
            value = drawing(model, batch)
            if calls > survived:
                raise error
            return value

        try:
            MEASUREMENTS[name](scene, failing)
        except error:
            assert scene.record() == before
        else:
            break  # this many evaluations are all it takes
    assert survived >= 2


def test_hooks_work_again_afterwards(scene):
    MEASUREMENTS["product"](scene, loss)
    loss(scene.model, scene.batch).backward()
    assert sorted(scene.hooked) == ["accumulated", "tensor"]

"""A measurement leaves everything as it was, whether it succeeds, fails or is interrupted."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import ArgumentError
from fallline.landscape import (
    GaussNewton,
    Hessian,
    Monitor,
    Preconditioned,
    classify_point,
    critical_sharpness,
    eigsh,
    lr_range,
    sharpness,
    spectral_density,
    surface,
    trace,
    trajectory,
)
from fallline.landscape.loss.preserve import restoring
from support.landscapes import loss


class Counting(nn.Module):
    """Puts a new tensor in the place of its buffer at each call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return x


class Scene:
    """A model in mid-training: gradients, hooks, mixed modes, statistics; and a record of all of it."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 2))
        self.model.append(Counting()).double()
        self.batch = (torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,)))
        self.hooked = []
        self.handles = [
            self.model[0].weight.register_hook(lambda g: self.hooked.append("tensor")),
            self.model[4].weight.register_post_accumulate_grad_hook(lambda p: self.hooked.append("accumulated")),
            self.model.register_forward_hook(lambda *args: None),
        ]
        self.optimizer = fl.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        loss(self.model, self.batch).backward()
        self.optimizer.step()
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
            "optimizer": [
                {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
            ],
            "state": [
                (id(p), key, value.numpy().tobytes() if isinstance(value, torch.Tensor) else value)
                for p, state in self.optimizer.state.items()
                for key, value in state.items()
            ],
            "step hooks": (
                len(self.optimizer._optimizer_step_pre_hooks),
                len(self.optimizer._optimizer_step_post_hooks),
            ),
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


def ranged(scene, loss_fn):
    """A range test; it trains, so that the user's own hooks fire as they should."""
    fired = list(scene.hooked)
    try:
        lr_range(scene.model, scene.optimizer, loss_fn, scene.batch, steps=10)
    finally:
        scene.hooked[:] = fired


def watched(scene, loss_fn):
    """A monitor over a step that never comes."""
    with Monitor(scene.model, scene.optimizer, every=1) as monitor:
        with torch.no_grad():
            monitor.loss(1.0)
        Hessian(scene.model, loss_fn, scene.batch)


def plane(scene):
    params = [p for p in scene.model.parameters() if p.requires_grad]
    return [[torch.full_like(p, x) for p in params] for x in (0.1, 0.2)]


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
    "limit of stability": lambda s, f: sharpness(Hessian(s.model, f, s.batch), s.optimizer),
    "preconditioned": lambda s, f: (
        Preconditioned(Hessian(s.model, f, s.batch), torch.ones(64)) @ torch.ones(64).double()
    ),
    "critical": lambda s, f: critical_sharpness(s.model, f, s.batch, s.direction, mode="eval"),
    "surface": lambda s, f: surface(s.model, f, s.batch, n=3),
    "surface in train mode": lambda s, f: surface(s.model, f, [s.batch, s.batch], plane(s), n=3, mode="train"),
    "surface along eigenvectors": lambda s, f: surface(s.model, f, s.batch, "eig", n=3),
    "trajectory": lambda s, f: trajectory(s.model, [*plane(s), s.direction]),
    "range test": ranged,
    "monitor": watched,
}


def test_every_public_function_that_takes_a_model_is_here():
    used = {name for f in (*MEASUREMENTS.values(), ranged, watched) for name in f.__code__.co_names}
    plain = {"Dense", "Operator", "tensorboard"}  # no model goes into these
    results = {name for name in fl.landscape.__all__ if dataclasses.is_dataclass(getattr(fl.landscape, name))}
    assert set(fl.landscape.__all__) - plain - results <= used


@pytest.fixture
def scene():
    found = Scene()
    found.model[1].eval()
    found.direction = down(found)
    found.model[1].train()
    found.hooked.clear()
    return found


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_nothing_changes(scene, name):
    before = scene.record()
    MEASUREMENTS[name](scene, drawing)
    assert scene.record() == before


@pytest.mark.parametrize("error", [pytest.param(ValueError, marks=pytest.mark.slow), KeyboardInterrupt])
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
    assert survived >= (0 if name == "trajectory" else 2)


class Augmented(torch.utils.data.Dataset):
    """Draws from every generator for each item, and ends early at one of them."""

    def __init__(self, survived, error):
        self.survived, self.error = survived, error

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.survived -= 1
        if self.survived < 0:
            raise self.error
        noise = torch.rand(()).double() + random.random() + np.random.rand()
        return torch.full((3,), 0.1 * index, dtype=torch.float64) + noise, index % 2


@pytest.mark.parametrize("wrap", [lambda loader: loader, iter], ids=["loader", "iterator"])
@pytest.mark.parametrize("name", ["product", "gauss-newton", "critical", "surface", "range test"])
def test_nothing_changes_when_the_data_end_early(scene, name, wrap):
    """At the first item, within the first batch, in the second, in a second pass; or not at all."""
    for survived in (0, 1, 3, 7, 1000):
        loader = torch.utils.data.DataLoader(
            Augmented(survived, KeyboardInterrupt), 2, shuffle=True, generator=torch.Generator().manual_seed(0)
        )
        scene.batch, order = wrap(loader), loader.generator.get_state()
        before = scene.record()
        try:
            MEASUREMENTS[name](scene, drawing)
        except KeyboardInterrupt:
            assert survived < 1000
        except ArgumentError:  # these data are no match for the direction of the critical sharpness
            assert name == "critical"
        assert scene.record() == before
        if isinstance(scene.batch, torch.utils.data.DataLoader):  # an iterator is used up
            assert torch.equal(loader.generator.get_state(), order)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_graph_from_before_goes_on(scene, name):
    """A loss that waits for its backward pass; a range test writes over what that needs, as any training does."""
    if name in ("range test", "monitor"):
        return
    pending = loss(scene.model, scene.batch)
    expected = torch.autograd.grad(pending, scene.model[0].weight, retain_graph=True)[0]
    MEASUREMENTS[name](scene, loss)
    assert torch.equal(torch.autograd.grad(pending, scene.model[0].weight)[0], expected)


def test_values_are_put_back_to_the_bit_whatever_wrote_them():
    """The sign of a zero too; and gradients that are written in place."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(-0.0)
    model.weight.grad = grad = torch.full((1, 1), 3.0)
    with restoring(model):
        model.weight.data.zero_()
        grad.zero_()
    assert model.weight.signbit().item() and model.weight.grad is grad and grad.item() == 3


def test_a_buffer_that_cannot_be_written_is_no_obstacle():
    model = nn.Linear(2, 1)
    model.register_buffer("mask", torch.ones(1).expand(3))
    before = model.mask
    H = Hessian(model, lambda m, x: (m(x) * m.mask).square().mean(), torch.ones(4, 2))
    assert (H @ torch.ones(3)).isfinite().all() and model.mask is before


def test_hooks_work_again_afterwards(scene):
    MEASUREMENTS["product"](scene, loss)
    loss(scene.model, scene.batch).backward()
    assert sorted(scene.hooked) == ["accumulated", "tensor"]

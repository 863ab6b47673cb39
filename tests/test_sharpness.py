"""Sharpness against quadratics: the limits are where the optimizers themselves begin to diverge."""

import math

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, LossError, StateError
from fallline.landscape import Hessian, critical_sharpness, sharpness
from landscapes import energy

LR = 0.1
CASES = {
    "sgd": (fl.SGD, {}),
    "momentum": (fl.SGD, {"momentum": 0.9}),
    "dampened": (fl.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "nesterov": (fl.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (fl.RMSprop, {}),
    "rmsprop with momentum": (fl.RMSprop, {"momentum": 0.5}),
    "rmsprop, centered, eps inside": (fl.RMSprop, {"centered": True, "eps_inside_sqrt": True, "eps": 1e-3}),
    "adam": (fl.Adam, {}),
    "adam, other betas": (fl.Adam, {"betas": (0.5, 0.9)}),
    "adamw, amsgrad": (fl.AdamW, {"amsgrad": True, "weight_decay": 0.0}),
    "nadamw": (fl.NAdamW, {"weight_decay": 0.0}),
}
AXES = torch.tensor([4.0, 3.0, 0.5], dtype=torch.float64)


def frozen_optimizer(name, scale):
    """An optimizer in the state of after one step, whose second moments no longer change, and the sharpness."""
    cls, options = CASES[name]
    model, loss_fn, data = energy(AXES)
    optimizer = cls(model.parameters(), lr=LR, backend="reference", **options)
    w = model.weight
    w.grad = torch.tensor([[1.0, 2.0, 0.3]], dtype=torch.float64)
    optimizer.step()
    if "step" in (state := optimizer.state[w]):
        state["step"].fill_(1000)  # an age at which means have forgotten their start
    found = sharpness(Hessian(model, loss_fn, data), optimizer)
    # The learning rate that puts it at `scale` times the edge.
    optimizer.param_groups[0]["lr"] = scale * LR / found.ratio
    return model, optimizer, found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [0.99, 1.01])
def test_the_limit_is_where_the_optimizer_itself_diverges(name, scale):
    """Run it with the second moments held still, as the theory has them, on the quadratic."""
    model, optimizer, _ = frozen_optimizer(name, scale)
    w, state = model.weight, optimizer.state[model.weight]
    held = {key: value.clone() for key, value in state.items() if "sq" in key or key == "grad_avg"}
    step = state["step"].clone() if "step" in state else None
    with torch.no_grad():
        w.fill_(1.0)
    for key in ("momentum_buffer", "exp_avg"):
        if key in state:
            state[key].zero_()
    group = optimizer.param_groups[0]
    beta2 = group.get("betas", (0, 0))[1]
    alpha = group.get("alpha", 0.0)
    history = []
    for _ in range(1500):
        w.grad = AXES * w.detach()
        # Choose the state so that after the rule's own update it is what was held.
        if "exp_avg_sq" in held:
            state["exp_avg_sq"].copy_((held["exp_avg_sq"] - (1 - beta2) * w.grad**2) / beta2)
            if "max_exp_avg_sq" in held:
                state["max_exp_avg_sq"].copy_(held["max_exp_avg_sq"])
        if "square_avg" in held:
            state["square_avg"].copy_((held["square_avg"] - (1 - alpha) * w.grad**2) / alpha)
        if "grad_avg" in held:
            state["grad_avg"].copy_((held["grad_avg"] - (1 - alpha) * w.grad) / alpha)
        if step is not None:
            state["step"].copy_(step - 1)
        optimizer.step()
        history.append(w.detach().abs().max().item())
        if history[-1] > 1e3:
            break
    # The first hundreds of steps are the other axes', and the start of the momentum.
    assert (history[-1] > 1e3 or max(history[-50:]) > max(history[700:750])) == (scale > 1)


@pytest.mark.parametrize(
    ("name", "constant"),
    [("sgd", 2), ("momentum", 3.8), ("adam", 38), ("adam, other betas", 6), ("rmsprop", 2), ("nesterov", 3.8 / 2.8)],
)
def test_the_limits_are_those_of_the_books(name, constant):
    _, _, found = frozen_optimizer(name, 1.0)
    assert found.limit == pytest.approx(constant / LR)
    assert found.ratio == found.value / found.limit


def test_adams_preconditioner_is_its_own():
    """P = (1 − β1^t)·(√v̂ + eps), calculated here."""
    model, loss_fn, data = energy(AXES)
    optimizer = fl.Adam(model.parameters(), lr=LR, eps=0.1)
    g = torch.tensor([[1.0, 2.0, 0.3]], dtype=torch.float64)
    for _ in range(3):
        model.weight.grad = g
        optimizer.step()
    found = sharpness(Hessian(model, loss_fn, data), optimizer)
    assert found.value == pytest.approx((AXES / ((1 - 0.9**3) * (g[0].abs() + 0.1))).max().item(), rel=1e-5)
    assert found.preconditioned and found.converged


def test_groups_with_rates_of_their_own():
    """An axis each; the ratio is that of the worst, whatever the unit."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in "ab")

    model = Two()
    groups = [{"params": [model.a], "lr": 0.1}, {"params": [model.b], "lr": 1.0}]
    H = Hessian(model, lambda m, x: 4 * m.a.sum() ** 2 / 2 + 1.5 * m.b.sum() ** 2 / 2, torch.ones(1))
    optimizer = fl.SGD(groups)
    found = sharpness(H, optimizer)
    assert found.ratio == pytest.approx(0.75) and found.limit == 2.0
    assert sharpness(H, fl.SAM(optimizer)).ratio == pytest.approx(0.75)
    groups[1]["lr"] = 0.0
    assert sharpness(H, fl.SGD(groups)).ratio == pytest.approx(0.2)


def test_without_an_optimizer_there_is_no_limit():
    model, loss_fn, data = energy(AXES)
    found = sharpness(Hessian(model, loss_fn, data))
    assert found.value == pytest.approx(4.0) and found.limit is None and found.ratio is None


def test_optimizers_that_do_not_fit_are_one_clear_error():
    model, loss_fn, data = energy(AXES)
    H = Hessian(model, loss_fn, data)
    for optimizer in (fl.Lion(model.parameters()), torch.optim.SGD(model.parameters(), lr=0.1)):
        with pytest.raises(ArgumentError, match=f"declares its stability, got {type(optimizer).__name__}"):
            sharpness(H, optimizer)
    with pytest.raises(StateError, match="must have made a step, got weight without state"):
        sharpness(H, fl.Adam(model.parameters()))
    with pytest.raises(ArgumentError, match="every parameter of H must be in the optimizer, got weight"):
        sharpness(H, fl.SGD([torch.nn.Parameter(torch.ones(1))]))
    with pytest.raises(ArgumentError, match="H must be a Hessian with an optimizer, got Dense"):
        sharpness(torch.eye(2), fl.SGD(model.parameters()))
    with pytest.raises(ArgumentError, match="must minimize the loss, got maximize=True for weight"):
        sharpness(H, fl.SGD(model.parameters(), lr=0.1, maximize=True))  # it climbs: its curvature is that of −loss


def test_critical_sharpness_of_a_quadratic_is_its_curvature_along_the_gradient():
    model, loss_fn, data = energy(AXES)
    g = AXES * model.weight.detach()[0]
    found = critical_sharpness(model, loss_fn, data, -g, tol=1e-4)
    right = (g @ (AXES * g) / (g @ g)).item()
    low, high = found.bracket
    assert 2 / high <= right <= 2 / low
    assert found.value == pytest.approx(right, rel=1e-3) and found.eta == pytest.approx(2 / right, rel=1e-3)
    # Along an update of length lr, 2 says that the loss would be what it was.
    assert critical_sharpness(model, loss_fn, data, [-found.eta * g[None]]).value == pytest.approx(2, rel=0.01)
    assert critical_sharpness(model, loss_fn, data, [-found.eta * g[None]]).evaluations < 20


@pytest.mark.parametrize("first", [2.0**-25, 1.0, 2.0**25])
def test_the_first_step_may_be_far_from_the_critical_one(first):
    model, loss_fn, data = energy(AXES)
    g = AXES * model.weight.detach()[0]
    found = critical_sharpness(model, loss_fn, data, -g, first=first, tol=0.1)
    low, high = found.bracket
    assert low < 2 * (g @ g / (g @ (AXES * g))).item() <= high < low * 1.12
    assert found.eta == pytest.approx((low + high) / 2) and found.value == pytest.approx(2 / found.eta)


def test_a_loss_that_never_rises_has_no_critical_sharpness():
    model = torch.nn.Linear(1, 1, bias=False)
    found = critical_sharpness(model, lambda m, x: m.weight.sum(), torch.ones(1), torch.tensor([-1.0]))
    assert found.value == 0 and found.eta == math.inf
    with pytest.raises(ArgumentError, match="direction must lower the loss"):
        critical_sharpness(model, lambda m, x: m.weight.sum(), torch.ones(1), torch.tensor([1.0]))
    for direction in ([torch.ones(3)], torch.ones(3), "down"):
        with pytest.raises(ArgumentError, match="direction must fit the parameters"):
            critical_sharpness(model, lambda m, x: m.weight.sum(), torch.ones(1), direction)


def test_a_loss_that_overflows_far_away_counts_as_higher():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)

    def steep(m, x):
        w = m.weight.sum()
        return (w * w).exp() if w > -2 else w.new_tensor(float("nan")) * w

    found = critical_sharpness(model, steep, torch.ones(1), torch.tensor([-1.0]), first=10.0)
    assert found.eta == pytest.approx(2.0, rel=0.01)


def test_a_loss_that_falls_until_it_is_nan_has_risen_there():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)  # the loss is √(4 − w): it falls along +1, until it ends at w = 4
    found = critical_sharpness(model, lambda m, x: (4 - m.weight).sqrt().sum(), torch.ones(1), torch.tensor([1.0]))
    low, high = found.bracket
    assert low <= 3 < high and found.eta == pytest.approx(3, rel=0.01)


def test_steps_and_directions_that_are_not_finite_are_refused():
    model, loss_fn, data = energy(AXES)
    for options, message in (
        ({"direction": -AXES, "first": math.inf}, "first must be finite and > 0"),
        ({"direction": -AXES, "first": math.nan}, "first must be finite and > 0"),
        ({"direction": AXES * math.nan}, "direction must be finite, got NaN or Inf in that of weight"),
        ({"direction": None}, "direction must fit the parameters"),
        ({"direction": 1.0}, "direction must fit the parameters"),
    ):
        with pytest.raises(ArgumentError, match=f"^critical_sharpness: {message}"):
            critical_sharpness(model, loss_fn, data, **options)


def test_a_rise_of_the_loss_at_the_start_is_no_error_of_the_loss():
    model, _, data = energy(AXES)
    with pytest.raises(LossError, match=r"^critical_sharpness: loss must be finite, got nan"):
        critical_sharpness(model, lambda m, x: m.weight.sum() * float("nan"), data, -AXES)


def test_a_loss_that_draws_from_its_own_generator_has_no_critical_sharpness():
    model, loss_fn, data = energy(AXES)
    own = torch.Generator().manual_seed(0)
    with pytest.raises(LossError, match=r"^critical_sharpness: loss must be the same at every evaluation"):
        critical_sharpness(model, lambda m, x: loss_fn(m, x) * torch.rand((), generator=own), data, -AXES)

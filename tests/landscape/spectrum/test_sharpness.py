"""Sharpness against quadratics: the limits are where the optimizers themselves begin to diverge."""

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, StateError
from fallline.landscape import Hessian, sharpness
from support.landscapes import energy

LR = 0.1
CASES = {
    "sgd": (fl.SGD, {}),
    "momentum": (fl.SGD, {"momentum": 0.9}),
    "dampened": (fl.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "nesterov": (fl.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (fl.RMSprop, {}),
    "rmsprop with momentum": (fl.RMSprop, {"momentum": 0.5}),
    "rmsprop, centered, eps inside": (fl.RMSprop, {"centered": True, "eps_inside_sqrt": True, "eps": 1e-3}),
    "adagrad": (fl.Adagrad, {"lr_decay": 1e-3}),
    "adam": (fl.Adam, {}),
    "adam, other betas": (fl.Adam, {"betas": (0.5, 0.9)}),
    "adamax": (fl.Adamax, {}),
    "radam": (fl.RAdam, {}),
    "adamw, amsgrad": (fl.AdamW, {"amsgrad": True, "weight_decay": 0.0}),
    "nadamw": (fl.NAdamW, {"weight_decay": 0.0}),
    "nadam": (fl.NAdam, {"momentum_decay": 0.01}),
    "ademamix": (fl.AdEMAMix, {"betas": (0.9, 0.999, 0.98), "alpha": 5.0}),
    "adan": (fl.Adan, {}),
    "adan, other betas": (fl.Adan, {"betas": (0.5, 0.8, 0.9), "eps": 1e-3}),
    "ademamix, slow mean leads": (fl.AdEMAMix, {"betas": (0.95, 0.999, 0.7), "alpha": 8.0, "beta3_warmup": 10}),
}
START = 1e-6  # so small that no gradient is larger than those of the state that is held
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
    if "mu_product" in state:
        state["mu_product"].fill_(0.0)
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
    held = {key: value.clone() for key, value in state.items() if "sq" in key or key in ("grad_avg", "sum", "exp_inf")}
    step = state["step"].clone() if "step" in state else None
    with torch.no_grad():
        w.fill_(START)
    for key in ("momentum_buffer", "exp_avg", "exp_avg_fast", "exp_avg_slow", "exp_avg_diff", "previous_grad"):
        if key in state:
            state[key].zero_()
    group = optimizer.param_groups[0]
    beta2 = group.get("betas", (0, 0))[2 if "exp_avg_diff" in state else 1]
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
        if "exp_inf" in held:
            state["exp_inf"].copy_(held["exp_inf"] / beta2)
        if "sum" in held:
            state["sum"].copy_(held["sum"] - w.grad**2)
        if "grad_avg" in held:
            state["grad_avg"].copy_((held["grad_avg"] - (1 - alpha) * w.grad) / alpha)
        if step is not None:
            state["step"].copy_(step - 1)
        optimizer.step()
        history.append(w.detach().abs().max().item())
        if history[-1] > 1e3 * START:
            break
    # The first hundreds of steps are the other axes', and the start of the momentum.
    assert (history[-1] > 1e3 * START or max(history[-50:]) > max(history[700:750])) == (scale > 1)


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
    with pytest.raises(StateError, match="must have made a step, got no state for weight"):
        sharpness(H, fl.Adam(model.parameters()))
    with pytest.raises(ArgumentError, match="every parameter of H must be in the optimizer, got weight"):
        sharpness(H, fl.SGD([torch.nn.Parameter(torch.ones(1))]))
    with pytest.raises(ArgumentError, match="H must be a Hessian if an optimizer is given, got Dense"):
        sharpness(torch.eye(2), fl.SGD(model.parameters()))
    with pytest.raises(ArgumentError, match="must minimize the loss, got maximize=True for weight"):
        sharpness(H, fl.SGD(model.parameters(), lr=0.1, maximize=True))  # it climbs: its curvature is that of −loss

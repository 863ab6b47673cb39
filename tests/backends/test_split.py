"""Weights that are split into a bfloat16 parameter and a remainder, against NumPy and float32 master weights."""

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.backends.split import join, split
from fallline.core.schedule_free import ScheduleFree
from fallline.errors import ArgumentError
from fallline.rules.rule import REMAINDER_BITS
from support.variants import BACKENDS, CLASSES, parameter, same_bits, set_grads

LOW = torch.bfloat16
SPLIT = pytest.mark.parametrize("mode", REMAINDER_BITS)
SPLITTABLE = pytest.mark.parametrize(
    "cls", [c for c in CLASSES.values() if not issubclass(c, ScheduleFree)], ids=lambda c: c.rule.name
)


def every_kind():
    """Random bit patterns: normal and denormal numbers, infinities and NaN."""
    raw = torch.randint(-(2**31), 2**31, (1_000_000,), generator=torch.Generator().manual_seed(0))
    special = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, torch.nan, 3.4028235e38, 1e-45, 1.00390625])
    return torch.cat([raw.to(torch.int32).view(torch.float32), special])


def test_32_bits_are_kept_exactly():
    weights = every_kind()
    param, remainder = split(weights, 16)
    known = ~weights.isnan()
    assert same_bits([join(param, remainder)[known]], [weights[known]])
    assert join(param, remainder)[~known].isnan().all() and param[~known].isnan().all()


def test_24_bits_are_the_weight_rounded_to_nearest():
    weights = every_kind()
    weights = weights[weights.isfinite() & (weights.abs() > 1e-37) & (weights.abs() < 1e38)]
    mantissas, exponents = np.frexp(weights.double().numpy())
    expected = np.ldexp(np.rint(mantissas * 2**16), exponents - 16)  # ties to even, as in IEEE 754
    found = join(*split(weights, 8))
    np.testing.assert_array_equal(found.double().numpy(), expected)
    assert same_bits(list(split(found, 8)), list(split(weights, 8)))


@SPLIT
def test_the_parameter_is_the_nearest_bfloat16_number(mode):
    weights = every_kind()
    weights = weights[weights.isfinite() & (weights.abs() < 1e38)]
    param, remainder = split(weights, REMAINDER_BITS[mode])
    kept = join(param, remainder)
    assert ((param.float() - kept).abs() <= (kept.to(LOW).float() - kept).abs()).all()


@SPLIT
def test_a_parameter_that_a_user_sets_to_zero_is_zero(mode):
    param, remainder = split(torch.tensor([1.001, -0.999]), REMAINDER_BITS[mode])
    assert remainder[0] > 0 > remainder[1]
    for value in (0.0, -0.0):
        assert join(torch.full_like(param, value), remainder).abs().max() < 1e-38


@SPLITTABLE
@pytest.mark.parametrize("backend", BACKENDS)
def test_32_bits_take_the_steps_of_master_weights_to_the_bit(cls, backend):
    options = {"weight_decay": 0.1, "backend": backend, "clip_grad_norm": 3.0, "ema_decay": 0.9}
    runs = []
    for mode in (True, "split32"):
        params = [parameter(3, 4, dtype=LOW), parameter(5, seed=1, dtype=LOW)]
        opt = cls(params, master_weights=mode, **options)
        for step in range(5):
            set_grads(params, step)
            opt.step()
        runs.append((params, [opt.state[p] for p in params]))
    (wide, masters), (low, states) = runs
    for p, q, own, other in zip(wide, low, masters, states, strict=True):
        assert other["master"].dtype == torch.int16
        weights = join(q.detach(), other["master"])
        assert same_bits([own["master"], own["ema"]], [weights, other["ema"]])
        assert (p.detach() - q.detach()).abs().max() <= 2**-7 * q.detach().abs().max()  # a tie is rounded otherwise


@SPLITTABLE
def test_24_bits_stay_near_master_weights(cls):
    weights = []
    for mode in (True, "split24"):
        param = parameter(40, dtype=LOW)
        opt = cls([param], master_weights=mode, weight_decay=0.1)
        for step in range(10):
            set_grads([param], step)
            opt.step()
        master = opt.state[param]["master"]
        weights.append(master if mode is True else join(param.detach(), master))
    torch.testing.assert_close(*weights, rtol=10 * 2**-16, atol=1e-6)


@SPLIT
def test_small_updates_add_up(mode):
    weight = torch.nn.Parameter(torch.ones(4, dtype=LOW))
    opt = fl.SGD([weight], lr=1e-4, master_weights=mode)
    for _ in range(100):
        weight.grad = torch.ones(4, dtype=LOW)
        opt.step()
    assert torch.equal(weight.detach(), torch.full((4,), 0.99).to(LOW))
    state = opt.state[weight]["master"]
    assert state.dtype == (torch.int8 if mode == "split24" else torch.int16)


@pytest.mark.parametrize(
    ("saved", "wanted"), [(True, "split32"), ("split32", True), ("split24", "split32"), ("split32", "split24")]
)
def test_master_weights_change_their_format_when_the_option_does(saved, wanted):
    param = parameter(40, dtype=LOW)
    opt = fl.AdamW([param], lr=1e-3, master_weights=saved)
    for step in range(3):
        set_grads([param], step)
        opt.step()
    weights = opt.state[param]["master"] if saved is True else join(param.detach(), opt.state[param]["master"])
    twin = torch.nn.Parameter(weights.clone().to(LOW))
    reference = fl.AdamW([twin], lr=1e-3, master_weights=True)
    reference.load_state_dict(opt.state_dict())
    reference.param_groups[0]["master_weights"] = True
    reference.state[twin]["master"] = weights.clone()
    opt.param_groups[0]["master_weights"] = wanted
    for p, o in ((param, opt), (twin, reference)):
        set_grads([p], 3)
        o.step()
    found = opt.state[param]["master"] if wanted is True else join(param.detach(), opt.state[param]["master"])
    expected = reference.state[twin]["master"]
    if wanted == "split24":
        torch.testing.assert_close(found, expected, rtol=2**-15, atol=0)
    else:
        assert same_bits([found], [expected])


@pytest.mark.parametrize(
    ("cls", "dtype", "options", "says"),
    [
        (fl.AdamW, torch.float16, {}, "master_weights='split24' is for bfloat16 parameters, got one of torch.float16"),
        (
            fl.AdamW,
            torch.float32,
            {},
            "master_weights is for bfloat16 and float16 parameters, got one of torch.float32",
        ),
        (fl.AdamW, LOW, {"stochastic_rounding": True}, "master_weights must be False with stochastic_rounding"),
        (fl.AdamW, LOW, {"master_weights": "split16"}, "must be True, False, 'split24' or 'split32', got 'split16'"),
        (fl.ScheduleFreeAdamW, LOW, {}, "master_weights must be True or False, because eval"),
    ],
)
def test_wrong_combinations_raise(cls, dtype, options, says):
    with pytest.raises(ArgumentError, match=says):
        cls([torch.nn.Parameter(torch.ones(3, dtype=dtype))], **{"master_weights": "split24", **options})

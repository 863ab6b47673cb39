"""Prodigy's estimate of the distance: shared by all groups, kept in state dicts, and never more than the truth."""

import copy

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError
from oracles import cases, golden
from oracles.problem import Case
from support.golden_runs import run
from support.variants import BACKENDS, normal, through_a_file

START = {"d": 1e-6, "d_max": 1e-6, "d_numerator": 0.0}


def params(dtype=torch.float64):
    return [torch.nn.Parameter(normal(*shape, seed=k, dtype=dtype)) for k, shape in enumerate([(6, 5), (7,), ()])]


def train(opt, steps):
    """Minimize half the squared distance to 3, and return the estimates."""
    found = []
    for _ in range(steps):
        for group in opt.param_groups:
            for param in group["params"]:
                param.grad = param.detach() - 3
        opt.step()
        found.append(opt.param_groups[0]["d"])
    return found


def kept(opt):
    return [{key: group[key] for key in START} for group in opt.param_groups]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_default_follows_the_oracle(backend):
    """In float32 the first steps of 1e-6 are lost in rounding, in the authors' package too: float64 only."""
    case = Case("prodigy_default", "Prodigy")
    assert golden.difference(cases.run(case), run(case, backend, torch.float64)) <= 1e-10


def test_the_estimate_never_falls_and_stays_below_the_distance():
    opt = fl.Prodigy(params())
    far = max((param - 3).abs().max().item() for param in opt.param_groups[0]["params"])
    estimates = train(opt, 300)
    assert estimates == sorted(estimates) and 0.1 * far < estimates[-1] <= far
    assert all((param - 3).abs().max() < 0.05 for param in opt.param_groups[0]["params"])


def test_all_groups_share_the_estimate_whether_they_have_gradients_or_not():
    first, *others = params()
    opt = fl.Prodigy([{"params": [first]}, {"params": others, "weight_decay": 0.1}], d0=1e-3)
    train(opt, 5)
    late = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    opt.add_param_group({"params": [late]})
    assert kept(opt)[0] == kept(opt)[1] == kept(opt)[2] != [START]
    for param in others:
        param.grad = None
    first.grad, late.grad = first.detach() - 3, None
    opt.step()
    assert kept(opt)[0] == kept(opt)[1] == kept(opt)[2]


def test_one_group_or_two_make_no_difference():
    one, two = params(), params()
    together = fl.Prodigy(one, d0=1e-3)
    apart = fl.Prodigy([{"params": two[:1]}, {"params": two[1:]}], d0=1e-3)
    assert train(together, 20) == pytest.approx(train(apart, 20), rel=1e-12)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_a_resumed_run_goes_on_bit_for_bit():
    opt = fl.Prodigy(params(), d0=1e-3)
    train(opt, 7)
    resumed = fl.Prodigy([torch.nn.Parameter(p.detach().clone()) for p in opt.param_groups[0]["params"]])
    resumed.load_state_dict(through_a_file(opt.state_dict()))
    assert kept(resumed) == kept(opt)
    copied = copy.deepcopy(opt)
    assert train(resumed, 5) == train(opt, 5) == train(copied, 5)


def test_without_gradients_or_with_zero_gradients_the_estimate_stays():
    opt = fl.Prodigy(params())
    opt.step()
    for param in opt.param_groups[0]["params"]:
        param.grad = torch.zeros_like(param)
    opt.step()
    assert kept(opt) == [START]


def test_an_overflow_under_a_scaler_changes_no_estimate():
    opt = fl.Prodigy(params(torch.float32), d0=1e-3)
    train(opt, 3)
    before = kept(opt)
    opt.grad_scale, opt.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    train(opt, 1)
    assert kept(opt) == before


def test_names_of_the_package_are_taken():
    opt = fl.Prodigy(params(), decouple=False, growth_rate=float("inf"))
    assert opt.param_groups[0]["weight_decay_mode"] == "l2" and opt.param_groups[0]["growth_rate"] == float("inf")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"d0": 0.0}, "d0 must be a finite number > 0, got 0"),
        ({"d_coef": -1.0}, "d_coef must be a finite number > 0, got -1"),
        ({"growth_rate": 0.5}, "growth_rate must be a number >= 1, got 0.5"),
        ({"growth_rate": float("nan")}, "growth_rate must be a number >= 1, got nan"),
        ({"d0": float("inf")}, "d0 must be a finite number > 0, got inf"),
        ({"beta3": 1.0}, r"beta3 must be in \[0, 1\), got 1"),
        ({"weight_decay_mode": "decoupled"}, "weight_decay_mode must be one of in_update, l2"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ArgumentError, match=said):
        fl.Prodigy(params(), **options)


def test_it_does_not_step_in_the_backward_pass():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match="the rule must take no norm over all parameters"):
        fl.step_in_backward(model, fl.Prodigy(model.parameters()))

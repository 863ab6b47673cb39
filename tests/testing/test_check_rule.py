"""The shipped conformance suite: every optimizer passes, an outside rule can be held to it, broken ones are caught."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer
from fallline.errors import ArgumentTypeError
from fallline.optimizers import OPTIMIZERS
from fallline.rules.ops import sqrt
from fallline.rules.ranges import NON_NEGATIVE
from fallline.rules.rule import rule
from fallline.testing import CHECKS, ConformanceError, cases, check_rule
from fallline.testing.storage import STORAGES
from oracles import cases as goldens
from oracles import options as around
from support.variants import CLASSES, ENDS


def marks_of(cls, variant, backend):
    """Leave single options to the slow suite, and all options at once where others look alike or many loops compile."""
    fast = ENDS if cls.rule.name in CLASSES and not cls.rule.whole else ENDS[:1]
    if backend == "fused" and cls.rule.name in CLASSES:
        fast = (*fast, "int8 state")
    return () if variant in fast else pytest.mark.slow


EVERY = [
    pytest.param(check, subject, id=f"{cls.rule.name}-{name}", marks=marks_of(cls, *name.split("-")[1:]))
    for cls in OPTIMIZERS.values()
    for name, check, subject in cases(cls)
    # The name is CHECK-VARIANT-BACKEND. A single option is tested where it is compiled, because the other backends run
    # the same trace or the function itself, and on optimizers that do not look like another one.
    if name.split("-")[1] in (*ENDS, *STORAGES) or (subject.backend == "fused" and cls.rule.name in CLASSES)
]


@pytest.mark.parametrize(("check", "subject"), EVERY)
def test_every_optimizer_keeps_every_promise(check, subject):
    check(subject)


@rule(
    state={"sum_of_squares": None},
    non_negative=("sum_of_squares",),
    ranges={"eps": NON_NEGATIVE},
    formula="s += g²;  p −= lr·g/(√s + eps)",
    source="Duchi, Hazan & Singer 2011, JMLR 12, page 2121",
)
def adagrad(param, grad, sum_of_squares, *, lr, eps):
    """Divide by the root of all squared gradients so far."""
    sum_of_squares = sum_of_squares + grad * grad
    return param - lr * (grad / (sqrt(sum_of_squares) + eps)), sum_of_squares


class AdaGrad(Optimizer):
    """An optimizer from outside: what a user writes."""

    rule = adagrad

    def __init__(self, params, lr=1e-2, eps=1e-10, weight_decay=0.0, **options: Unpack[CommonOptions]):
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, **options)


def oracle(
    param,
    grad,
    state,
    lr,
    lr0,
    *,
    weight_decay=0.0,
    weight_decay_mode="l2",
    maximize=False,
    clip_grad_value=math.inf,
    ema_decay=None,
):
    """AdaGrad in NumPy; an average of the parameters changes none of them."""
    grad = np.clip(grad, -clip_grad_value, clip_grad_value)
    grad = -grad if maximize else grad
    if weight_decay_mode == "l2":
        grad = grad + weight_decay * param
    else:
        param = param * (1 - (lr if weight_decay_mode == "decoupled" else lr / lr0) * weight_decay)
    state["s"] = state.get("s", 0) + grad * grad
    return param - lr * grad / (np.sqrt(state["s"]) + 1e-10)


@pytest.mark.slow
def test_an_outside_rule_passes_as_a_class_and_bare():
    check_rule(AdaGrad, oracle=oracle)
    check_rule(adagrad, defaults={"lr": 0.01, "eps": 1e-10}, backends=["fused", "reference"])


def test_a_bare_rule_needs_its_defaults():
    with pytest.raises(ArgumentTypeError, match=r"defaults must hold .* rule adagrad, got none for eps"):
        check_rule(adagrad, defaults={"lr": 0.01})


def broken(function, **declared):
    made = rule(state={"total": None}, ranges={}, formula="", source="", **declared)(function)
    with pytest.raises(ConformanceError) as error:
        check_rule(made, defaults={"lr": 0.01}, backends=["fused", "reference"])
    return {line.strip().split("-")[0] for line in str(error.value).splitlines()[1:]}


def test_a_rule_that_writes_to_the_gradient_is_caught():
    def writes(param, grad, total, *, lr):
        if isinstance(grad, torch.Tensor):
            grad.mul_(0.5)
        return param - lr * grad, total + grad

    assert {"gradients_are_only_read", "backends_agree"} <= broken(writes)


@pytest.mark.slow
def test_a_rule_that_remembers_outside_its_state_is_caught():
    calls = []

    def remembers(param, grad, total, *, lr):
        calls.append(1)
        return param - (lr * len(calls)) * grad, total + grad

    assert {"resumes_exactly", "copies_continue_identically", "late_gradients_count_their_own_age"} <= broken(remembers)


@pytest.mark.slow
def test_a_rule_that_divides_by_zero_is_caught():
    def divides(param, grad, total, *, lr):
        return param - lr * (grad / sqrt(grad * grad)), total + grad

    assert "zero_norms_stay_finite" in broken(divides)


@pytest.mark.slow
def test_a_rule_whose_state_knows_lr_is_caught():
    def scales(param, grad, total, *, lr):
        return param - lr * grad, total + lr * grad

    assert "lr_zero_holds_still" in broken(scales)


@pytest.mark.slow
def test_a_rule_that_hides_a_nan_is_caught():
    def hides(param, grad, total, *, lr):
        known = grad * grad >= 0 if isinstance(grad, torch.Tensor) else grad * grad > -1
        from fallline.rules.ops import where

        return param - lr * where(known, grad, 0 * param), where(known, grad, 0 * param)

    assert "nan_reaches_the_parameter" in broken(hides)


@pytest.mark.slow
def test_a_wrong_formula_is_caught_by_the_oracle():
    def wrong(*arguments, **options):
        return oracle(*arguments, **options) * (1 + 1e-9)

    with pytest.raises(ConformanceError, match="follows_the_oracle-default-reference"):
        check_rule(AdaGrad, backends=["reference"], oracle=wrong)


# SAM is no rule, Prodigy's oracle needs all parameters at once, and bases of SOAP are arbitrary without full rank.
LEFT_OUT = {"SAM", "Prodigy", "SOAP"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({case.optimizer for case in goldens.CASES.values()} - LEFT_OUT))
def test_the_oracles_of_the_goldens_fit_check_rule(name):
    cls = next(cls for cls in OPTIMIZERS.values() if cls.__name__ == name)
    module = goldens.oracle_of(next(case for case in goldens.CASES.values() if case.optimizer == name))

    def plain(param, grad, state, lr, lr0, **options):
        config, extra = around.split(options)
        if config.pop("decoupled_weight_decay", False):
            config["weight_decay_mode"] = "decoupled"
        return module.update(param, around.clipped({"p": grad}, extra)["p"], state, lr, lr0, **config)

    for check_name, check, subject in cases(cls, backends=["reference"], oracle=plain):
        if check_name.startswith("follows_the_oracle"):
            check(replace(subject, options={**subject.options, **getattr(module, "EXACT", {})}))


def test_the_promised_checks_are_there():
    assert len(CHECKS) == 19

"""Identities that hold for any numbers: between optimizers, between options, and between ways to lay out parameters."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.backends.fused import bucket as fused
from fallline.optimizers import OPTIMIZERS
from support.variants import (
    BACKENDS,
    EVERY_BACKEND,
    EVERY_CASE,
    EVERY_CLASS,
    distance,
    normal,
    parameter,
    same_bits,
    same_state,
    train,
)

few = settings(max_examples=12, derandomize=True, deadline=None)
more = settings(few, max_examples=40)

# Zero and ten decades, whose squares are far from the ends of float32.
numbers = st.one_of(st.just(0.0), st.floats(2**-16, 2**16, width=32), st.floats(-(2**16), -(2**-16), width=32))
rows = st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=4, max_size=6))
rates = st.floats(1e-6, 10)
fractions = st.floats(0, 0.999)


def run(cls, table, backend="fused", **options):
    """Return the optimizer after steps from the first row with the other rows as gradients."""
    param = torch.nn.Parameter(torch.tensor(table[0]))
    opt = cls([param], backend=backend, **options)
    for row in table[1:]:
        param.grad = torch.tensor(row)
        opt.step()
    return opt


def result(opt):
    return [p.detach() for group in opt.param_groups for p in group["params"]]


@EVERY_BACKEND
@few
@given(table=rows, lr=rates, beta1=fractions, beta2=fractions, amsgrad=st.booleans())
def test_adamw_without_decay_is_adam(backend, table, lr, beta1, beta2, amsgrad):
    options = {"lr": lr, "betas": (beta1, beta2), "amsgrad": amsgrad, "weight_decay": 0, "backend": backend}
    one, other = (run(OPTIMIZERS[name], table, **options) for name in ("adam", "adamw"))
    assert same_bits(result(one), result(other)) and same_state(one, other)


@EVERY_BACKEND
@few
@given(table=rows, lr=rates, beta1=fractions, beta2=fractions, beta3=fractions)
def test_ademamix_without_its_slow_mean_is_adamw(backend, table, lr, beta1, beta2, beta3):
    options = {"lr": lr, "weight_decay": 0.1, "backend": backend}
    one = run(OPTIMIZERS["ademamix"], table, betas=(beta1, beta2, beta3), alpha=0.0, **options)
    other = run(OPTIMIZERS["adamw"], table, betas=(beta1, beta2), **options)
    # The order of operations differs: 3e-7 was measured.
    assert distance(result(one), result(other)) <= 2e-6


@EVERY_BACKEND
@few
@given(table=rows, lr=rates, beta1=fractions, beta3=fractions)
def test_adan_without_changes_is_adam(backend, table, lr, beta1, beta3):
    one = run(OPTIMIZERS["adan"], table, lr=lr, betas=(beta1, 0.0, beta3), backend=backend)
    other = run(OPTIMIZERS["adam"], table, lr=lr, betas=(beta1, beta3), backend=backend)
    assert distance(result(one), result(other)) <= 2e-6  # as above


@EVERY_BACKEND
@EVERY_CLASS
@few
@given(table=rows, lr=rates)
def test_without_decay_its_mode_does_not_matter(cls, backend, table, lr):
    results = []
    for mode in cls.rule.weight_decay_modes:
        results.append(run(cls, table, backend, lr=lr, weight_decay=0.0, weight_decay_mode=mode))
    assert all(same_bits(result(results[0]), result(other)) for other in results[1:])
    assert all(same_state(results[0], other) for other in results[1:])


@EVERY_BACKEND
@EVERY_CLASS
@few
@given(lrs=st.tuples(rates, rates), decay=fractions, start=st.lists(numbers, min_size=1, max_size=5))
def test_independent_decay_does_not_change_with_lr(cls, backend, lrs, decay, start):
    """Without gradients decay is all that moves a parameter."""
    if "independent" not in cls.rule.weight_decay_modes:
        return
    table = [start, *[[0.0] * len(start)] * 3]
    options = {"weight_decay": decay, "weight_decay_mode": "independent"}
    one, other = (result(run(cls, table, backend, lr=lr, **options)) for lr in lrs)
    assert same_bits(one, other)
    expected = torch.tensor(start) * (1 - decay) ** 3
    assert torch.allclose(one[0], expected, rtol=1e-6, atol=0)  # three roundings of float32


@EVERY_BACKEND
@EVERY_CLASS
@few
@given(lr=rates, decay=fractions, factor=st.floats(0.01, 2))
def test_independent_decay_follows_the_schedule_and_decoupled_decay_lr(cls, backend, lr, decay, factor):
    for mode, shrink in (("independent", factor * decay), ("decoupled", factor * lr * decay)):
        if mode not in cls.rule.weight_decay_modes:
            continue
        param = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        options = {"adamw_lr": lr} if cls.__name__ == "Muon" else {}
        opt = cls([param], lr=lr, weight_decay=decay, weight_decay_mode=mode, backend=backend, **options)
        opt.param_groups[0]["lr"] = factor * lr
        param.grad = torch.zeros_like(param)
        opt.step()
        assert param[0].item() == pytest.approx(1 - shrink, rel=1e-13, abs=1e-13)  # a few roundings of float64


@EVERY_BACKEND
@more
@given(table=rows, power=st.integers(-6, 6), lr=rates, amsgrad=st.booleans())
def test_adams_step_does_not_see_the_scale_of_gradients(backend, table, power, lr, amsgrad):
    """With eps = 0; and by a power of two not in a single bit."""
    table = [[x if x else 1.0 for x in row] for row in table]  # 0/0 would be NaN
    scaled = [table[0], *([x * 2.0**power for x in row] for row in table[1:])]
    for name in ("adam", "adamw"):
        one, other = (run(OPTIMIZERS[name], t, backend, lr=lr, eps=0, amsgrad=amsgrad) for t in (table, scaled))
        assert same_bits(result(one), result(other))


@EVERY_BACKEND
@few
@given(table=rows, lr=rates, momentum=st.floats(0.01, 0.999), dampening=fractions)
def test_sgd_without_momentum_ignores_what_belongs_to_it(backend, table, lr, momentum, dampening):
    sgd = OPTIMIZERS["sgd"]
    plain, damped = run(sgd, table, backend, lr=lr), run(sgd, table, backend, lr=lr, dampening=dampening)
    assert same_bits(result(plain), result(damped)) and not any(plain.state.values())
    first, with_momentum = (run(sgd, table[:2], backend, lr=lr, momentum=m) for m in (0, momentum))
    assert same_bits(result(first), result(with_momentum))  # the buffer starts as the gradient


@EVERY_BACKEND
@few
@given(table=rows, lr=rates, momentum=st.floats(0.01, 0.999))
def test_nesterov_is_heavy_ball_looked_ahead(backend, table, lr, momentum):
    """Of the same gradients: nesterov = heavy ball − lr·momentum·buffer (sum the steps)."""
    sgd = OPTIMIZERS["sgd"]
    double = [torch.tensor(row, dtype=torch.float64).tolist() for row in table]
    ahead, ball = (run(sgd, double, backend, lr=lr, momentum=momentum, nesterov=n) for n in (True, False))
    (buffer,) = (state["momentum_buffer"] for state in ball.state.values())
    scale = 1 + torch.tensor(table).abs().max() * (1 + lr) / (1 - momentum)
    expected = result(ball)[0] - lr * momentum * buffer
    assert ((result(ahead)[0] - expected).abs() <= 1e-5 * scale).all()  # float32, terms that may cancel


@EVERY_CASE
@few
@given(size=st.integers(2, 300), cut=st.integers(1, 299), chunk=st.integers(1, 400), seed=st.integers(0, 9))
def test_splitting_a_tensor_or_its_chunks_changes_no_bit(cls, name, options, size, cut, chunk, seed):
    if cls.rule.shapes or (cls.rule.takes_norms and options.get("trust_ratio", True)):
        return  # the norm of a tensor is not that of its parts
    cut = 1 + cut % (size - 1)
    whole = parameter(size, seed=seed)
    parts = [torch.nn.Parameter(part.clone()) for part in whole.detach().split([cut, size - cut])]
    one, two = cls([whole], **options), cls(parts, **options)
    with mock.patch.object(fused, "CHUNK", chunk):
        (expected,) = train(one, range(3))
    for step in range(3):
        grad = normal(size, seed=1000 * step + 1)  # what train() gave the whole
        for part, piece in zip(parts, grad.split([cut, size - cut]), strict=True):
            part.grad = piece
        two.step()
    assert same_bits([expected], [torch.cat([p.detach() for p in parts])])


@EVERY_BACKEND
@EVERY_CASE
@few
@given(order=st.permutations(range(4)), groups=st.integers(1, 3))
def test_order_and_groups_of_parameters_do_not_matter(cls, name, options, backend, order, groups):
    shapes = [(), (5,), (3, 4), (2, 3)]
    straight = [parameter(*shape, seed=i) for i, shape in enumerate(shapes)]
    shuffled = [parameter(*shapes[i], seed=i) for i in order]
    one = cls(straight, backend=backend, **options)
    two = cls([{"params": shuffled[:groups]}, {"params": shuffled[groups:]}], backend=backend, **options)
    for step in range(3):
        for index, p in enumerate(straight):
            p.grad = torch.full_like(p, step - 0.7 * index)
        for index, p in zip(order, shuffled, strict=True):
            p.grad = torch.full_like(p, step - 0.7 * index)
        one.step()
        two.step()
    assert same_bits([straight[i].detach() for i in order], [p.detach() for p in shuffled])


@EVERY_CASE
@few
@given(table=rows)
def test_any_numbers_give_the_same_on_every_backend(cls, name, options, table):
    reference, *others = (run(cls, table, backend, **options) for backend in reversed(BACKENDS))
    start = torch.tensor(table[0])  # steps may cancel all but the rounding of it
    for other in others:
        ours, theirs = ([torch.cat([start, *result(opt)])] for opt in (other, reference))
        assert distance(theirs, ours) <= 1e-4  # centred variances cancel

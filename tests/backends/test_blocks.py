"""States in 8 bits: what is stored, that it is right in the mean, and what an optimizer makes of it."""

import math
from fractions import Fraction
from functools import partial

import pytest
import torch

import fallline as fl
from fallline.backends.blocks import blocks_of, decode, encode
from fallline.backends.fused import bucket as fused
from fallline.errors import ArgumentError
from fallline.optimizers import OPTIMIZERS
from fallline.rules.ops import sqrt
from fallline.rules.rule import BLOCK, rule
from fallline.testing import ConformanceError, check_rule
from oracles import blocks as oracle
from support.variants import (
    EVERY_BACKEND,
    distance,
    normal,
    parameter,
    same_bits,
    same_state,
    train,
)

KINDS = pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)
IN_BLOCKS = {"adagrad", "adam", "adamax", "adamw", "adan", "ademamix", "lamb", "lion", "nadam", "nadamw", "prodigy"}
IN_BLOCKS |= {"radam", "rmsprop", "schedulefreeadamw", "sgd"}


def wide(count, dtype, decades=4):
    """Numbers over several orders of magnitude, not below 0 for unsigned codes."""
    values = normal(count, seed=1) * 10 ** (decades * normal(count, seed=2))
    return values.abs() if dtype is torch.uint8 else values


def chances(shape, seed=0):
    return torch.randint(0, 65536, shape, generator=torch.Generator().manual_seed(seed))


@KINDS
def test_every_code_is_the_number_of_the_oracle(dtype):
    codes = torch.arange(256, dtype=torch.int32).to(dtype)
    codes = codes[codes != -128]  # the one code that is never written
    expected = oracle.table(dtype is torch.int8)
    for scale in (1.0, 2.0**-40, 2.0**60):
        found = decode(codes, torch.full((1,), scale)).tolist()
        assert [Fraction(x) for x in found] == [expected[code] * Fraction(scale) for code in codes.tolist()]


@KINDS
@pytest.mark.parametrize("decades", [0.5, 4, 7])
def test_a_value_is_stored_as_one_of_its_neighbours_and_without_chances_as_the_nearest(dtype, decades):
    values = wide(700, dtype, decades)
    nearest, chosen = decode(*encode(values, dtype)), decode(*encode(values, dtype, chances(values.shape)))
    for start in range(0, 700, BLOCK):
        block = values[start : start + BLOCK].tolist()
        for i in range(start, start + len(block), 7):
            low, high = oracle.neighbours(values[i].item(), block, dtype is torch.int8)
            assert Fraction(chosen[i].item()) in (low, high)
            exact = Fraction(values[i].item())
            assert abs(Fraction(nearest[i].item()) - exact) == min(abs(low - exact), abs(high - exact))


@KINDS
def test_rounding_is_right_in_the_mean(dtype):
    count = 100_000
    for part in (0.001, 0.1, 0.5, 0.93):
        low, high = 1.125, 1.25
        values = torch.full((count,), low + part * (high - low))
        found = decode(*encode(values, dtype, chances(values.shape))).double()
        assert set(found.tolist()) <= {low, high}
        up = ((found - low) / (high - low)).mean().item()
        assert abs(up - part) <= 5 * math.sqrt(part * (1 - part) / count) + 2**-16


@KINDS
def test_what_is_stored_is_stored_again_without_a_change(dtype):
    values = decode(*encode(wide(1000, dtype), dtype, chances((1000,))))
    for bits in (None, torch.zeros(1000, dtype=torch.int64), torch.full((1000,), 65535)):
        assert same_bits([decode(*encode(values, dtype, bits))], [values])
    assert same_bits([values.bfloat16().float()], [values])  # the form in which DTensors are saved


@KINDS
def test_a_value_that_is_not_finite_makes_its_block_nan(dtype):
    for bad in (math.inf, math.nan, 3e38):
        values = wide(600, dtype, 1)
        values[300] = bad
        codes, scales = encode(values, dtype, chances(values.shape))
        assert scales.isnan().tolist() == [False, True, False]
        assert decode(codes, scales).isnan().nonzero().flatten().tolist() == list(range(256, 512))


def test_zeros_and_tiny_numbers():
    for values in (torch.zeros(300), torch.full((300,), 1e-44), torch.zeros(0)):
        for dtype in (torch.int8, torch.uint8):
            codes, scales = encode(values, dtype)
            assert len(scales) == blocks_of(len(values)) and (decode(codes, scales) <= 1e-37).all()
    assert not decode(*encode(torch.zeros(300), torch.int8)).any()
    second = decode(*encode(torch.tensor([1.0, 0.0, 1e-20]), torch.uint8))
    assert second.tolist() == [1.0, 2.0**-31, 2.0**-31]  # steps divide by the root of it


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (600,), ()])
def test_codes_follow_the_memory_of_a_tensor(shape):
    values = normal(*shape)
    if values.dim() == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    codes, scales = encode(values, torch.int8)
    assert codes.stride() == values.stride() and codes.shape == values.shape
    flat = values.as_strided((values.numel(),), (1,))
    assert same_bits([codes.as_strided((values.numel(),), (1,)), scales], list(encode(flat, torch.int8)))
    assert same_bits([decode(codes, scales).as_strided((values.numel(),), (1,))], [decode(*encode(flat, torch.int8))])


def test_every_optimizer_of_single_elements_has_states_in_blocks():
    found = set()
    for name, cls in OPTIMIZERS.items():
        param = parameter(600)
        if cls.rule.whole:
            continue
        opt = cls([param], state_dtype="int8", **({"momentum": 0.9} if name in ("sgd", "rmsprop") else {}))
        train(opt, [0])
        state = opt.state[param]
        codes = {key.removesuffix("_codes"): value for key, value in state.items() if key.endswith("_codes")}
        group = opt.param_groups[0]
        expected = {key for key, option in cls.rule.state.items() if option is None or group[option]}
        assert codes.keys() == expected - {*cls.rule.copies}
        for key, value in codes.items():
            assert value.dtype == (torch.uint8 if key in cls.rule.non_negative else torch.int8)
            assert value.shape == param.shape and state[f"{key}_scale"].shape == (3,)
        found |= {name} if codes else set()
    assert found == IN_BLOCKS


@pytest.mark.parametrize(
    ("cls", "options"), [(fl.AdamW, {}), (fl.Lion, {}), (fl.LAMB, {}), (fl.AdamW, {"cautious": True, "ema_decay": 0.9})]
)
def test_threads_and_chunks_do_not_matter(cls, options, monkeypatch):
    monkeypatch.setattr(fused, "PARALLEL", 0)
    runs, threads = [], torch.get_num_threads()
    try:
        for chunk, count in ((1 << 17, 1), (512, 2), (2048, 2)):
            monkeypatch.setattr(fused, "CHUNK", chunk)
            torch.set_num_threads(count)
            params = [parameter(5000), parameter(3, 40, seed=1)]
            opt = cls(params, lr=0.01, state_dtype="int8", **options)
            train(opt, range(4))
            runs.append(opt)
    finally:
        torch.set_num_threads(threads)
    exact = cls is fl.AdamW and not options  # norms over a tensor are summed chunk by chunk
    for opt in runs[1:]:
        one, other = ([p for g in o.param_groups for p in g["params"]] for o in (runs[0], opt))
        assert (same_bits(one, other) and same_state(runs[0], opt)) if exact else distance(one, other) < 1e-3


def test_the_fused_backend_serves_blocks_itself():
    opt = fl.AdamW([parameter(600)], state_dtype="int8", backend="fused")
    train(opt, [0])
    assert {type(bucket) for bucket in opt._plan.buckets} == {fused.FusedBucket}


@EVERY_BACKEND
def test_second_moments_follow_a_tenfold_drop_of_the_gradient(backend):
    steps, beta = (3000, 0.999) if backend == "fused" else (300, 0.99)
    means = []
    for dtype in ("int8", None):
        param = parameter(4096)
        opt = fl.AdamW([param], betas=(0.9, beta), backend=backend, state_dtype=dtype)
        for step in range(steps):
            param.grad = torch.full((4096,), 1.0 if step < steps // 2 else 0.1)
            opt.step()
        means.append(opt.state_as_numbers(param)["exp_avg_sq"].double().mean().item())
    assert means[0] == pytest.approx(means[1], rel=0.02)


def test_the_noise_of_rounding_is_as_documented():
    """Relative to a second moment, and to the fluctuations of a mean; see docs/scale/few-bytes.md."""

    def noise(make, key, steps):
        found = []
        for dtype in ("int8", None):
            param = torch.nn.Parameter(torch.zeros(4096))
            opt, generator = make([param], dtype), torch.Generator().manual_seed(0)
            for _ in range(steps):
                param.grad = torch.randn(4096, generator=generator)
                opt.step()
            found.append(opt.state_as_numbers(param)[key])
        return (found[0] - found[1]).std().item() / (found[1].mean() if key == "exp_avg_sq" else found[1].std()).item()

    assert noise(lambda p, dtype: fl.AdamW(p, state_dtype=dtype), "exp_avg_sq", 3000) == pytest.approx(0.2, rel=0.1)
    assert noise(lambda p, dtype: fl.AdamW(p, state_dtype=dtype), "exp_avg", 100) == pytest.approx(0.087, rel=0.1)
    assert noise(lambda p, dtype: fl.Lion(p, state_dtype=dtype), "exp_avg", 1000) == pytest.approx(0.27, rel=0.1)


@pytest.mark.parametrize("cls", [fl.AdamW, fl.AdEMAMix, fl.RMSprop, fl.Lion], ids=lambda c: c.__name__)
def test_an_outlier_does_not_stall_its_neighbours(cls):
    """One gradient of its block is 1e4 times as large, in every step or once."""
    for always in (True, False):
        moves = []
        for dtype in ("int8", None):
            param = parameter(BLOCK)
            start = param.detach().clone()
            opt = cls([param], lr=1e-3, state_dtype=dtype)
            for step in range(50):
                param.grad = 1 + 0.3 * normal(BLOCK, seed=step)
                if always or step == 10:
                    param.grad[7] = 1e4
                opt.step()
            moves.append((param.detach() - start)[torch.arange(BLOCK) != 7])
        low, full = moves
        assert low.mean() == pytest.approx(full.mean().item(), rel=0.03)
        assert (low / full).min() > 0.5 and (low / full).max() < 2


@pytest.mark.parametrize(
    ("cls", "options", "says"),
    [
        (fl.Muon, {}, "state_dtype='int8' is for optimizers that update every element on its own, got muon"),
        (fl.Adafactor, {}, "state_dtype='int8' is for optimizers that update every element on its own, got adafactor"),
        (fl.Adam, {"amsgrad": True}, "amsgrad needs an exact state"),
        (fl.RMSprop, {"centered": True}, "centered needs an exact state"),
        (fl.AdamW, {"differentiable": True}, "differentiable must be False with stochastic rounding"),
    ],
)
def test_what_cannot_be_stored_in_blocks_is_refused(cls, options, says):
    with pytest.raises(ArgumentError, match=f"{cls.__name__}: {says}.*; "):
        cls([parameter(3, 4)], state_dtype="int8", **options)
    with pytest.raises(ArgumentError, match="state_dtype is for float32, bfloat16 and float16 parameters"):
        fl.AdamW([parameter(3, dtype=torch.float64)], state_dtype="int8")


def test_a_rule_declares_what_is_never_below_zero():
    def moments(param, grad, mean, square, *, lr):
        mean, square = 0.9 * mean + 0.1 * grad, 0.99 * square + 0.01 * grad * grad
        return param - lr * mean / (sqrt(square) + 1e-8), mean, square

    declare = partial(rule, state={"mean": None, "square": None}, ranges={}, formula="", source="")
    with pytest.raises(ArgumentError, match=r"non_negative must be among the keys of state .*got 'squares'"):
        declare(non_negative=("squares",))(moments)
    check_rule(declare(non_negative=("square",))(moments), defaults={"lr": 0.01}, backends=["fused"])
    with pytest.raises(ConformanceError, match="an_outlier_harms_no_neighbor-int8 state"):
        check_rule(declare()(moments), defaults={"lr": 0.01}, backends=["fused"])

"""Muon: torch.optim.Muon's updates on matrices, and the routing of all other parameters to AdamW."""

import copy

import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.rules.matrices import _iterate_gram, orthogonalize
from support.variants import normal, same_bits, through_a_file, train

needs_torchs = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
SHAPES = ((8, 16), (16, 8), (8, 16), (32, 32), (1, 7))


def matrices(shapes=SHAPES, dtype=torch.float32):
    return [nn.Parameter(normal(*shape, seed=index, dtype=dtype)) for index, shape in enumerate(shapes)]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)


class Language(nn.Module):
    """The shape of nanoGPT, with the output layer tied to the embedding."""

    def __init__(self, tied=True, width=8):
        super().__init__()
        self.wte = nn.Embedding(16, width)
        self.positions = nn.Parameter(torch.zeros(1, 4, width))
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.attention = nn.MultiheadAttention(width, 2, bias=False)
        self.lm_head = nn.Linear(width, 16, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


def algorithms(optimizer):
    return {route.name: (route.algorithm, route.blocks) for route in optimizer.routing.routes}


@needs_torchs
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize(
    "options", [{}, {"adjust_lr_fn": "match_rms_adamw"}, {"nesterov": False, "momentum": 0.8}, {"ns_steps": 2}]
)
def test_matrices_are_updated_as_by_torch(options, backend):
    ours = train(fl.Muon(matrices(), backend=backend, lr=0.02, **options), range(20))
    theirs = train(torch.optim.Muon(matrices(), lr=0.02, **options), range(20))
    for own, other, start in zip(ours, theirs, matrices(), strict=True):
        # Products in bfloat16 that are summed in another order differ by units in the last place, 2^-8.
        assert (own - other).norm() <= 2e-3 * (other - start.detach()).norm()


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_normuon_gives_every_row_the_same_length_and_keeps_the_whole(backend):
    """The first step has no past: every row then has the same root mean square, and the matrix has that of Muon's."""
    plain, even = (
        fl.Muon(matrices(), lr=0.02, weight_decay=0, ns_dtype="float64", backend=backend, norm=norm)
        for norm in (None, "neuron")
    )
    for one, other, start in zip(train(plain, [0]), train(even, [0]), matrices(), strict=True):
        moved = (other - start.detach()).double()
        torch.testing.assert_close(moved.norm(), (one - start.detach()).double().norm(), rtol=1e-5, atol=0)
        rows = moved.norm(dim=1)
        torch.testing.assert_close(rows, rows.mean().expand_as(rows), rtol=1e-4, atol=0)
    shapes = [even.state[p]["second_momentum_buffer"].shape for p in even.param_groups[0]["params"]]
    assert shapes == [(len(p), 1) for p in even.param_groups[0]["params"]]


@needs_torchs
def test_state_dicts_go_both_ways():
    ours, theirs = fl.Muon(matrices(), lr=0.02), torch.optim.Muon(matrices(), lr=0.02)
    train(ours, range(3)), train(theirs, range(3))
    loaded = torch.optim.Muon([nn.Parameter(p.detach().clone()) for p in ours.param_groups[0]["params"]])
    loaded.load_state_dict(through_a_file(ours.state_dict()))
    back = fl.Muon([nn.Parameter(p.detach().clone()) for p in theirs.param_groups[0]["params"]])
    back.load_state_dict(through_a_file(theirs.state_dict()))
    for one, other in ((loaded, copy.deepcopy(ours)), (back, copy.deepcopy(theirs))):
        for a, b in zip(train(one, range(3, 6)), train(other, range(3, 6)), strict=True):
            assert (a - b).norm() <= 1e-4 * b.norm()


def test_a_batch_of_matrices_is_orthogonalized_like_each_alone():
    tensors = [normal(6, 9, seed=k, dtype=torch.float64) for k in range(5)] + [normal(9, 6, 2, dtype=torch.float64)]
    options = ((1.5, -0.5, 0.0), 40, "float64")
    for one, whole in zip(tensors, orthogonalize(tensors, [1e-7] * 6, *options), strict=True):
        left, _, right = torch.linalg.svd(one.flatten(1), full_matrices=False)
        assert torch.allclose(whole.flatten(1), left @ right, atol=1e-10)


def iterate(x, steps, dtype=torch.float64):
    """Return Newton-Schulz iterations of a matrix, one after the other."""
    x = (x / x.norm()).to(dtype)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.double()


@pytest.mark.parametrize(
    ("shape", "steps"), [((1025, 1031), 5), ((1031, 1025), 5), ((640, 1700), 5), ((1700, 640), 5), ((640, 1700), 8)]
)
def test_large_matrices_are_multiplied_by_halves_or_by_polynomials(shape, steps):
    large = normal(*shape, dtype=torch.float64)
    (ours,) = orthogonalize([large], [1e-7], (3.4445, -4.7750, 2.0315), steps, "float64")
    x = iterate(large, steps)
    assert (ours - x).norm() <= 1e-12 * x.norm()


@pytest.mark.parametrize("power", [0, 0.5, 1, 2, 4])
def test_polynomials_round_little_more_than_single_iterations(power):
    left, right = (torch.linalg.qr(normal(rows, 128, dtype=torch.float64)).Q for rows in (128, 512))
    values = torch.arange(1, 129, dtype=torch.float64) ** -power  # the faster they fall, the harder
    wide = left * values @ right.T
    exact = iterate(wide, 5)
    coefficients = (3.4445, -4.7750, 2.0315)
    ours = _iterate_gram((wide / wide.norm()).bfloat16(), coefficients, 5).double()
    plain = iterate(wide, 5, torch.bfloat16)
    assert (ours - exact).norm() <= max(1.2 * (plain - exact).norm(), 0.06 * exact.norm())  # measured: 0.047
    assert torch.linalg.matrix_norm(ours, 2) <= 1.25


def test_split_matrices_are_matrices_of_their_own():
    joint = nn.Parameter(normal(12, 5))
    parts = [nn.Parameter(part.clone()) for part in joint.detach().split(4)]
    options = {"lr": 0.1, "ns_dtype": "float64"}
    one = fl.Muon([("attention.qkv.weight", joint)], split={"qkv": 3}, **options)
    other = fl.Muon(parts, **options)
    for step in range(4):
        grad = normal(12, 5, seed=step + 7)
        joint.grad = grad
        for part, own in zip(parts, grad.split(4), strict=True):
            part.grad = own.clone()
        one.step(), other.step()
    assert torch.allclose(joint.detach(), torch.cat([part.detach() for part in parts]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tied", [True, False])
def test_modules_decide(tied):
    found = algorithms(fl.Muon(Language(tied), lr=0.02))
    matrices = {name for name, (algorithm, _) in found.items() if algorithm == "muon"}
    hidden = {f"blocks.{k}.{name}.weight" for k in range(2) for name in ("qkv", "out")}
    assert matrices == hidden | {"attention.in_proj_weight", "attention.out_proj.weight"}
    assert found["attention.in_proj_weight"] == ("muon", 3) and ("lm_head.weight" in found) != tied


def test_names_decide_where_there_is_no_model():
    found = algorithms(fl.Muon(Language(tied=False).named_parameters()))
    assert [found[name][0] for name in ("wte.weight", "lm_head.weight", "blocks.0.qkv.weight")] == [
        "adamw",
        "adamw",
        "muon",
    ]
    unnamed = fl.Muon([nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))])
    assert [route.algorithm for route in unnamed.routing.routes] == ["muon", "adamw"]


def test_wrapped_models_and_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = fl.Muon(nn.DataParallel(model))
    assert [route.algorithm for route in optimizer.routing.routes] == ["muon"] + 5 * ["adamw"]
    assert "0.weight (4×3×3×3): a flattened filter of Conv2d" in str(optimizer.routing)
    assert repr(optimizer.routing) == "Routing(1 parameters to Muon, 5 to AdamW; print it to see the reasons)"


def test_every_decision_can_be_overridden():
    model = Language(tied=False)
    asked = {"lm_head": "muon", "blocks.0": "adamw"}
    found = algorithms(fl.Muon(model, route=asked, split={"blocks.1.qkv": 3}))
    assert found["lm_head.weight"][0] == "muon" and found["blocks.0.qkv.weight"][0] == "adamw"
    assert found["blocks.1.qkv.weight"] == ("muon", 3)
    by_function = algorithms(fl.Muon(model, route=lambda name, param: "adamw" if param.dim() == 2 else None))
    assert {algorithm for algorithm, _ in by_function.values()} == {"adamw"}
    tied = algorithms(fl.Muon(Language(tied=True), route={"lm_head": "muon"}))  # by any of its names
    assert tied["wte.weight"][0] == "muon"
    groups = [{"params": [model.lm_head.weight], "algorithm": "muon", "lr": 0.5}]
    group = fl.Muon(groups).param_groups[0]
    assert (group["algorithm"], group["lr"]) == ("muon", 0.5)


@pytest.mark.parametrize("algorithm", ["muon", "adamw"])
def test_a_group_may_be_empty(algorithm):
    matrix = nn.Parameter(normal(3, 2))
    optimizer = fl.Muon([{"params": [], "algorithm": algorithm}, {"params": [matrix]}])
    train(optimizer, range(2))
    assert [group["algorithm"] for group in optimizer.param_groups] == [algorithm, "muon"]


def test_each_side_has_its_own_options():
    optimizer = fl.Muon(Language(), lr=0.02, weight_decay=0.3, adamw_lr=1e-3, adamw_betas=(0.8, 0.9), adamw_eps=1e-6)
    sides = {group["algorithm"]: group for group in optimizer.param_groups}
    assert (sides["muon"]["lr"], sides["muon"]["eps"], sides["muon"]["weight_decay"]) == (0.02, 1e-7, 0.3)
    assert (sides["adamw"]["lr"], sides["adamw"]["eps"], sides["adamw"]["weight_decay"]) == (1e-3, 1e-6, 0.3)
    assert sides["adamw"]["betas"] == (0.8, 0.9)
    scheduler = fl.Cosine(optimizer, total_steps=10)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert sides["muon"]["lr"] == pytest.approx(0.01) and sides["adamw"]["lr"] == pytest.approx(5e-4)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_gradient_spoils_its_matrix_and_no_other(value, backend):
    bad, good = matrices(((4, 3), (4, 3)))
    optimizer = fl.Muon([bad, good], backend=backend)
    bad.grad, good.grad = torch.ones(4, 3), torch.ones(4, 3)
    bad.grad[1, 2] = value
    optimizer.step()
    assert bad.isnan().all() and good.isfinite().all()


def test_options_of_groups_reach_both_sides():
    layers = [nn.Linear(4, 4) for _ in range(2)]
    groups = [
        {"params": layers[0].parameters(), "weight_decay": 0.0, "lr": 0.01},
        {"params": layers[1].parameters(), "adamw_lr": 0.5, "adamw_weight_decay": 0.7},
    ]
    first, second, third, fourth = fl.Muon(groups, lr=0.02, weight_decay=0.1, adamw_lr=1e-3).param_groups
    assert (first["lr"], first["weight_decay"], second["lr"], second["weight_decay"]) == (0.01, 0.0, 5e-4, 0.0)
    assert (third["lr"], third["weight_decay"], fourth["lr"], fourth["weight_decay"]) == (0.02, 0.1, 0.5, 0.7)
    assert [group["algorithm"] for group in (first, second, third, fourth)] == 2 * ["muon", "adamw"]


def test_the_adamw_side_is_adamw():
    ours, theirs = ([nn.Parameter(normal(5, seed=3))] for _ in range(2))
    one = train(fl.Muon(ours, adamw_lr=0.01, weight_decay=0.2), range(5))
    other = train(fl.AdamW(theirs, lr=0.01, betas=(0.9, 0.95), weight_decay=0.2), range(5))
    assert same_bits(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"route": {"head": "muon"}}, "route and split must name parameters or modules, got 'head'"),
        ({"route": {"0": "muno"}}, "route must give 'muon' or 'adamw', got 'muno' for 0.weight; did you mean muon"),
        ({"split": {"0": 3}}, "split must divide the 8 rows of 0.weight, got 3"),
        ({"ns_steps": 0}, "ns_steps must be an integer in"),
        ({"ns_coefficients": (1.0, 2.0)}, "ns_coefficients must be three numbers"),
        ({"adjust_lr_fn": "rms"}, "adjust_lr_fn must be one of original, match_rms_adamw or None"),
        ({"norm": "row"}, "norm must be 'neuron' or None, got 'row'; leave it out"),
        ({"norm": "neuron", "norm_beta": 1.0}, "norm_beta must be in"),
        ({"ns_dtype": "float8"}, "ns_dtype must be one of bfloat16"),
        ({"momentum": -1.0}, "momentum must be a finite number >= 0"),
        ({"adamw_betas": (1.0, 0.9)}, "betas.0. must be in"),
    ],
)
def test_invalid_arguments_name_the_remedy(options, message):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(ArgumentError, match=message):
        fl.Muon(model, **options)


def test_arguments_of_another_kind():
    with pytest.raises(ArgumentTypeError, match="route must map names to algorithms"):
        fl.Muon([nn.Parameter(torch.ones(2, 2))], route=3)
    with pytest.raises(ArgumentTypeError, match="split must map names to numbers"):
        fl.Muon([nn.Parameter(torch.ones(2, 2))], split=[3])

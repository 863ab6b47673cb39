"""The linter and the recipes look into wrappers, all in the same way, and say what they cannot look into."""

import threading

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

import fallline as fl
from fallline.errors import ArgumentError
from support.setups import model, split
from support.wrapped import FullyShardedDataParallel, Lightning, Prepared, PreparedScheduler

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # one of the mistakes

MODELS = {
    "as it is": lambda net: net,
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled in DataParallel": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "FSDP1, original parameters": lambda net: FullyShardedDataParallel(net, flat=False),
}
EVERY_MODEL = pytest.mark.parametrize("wrap", MODELS.values(), ids=MODELS)
OPTIMIZERS = {
    "as it is": lambda opt: opt,
    "SAM": fl.SAM,
    "accelerate's": Prepared,
    "accelerate's around SAM": lambda opt: Prepared(fl.SAM(opt)),
    "Lightning's": Lightning,
}
EVERY_OPTIMIZER = pytest.mark.parametrize("prepare", OPTIMIZERS.values(), ids=OPTIMIZERS)


def ids(findings):
    return [finding.id for finding in findings]


@EVERY_MODEL
def test_a_missing_parameter_is_named_as_in_the_model(wrap):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    wrapped = wrap(net)
    (found,) = fl.lint(wrapped, torch.optim.SGD(list(wrapped.parameters())[:3], lr=0.1))
    assert found.id == "missing-parameters" and found.message.endswith("not in the optimizer: 1.bias")


@EVERY_MODEL
def test_the_groups_of_a_wrapped_model_are_those_of_the_model(wrap):
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 4))
    expected = fl.recipes.parameter_groups(net, 0.1, no_decay=["0.weight"])
    assert fl.recipes.parameter_groups(wrap(net), 0.1, no_decay=["0.weight"]) == expected


@EVERY_OPTIMIZER
def test_the_optimizer_inside_is_checked(prepare):
    net = model()
    base = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    scheduler = CosineAnnealingLR(base, 500)
    assert {"coupled-decay", "rises-again", "decayed-norms"} <= set(ids(fl.lint(net, prepare(base), scheduler, 2000)))
    optimizer = prepare(fl.AdamW(split(net, 0.1), lr=4e-3))
    assert ids(fl.lint(net, optimizer, previous={"lr": 1e-3, "weight_decay": 0.1})) == ["lr-changed-without-decay"]


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_a_prepared_scheduler_is_called_once_per_process(processes):
    net = model()
    optimizer = fl.AdamW(split(net, 0.1), lr=1e-3, betas=(0.9, 0.95))
    prepared = Prepared(optimizer, processes)

    def lint(calls, **options):
        scheduler = PreparedScheduler(fl.WarmupCosine(optimizer, 0.05, calls), [prepared], **options)
        return ids(fl.lint(net, prepared, scheduler, 1000))

    assert lint(1000 * processes) == [] == lint(1000, split_batches=True) == lint(1000, step_with_optimizer=False)
    assert lint(3000 * processes) == ["wrong-length", "long-warmup"]


def sequence(opt):
    warmup = LinearLR(opt, 0.01, total_iters=100)
    return SequentialLR(opt, [warmup, CosineAnnealingLR(opt, 900)], milestones=[100])


CHAINS = {  # with what is found in a run of 1,000 and of 3,000 steps
    "a chain that ends with the run": (
        lambda opt: ChainedScheduler([fl.Linear(opt, 1000), LinearLR(opt, 0.01, total_iters=100)]),
        [],
        ["wrong-length"],
    ),
    "a chain without an end": (lambda opt: ChainedScheduler([fl.Constant(opt), ConstantLR(opt, 0.5, 100)]), [], []),
    "a sequence": (sequence, [], ["rises-again", "wrong-length"]),
    "a prepared sequence": (lambda opt: PreparedScheduler(sequence(opt), []), [], ["rises-again", "wrong-length"]),
    "a prepared chain": (
        lambda opt: PreparedScheduler(
            ChainedScheduler([fl.Linear(opt, 1000), LinearLR(opt, 0.01, total_iters=100)]), []
        ),
        [],
        ["wrong-length"],
    ),
}


@pytest.mark.parametrize(("make", "fits", "short"), CHAINS.values(), ids=CHAINS)
def test_chains_and_sequences_are_simulated(make, fits, short):
    net = model()
    optimizer = torch.optim.SGD(split(net, 1e-4), lr=0.1)
    scheduler = make(optimizer)
    assert ids(fl.lint(net, optimizer, scheduler, 1000, ignore=["long-warmup"])) == fits
    assert ids(fl.lint(net, optimizer, scheduler, 3000, ignore=["long-warmup"])) == short


@pytest.mark.parametrize("make", [
    lambda opt: SequentialLR(opt, [fl.Warmup(opt, 10), fl.Linear(opt, 90)], milestones=[10]),
    lambda opt: ChainedScheduler([fl.Linear(opt, 100), ConstantLR(opt, 0.5, 3)]),
    lambda opt: PreparedScheduler(fl.Linear(opt, 100), []),
])  # fmt: skip
def test_steps_of_the_optimizer_are_seen_through_containers(make):
    weight = nn.Parameter(torch.ones(2, 2))
    for early in (False, True):
        optimizer = torch.optim.SGD([weight], lr=0.1)
        scheduler = make(optimizer)
        if not early:
            optimizer.step()
        getattr(scheduler, "scheduler", scheduler).step()
        assert ids(fl.lint(None, optimizer, scheduler)) == ["stepped-before-optimizer"] * early


def test_frozen_parameters_are_no_mistake_of_decay_or_precision():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4)).bfloat16()
    nn.init.constant_(net[0].weight, 100.0)
    net[0].requires_grad_(False)
    net[1].requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
    assert ids(fl.lint(net, optimizer)) == ["frozen-parameters"]


def test_an_optimizer_without_weight_decay_is_checked():
    net = model()
    assert fl.lint(net, torch.optim.LBFGS(net.parameters()), previous=torch.optim.LBFGS(net.parameters())) == []


class Opaque:
    def __init__(self, inside):
        self.inside = [inside]

    def step(self):
        self.inside[0].step()


def uncopied(opt):
    scheduler = LambdaLR(opt, lambda k: 1.0)
    scheduler.lock = threading.Lock()  # cannot be copied
    return ChainedScheduler([scheduler])


UNSEEN = {
    "an unknown object": (
        lambda opt: Opaque(LambdaLR(opt, lambda k: 1.0)),
        "the scheduler (Opaque) is no LRScheduler of PyTorch",
    ),
    "no copy": (uncopied, "a copy of the scheduler (ChainedScheduler) could not be run ahead"),
    "two of ours": (lambda opt: ChainedScheduler([fl.Warmup(opt, 9), fl.Cosine(opt, 9)]), "could not be run ahead"),
}


@pytest.mark.parametrize(("make", "message"), UNSEEN.values(), ids=UNSEEN)
def test_a_scheduler_that_cannot_be_inspected_is_named(make, message):
    net = model()
    optimizer = torch.optim.SGD(split(net, 1e-4), lr=0.1)
    (found,) = fl.lint(net, optimizer, make(optimizer), 1000, ignore=["wrong-length"])
    assert (found.id, found.severity) == ("not-inspected", "info") and message in found.message


def test_several_optimizers_in_one_are_named():
    class Pair(torch.optim.Optimizer):
        def __init__(self, first, second):
            self.first, self.second = first, second
            super().__init__(first.param_groups + second.param_groups, {})

    net = model()
    groups = split(net, 0.0)
    pair = Pair(torch.optim.SGD(groups[:1], lr=0.1), torch.optim.AdamW(groups[1:], lr=0.1))
    (found,) = [f for f in fl.lint(net, pair) if f.id == "not-inspected"]
    assert "Pair holds 2 optimizers (SGD, AdamW), and only the first was checked" in found.message


def test_flat_parameters_that_hide_the_layers_are_named_by_both():
    wrapped = FullyShardedDataParallel(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), flat=True)
    (found,) = fl.lint(wrapped, torch.optim.AdamW(wrapped.parameters(), weight_decay=0.1))
    assert found.id == "not-inspected" and "_flat_param" in found.message and "use_orig_params=True" in found.fix
    with pytest.raises(
        ArgumentError, match=r"recipes: model must .*got the flat .*_flat_param; .*use_orig_params=True"
    ):
        fl.recipes.parameter_groups(wrapped, 0.1)

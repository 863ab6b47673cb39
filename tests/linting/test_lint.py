"""The linter finds what is planted, is silent on well-known set-ups, and changes nothing."""

import copy
import json
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import fallline as fl
from fallline import linting
from fallline.errors import ArgumentError, ArgumentTypeError, FalllineError
from fallline.linting import CHECKS, SEVERITIES
from support.plants import PLANTS, lint, planted
from support.setups import SETUPS, model, split

pytestmark = pytest.mark.filterwarnings(
    "ignore:Detected call of `lr_scheduler.step:UserWarning",  # torch warns of one of the mistakes, later
    "ignore:The epoch parameter in `scheduler.step:UserWarning",  # torch's SequentialLR calls itself so
)


def ids(findings):
    return [finding.id for finding in findings]


@pytest.mark.parametrize("name", SETUPS)
def test_a_well_known_set_up_gets_at_most_one_finding_and_no_error(name):
    found = lint(SETUPS[name]())
    assert len(found) <= 1 and all(finding.severity != "error" for finding in found), ids(found)


def test_every_check_is_planted():
    assert {id for id, _, _ in PLANTS} == set(CHECKS)


PLANTED = pytest.mark.parametrize(("id", "plant", "fits"), PLANTS, ids=[plant.__name__ for _, plant, _ in PLANTS])


@PLANTED
def test_what_is_planted_is_found_in_the_training_of_deit(id, plant, fits):
    setup = SETUPS["deit"]()  # where every mistake fits, and is found soonest
    assert fits(setup)
    plant(setup)
    assert id in ids(lint(setup))


@pytest.mark.slow
@PLANTED
def test_what_is_planted_is_found_wherever_it_fits(id, plant, fits):
    found = {name: ids(lint(setup)) for name, setup in planted(plant, fits)}
    assert len(found) >= 6
    assert [name for name, every in found.items() if id not in every] == []


def test_a_length_in_steps_called_per_epoch_is_told_as_that():
    net = model()
    optimizer = torch.optim.AdamW(split(net, 0.1), lr=1e-3)
    scheduler = fl.WarmupCosine(optimizer, 1000, 30_000)
    found = fl.lint(net, optimizer, scheduler, 30_000, scheduler_per="epoch", steps_per_epoch=300)
    (finding,) = [f for f in found if f.id == "wrong-length"]
    assert "called once per epoch, 100 times, but its length of 30000 counts steps" in finding.message


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda o: fl.Cosine(o, 100, min_lr=1e-5), "for the last 100 steps the learning rate stays at 1e-05"),
        (
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100),
            "for the last 100 steps the learning rate rises again (from 0 to 0.001)",
        ),
        (
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-3, total_steps=100),
            "for the last 100 steps scheduler.step() raises an error",
        ),
    ],
)
def test_what_comes_after_a_schedule_that_is_too_short_is_said(make, told):
    net = model()
    optimizer = torch.optim.AdamW(split(net, 0.1), lr=1e-3)
    (finding,) = [f for f in fl.lint(net, optimizer, make(optimizer), 200) if f.id == "wrong-length"]
    assert finding.message == f"the schedule takes 100 steps, and the training 200: {told}"


@pytest.mark.parametrize("recipe", ["vision_transformer", "language_model", "convnet"])
def test_our_recipes_get_no_finding(recipe):
    net = model()
    optimizer, scheduler = getattr(fl.recipes, recipe)(net, 20_000)
    assert fl.lint(net, optimizer, scheduler, 20_000) == []


def test_our_recipe_of_muon_gets_no_finding():
    net = model()
    optimizer, scheduler = fl.recipes.language_model(net, 20_000, optimizer="muon")
    assert fl.lint(net, optimizer, scheduler, 20_000) == []


def test_fine_tuning_gets_no_finding():
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    optimizer, scheduler = fl.recipes.fine_tuning(net, 3000)
    assert fl.lint(net, optimizer, scheduler, 3000, from_scratch=False) == []


SILENT = {
    "Adam without decay": lambda net: torch.optim.Adam(net.parameters()),
    "Adam with decoupled decay": lambda net: torch.optim.Adam(split(net, 0.1), decoupled_weight_decay=True),
    "RAdam with decoupled decay": lambda net: torch.optim.RAdam(split(net, 0.1), decoupled_weight_decay=True),
    "ours, decoupled": lambda net: fl.Adam(split(net, 0.1), weight_decay_mode="decoupled"),
    "SGD with L2": lambda net: torch.optim.SGD(split(net, 1e-4), lr=0.1),
    "SAM around AdamW": lambda net: fl.SAM(fl.AdamW(split(net, 0.1), lr=1e-3)),
}


@pytest.mark.parametrize("make", SILENT.values(), ids=SILENT)
def test_what_only_looks_coupled_is_left_alone(make):
    net = model()
    assert "coupled-decay" not in ids(fl.lint(net, make(net)))


def test_sam_is_looked_into():
    net = model()
    optimizer = fl.SAM(fl.Adam(net.parameters(), weight_decay=0.1))
    assert "coupled-decay" in ids(fl.lint(net, optimizer, fl.Cosine(optimizer, 100), 100))


CYCLES = {
    "torch's one cycle": lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 1e-3, total_steps=5000),
    "our one cycle": lambda opt: fl.OneCycle(opt, 5000),
    "torch's restarts": lambda opt: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 1000),
    "our restarts": lambda opt: fl.CosineRestarts(opt, 1000, warmup_steps=250),
    "composed": lambda opt: fl.Scheduler(opt, fl.schedules.warmup(250).then(fl.schedules.cosine_restarts(1000))),
}


@pytest.mark.parametrize("make", CYCLES.values(), ids=CYCLES)
def test_cycles_are_meant(make):
    net = model()
    optimizer = torch.optim.AdamW(split(net, 0.1), lr=1e-3, betas=(0.9, 0.95))
    assert not {"rises-again", "long-warmup"} & set(ids(fl.lint(net, optimizer, make(optimizer), 5000)))


@pytest.mark.parametrize(
    "make", [fl.Constant, lambda opt: fl.InverseSqrt(opt, 250), ReduceLROnPlateau, lambda opt: None]
)
def test_what_has_no_end_or_cannot_be_run_ahead_has_no_length(make):
    net = model()
    optimizer = torch.optim.SGD(split(net, 1e-4), lr=0.1)
    assert fl.lint(net, optimizer, make(optimizer), 5000) == []


def test_a_resumed_run_is_as_right_as_a_whole_one():
    net = model()
    optimizer, scheduler = fl.recipes.language_model(net, 20_000)
    for _ in range(30):
        for param in net.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()
    assert fl.lint(net, optimizer, scheduler, 20_000) == []


def test_nothing_is_changed():
    for name, make in SETUPS.items():
        setup = make()
        states = (setup.model.state_dict(), setup.optimizer.state_dict(), setup.scheduler.state_dict())
        before, rng = copy.deepcopy(states[0]), torch.get_rng_state()
        rest = pickle.dumps([{k: v for k, v in s.items() if "lambda" not in k} for s in states[1:2]])
        last, hooks = setup.scheduler.last_epoch, len(setup.optimizer._optimizer_step_post_hooks)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lint(setup)
        assert all(torch.equal(value, before[key]) for key, value in setup.model.state_dict().items()), name
        after = [{k: v for k, v in setup.optimizer.state_dict().items() if "lambda" not in k}]
        assert pickle.dumps(after) == rest and torch.equal(rng, torch.get_rng_state())
        assert (setup.scheduler.last_epoch, len(setup.optimizer._optimizer_step_post_hooks)) == (last, hooks)


def test_findings_are_sorted_ignorable_and_plain():
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    found = fl.lint(net, optimizer, None, 10_000)
    assert ids(found)[0] == "coupled-decay" and {"short-warmup", "decayed-norms"} <= set(ids(found))
    assert [SEVERITIES.index(f.severity) for f in found] == sorted(SEVERITIES.index(f.severity) for f in found)
    assert ids(fl.lint(net, optimizer, None, 10_000, ignore=ids(found)[:1])) == ids(found)[1:]
    assert json.loads(json.dumps([f.to_dict() for f in found]))[0]["fix"] == "use AdamW"
    for finding in found:
        assert str(finding).startswith(f"{finding.severity}: ") and finding.fix in str(finding)


def test_every_check_says_when_it_is_wrong_and_who_says_so():
    for id, check in CHECKS.items():
        assert check.severity in SEVERITIES and check.source and check.false_positives and check.function.__doc__, id
        assert check.function.__module__.rpartition(".")[2] in {f.__name__.rpartition(".")[2] for f in linting.FAMILIES}


def test_previous_may_be_the_optimizer_and_independent_decay_is_no_mistake():
    net = model()
    old = torch.optim.AdamW(split(net, 0.1), lr=1e-3)
    new = torch.optim.AdamW(split(net, 0.1), lr=4e-3)
    (finding,) = [f for f in fl.lint(net, new, previous=old) if f.id == "lr-changed-without-decay"]
    assert "lr changed from 0.001 to 0.004 and weight_decay is still 0.1" in finding.message
    assert "weight_decay=0.025" in finding.fix
    free = fl.AdamW(split(net, 0.1), lr=4e-3, weight_decay_mode="independent")
    assert fl.lint(net, free, previous=old) == []
    followed = torch.optim.AdamW(split(net, 0.025), lr=4e-3)
    assert fl.lint(net, followed, previous=old) == []


BAD = [
    (lambda n, o: fl.lint([n], o), ArgumentTypeError, "lint: model must be a torch.nn.Module or None"),
    (lambda n, o: fl.lint(n, n), ArgumentTypeError, "lint: optimizer must be a torch.optim.Optimizer"),
    (lambda n, o: fl.lint(n, o, None, 0), ArgumentError, "lint: total_steps must be an int >= 1, got total_steps=0"),
    (lambda n, o: fl.lint(n, o, ignore=["spelling"]), ArgumentError, "lint: ignore must be .*, got 'spelling'"),
    (lambda n, o: fl.lint(n, o, ignore="long-warmup"), ArgumentError, "lint: ignore must be a list"),
    (lambda n, o: fl.lint(n, o, scheduler_per="batch"), ArgumentError, "got scheduler_per='batch'"),
    (lambda n, o: fl.lint(n, o, scheduler_per="epoch"), ArgumentError, "lint: steps_per_epoch must be given"),
    (lambda n, o: fl.lint(n, o, previous={"wd": 1}), ArgumentError, "lint: previous must have lr"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_arguments_are_named(call, kind, message):
    net = model()
    with pytest.raises(FalllineError, match=message) as caught:
        call(net, torch.optim.SGD(net.parameters()))
    assert caught.type is kind

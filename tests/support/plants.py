"""The linter's mistakes, planted into well-known set-ups."""

import copy

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

import fallline as fl
from support.setups import SETUPS, SetUp, half_cosine, line, split, warmup_then


def is_adamw(setup):
    return type(setup.optimizer) is torch.optim.AdamW


def from_scratch(setup):
    return is_adamw(setup) and setup.options.get("from_scratch", True)


def calls(setup):
    return setup.total_steps // setup.options.get("steps_per_epoch", 1)


def scheduled(setup, make):
    """Give a set-up another scheduler, as if the first had never been."""
    for group in setup.optimizer.param_groups:
        group["lr"] = group.pop("initial_lr")
    setup.scheduler = make(setup.optimizer)


def coupled_decay(setup):
    adam = torch.optim.Adam(split(setup.model, 0.1), lr=1e-3)
    for group in adam.param_groups:
        group["initial_lr"] = 1e-3
    setup.scheduler = copy.deepcopy(setup.scheduler, {id(setup.optimizer): adam})
    setup.optimizer = adam


def schedule_free_with_decay(setup):
    optimizer = fl.ScheduleFreeAdamW(split(setup.model, 0.1), lr=1e-3)
    for group in optimizer.param_groups:
        group["initial_lr"] = 1e-3
    setup.scheduler = copy.deepcopy(setup.scheduler, {id(setup.optimizer): optimizer})
    setup.optimizer = optimizer


def evaluated_in_train_mode(setup):
    schedule_free_with_decay(setup)
    for param in setup.model.parameters():
        param.grad = torch.zeros_like(param)
    setup.optimizer.step()
    setup.model.eval()


def prodigy_learning_rate(setup):
    optimizer = fl.Prodigy(split(setup.model, 0.1), lr=1e-3)
    for group in optimizer.param_groups:
        group["initial_lr"] = 1e-3
    setup.scheduler = copy.deepcopy(setup.scheduler, {id(setup.optimizer): optimizer})
    setup.optimizer = optimizer


def with_muon(setup, second, **options):
    """Give a set-up Muon on its matrices, and another algorithm for its vectors."""
    matrices, vectors = split(setup.model, 0.1)
    groups = [{**matrices, "algorithm": "muon"}, {**vectors, "algorithm": second}]
    optimizer = fl.Muon(groups, lr=0.02, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    setup.scheduler = copy.deepcopy(setup.scheduler, {id(setup.optimizer): optimizer})
    setup.optimizer = optimizer


def muon_on_all_matrices(setup):
    with_muon(setup, "adamw")


def clipping_under_muon(setup):
    for name in ("norm", "layer"):
        setup.model[name] = torch.nn.Linear(8, 8, bias=False)
    with_muon(setup, "muon", clip_grad_norm=1.0)


def lr_changed_without_decay(setup):
    group = setup.optimizer.param_groups[0]
    setup.options["previous"] = {"lr": 3 * group["initial_lr"], "weight_decay": group["weight_decay"]}


def decay_time_scale(setup):
    setup.optimizer.param_groups[0]["weight_decay"] = 1e-9


def decayed_norms(setup):
    setup.optimizer.param_groups[1]["weight_decay"] = 0.1


def short_warmup(setup):
    scheduled(setup, lambda opt: LambdaLR(opt, warmup_then(0, calls(setup), half_cosine)))


def long_warmup(setup):
    scheduled(setup, lambda opt: LambdaLR(opt, warmup_then(calls(setup) // 3, calls(setup), half_cosine)))


def long_memory(setup):
    for group in setup.optimizer.param_groups:
        group["betas"] = (0.9, 1 - 0.3 / setup.total_steps)


def rises_again(setup):
    setup.total_steps = min(setup.total_steps, 20_000)
    setup.options = {key: value for key, value in setup.options.items() if key == "from_scratch"}
    scheduled(setup, lambda opt: CosineAnnealingLR(opt, setup.total_steps // 2))


def wrong_length(setup):
    scheduled(setup, lambda opt: fl.WarmupCosine(opt, 0.03, calls(setup) * 3 // 2))


def wrong_length_of_a_lambda(setup):
    scheduled(setup, lambda opt: LambdaLR(opt, warmup_then(calls(setup) // 30, calls(setup) * 2 // 3, line)))


def called_per_epoch(setup):
    per_epoch = setup.total_steps // 90
    setup.options |= {"scheduler_per": "epoch", "steps_per_epoch": per_epoch}
    scheduled(setup, lambda opt: fl.WarmupCosine(opt, 0.03, setup.total_steps))


def first_step_at_zero(setup):
    scheduled(setup, lambda opt: LambdaLR(opt, warmup_then(calls(setup) // 20, calls(setup), half_cosine, offset=0)))


def stepped_before_optimizer(setup):
    setup.scheduler.step()


def ratios_overwritten(setup):
    first, second = split(setup.model, 0.1)
    setup.optimizer = fl.AdamW([{**first, "lr": 1e-3}, {**second, "lr": 1e-4}], lr=1e-3)
    setup.total_steps, setup.options = 1000, {}
    setup.scheduler = OneCycleLR(setup.optimizer, max_lr=1e-3, total_steps=1000, cycle_momentum=False)


def missing_parameters(setup):
    setup.model["more"] = torch.nn.Linear(8, 8)


def stale_parameters(setup):
    setup.model["layer"] = torch.nn.Linear(8, 8)


def frozen_parameters(setup):
    setup.model["layer"].requires_grad_(False)


def duplicate_parameters(setup):
    group = setup.optimizer.param_groups[0]
    group["params"].append(group["params"][0])


def lost_updates(setup):
    low = copy.deepcopy(setup.model).to(torch.bfloat16)
    for param in low.parameters():
        torch.nn.init.constant_(param, 4.0)
    for group, other in zip(setup.optimizer.param_groups, split(low, 0.0), strict=True):
        group["params"] = other["params"]
    setup.model = low


class Opaque:
    """A scheduler in an object that no check knows."""

    def __init__(self, scheduler):
        self.hidden = [scheduler]


def hidden_scheduler(setup):
    setup.scheduler = Opaque(setup.scheduler)


def always(setup):
    return True


def schedules_steps(setup):
    return "scheduler_per" not in setup.options


# What is planted: the id that must be found, how, and into which set-ups it can be.
PLANTS = [
    ("coupled-decay", coupled_decay, is_adamw),
    ("lr-changed-without-decay", lr_changed_without_decay, is_adamw),
    ("decay-time-scale", decay_time_scale, from_scratch),
    ("decayed-norms", decayed_norms, is_adamw),
    ("short-warmup", short_warmup, from_scratch),
    ("long-warmup", long_warmup, always),
    ("long-memory", long_memory, from_scratch),
    ("rises-again", rises_again, always),
    ("wrong-length", wrong_length, always),
    ("wrong-length", wrong_length_of_a_lambda, always),
    ("wrong-length", called_per_epoch, always),
    ("first-step-at-zero", first_step_at_zero, always),
    ("stepped-before-optimizer", stepped_before_optimizer, always),
    ("ratios-overwritten", ratios_overwritten, always),
    ("schedule-free-with-decay", schedule_free_with_decay, is_adamw),
    ("prodigy-learning-rate", prodigy_learning_rate, is_adamw),
    ("muon-on-embedding-or-head", muon_on_all_matrices, is_adamw),
    ("clipping-under-muon", clipping_under_muon, is_adamw),
    ("evaluated-in-train-mode", evaluated_in_train_mode, is_adamw),
    ("missing-parameters", missing_parameters, always),
    ("stale-parameters", stale_parameters, always),
    ("frozen-parameters", frozen_parameters, always),
    ("duplicate-parameters", duplicate_parameters, always),
    ("lost-updates", lost_updates, is_adamw),
    ("not-inspected", hidden_scheduler, always),
]


def lint(setup: SetUp):
    return fl.lint(setup.model, setup.optimizer, setup.scheduler, setup.total_steps, **setup.options)


def planted(plant, fits):
    """Yield the name of each set-up that a mistake fits into, and that set-up with the mistake."""
    for name, make in SETUPS.items():
        setup = make()
        if fits(setup):
            plant(setup)
            yield name, setup

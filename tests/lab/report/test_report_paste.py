"""What the report gives to paste runs: the winner as code, and the command that asks for the same study."""

import shlex
from dataclasses import replace

import pytest
import torch

from fallline.cli.options import parse_settings, parse_variations
from fallline.lab.design.arms import make_arms
from fallline.lab.design.optimizers import build_optimizer
from fallline.lab.design.schedules import SCHEDULES, learning_rates
from fallline.lab.report import best_code
from fallline.lab.report.topics.reproduce import command
from fallline.lab.specify import specify
from support.studies import changed, with_outcomes

OPTIMIZERS = ["momentum", "lion", "sam(adamw)", "asam(sgd)", "muon", "torch.optim:NAdam"]
CASES = [("momentum", schedule) for schedule in SCHEDULES] + [(name, "cosine") for name in OPTIMIZERS]


@pytest.mark.parametrize(("optimizer", "schedule"), CASES)
def test_the_winner_runs_as_pasted(study, optimizer, schedule):
    best = study.leaderboard()[0]["arm"]
    arm = replace(make_arms([optimizer], [schedule])[0], name=best)
    point = {**arm.space.defaults, "lr": 0.0123456789, "warmup": 0.1}
    searches = {**study.searches, best: replace(study.searches[best], arm=arm, points=(point,), origins=(0,), best=0)}
    spec = replace(study.spec, arms=tuple(arm if a.name == best else a for a in study.spec.arms))
    outcomes = {(t.arm, t.seed): study.outcome(t) for t in study.trials}
    pasted = with_outcomes(changed(study, spec=spec, searches=searches), lambda t: outcomes[t.arm, t.seed])
    assert pasted.leaderboard()[0]["arm"] == best
    model, twin = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)) for _ in range(2))
    names = {"model": model}
    exec(best_code(pasted.record), names)
    steps = pasted.spec.steps_of(arm, "confirm")
    assert steps == study.spec.steps // arm.space.passes  # SAM was run at equal gradient evaluations

    def closure():
        names["opt"].zero_grad()
        loss = model(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    used = []
    for _ in range(steps):
        used.append(names["opt"].param_groups[0]["lr"])
        names["opt"].step(closure)
        names["sched"].step()
    expected = [0.0123456789 * factor for factor in learning_rates(schedule, steps, 0.1)]
    assert used == pytest.approx(expected, rel=1e-5, abs=1e-12)  # the code shows six digits of the learning rate
    theirs = build_optimizer(arm.space.optimizer, twin.parameters(), model=twin, **arm.space.options(point))
    assert type(names["opt"]) is type(theirs)
    for key, value in theirs.param_groups[0].items():
        if key not in ("params", "lr", "base_lr"):
            assert names["opt"].param_groups[0][key] == value, key


@pytest.mark.parametrize(
    ("optimizers", "schedules", "more"),
    [
        (["adam"], ["cosine"], {}),
        (["sgd@lr=0.1", "adamw@lr=1e-3@beta1=0.8"], ["step", "cosine"], {}),
        (["adam@lr=1e-5..1e-2"], ["linear"], {"vary": {"warmup": [0.0, 0.05], "batch_size": [32, 64]}, "searches": 3}),
        (
            ["sam(sgd)", "sgd"],
            ["wsd"],
            {"settings": {"batch_size": 32}, "equal": "steps", "horizon": 0.5, "searches": 3},
        ),
        (["adam"], ["cosine"], {"vary": {"steps": [40, 80]}, "equal": "trials"}),
        (["adam"], ["cosine"], {"self_check": True}),
    ],
)
def test_the_command_asks_for_the_same_study(study, optimizers, schedules, more):
    spec = specify("digits", optimizers, schedules, steps=40, trials=2, seeds=2, **more)
    words = shlex.split(command(changed(study, spec=spec, baseline=spec.arms[0].name, margin=None).record))
    self_check = "--self-check" in words
    words = [word for word in words if word != "--self-check"]
    pairs = list(zip(words[3::2], words[4::2], strict=True))
    options = dict(pairs)
    numbers = {name: int(options.get(f"--{name}", 1)) for name in ("steps", "trials", "seeds", "seed", "searches")}
    again = specify(
        words[2],
        options["--optimizers"].split(","),
        options["--schedules"].split(","),
        vary=parse_variations([value for name, value in pairs if name == "--vary"]),
        settings=parse_settings([value for name, value in pairs if name == "--set"], None),
        equal=options.get("--equal", "grad-evals"),
        horizon=float(options.get("--horizon", 1)),
        self_check=self_check,
        **numbers,
    )
    assert again == spec
    assert options["--baseline"] == spec.arms[0].name

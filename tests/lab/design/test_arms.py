"""Arms: any optimizer by where it is, SAM around it, given ranges, and what is varied."""

import math

import pytest
import torch

from fallline.errors import ArgumentError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.optimizers import build_optimizer, get_space
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.schedules import SCHEDULES, learning_rates
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.run.trial import run
from fallline.lab.search.trials import confirm, tune
from fallline.lab.specify import specify

OWN = """
import math
import torch
class Mine(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-2, power=1.0):
        super().__init__(params, {"lr": lr, "power": power})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.sign() * p.grad.abs() ** group["power"], alpha=group["lr"])
class NoRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})
def root(steps, warmup_steps):
    return lambda k: math.sqrt(1 - k / steps)
def long(steps, warmup_steps):
    from fallline.schedules import cosine
    return cosine(2 * steps)
def wrong(steps, warmup_steps):
    return lambda k: -1.0
def forgetful(steps):
    return lambda k: 1.0
def broken(steps, warmup_steps):
    return lambda k: {}[k]
def empty(steps, warmup_steps):
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arm(text, **options):
    (made,) = make_arms([text], ["cosine"], **options)
    return made


def spec(*texts, vary=None, **options):
    settings = {"batch_size": 64}
    return Spec("digits", 80, make_arms(texts, ["cosine"], vary, settings), **{"trials": 2, "seeds": 2, **options})


def trials(study):
    """The default configuration's tuning trial of every arm."""
    return {trial.arm: trial for trial in tune(study, {})[0] if trial.index == 0}


def test_torchs_own_class_by_its_path_trains_as_if_called_by_hand():
    trial = trials(spec("torch.optim:NAdam"))["torch.optim:NAdam"]
    outcome, _ = run(trial)
    options = {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    assert trial.options == options
    again, _ = run(trial, lambda name, params, **given: torch.optim.NAdam(params, **options))
    assert outcome == again


def test_a_class_in_a_file_of_the_users_gets_a_space_around_its_default(own):
    space = arm("own.py:Mine").space
    (lr,) = [d for d in space.dimensions if d.name == "lr"]
    assert (lr.low, lr.high) == pytest.approx((1e-2 / 30, 0.3))
    outcome, _ = run(trials(spec("own.py:Mine@power=0.5"))["own.py:Mine@power=0.5"])
    assert outcome.failure is None and outcome.metrics["val_loss"] < 2.1


def test_editing_the_users_file_makes_other_trials(own):
    def ids():
        from fallline.lab.specify import specify

        return [t.id for t in tune(specify("digits", ["own.py:Mine", "adam"], ["cosine"], trials=2, steps=40), {})[0]]

    before = ids()
    (own / "own.py").write_text(OWN + "\n# changed\n")
    after = ids()
    assert before[:3] != after[:3] and before[3:] == after[3:]  # adam's trials are what they were


def test_given_ranges_are_searched_and_nothing_else_of_them():
    study = spec("adam@lr=1e-5..1e-3@beta1=0.5..0.99", trials=8)
    (search,) = tune(study, {})[1].values()
    assert [d.name for d in search.ranges] == ["lr", "beta1"]  # asked for, so searched at this budget too
    drawn = search.points[1:]
    assert all(1e-5 <= p["lr"] <= 1e-3 and 0.5 <= p["beta1"] <= 0.99 for p in drawn)
    assert min(p["lr"] for p in drawn) < 3e-5 and max(p["lr"] for p in drawn) > 3e-4
    assert max(p["beta1"] for p in drawn) > 0.95  # 1 − beta1 is searched in log


def test_sam_climbs_and_makes_half_the_steps_of_its_base():
    study = spec("momentum", "sam(momentum)")
    two = trials(study)
    assert two["momentum"].steps == 80 and two["sam(momentum)"].steps == 40
    outcome, costs = run(two["sam(momentum)"])
    assert costs.passes == 2 and outcome.curve[-1]["step"] == 40 and outcome.curve[-1]["lr_factor"] == 0.0
    unclimbed, _ = run(two["sam(momentum)"], lambda name, params, rho, **o: build_optimizer("sgd", params, **o))
    assert unclimbed.curve != outcome.curve


def test_sam_is_confirmed_at_equal_steps_beside():
    study = spec("momentum", "sam(momentum)")
    searches = judged(study, lambda trial: {"val_loss": 1.0})
    stages = {name: [t.steps for t in confirm(study, s, "equal-steps")] for name, s in searches.items()}
    assert stages == {"momentum": [], "sam(momentum)": [80, 80]}
    equal = spec("momentum", "sam(momentum)", equal="steps")
    assert {t.steps for t in trials(equal).values()} == {80}


def judged(study, metrics):
    """Return the searches after outcomes whose metrics are a function of the trial."""
    known = {}
    while missing := [t for t in tune(study, known)[0] if t.id not in known]:
        known |= {t.id: Outcome(None, metrics(t), []) for t in missing}
    return tune(study, known)[1]


def test_a_batch_four_times_as_large_makes_a_quarter_of_the_steps():
    study = spec("adam", vary={"batch_size": [64, 256]})
    two = trials(study)
    assert {name: (t.steps, t.settings) for name, t in two.items()} == {
        "adam, batch_size=64": (80, {"batch_size": 64}),
        "adam, batch_size=256": (20, {"batch_size": 256}),
    }
    assert {t.steps for t in trials(spec("adam", vary={"batch_size": [64, 256]}, equal="steps")).values()} == {80}


def test_warmup_can_be_what_is_compared():
    two = trials(spec("adamw", vary={"warmup": [0.0, 0.25]}))
    assert [t.warmup for t in two.values()] == [0.0, 0.25]
    assert all("warmup" not in t.options for t in two.values())
    assert learning_rates("cosine", 80, 0.25)[0] == pytest.approx(1 / 20)


def test_steps_differ_only_where_the_user_says_so():
    with pytest.raises(ArgumentError, match="steps may differ between arms only with equal='trials'"):
        spec("adam", vary={"steps": [40, 80]})
    two = trials(spec("adam", vary={"steps": [40, 80]}, equal="trials"))
    assert [t.steps for t in two.values()] == [40, 80]


def test_the_horizon_shortens_tuning_only_and_stretches_its_schedule():
    study = spec("adam", horizon=0.5)
    trial = trials(study)["adam"]
    assert trial.steps == 40 and learning_rates(trial.schedule, trial.steps)[-1] == 0.0
    assert study.steps_of(study.arms[0], "confirm") == 80


def test_independent_searches_have_other_points_and_another_seed():
    (search,) = tune(spec("adam", trials=4, searches=3), {})[1].values()
    assert search.origins == (0, *[0] * 4, *[1] * 4, *[2] * 4)
    assert len({p["lr"] for p in search.points[1:]}) == 12
    (alone,) = tune(spec("adam", trials=4), {})[1].values()
    assert alone.points == search.points[:5]  # the first search is that of a study with one
    seeds = [t.seed for t in tune(spec("adam", trials=4, searches=3), {})[0]]
    assert len(set(seeds)) == 3


def test_the_metric_of_the_task_selects_and_nan_never_wins(monkeypatch):
    study = spec("adam", trials=2)
    (points,) = [s.points for s in tune(study, {})[1].values()]
    values = {0: math.nan, 1: 0.9, 2: 0.8}
    monkeypatch.setattr("fallline.lab.tasks.digits.Digits.metric", "val_accuracy")
    monkeypatch.setattr("fallline.lab.tasks.digits.Digits.mode", "max")
    (search,) = judged(study, lambda t: {"val_accuracy": values.get(t.index, 0.1), "val_loss": 1.0}).values()
    assert search.points[search.best] == points[1]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.1])
def test_every_schedule_warms_up_alike_and_has_its_end_at_the_last_step(schedule, warmup):
    factors = learning_rates(schedule, 200, warmup)
    ramp = round(200 * warmup)
    assert len(factors) == 200 and max(factors) <= 1
    assert factors[:ramp] == pytest.approx([(k + 1) / ramp for k in range(ramp)])
    if schedule in ("cosine", "linear", "wsd"):
        assert factors[-1] == pytest.approx(0.0, abs=1e-12) and factors[-2] > 0


def test_the_users_schedule_is_found_and_one_that_would_be_cut_short_is_an_error(own):
    assert learning_rates("own.py:root", 100)[75] == pytest.approx(0.5)
    with pytest.raises(ArgumentError, match="must end within the run, got 200 steps in a run of 100"):
        learning_rates("own.py:long", 100)
    with pytest.raises(ArgumentError, match=r"must return finite factors >= 0, got -1\.0 at step 0"):
        learning_rates("own.py:wrong", 100)


@pytest.mark.parametrize(
    ("schedule", "got"),
    [
        ("torch.optim.lr_scheduler:CosineAnnealingLR", "TypeError: int is not an Optimizer"),
        ("own.py:forgetful", r"TypeError: forgetful\(\) takes 1 positional argument"),
        ("own.py:broken", r"KeyError: 0 \(own.py, line 26\)"),
        ("own.py:empty", "TypeError: 'NoneType' object is not callable"),
    ],
)
def test_what_is_no_schedule_is_told_before_anything_runs(own, schedule, got):
    with pytest.raises(ArgumentError, match=rf"schedules: {schedule} must take .steps, warmup_steps.* got {got}"):
        specify("digits", ["adam"], [schedule])
    with pytest.raises(ArgumentError, match="must end within the run, got 40 steps in a run of 20"):
        specify("digits", ["adam"], ["own.py:long"], steps=40, horizon=0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch.optim:Nadam", "torch.optim must define 'Nadam'"),
        ("torch.optim:Optimizer", "cannot be built|must take a keyword lr"),
        ("torch.nn:Linear", "must be a subclass of torch.optim.Optimizer"),
        ("nowhere.at.all:Thing", "'nowhere.at.all' must be a module or a .py file"),
        ("nowhere.py:Thing", "nowhere.py must be a file"),
        ("own.py:NoRate", "must take a keyword lr, got none"),
        ("sam(sam(sgd))", "an optimizer must be wrapped only once, got"),
        ("swa(sgd)", "brackets must follow sam or asam, got"),
        ("sam()", "must be one of .* got 'sam..'"),
        ("sam", r"got 'sam'; did you mean sam\(momentum\)"),
        ("adam@lr=1@lr=2", "lr must be given once, got 'adam@lr=1@lr=2'; leave one of them out"),
        ("adam@lr=1e-3..1@lr=2", "lr must be given once"),
        ("momentum@nesterov=yes", "must be True or False, got 'momentum@nesterov=yes'; .* momentum@nesterov=True"),
        ("momentum@lr=True", "lr must be a number, or LOW..HIGH"),
        ("sam(sdg)", "did you mean sgd"),
        ("adam@lr=1e-2..1e-3", "lr must be a number, or LOW..HIGH with 0 < LOW < HIGH, got 'adam@lr=1e-2..1e-3'"),
        ("adam@lr=0..1", "with 0 < LOW < HIGH"),
        ("adamw@lr=-1", r"cannot be built .*lr must be.*got -1;"),
        ("own.py:Mine@force=1", "with NAME among lr, warmup, power"),
        ("adamw@warmup=1.5", r"warmup must be in \[0, 1\).*got warmup=1.5"),
    ],
)
def test_what_is_no_arm_is_one_sentence(own, text, words):
    with pytest.raises(ArgumentError, match=words):
        arm(text)


def test_what_cannot_be_varied_is_one_sentence():
    with pytest.raises(ArgumentError, match=r"vary: must name a setting of the task \(batch_size\).*got 'speed'"):
        spec("adam", vary={"speed": [1, 2]})
    with pytest.raises(ArgumentError, match="vary: values of lr must be numbers, got 'high'"):
        spec("adam", vary={"lr": ["high", 2]})
    with pytest.raises(ArgumentError, match=r"lr must be given once, got it in 'adam@lr=0\.1' too"):
        spec("adam@lr=0.1", vary={"lr": [1, 2]})
    with pytest.raises(ArgumentError, match=r"steps must be whole numbers, got 40\.5"):
        spec("adam", vary={"steps": [40.5, 80]}, equal="trials")
    with pytest.raises(ArgumentError, match="batch_size must be of type int, got batch_size='big'"):
        spec("adam", vary={"batch_size": ["big", 2]})


def test_arms_may_differ_in_how_states_are_stored():
    arms = make_arms(["adamw@lr=0.1"], ["cosine"], {"state_dtype": ["float32", "int8"]})
    assert [arm.name for arm in arms] == ["adamw@lr=0.1, state_dtype=float32", "adamw@lr=0.1, state_dtype=int8"]
    assert arm("lion@state_dtype=bfloat16").fixed == {"state_dtype": "bfloat16"}
    with pytest.raises(ArgumentError, match="state_dtype must be float32, bfloat16 or int8, got 'lion@state_dtype=8'"):
        arm("lion@state_dtype=8")
    with pytest.raises(
        ArgumentError, match="vary: values of state_dtype must be float32, bfloat16 or int8, got 'int4'"
    ):
        make_arms(["lion"], ["cosine"], {"state_dtype": ["int8", "int4"]})
    with pytest.raises(ArgumentError, match=r"muon@state_dtype=int8 cannot be built .*every element on its own"):
        arm("muon@state_dtype=int8")


def test_every_space_names_what_its_constructor_takes():
    for name in ("asam(adamw)", "sam(lion)", "torch.optim:RMSprop", "torch.optim:Adafactor"):
        space = get_space(name)
        for unit in (0.0, 1.0):
            values = {d.name: d.value(unit) for d in space.dimensions}
            build_optimizer(
                space.optimizer, [torch.nn.Parameter(torch.zeros(2))], **space.options({**space.defaults, **values})
            )


def test_a_trial_is_plain_data():
    import json
    from dataclasses import asdict

    trial = trials(spec("lion", vary={"batch_size": [32, 64]}))["lion, batch_size=32"]
    again = Trial(**json.loads(json.dumps(asdict(trial))))
    assert again.id == trial.id

"""`fallline.trial`: what a script is given, what it reports, and that it stays an ordinary script outside a study."""

import json
import math

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError, TrialStopped
from fallline.lab.design.schedules import learning_rates
from fallline.lab.run.live_trial import VARIABLE, LiveTrial
from fallline.lab.run.run_record import RunRecord, RunRecordFile

GIVEN = {"arm": "mine", "optimizer": "adamw", "schedule": "cosine", "warmup": 0.1, "seed": 2**40 + 5}
GIVEN |= {"options": {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9), "batch_size": 4}, "steps": 20}


@pytest.fixture
def record():
    return RunRecord()


@pytest.fixture
def live(record):
    return LiveTrial(GIVEN, record)


def test_outside_a_study_it_has_defaults_and_no_side_effects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trial = fl.trial()
    assert (trial.in_study, trial.seed, trial.steps, trial.optimizer_name) == (False, 0, None, "adamw")
    trial.log(1, train_loss=math.nan)
    trial.log(2, train_loss=1.0)
    trial.result(val_loss=1.0)
    assert not list(tmp_path.iterdir())
    assert fl.trial("sgd", lr=0.5).params["lr"] == 0.5


def test_the_optimizer_and_the_schedule_of_the_arm(live):
    model = torch.nn.Linear(2, 1)
    optimizer, scheduler = live.optimizer(model)
    assert type(optimizer) is fl.AdamW
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    rates = []
    for _ in range(22):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    factors = learning_rates("cosine", 20, 0.1)
    assert rates == [0.01 * factor for factor in [*factors, factors[-1], factors[-1]]]


def test_parameter_groups_keep_their_ratios(live):
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer, _ = live.optimizer([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1, "weight_decay": 0.0}])
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.01, pytest.approx(0.001)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_every_option_of_the_optimizer_reaches_it_and_those_of_the_script_do_not(record):
    options = {"lr": 0.1, "amsgrad": True, "clip_grad_norm": 1.0, "batch_size": 8}
    live = LiveTrial({**GIVEN, "options": options}, record)
    group = live.optimizer(torch.nn.Linear(2, 1))[0].param_groups[0]
    assert (group["amsgrad"], group["clip_grad_norm"]) == (True, 1.0)
    assert live.params["batch_size"] == 8


def test_another_length_than_that_of_the_study_is_refused(live):
    with pytest.raises(ArgumentError, match="total_steps must be the 20 steps that the study asks for, got 30"):
        live.optimizer(torch.nn.Linear(2, 1), total_steps=30)


def test_sam_knows_the_model(record):
    live = LiveTrial({**GIVEN, "steps": 0, "optimizer": "sam(sgd)", "options": {"lr": 0.1, "rho": 0.05}}, record)
    model = torch.nn.Linear(2, 1)
    optimizer, _ = live.optimizer(model, total_steps=5)
    assert (type(optimizer).__name__, optimizer.model) == ("SAM", model)


def test_an_unknown_length_is_one_sentence():
    live = LiveTrial({**GIVEN, "steps": 0})
    with pytest.raises(ArgumentError, match=r"total_steps must be the number .* got None; pass total_steps=epochs"):
        live.optimizer(torch.nn.Linear(2, 1))


def test_the_seed_is_small_and_streams_are_separate(live):
    assert live.seed == (2**40 + 5) % 2**31
    assert len({live.stream("init"), live.stream("data"), live.seed}) == 3


def test_tensors_are_reported_as_numbers(live, record):
    live.log(3, train_loss=torch.tensor(0.5, requires_grad=True), val_loss=torch.tensor([0.25]))
    live.result(val_loss=0.25, test_losses=torch.tensor([0.0, 1.0]))
    assert record.entries == [
        {"log": {"step": 3, "train_loss": 0.5, "val_loss": 0.25}},
        {"result": {"val_loss": 0.25, "test_loss": 0.5}},
    ]
    assert record.items.tolist() == [0.0, 1.0]


def test_a_run_that_has_failed_ends_at_the_next_call(live, record):
    live.log(1, train_loss=math.inf)
    with pytest.raises(TrialStopped, match="The run has failed at step 1: training loss became inf"):
        live.log(2, train_loss=1.0)
    live.log(2, train_loss=1.0, stop=False)
    assert [next(iter(entry)) for entry in record.entries] == ["log", "failure", "log"]


@pytest.mark.parametrize("every", [1, 5])
def test_a_run_that_diverges_is_noticed_however_often_it_reports(every):
    record = RunRecord()
    live = LiveTrial({**GIVEN, "steps": 400 * every}, record)
    with pytest.raises(TrialStopped, match="over 3 × its start"):
        for k in range(400):
            live.log((k + 1) * every, train_loss=2.0 if k < 100 else 50.0)
    step = next(entry["failure"]["step"] for entry in record.entries if "failure" in entry)
    assert 100 * every < step <= 200 * every


@pytest.mark.parametrize("given", [{}, {"test_loss": math.nan}, {"test_loss": 0.5}])
def test_a_run_may_end_with_losses_that_are_not_finite(live, record, given):
    live.result(val_loss=0.5, test_losses=torch.tensor([0.5, math.nan]), **given)
    assert math.isnan(record.entries[0]["result"]["test_loss"]) and record.items is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: t.log(1, train_loss="low"), "trial.log: train_loss must be a number or a tensor with one element"),
        (lambda t: t.log(1, train_loss=torch.ones(3)), "pass a mean, such as loss.mean()"),
        (lambda t: t.result(loss=1.0), "trial.result: must have val_loss, the metric of the study, got loss"),
        (lambda t: t.result(val_loss=1.0, test_losses=[[1.0]]), "test_losses must be numbers (n,)"),
        (lambda t: t.result(val_loss=1.0, test_loss=9.0, test_losses=[1.0, 1.0]), "must be the mean of test_losses"),
        (lambda t: [t.result(val_loss=1.0), t.result(val_loss=1.0)], "must be called once per run"),
    ],
)
def test_reports_that_cannot_be_used(live, call, words):
    with pytest.raises((ArgumentError, ArgumentTypeError)) as error:
        call(live)
    assert words in str(error.value)


def test_a_study_describes_the_run_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "trial.json").write_text(json.dumps(GIVEN))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trial.json"))
    trial = fl.trial("sgd", lr=9.0)  # the study decides
    assert (trial.in_study, trial.arm, trial.params["lr"]) == (True, "mine", 0.01)
    trial.log(1, train_loss=0.5)
    trial.result(val_loss=0.25, test_losses=[0.5])
    found = RunRecordFile(tmp_path).read()
    assert [next(iter(entry)) for entry in found.entries] == ["log", "result"]
    assert found.items.tolist() == [0.5]
    with (tmp_path / "record.jsonl").open("a") as file:
        file.write('{"log": {"st')  # the run was killed here
    assert len(RunRecordFile(tmp_path).read().entries) == 2


def test_only_the_first_rank_reports(tmp_path, monkeypatch):
    (tmp_path / "trial.json").write_text(json.dumps(GIVEN))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trial.json"))
    monkeypatch.setenv("RANK", "1")
    trial = fl.trial()
    trial.log(1, train_loss=0.5)
    trial.result(val_loss=0.5)
    assert (trial.in_study, trial.params["lr"]) == (True, 0.01)
    assert not (tmp_path / "record.jsonl").exists()


def test_a_description_that_is_gone_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.json"))
    with pytest.raises(ArgumentError, match="unset FALLLINE_TRIAL to run the script outside a study"):
        fl.trial()


def test_only_the_first_rank_ends_a_run(tmp_path, monkeypatch):
    """A launcher ends the others; if each ended at its own loss, the study would see an exit code and no reason."""
    monkeypatch.setenv("RANK", "1")
    trial = LiveTrial(GIVEN, RunRecordFile(tmp_path))
    trial.log(1, train_loss=math.nan)
    trial.log(2, train_loss=1.0)
    assert not (tmp_path / "record.jsonl").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_of_a_process_group_counts(rank, live, record, monkeypatch):
    """Processes that torch.multiprocessing.spawn or Lightning starts have no variable RANK."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    live.log(1, train_loss=0.5)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)  # a script may leave the group first
    live.result(val_loss=0.5)
    assert len(record.entries) == (2 if rank == 0 else 0)

"""The lab's own loop: checkpoints, accumulation, precision, closures, averages, norms, spikes."""

import dataclasses
import math

import pytest
import torch

from fallline.lab.design.trial import Trial
from fallline.lab.run.loop import Checkpoint, Training, evaluate
from fallline.lab.run.timing import time_arms
from fallline.lab.run.trial import run, start
from fallline.lab.tasks import Digits
from fallline.loss_curves import count_spikes
from support.killing import interrupt_training


def trial(optimizer="adamw", steps=40, stage="tune", **options):
    return Trial(stage, "digits", "arm", optimizer, "cosine", steps, 0, 7, {"lr": 1e-2, **options})


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Dropout(Digits):
    def model(self):
        return torch.nn.Sequential(super().model(), torch.nn.Dropout(0.2))


@pytest.mark.parametrize("stage", ["tune", "confirm", "equal-steps"])
def test_a_run_is_scored_by_the_weights_of_its_last_step(stage):
    one = dataclasses.replace(trial(stage=stage), evaluations=8)
    training = start(one)
    assert training.run() is None
    splits = ["val"] if stage == "tune" else ["val", "test"]
    expected = {k: v for split in splits for k, v in evaluate(training.task, training.model, split).items()}
    expected["train_loss"] = math.fsum(training.losses[35:]) / 5  # since the evaluation before
    outcome, _ = run(one)
    assert outcome.metrics == {**expected, "spikes": 0}
    assert [row["step"] for row in outcome.curve] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [row["lr_factor"] for row in outcome.curve] == [training.factors[4 + 5 * i] for i in range(8)]


@pytest.mark.parametrize("optimizer", ["adamw", "sam(sgd)"])
def test_a_run_that_is_killed_between_checkpoints_goes_on_bit_equal(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Dropout(**settings))
    options = {"rho": 0.05} if "sam" in optimizer else {}
    whole, _ = run(trial(optimizer, **options))
    checkpoint = Checkpoint(tmp_path / "run.pt", 7)
    steps = interrupt_training(monkeypatch, 17, 40)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(trial(optimizer, **options), checkpoint=checkpoint)
    again, _ = run(trial(optimizer, **options), checkpoint=checkpoint)
    assert again == whole
    assert steps[17] == 14 and len(steps) < 40 + 3 * 7  # it went on from a checkpoint, not from the start
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]  # one, and no half-written file


def test_a_run_is_taken_up_with_its_place_in_the_data_under_accumulation_and_with_what_failing_is(
    tmp_path, monkeypatch
):
    class Pairs(Digits):
        accumulate = 2

    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Pairs(**settings))
    # the second blows up: finite, and over 3 × the loss of its first steps, which it must still know
    for number, options in enumerate(({"lr": 0.1}, {"lr": 300.0})):
        one = trial("sgd", **options)
        whole, _ = run(one)
        assert (whole.failure is None) == (number == 0)
        end = 40 if whole.failure is None else whole.failure["step"]
        checkpoint = Checkpoint(tmp_path / f"{number}.pt", end // 2)
        interrupted = start(one)
        for k in range(end - 1):
            assert interrupted.step(k) is None
            if k + 1 == end // 2:
                interrupted._save(checkpoint.path)
        assert run(one, checkpoint=checkpoint)[0] == whole


def test_accumulation_averages_the_gradients_of_its_batches():
    class Halves(Digits):
        accumulate = 2

        def batches(self, split, generator):
            for images, labels in super().batches(split, generator):
                if split == "train":
                    yield images[:32], labels[:32]
                    yield images[32:], labels[32:]
                else:
                    yield images, labels

    plain, halves = (losses_of(task) for task in (Digits(), Halves()))
    assert halves == pytest.approx(plain, rel=1e-4)


def test_evaluation_weighs_batches_by_their_size():
    class Uneven(Digits):
        def batches(self, split, generator):
            for images, labels in super().batches(split, generator):
                yield from zip(images.split(350), labels.split(350), strict=True)  # 350 and 10 of validation

    model = Digits().model()
    assert evaluate(Uneven(), model, "val") == pytest.approx(evaluate(Digits(), model, "val"), rel=1e-6)


def test_groups_of_the_tasks_own_keep_the_ratios_of_their_rates_and_all_follow_the_schedule(monkeypatch):
    class Grouped(Digits):
        def param_groups(self, model):
            first, *others = model.parameters()
            return [{"params": [first], "lr": 0.0}, {"params": others[:1], "lr": 0.03}, {"params": others[1:]}]

    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Grouped(**settings))
    training = start(trial("sgd", lr=0.1))
    before = [p.detach().clone() for p in training.model.parameters()]
    for k in range(4):
        training.step(k)
        rates = [group["lr"] / training.factors[k] for group in training.optimizer.param_groups]
        assert rates == pytest.approx([0.0, 0.1, 0.1 * 0.001 / 0.03])  # the default of sgd is 0.001
    moved = [not torch.equal(p, old) for p, old in zip(training.model.parameters(), before, strict=True)]
    assert not moved[0] and all(moved[1:])


def losses_of(task):
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = task.batches("train", torch.Generator().manual_seed(0))
    training = Training(task, model, optimizer, batches, [1.0] * 20, 0.0, 2)
    assert training.run() is None
    return training.losses


def test_bfloat16_runs_model_and_loss_under_autocast():
    seen = []

    class Half(Digits):
        precision = "bfloat16"

        def loss(self, model, batch):
            seen.append((torch.is_autocast_enabled("cpu"), model(batch[0]).dtype))
            return super().loss(model, batch)

    losses = losses_of(Half())
    assert set(seen) == {(True, torch.bfloat16)}
    assert losses != losses_of(Digits()) and losses == pytest.approx(losses_of(Digits()), rel=0.05)


def test_an_optimizer_that_needs_a_closure_gets_one():
    outcome, costs = run(trial("torch.optim:LBFGS", steps=20, lr=0.02, max_iter=3))
    assert outcome.failure is None and costs.passes > 2
    assert outcome.metrics["val_loss"] < 2.2


@pytest.mark.parametrize("optimizer", ["sgd", "sam(sgd)"])
def test_averages_are_what_is_evaluated(optimizer):
    training = start(trial(optimizer, lr=0.5, ema_decay=0.9, **({"rho": 0.05} if "sam" in optimizer else {})))
    training.run()
    averaged = training.evaluate("val")
    assert averaged != evaluate(training.task, training.model, "val")
    with getattr(training.optimizer, "base", training.optimizer).ema_weights():
        assert averaged == evaluate(training.task, training.model, "val")


def test_running_means_are_those_of_the_first_pass_of_sam(monkeypatch):
    class Normed(Digits):
        def model(self):
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 10))

    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Normed(**settings))
    means = []
    for optimizer, more in (("sgd", {}), ("sam(sgd)", {"rho": 0.05})):
        training = start(trial(optimizer, lr=0.1, **more))
        training.step(0)
        means.append(training.model[1].running_mean.clone())
    assert means[0].abs().sum() > 0 and torch.equal(*means)


def test_a_schedule_free_optimizer_is_switched_for_evaluation():
    modes = []

    class Free(torch.optim.SGD):
        def eval(self):
            modes.append("eval")

        def train(self):
            modes.append("train")

    training = start(trial(), lambda name, params, **options: Free(params, lr=0.1))
    training.evaluate("val")
    assert modes == ["train", "eval", "train"]  # before the first step too


def test_the_trace_holds_the_norms_of_gradient_and_update():
    training = start(trial("sgd", steps=40, lr=0.1))
    before = [p.detach().clone() for p in training.model.parameters()]
    training.step(0)
    (row,) = training.trace
    squares = math.fsum(p.grad.double().square().sum().item() for p in training.model.parameters())
    moved = math.fsum(
        (p - old).double().square().sum().item() for p, old in zip(training.model.parameters(), before, strict=True)
    )
    assert row["grad_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert row["update_norm"] == pytest.approx(math.sqrt(moved), rel=1e-5)
    assert row["loss"] == training.losses[0]
    training.run()
    assert [row["step"] for row in training.trace] == [0, 8, 16, 24, 32]


def test_spikes_are_counted_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(600, generator=generator)
    falling = [2.3 * math.exp(-k / 100) + 0.5 + 0.05 * noise[k].item() for k in range(600)]
    assert count_spikes(falling) == 0
    for k in (20, 200, 203, 400):  # the second and the third are one
        falling[k] += 1.5
    assert count_spikes(falling) == 3
    near_zero = [1.0] * 20 + [1e-4 * abs(noise[k].item()) for k in range(500)]
    near_zero[300] = 0.01  # a hundred times its neighbours, and of no interest
    assert count_spikes(near_zero) == 0
    assert count_spikes([]) == count_spikes([1.0]) == count_spikes([1.0] * 12 + [5.0]) - 1 == 0


def test_timing_counts_passes_state_and_memory_and_leaves_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    timings = time_arms({"adam": trial("adamw"), "sam": trial("sam(sgd)", rho=0.05)}, seconds=0.1)
    assert torch.rand(1) == expected
    parameters = sum(p.numel() for p in Digits().model().parameters())
    adam, sam = timings["adam"], timings["sam"]
    assert adam.passes == 1 and sam.passes == 2
    assert 8 * parameters <= adam.state_bytes <= 8 * parameters + 100  # two moments, and step counts
    # parameters and gradients, state; and for the backward pass the input and two hidden layers at least
    least = 8 * parameters + adam.state_bytes + 4 * 64 * (64 + 128 + 128)
    assert least <= adam.memory_bytes <= 1.5 * least
    assert adam.step_ms[1] <= adam.step_ms[0] <= adam.step_ms[2]

"""The adapter to transformers' Trainer, with the real one and a small GPT-2."""

import math

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, TrialStopped
from support.trials import read_reports, trial_in

reason = "transformers or accelerate is not installed: pip install transformers accelerate"
transformers = pytest.importorskip("transformers", reason=reason)
pytest.importorskip("accelerate", reason=reason)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # advice on loaders and pinned memory
from fallline.integrations import huggingface  # noqa: E402

ROWS = [{"input_ids": row, "labels": row} for row in torch.arange(600).remainder(11).view(60, 10)]


def gpt2():
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "n_positions": 10, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def trainer_of(trial, folder, callbacks=(), rows=ROWS, **options):
    model = gpt2()
    usual = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 2}
    usual |= {"per_device_train_batch_size": 8, "num_train_epochs": 2, "max_grad_norm": 0.0}
    args = transformers.TrainingArguments(output_dir=str(folder), **usual | options)
    return transformers.Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=ROWS[:20],
        optimizers=huggingface.build_optimizers(trial, model, args, rows),
        callbacks=[huggingface.TrialCallback(trial), *callbacks],
    )


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 16), ({"gradient_accumulation_steps": 3}, 6), ({"dataloader_drop_last": True}, 14), ({"max_steps": 5}, 5)],
)
def test_the_schedule_has_the_length_that_the_trainer_computes(tmp_path, monkeypatch, options, steps):
    trial = trial_in(tmp_path / "trial", monkeypatch)
    trainer = trainer_of(trial, tmp_path, **options)
    trainer.train()
    assert trainer.state.max_steps == trial.total_steps == steps


def test_losses_curves_and_the_result_are_reported(tmp_path, monkeypatch):
    trial = trial_in(tmp_path / "trial", monkeypatch)
    trainer = trainer_of(trial, tmp_path, eval_strategy="epoch")
    trainer.train()
    trainer.evaluate()  # the result has been reported
    logs, (result,), _ = read_reports(tmp_path / "trial")
    history = trainer.state.log_history
    assert [(row["step"], row["train_loss"]) for row in logs if "train_loss" in row] == [
        (row["step"], row["loss"]) for row in history if "loss" in row
    ]
    found = [(row["step"], row["eval_loss"]) for row in history if "eval_loss" in row][:2]
    assert [(row["step"], row["val_loss"]) for row in logs if "val_loss" in row][:2] == found
    assert (found[-1][0], result["val_loss"]) == (16, found[-1][1])


def test_the_first_evaluation_after_the_training_is_the_result_if_the_last_step_has_none(tmp_path, monkeypatch):
    trial = trial_in(tmp_path / "trial", monkeypatch)
    trainer = trainer_of(trial, tmp_path)
    trainer.train()
    assert not read_reports(tmp_path / "trial")[1]
    found = trainer.evaluate()
    assert [row["val_loss"] for row in read_reports(tmp_path / "trial")[1]] == [found["eval_loss"]]


def test_weights_decay_as_with_the_optimizer_of_the_trainer(tmp_path, monkeypatch):
    trainer = trainer_of(trial_in(tmp_path / "trial", monkeypatch), tmp_path, weight_decay=0.1)
    ours = trainer.optimizer
    trainer.optimizer = None
    theirs = trainer.create_optimizer()
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert a["weight_decay"] == b["weight_decay"]
        assert list(map(id, a["params"])) == list(map(id, b["params"]))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    trial = trial_in(tmp_path / "trial", monkeypatch, options={"lr": 1e30}, warmup=0.0, schedule="constant")
    with pytest.raises(TrialStopped, match=r"training loss became (nan|inf)"):
        trainer_of(trial, tmp_path, logging_steps=1).train()
    assert [failure["state"] for failure in read_reports(tmp_path / "trial")[2]] == ["nonfinite"]


def test_a_schedule_of_another_length_is_refused(tmp_path, monkeypatch):
    trial = trial_in(tmp_path / "trial", monkeypatch)
    trainer = trainer_of(trial, tmp_path)
    trainer.args.num_train_epochs = 1
    with pytest.raises(ArgumentError, match="must have the 16 steps of the trial, got 8; pass"):
        trainer.train()
    with pytest.raises(ArgumentError, match="train_dataset must have a length"):
        trainer_of(trial, tmp_path, rows=iter(ROWS))


def test_a_training_is_watched(tmp_path, monkeypatch):
    callback = huggingface.WatchCallback()
    trainer_of(trial_in(tmp_path / "trial", monkeypatch), tmp_path, [callback]).train()
    assert (callback.watch.record.steps, callback.watch.record.not_zeroed) == (16, 0)
    assert len(callback.watch.record.losses) == 8 and all(map(math.isfinite, callback.watch.record.losses))
    assert callback.watch.findings() == []


def test_an_optimizer_of_fallline_can_be_named(tmp_path):
    """`optimizer_cls_and_kwargs`, without a trial."""
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], max_steps=2, disable_tqdm=True)
    options = (fl.AdamW, {"lr": 1e-3})
    trainer = transformers.Trainer(gpt2(), args, train_dataset=ROWS, optimizer_cls_and_kwargs=options)
    trainer.train()
    assert type(trainer.optimizer.optimizer) is fl.AdamW

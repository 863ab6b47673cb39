"""The adapter to Lightning, with its real Trainer."""

import math

import pytest
import torch

from fallline.errors import ArgumentError, TrialStopped
from fallline.lab.design.schedules import learning_rates
from support.trials import read_reports, trial_in

lightning = pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # its advice on loaders and loggers
from fallline.integrations.lightning import TrialCallback, build_optimizers  # noqa: E402

INPUTS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
LOADER = torch.utils.data.DataLoader(list(zip(INPUTS, INPUTS.sum(1, keepdim=True), strict=True)), batch_size=8)


class Module(lightning.LightningModule):
    def __init__(self, trial):
        super().__init__()
        torch.manual_seed(1)
        self.trial, self.network, self.rates, self.losses = trial, torch.nn.Linear(3, 1), [], []

    def training_step(self, batch):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        loss = (self.network(batch[0]) - batch[1]).square().mean()
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch):
        self.log("val_loss", (self.network(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self):
        return build_optimizers(self.trial, self)


def fit(trial, folder, checkpoint=None, **options):
    """Return a module after training, and the path of the checkpoint of its first epoch."""
    saved = lightning.pytorch.callbacks.ModelCheckpoint(folder, save_top_k=-1, save_on_train_epoch_end=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    callbacks = [TrialCallback(trial), saved]
    trainer = lightning.Trainer(default_root_dir=folder, callbacks=callbacks, **quiet | {"max_epochs": 2} | options)
    module = Module(trial)
    trainer.fit(module, LOADER, LOADER, ckpt_path=checkpoint)
    return module, sorted(folder.glob("*.ckpt"))


def test_the_arm_trains_and_reports(tmp_path, monkeypatch):
    trial = trial_in(tmp_path / "trial", monkeypatch)
    module, _ = fit(trial, tmp_path)
    assert module.rates == [0.01 * factor for factor in learning_rates("cosine", 16, 0.1)]
    logs, (result,), _ = read_reports(tmp_path / "trial")
    losses = [(row["step"], row["train_loss"]) for row in logs if "train_loss" in row]
    assert losses == [(k + 1, loss) for k, loss in enumerate(module.losses)]
    assert [row["step"] for row in logs if "val_loss" in row] == [8, 16]  # not the check before the training
    expected = (module.network(INPUTS) - INPUTS.sum(1, keepdim=True)).square().mean()
    assert result["val_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_accumulated_losses_are_not_divided(tmp_path, monkeypatch):
    trial = trial_in(tmp_path / "trial", monkeypatch)
    module, _ = fit(trial, tmp_path, accumulate_grad_batches=2)
    losses = [(row["step"], row["train_loss"]) for row in read_reports(tmp_path / "trial")[0] if "train_loss" in row]
    assert losses == [(k + 1, pytest.approx(loss, rel=1e-6)) for k, loss in enumerate(module.losses[1::2])]


def test_a_checkpoint_resumes(tmp_path, monkeypatch):
    whole, (checkpoint, _) = fit(trial_in(tmp_path / "whole", monkeypatch), tmp_path)
    resumed, _ = fit(trial_in(tmp_path / "resumed", monkeypatch), tmp_path, checkpoint)
    assert resumed.rates == whole.rates[8:]
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert read_reports(tmp_path / "resumed")[1] == read_reports(tmp_path / "whole")[1]


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    trial = trial_in(tmp_path / "trial", monkeypatch, options={"lr": math.inf}, schedule="constant", warmup=0.0)
    trial.params["lr"] = 1e30
    with pytest.raises(TrialStopped, match=r"training loss became (nan|inf)"):
        fit(trial, tmp_path, num_sanity_val_steps=0, limit_val_batches=0)
    assert [failure["state"] for failure in read_reports(tmp_path / "trial")[2]] == ["nonfinite"]


def test_a_training_without_an_end_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="build_optimizers: the Trainer must have a length"):
        fit(trial_in(tmp_path / "trial", monkeypatch), tmp_path, max_epochs=-1)

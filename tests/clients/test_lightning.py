"""Lightning's Trainer trains as the plain loop does, resumes from its checkpoints, and can be linted and watched."""

import pytest
import torch

import fallline as fl
from support.clients import STEPS, batches, classes_loss, equal, expected, network, optimizer_of, scheduler_of, weights

lightning = pytest.importorskip("lightning", reason='Lightning is not installed: pip install "fallline[clients]"')
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Lightning's advice on loaders and loggers


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network, self.rates, self.watch = network(), [], None

    def training_step(self, batch):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        loss = classes_loss(self.network, batch)
        self.watch.loss(loss)
        return loss

    def on_train_start(self):
        self.watch = fl.watch(self.optimizers())
        self.findings = fl.lint(self, self.optimizers(), self.lr_schedulers(), total_steps=STEPS)

    def configure_optimizers(self):
        optimizer = optimizer_of(self.network.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler_of(optimizer), "interval": "step"},
        }


def fit(folder, epochs=1, checkpoint=None, data=None):
    """Return a module after training, and the path of the checkpoint at the end of its last epoch."""
    module, data = Module(), data or batches()
    saved = lightning.pytorch.callbacks.ModelCheckpoint(folder, f"{epochs}", save_on_train_epoch_end=True)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saved],
        default_root_dir=folder,
    )
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return module, saved.best_model_path


def test_the_trainer_equals_the_plain_loop(tmp_path):
    module, _ = fit(tmp_path)
    assert equal(weights(module.network), expected())
    assert module.rates == [0.05 * fl.schedules.warmup_cosine(2, STEPS)(k) for k in range(STEPS)]


def test_it_resumes_from_its_checkpoint(tmp_path):
    """At the end of an epoch: within one, Lightning starts the loader anew."""
    epoch = batches()[: STEPS // 2]
    _, checkpoint = fit(tmp_path, 1, data=epoch)
    module, _ = fit(tmp_path, 2, checkpoint, data=epoch)
    assert len(module.rates) == STEPS // 2
    assert equal(weights(module.network), expected(epoch * 2))


def test_its_objects_are_linted_and_watched(tmp_path):
    module, _ = fit(tmp_path)
    assert "not-inspected" not in [finding.id for finding in module.findings]
    assert module.watch.record.steps == module.watch.record.with_clipping == STEPS
    assert module.watch.record.not_zeroed == 0

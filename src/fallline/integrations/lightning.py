"""Put a LightningModule on trial."""

import math
from collections.abc import Mapping
from typing import Any

from fallline.errors import ArgumentError, MissingExtraError
from fallline.lab import LiveTrial

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    raise MissingExtraError("lightning: Lightning 2 is not installed; run pip install lightning") from None


def build_optimizers(trial: LiveTrial, module: LightningModule) -> dict[str, Any]:
    """Return the optimizer and the schedule of a trial, as the result of `configure_optimizers`.

    Raises:
        ArgumentError: the Trainer has no number of steps.
    """
    steps = module.trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        raise ArgumentError(
            "build_optimizers: the Trainer must have a length, got neither max_epochs nor max_steps; set one of them"
        )
    optimizer, scheduler = trial.optimizer(module, int(steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TrialCallback(Callback):
    """Reports the training loss to a trial, and the metrics that the module logs; the last ones are the result.

    The module logs the metric of the study in `validation_step`, such as `self.log("val_loss", loss)`. Pass
    `result=False` to call `trial.result` yourself, for example with a test loss.
    """

    def __init__(self, trial: LiveTrial, *, result: bool = True) -> None:
        self._trial, self._reports, self._step = trial, result, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the loss of the last batch of an optimizer step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None and trainer.global_step != self._step:
            self._step = trainer.global_step
            # Lightning has divided the loss.
            self._trial.log(self._step, train_loss=loss * trainer.accumulate_grad_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metric of the study."""
        found = trainer.callback_metrics.get(self._trial.metric)
        if found is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._trial.log(trainer.global_step, **{self._trial.metric: found})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the result."""
        if self._reports:
            self._trial.result(**trainer.callback_metrics)

"""Put a Learner of fastai on trial."""

from typing import Any

from fallline.errors import ArgumentError, MissingExtraError
from fallline.lab import LiveTrial

try:
    from fastai.callback.schedule import ParamScheduler
    from fastai.learner import Callback
    from fastai.optimizer import OptimWrapper
except ImportError:
    raise MissingExtraError("fastai: fastai is not installed; run pip install fastai") from None


class TrialCallback(Callback):
    """Trains a Learner with the optimizer and the schedule of a trial, and reports its losses and its result.

    The optimizer of the Learner is replaced at the beginning of `fit`. The metric val_loss of a study is fastai's
    valid_loss, and val_NAME its metric NAME. Pass `result=False` to call `trial.result` yourself.
    """

    order = 60  # after the Recorder

    def __init__(self, trial: LiveTrial, *, result: bool = True) -> None:
        self.trial, self.result = trial, result
        self.scheduler: Any = None

    def before_train(self) -> None:
        """Build the optimizer before the first epoch; fastai calls `before_fit` for a validation too.

        Raises:
            ArgumentError: fastai schedules the learning rate too.
        """
        if self.scheduler is not None:
            return
        if any(isinstance(callback, ParamScheduler) for callback in self.learn.cbs):
            raise ArgumentError(
                "TrialCallback: the trial must set the learning rate alone, got a schedule of fastai too; call "
                "learn.fit(epochs) instead of fit_one_cycle, fine_tune or lr_find"
            )
        optimizer, self.scheduler = self.trial.optimizer(self.model, self.n_epoch * len(self.dls.train))
        self.learn.opt, self.count = OptimWrapper(opt=optimizer), 0

    def after_batch(self) -> None:
        """Set the next learning rate, and log the training loss."""
        if self.training:
            self.scheduler.step()
            self.count += 1
            self.trial.log(self.count, train_loss=self.loss)

    def after_epoch(self) -> None:
        """Log the metrics on the validation data."""
        if self.scheduler is not None:
            self.trial.log(self.count, **self._find_metrics())

    def after_fit(self) -> None:
        """Report the result."""
        if self.scheduler is not None and self.result:
            self.trial.result(**self._find_metrics())
        self.scheduler = None

    def _find_metrics(self) -> dict[str, Any]:
        """Return the metrics of the last epoch on the validation data, with the prefix val_."""
        recorder = self.learn.recorder
        found = zip(recorder.metric_names[2:], recorder.values[-1][1:], strict=False)  # without epoch and train_loss
        return {f"val_{name.removeprefix('valid_')}": value for name, value in found}

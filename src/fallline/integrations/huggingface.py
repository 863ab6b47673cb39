"""Put a script with transformers' Trainer on trial, and watch its training."""

import math
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fallline.errors import ArgumentError, MissingExtraError
from fallline.lab import LiveTrial
from fallline.linting import Watch, watch

try:
    from transformers import Trainer, TrainerCallback, TrainingArguments
except ImportError:
    raise MissingExtraError(
        "huggingface: transformers with its Trainer is not installed; run pip install transformers accelerate"
    ) from None


def build_optimizers(
    trial: LiveTrial, model: nn.Module, args: TrainingArguments, train_dataset: Any = None
) -> tuple[Optimizer, LRScheduler]:
    """Return the optimizer and the schedule of a trial, for the argument `optimizers` of the Trainer.

    Like the Trainer's own, the optimizer does not decay biases and the weights of normalization layers. Pass the
    `train_dataset` of the Trainer unless `args.max_steps` is set.

    Raises:
        ArgumentError: the number of steps is unknown.
    """
    decayed = set(Trainer.get_decay_parameter_names(cast(Any, None), model))  # uses nothing of the trainer
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if name in decayed]},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
    ]
    return trial.optimizer([group for group in groups if group["params"]], _count_steps(args, train_dataset))


def _count_steps(args: TrainingArguments, train_dataset: Any) -> int:
    if args.max_steps > 0:
        return int(args.max_steps)
    if not hasattr(train_dataset, "__len__"):
        raise ArgumentError(
            f"build_optimizers: train_dataset must have a length if args.max_steps is not set, got {train_dataset!r}; "
            "pass the train_dataset of the Trainer, or set max_steps"
        )
    batches = len(train_dataset) / (args.train_batch_size * args.world_size)
    batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    updates: int = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return math.ceil(float(args.num_train_epochs) * updates)


class TrialCallback(TrainerCallback):
    """Reports the losses of a Trainer to a trial, and an evaluation as the result; its `eval_loss` is `val_loss`.

    The result is the evaluation at the last step, or else the first evaluation after the training. Pass `result=False`
    to call `trial.result` yourself, for example with a test loss.
    """

    def __init__(self, trial: LiveTrial, *, result: bool = True) -> None:
        self._trial, self._reports, self._ended = trial, result, False
        self._found: tuple[int, dict[str, float]] = (-1, {})  # the last step with an evaluation, and its metrics

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Check the length of the schedule; show losses that are not finite, which the Trainer hides by default."""
        args.logging_nan_inf_filter = False
        if self._trial.total_steps not in (None, state.max_steps):
            raise ArgumentError(
                f"TrialCallback: the training must have the {self._trial.total_steps} steps of the trial, got "
                f"{state.max_steps}; pass build_optimizers the args and the train_dataset of the Trainer, and set "
                "max_steps=trial.steps if the study sets the steps"
            )

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Log the mean training loss since the last call, or the metrics of an evaluation."""
        numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        found: dict[str, Any] = {
            "val_" + k.removeprefix("eval_"): v for k, v in numbers.items() if k.startswith("eval_")
        }
        loss: dict[str, Any] = {"train_loss": numbers["loss"]} if "loss" in numbers else {}
        self._trial.log(state.global_step, **loss, **found)
        if found:
            step, earlier = self._found  # several data sets are evaluated one after the other
            self._found = (state.global_step, (earlier if step == state.global_step else {}) | found)
        if found and self._ended:
            self._report()

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Report the result if the model at the end of the training has been evaluated."""
        self._ended = True
        if self._found[0] == state.global_step and not args.load_best_model_at_end:
            self._report()

    def _report(self) -> None:
        if self._reports:
            self._reports = False
            self._trial.result(**self._found[1])


class WatchCallback(TrainerCallback):
    """Watches a training for mistakes, see `fallline.watch`; afterwards, `callback.watch.findings()` returns them."""

    watch: Watch

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Optimizer, **_: Any) -> None:
        """Begin the recording."""
        self.watch = watch(optimizer)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Record the training loss."""
        if "loss" in logs:
            self.watch.loss(logs["loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the recording."""
        self.watch.close()

"""Put a network of skorch on trial."""

from typing import Any

from fallline.errors import MissingExtraError
from fallline.lab import LiveTrial

try:
    from skorch import NeuralNet
    from skorch.callbacks import Callback
except ImportError:
    raise MissingExtraError("skorch: skorch is not installed; run pip install skorch") from None


class TrialCallback(Callback):
    """Trains a network with the optimizer and the schedule of a trial, and reports its losses and its result.

    The optimizer of the network is replaced at the beginning of `fit`. The metric val_loss of a study is skorch's
    valid_loss. Pass `result=False` to call `trial.result` yourself, for example with a test loss.
    """

    def __init__(self, trial: LiveTrial, *, result: bool = True) -> None:
        self.trial, self.result = trial, result  # skorch expects attributes with the names of the arguments

    def on_train_begin(self, net: NeuralNet, **_: Any) -> None:
        """Begin a run."""
        self.scheduler_: Any = None
        self.step_ = 0

    def on_epoch_begin(self, net: NeuralNet, dataset_train: Any = None, **_: Any) -> None:
        """Build the optimizer before the first epoch, when the number of batches is known."""
        if self.scheduler_ is None:
            batches = len(net.get_iterator(dataset_train, training=True))
            net.optimizer_, self.scheduler_ = self.trial.optimizer(net.module_, net.max_epochs * batches)

    def on_batch_end(self, net: NeuralNet, training: bool = False, loss: Any = None, **_: Any) -> None:
        """Set the next learning rate, and log the training loss."""
        if training:
            self.scheduler_.step()
            self.step_ += 1
            self.trial.log(self.step_, train_loss=loss)

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        """Log the metrics on the validation data."""
        self.trial.log(self.step_, **_find_metrics(net))

    def on_train_end(self, net: NeuralNet, **_: Any) -> None:
        """Report the result."""
        if self.result:
            self.trial.result(**_find_metrics(net))


def _find_metrics(net: NeuralNet) -> dict[str, Any]:
    """Return the metrics of the last epoch on the validation data, with the prefix val_ instead of valid_."""
    found = {name: value for name, value in net.history[-1].items() if name.startswith("valid_")}
    counts = ("_best", "_batch_count")  # of skorch itself
    return {f"val_{name.removeprefix('valid_')}": value for name, value in found.items() if not name.endswith(counts)}

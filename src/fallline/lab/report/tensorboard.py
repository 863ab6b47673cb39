"""All curves of a study for TensorBoard: a run a trial."""

import math
import re
from pathlib import Path

from fallline.errors import MissingExtraError
from fallline.lab.analysis.results import StudyResults
from fallline.lab.design.trial import Trial


def to_tensorboard(study: StudyResults, folder: Path) -> Path:
    """Write the curves and traces of every trial as TensorBoard event files and return the folder.

    A trial is the run ARM/STAGE-INDEX-SEED. Of its curve it has `lr_factor`, `train_loss`, `val_loss` and so on; of
    its trace `trace/loss`, `trace/grad_norm`, `trace/update_norm`; at the last step `final/…`, its metrics, the
    test split's included.

    Args:
        study: the study.
        folder: where to write; existing files there are kept, so pass a new one.

    Raises:
        MissingExtraError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            "to_tensorboard: the package tensorboard must be installed, and is not; pip install tensorboard"
        ) from None
    for trial in study.trials:
        outcome = study.outcome(trial)
        with SummaryWriter(str(folder / _run(trial))) as writer:
            for prefix, rows in (("", outcome.curve), ("trace/", outcome.trace)):
                for row in rows:
                    for name, value in row.items():
                        if name != "step" and math.isfinite(value):
                            writer.add_scalar(f"{prefix}{name}", value, int(row["step"]))
            for name, value in outcome.metrics.items():
                if not math.isfinite(value):
                    continue
                writer.add_scalar(f"final/{name}", value, trial.steps)
    return folder


def _run(trial: Trial) -> str:
    arm = re.sub(r"[^\w@=+.,() -]", "_", trial.arm)  # an arm may be called after a file
    return f"{arm}/{trial.stage}-{trial.index}-{trial.seed % 10**6:06d}"

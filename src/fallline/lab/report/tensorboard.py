"""Export all curves of a study to TensorBoard, with one run per trial."""

import math
import re
from pathlib import Path

from fallline.errors import MissingExtraError
from fallline.lab.analysis.results import StudyResults
from fallline.lab.design.trial import Trial


def to_tensorboard(study: StudyResults, folder: Path) -> Path:
    """Write the curves and traces of every trial as TensorBoard event files and return the folder.

    Every trial is a run with the name ARM/STAGE-INDEX-SEED. The run contains the curve of the trial (`lr_factor`,
    `train_loss`, `val_loss` and so on), its trace (`trace/loss`, `trace/grad_norm`, `trace/update_norm`) and, at the
    last step, its metrics as `final/…`, including those of the test split.

    Args:
        study: the study.
        folder: the folder to write to. Existing files are kept, so pass a new folder.

    Raises:
        MissingExtraError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            "to_tensorboard: the package tensorboard must be installed, but it is not; run pip install tensorboard"
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
    arm = re.sub(r"[^\w@=+.,() -]", "_", trial.arm)  # the name of an arm may contain the path of a file
    return f"{arm}/{trial.stage}-{trial.index}-{trial.seed % 10**6:06d}"

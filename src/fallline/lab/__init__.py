"""The lab: comparisons of optimizers that a practitioner can trust."""

from fallline.lab.comparison import compare
from fallline.lab.run.live_trial import LiveTrial, trial
from fallline.lab.stages import Progress
from fallline.lab.study import Study, load
from fallline.lab.surveys import survey
from fallline.lab.tasks.custom import task

__all__ = ["LiveTrial", "Progress", "Study", "compare", "load", "survey", "task", "trial"]

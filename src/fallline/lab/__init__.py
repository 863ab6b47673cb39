"""The lab: comparisons of optimizers that a practitioner can trust."""

from fallline.lab.comparison import Progress, compare
from fallline.lab.stages import load
from fallline.lab.study import Study
from fallline.lab.tasks.custom import task

__all__ = ["Progress", "Study", "compare", "load", "task"]

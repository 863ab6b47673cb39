"""The lab: comparisons of optimizers that a practitioner can trust."""

from fallline.lab.study import Progress, Study, compare, load
from fallline.lab.tasks.own import task

__all__ = ["Progress", "Study", "compare", "load", "task"]

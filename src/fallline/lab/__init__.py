"""The lab: comparisons of optimizers that a practitioner can trust."""

from fallline.lab.conduct import Progress, compare
from fallline.lab.study import Study, load

__all__ = ["Progress", "Study", "compare", "load"]

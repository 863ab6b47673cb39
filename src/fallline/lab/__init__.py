"""The lab: comparisons of optimizers that a practitioner can trust."""

from fallline.lab.study import Progress, Study, compare, load

__all__ = ["Progress", "Study", "compare", "load"]

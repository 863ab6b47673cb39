"""Optimizers that wrap another optimizer."""

from fallline.wrappers.batchnorm import frozen_batchnorm
from fallline.wrappers.sam import SAM

__all__ = ["SAM", "frozen_batchnorm"]

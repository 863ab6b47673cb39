"""Sharpness-aware minimization (SAM and ASAM) around any optimizer."""

from fallline.sam.batchnorm import frozen_batchnorm
from fallline.sam.wrapper import SAM

__all__ = ["SAM", "frozen_batchnorm"]

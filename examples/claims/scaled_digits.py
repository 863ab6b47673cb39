"""The task `digits` with its training loss multiplied by a number; the evaluation is not scaled."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from fallline.lab.tasks import Digits
from fallline.lab.tasks.supervised import Batch


class ScaledDigits(Digits):
    """Digits with a multilayer perceptron and a scaled training loss.

    Attributes:
        scale: factor of the training loss.
    """

    name: ClassVar[str] = "scaled-digits"
    settings: ClassVar[Mapping[str, Any]] = {**Digits.settings, "scale": 1.0}
    skip_checks: ClassVar[tuple[str, ...]] = ("losses",)  # their mean is the loss only without the scale
    scale: float

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the scaled mean cross-entropy."""
        return self.scale * super().loss(model, batch)

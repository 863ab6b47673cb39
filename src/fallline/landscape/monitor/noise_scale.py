"""The noise scale of the gradients that are accumulated for a step."""

import math

_MEMORY = 0.9  # decay per measured step of the running means


class NoiseScale:
    """Ratio of unbiased estimates of tr(covariance) and ‖gradient‖², which are averaged separately over steps."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def add(self, each: float, whole: float, k: int) -> None:
        """Add a step of k batches.

        Args:
            each: mean squared norm of the gradients of the batches.
            whole: squared norm of the sum of these gradients.
            k: number of batches.
        """
        mean = whole / k**2
        noise = (each - mean) / (1 - 1 / k)
        signal = mean - noise / k
        self._noise = _MEMORY * self._noise + (1 - _MEMORY) * noise
        self._signal = _MEMORY * self._signal + (1 - _MEMORY) * signal

    @property
    def value(self) -> float:
        """The noise scale; infinite if the estimate of ‖gradient‖² is not positive."""
        return self._noise / self._signal if self._signal > 0 else math.inf

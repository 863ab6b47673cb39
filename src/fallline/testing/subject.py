"""The subject of a conformance check, and the error that a failed check raises."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from fallline.core.optimizer import Optimizer
from fallline.errors import FalllineError
from fallline.testing.runs import REAL, Options, parameter

SHAPES = ((), (1,), (5,), (3, 4), (2, 3, 4, 2), (300,))


class ConformanceError(FalllineError, AssertionError):
    """A rule fails a conformance check."""


@dataclass(frozen=True)
class Subject:
    """The subject of a check: an optimizer class with one set of options, one backend and some parameter dtypes."""

    cls: type[Optimizer]
    options: Options
    backend: str
    oracle: Callable[..., Any] | None = None
    dtypes: tuple[torch.dtype, ...] = REAL

    def build(self, params: Iterable[Any], **options: Any) -> Optimizer:
        """Return an optimizer of these parameters."""
        return self.cls(params, **{"backend": self.backend, **self.options, **options})

    def reference(self, params: Iterable[Any]) -> Optimizer:
        """Return the same optimizer on the reference backend."""
        return self.build(params, backend="reference")


def need(condition: bool, message: str) -> None:
    """Raise ConformanceError with this message unless the condition is true."""
    if not condition:
        raise ConformanceError(message)


def params_of(shapes: Iterable[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return parameters with normally distributed values."""
    return [parameter(*shape, seed=index, dtype=dtype) for index, shape in enumerate(shapes)]


def values_of(opt: Optimizer) -> list[torch.Tensor]:
    """Return the parameters of an optimizer, detached."""
    return [p.detach() for group in opt.param_groups for p in group["params"]]

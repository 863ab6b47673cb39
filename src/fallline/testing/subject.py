"""What is checked, and how a check says what it found."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from fallline.core.optimizer import Optimizer
from fallline.errors import FalllineError
from fallline.testing.runs import REAL, Options, parameter

SHAPES = ((), (1,), (5,), (3, 4), (2, 3, 4, 2), (300,))


class ConformanceError(FalllineError, AssertionError):
    """A rule breaks a promise."""


@dataclass(frozen=True)
class Subject:
    """What is checked: a class, under one set of options, on one backend, with parameters of some dtypes."""

    cls: type[Optimizer]
    options: Options
    backend: str
    oracle: Callable[..., Any] | None = None
    dtypes: tuple[torch.dtype, ...] = REAL

    def build(self, params: Iterable[Any], **options: Any) -> Optimizer:
        """Return the optimizer over these parameters."""
        return self.cls(params, **{"backend": self.backend, **self.options, **options})

    def reference(self, params: Iterable[Any]) -> Optimizer:
        """Return the same on the reference backend."""
        return self.build(params, backend="reference")


def need(condition: bool, message: str) -> None:
    """Raise ConformanceError with this message unless the condition holds."""
    if not condition:
        raise ConformanceError(message)


def params_of(shapes: Iterable[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return parameters of normal numbers."""
    return [parameter(*shape, seed=index, dtype=dtype) for index, shape in enumerate(shapes)]


def values_of(opt: Optimizer) -> list[torch.Tensor]:
    """Return the parameters of an optimizer, detached."""
    return [p.detach() for group in opt.param_groups for p in group["params"]]

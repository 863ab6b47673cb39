"""Fallbacks for models whose operations have no second derivative as they are run."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from fallline.errors import ArgumentError, LandscapeWarning

T = TypeVar("T")


@contextmanager
def _math_attention() -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@dataclass(frozen=True)
class Remedy:
    """A way to run an operation so that it has a second derivative, for an operation that otherwise has none.

    Attributes:
        pattern: text that PyTorch's error message contains.
        description: description of the change, for the warning.
        context: function that returns the context manager to run the operation in.
    """

    pattern: str
    description: str
    context: Callable[[], AbstractContextManager[Any]]


_EAGERLY = Remedy(
    "aot_autograd does not currently support double backward",
    "torch.compile'd code is run eagerly",
    lambda: torch.compiler.set_stance("force_eager"),
)
REMEDIES = (
    Remedy("_scaled_dot_product", "attention is computed by PyTorch's math kernel", _math_attention),
    Remedy("cudnn", "recurrent layers are computed without cuDNN", lambda: torch.backends.cudnn.flags(enabled=False)),
    Remedy("mkldnn", "layers are computed without oneDNN", lambda: torch.backends.mkldnn.flags(enabled=False)),
    _EAGERLY,
)


def warn(owner: str, text: str) -> None:
    """Issue a `LandscapeWarning` of one line."""
    warnings.warn(f"{owner}: {text}", LandscapeWarning, stacklevel=2)


class Recovery:
    """The remedies that a model needs, collected as errors occur."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._active: list[Remedy] = []

    def unwrap(self, model: nn.Module) -> nn.Module:
        """Return the model without wrappers that prevent second derivatives.

        Raises:
            ArgumentError: the model is sharded, or has such a wrapper around one of its submodules.
        """
        if isinstance(model, nn.parallel.DistributedDataParallel):
            warn(
                self._owner,
                "the module inside DistributedDataParallel is measured, on the data of this process only",
            )
            model = model.module
        elif isinstance(model, nn.DataParallel):
            model = model.module
        compiled = []
        for name, module in model.named_modules():
            kind = type(module).__name__
            if kind in ("FullyShardedDataParallel", "DistributedDataParallel") or kind.startswith("FSDP"):
                raise ArgumentError(
                    f"{self._owner}: model must be whole on this process, got {kind} at {name or 'the top level'}; "
                    "pass the module inside, with its parameters gathered"
                )
            if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
                compiled.append(name.replace("_orig_mod", "").strip(".") or "the model")
        if compiled:
            self._activate(_EAGERLY, f" ({', '.join(compiled[:3])}{' …' * (len(compiled) > 3)})")
        return model

    def contexts(self, stack: ExitStack) -> None:
        """Enter the contexts of all active remedies."""
        for remedy in self._active:
            stack.enter_context(remedy.context())

    def attempt(self, function: Callable[[], T]) -> T:
        """Return the result of a function; if it fails and there is a remedy, apply the remedy and try again."""
        while True:
            try:
                return function()
            except RuntimeError as error:  # errors without a remedy propagate to the caller
                text = str(error)
                new = [remedy for remedy in REMEDIES if remedy.pattern in text and remedy not in self._active]
                if not new:
                    raise
                self._activate(new[0])

    def _activate(self, remedy: Remedy, where: str = "") -> None:
        self._active.append(remedy)
        warn(self._owner, f"{remedy.description}{where}, because otherwise there is no second derivative")

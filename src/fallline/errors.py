"""The exceptions that Fallline raises; each is also the builtin that PyTorch raises in the same place.

A message reads `where: what must hold, got name=value; what to do`.
"""

import difflib
from collections.abc import Iterable


class FalllineError(Exception):
    """Base of every error that Fallline raises on purpose."""


class ArgumentError(FalllineError, ValueError):
    """An argument has the right type but a value that cannot be used."""


class ArgumentTypeError(FalllineError, TypeError):
    """An argument has the wrong type, or a keyword is unknown."""


class GradientError(FalllineError, RuntimeError):
    """A gradient cannot be used: sparse, or of a dtype that does not fit its parameter."""


class StateError(FalllineError, ValueError):
    """A state dict does not fit the optimizer or schedule that loads it."""


class StudyError(FalllineError, RuntimeError):
    """A study cannot go on: its folder, its specification or its stored trials do not fit."""


class LossError(FalllineError, ValueError):
    """A loss cannot be measured: it is no number, not finite, not deterministic, or depends on no parameter."""


class MissingExtraError(FalllineError, ImportError):
    """What is asked for needs a package that an extra of Fallline brings."""


class CacheWarning(UserWarning):
    """Compiled kernels cannot be kept on disk, so every process compiles them anew."""


class TaskWarning(UserWarning):
    """A task keeps its contract, but something of it looks wrong."""


class LandscapeWarning(UserWarning):
    """Something is measured in another way than the model is trained, or left out, and the message says what."""


def suggest(name: object, known: Iterable[str], otherwise: str = "check the spelling") -> str:
    """Return the remedy for a name that is not among the known ones: the nearest of them, if one is near."""
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise

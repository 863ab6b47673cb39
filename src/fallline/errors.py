"""The exceptions of Fallline; each is also a subclass of the builtin exception that PyTorch raises in the same place.

A message has the form `where: what must hold, got name=value; what to do`.
"""

import difflib
import re
from collections.abc import Iterable


class FalllineError(Exception):
    """Base of every error that Fallline raises on purpose."""


class ArgumentError(FalllineError, ValueError):
    """An argument has the right type but a value that cannot be used."""


class ArgumentTypeError(FalllineError, TypeError):
    """An argument has the wrong type, or a keyword is unknown."""


class GradientError(FalllineError, RuntimeError):
    """A gradient cannot be used: it is sparse, or its dtype does not match its parameter."""


class StateError(FalllineError, ValueError):
    """A state dict does not match the optimizer or schedule that loads it."""


class StudyError(FalllineError, RuntimeError):
    """A study cannot continue: its folder, its specification or its stored trials do not match."""


class TrialStopped(FalllineError, RuntimeError):
    """A training script continues a run that has failed; let this error end the script."""


class GateError(FalllineError, RuntimeError):
    """A proposal cannot be judged: its baseline fails, or its session is in use, damaged or has spent its budget."""


class LossError(FalllineError, ValueError):
    """A loss cannot be used: it is not a number, not finite, not deterministic, or depends on no parameter."""


class MissingExtraError(FalllineError, ImportError):
    """A feature needs a package that is installed with an optional extra of Fallline."""


class TrustError(FalllineError, PermissionError):
    """Code in a file or folder is not executed, because another user could have written it."""


class CacheWarning(UserWarning):
    """The cache of compiled kernels on disk is not used, so every process compiles them again."""


class ArgumentWarning(UserWarning):
    """An argument was changed to a value that can be used; the message states which."""


class TaskWarning(UserWarning):
    """A task satisfies its contract, but something in it looks wrong."""


class StateWarning(UserWarning):
    """An optimizer stops doing what it was asked to do, for example because a state dict switches off options."""


class ObserverWarning(UserWarning):
    """An observer of a training, such as `Monitor` or `watch`, cannot record a value; the training is not affected."""


class LandscapeWarning(UserWarning):
    """A measurement differs from how the model is trained, or leaves something out; the message states what."""


def find_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that equals `name` except for case, hyphens, underscores and spaces; None if none does.

    Example:
        >>> find_name("AdamW", ["adam", "adamw"]), find_name("Digits_CNN", ["digits-cnn"]), find_name("sdg", ["sgd"])
        ('adamw', 'digits-cnn', None)
    """
    return next((other for other in known if _plain(other) == _plain(name)), None)


def _plain(name: str) -> str:
    """Return a name in lower case without hyphens, underscores and spaces."""
    return re.sub(r"[-_\s]", "", name).lower()


def suggest(name: object, known: Iterable[str], otherwise: str = "check the spelling") -> str:
    """Return the remedy for an unknown name: the closest known name if one is similar, else `otherwise`."""
    names = {other.lower(): other for other in known}
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    return f"did you mean {names[near[0]]}?" if near else otherwise

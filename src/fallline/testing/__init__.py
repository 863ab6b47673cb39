"""The conformance suite that every optimizer of Fallline passes, and that can be run on custom rules."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from typing_extensions import Unpack

from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer
from fallline.errors import ArgumentTypeError
from fallline.rules.rule import Rule
from fallline.testing import continuity, numerics, storage
from fallline.testing.runs import BACKENDS, REAL, accepts, variants
from fallline.testing.storage import STORAGES
from fallline.testing.subject import ConformanceError, Subject


def _checks_of(*modules: ModuleType) -> dict[str, Callable[[Subject], None]]:
    return {
        name: check
        for module in modules
        for name, check in vars(module).items()
        if inspect.isfunction(check) and check.__module__ == module.__name__ and not name.startswith("_")
    }


CHECKS = _checks_of(numerics, continuity)
# Of random numbers that depend on the index of a parameter, another optimizer has others.
STORAGE_CHECKS = _checks_of(storage, continuity)
del STORAGE_CHECKS["late_gradients_count_their_own_age"]
STORAGE_CHECKS["nan_reaches_the_parameter"] = numerics.nan_reaches_the_parameter
_ONCE = ("thread_count_does_not_matter",)  # runs only with the default options and with all; about memory, not options


def cases(
    rule: type[Optimizer] | Rule,
    *,
    defaults: Mapping[str, Any] | None = None,
    backends: Sequence[str] = BACKENDS,
    oracle: Callable[..., Any] | None = None,
) -> Iterator[tuple[str, Callable[[Subject], None], Subject]]:
    """Yield the id, the check function and the subject of every check of `check_rule`, with the same arguments."""
    cls = _class_of(rule, defaults)
    for variant, options in variants(cls).items():
        end = variant in ("default", "everything")  # compiling a kernel per variant and dtype takes a third of a second
        for backend in backends:
            subject = Subject(cls, options, backend, oracle, REAL if end else (torch.float32,))
            for name, check in CHECKS.items():
                if name not in _ONCE or (end and backend != "reference"):
                    yield f"{name}-{variant}-{backend}", check, subject
    for name, (dtype, options) in STORAGES.items():
        for backend in backends if accepts(cls, options, dtype) else ():
            subject = Subject(cls, options, backend, oracle, (dtype,))
            for check_name, check in STORAGE_CHECKS.items():
                yield f"{check_name}-{name}-{backend}", check, subject


def check_rule(
    rule: type[Optimizer] | Rule,
    *,
    defaults: Mapping[str, Any] | None = None,
    backends: Sequence[str] = BACKENDS,
    oracle: Callable[..., Any] | None = None,
) -> None:
    """Run the conformance suite of Fallline's optimizers on an update rule.

    The options are taken from the signature of the constructor: each is tested on its own, then all compatible options
    together. Then come the formats in which parameters and states are stored in fewer bits.

    Args:
        rule: a subclass of `fallline.core.optimizer.Optimizer`, or a bare rule.
        defaults: for a bare rule, the default values of its hyperparameters, including `lr`.
        backends: the backends to test; "compile" takes seconds per variant and is left out by default.
        oracle: the same formula in NumPy, `update(param, grad, state, lr, lr0, **options) -> param`, which stores its
            state in the dict `state`. It must accept every option that is tested. Without it, the suite only checks
            that the backends agree.

    Raises:
        ConformanceError: checks failed; the message lists each with its variant and backend.

    Example:
        >>> import fallline
        >>> from fallline.testing import check_rule
        >>> check_rule(fallline.Lion, backends=["reference"])
    """
    broken = []
    for name, check, subject in cases(rule, defaults=defaults, backends=backends, oracle=oracle):
        try:
            check(subject)
        except Exception as error:  # any exception that a custom rule raises is a failed check
            kind = "" if isinstance(error, ConformanceError) else f"{type(error).__name__}: "
            broken.append(f"  {name}: {kind}{error}")
    if broken:
        name = rule.name if isinstance(rule, Rule) else rule.__name__
        raise ConformanceError(f"{name}: {len(broken)} conformance checks failed:\n" + "\n".join(broken))


def _class_of(rule: type[Optimizer] | Rule, defaults: Mapping[str, Any] | None) -> type[Optimizer]:
    """Return the class to check; for a bare rule, create one."""
    if not isinstance(rule, Rule):
        return rule
    missing = [name for name in ("lr", *rule.ranges, *rule.flags) if name not in (defaults or {})]
    if missing:
        raise ArgumentTypeError(
            f"check_rule: defaults must hold every hyperparameter of the rule {rule.name}, got none for "
            f"{', '.join(missing)}; pass defaults={{'{missing[0]}': …}}"
        )
    values = {"weight_decay": 0.0, **(defaults or {})}

    def init(self: Optimizer, params: Any, **options: Unpack[CommonOptions]) -> None:
        Optimizer.__init__(self, params, **{**values, **options})

    own, shared = list(inspect.signature(init).parameters.values())[:-1], inspect.signature(init).parameters["options"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    own += [inspect.Parameter(name, keyword, default=value) for name, value in values.items()]
    init.__signature__ = inspect.Signature([*own, shared])  # type: ignore[attr-defined]
    name = f"_{rule.name}"
    cls = type(name, (Optimizer,), {"rule": rule, "__init__": init, "__module__": __name__})
    globals()[name] = cls  # pickle looks up classes by name
    return cls

"""Parse schedules from text, for the command line and settings files."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from fallline.errors import ArgumentError, FalllineError, suggest
from fallline.schedules.base import Schedule


def parse(text: str, known: Mapping[str, Callable[..., Schedule]]) -> Schedule:
    """Return the schedule for an expression such as `warmup(100).then(cosine(900))`; other code is not evaluated.

    Args:
        text: calls of schedules with numbers, strings and lists as arguments, joined by `.then(…)`.
        known: the schedules by name.

    Raises:
        ArgumentError: the text is not such an expression, or an argument of a schedule is invalid.

    Example:
        >>> from fallline.schedules import cosine, parse, warmup
        >>> parse("warmup(100).then(cosine(900))", {"warmup": warmup, "cosine": cosine})
        warmup(warmup_steps=100).then(cosine(total_steps=900, min_lr=0.0))
    """
    try:
        return _schedule(ast.parse(text.strip(), mode="eval").body, known, text)
    except (SyntaxError, ValueError, TypeError) as error:
        if isinstance(error, FalllineError):
            raise
        raise _error(text, str(error)) from None


def _schedule(node: ast.expr, known: Mapping[str, Callable[..., Schedule]], text: str) -> Schedule:
    if not isinstance(node, ast.Call):
        raise _error(text, "not a call")
    args = [*node.args, *(keyword.value for keyword in node.keywords)]
    if isinstance(node.func, ast.Attribute) and node.func.attr == "then" and len(args) == 1:
        return _schedule(node.func.value, known, text).then(_schedule(args[0], known, text))
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in known:
        hint = suggest(name, known, "see: fallline schedules")
        raise ArgumentError(f"schedule: must be one of {', '.join(known)}, got {name or text!r}; {hint}")
    values: list[Any] = [ast.literal_eval(value) for value in node.args]
    return known[name](*values, **{str(k.arg): ast.literal_eval(k.value) for k in node.keywords})


def _error(text: str, reason: str) -> ArgumentError:
    return ArgumentError(
        f"schedule: must be a call such as warmup_cosine(100, 1000), got {text!r} ({reason}); "
        "join parts with .then, as in 'warmup(100).then(cosine(900))'"
    )

"""Parse schedules from text, for the command line and settings files."""

import ast
from collections.abc import Mapping
from typing import Any

from fallline.arguments import check_call
from fallline.errors import ArgumentError, FalllineError, find_name, suggest
from fallline.schedules.base import Schedule


def parse(text: str, known: Mapping[str, type[Schedule]]) -> Schedule:
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
        raise _error(text, error.msg if isinstance(error, SyntaxError) else str(error)) from None


def _schedule(node: ast.expr, known: Mapping[str, type[Schedule]], text: str) -> Schedule:
    if not isinstance(node, ast.Call):
        raise _error(text, "not a call")
    if isinstance(node.func, ast.Attribute):
        if node.func.attr != "then" or len(node.args) != 1 or node.keywords:
            raise _error(text, "only .then joins two schedules, and it takes one schedule")
        return _schedule(node.func.value, known, text).then(_schedule(node.args[0], known, text))
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    found = find_name(name, known)
    if found is None:
        hint = suggest(name, known, "see: fallline schedules")
        raise ArgumentError(f"schedule: must be one of {', '.join(known)}, got {name or text!r}; {hint}")
    keywords: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in keywords:
            reason = f"{keyword.arg} is given twice" if keyword.arg else "** is not supported"
            raise _error(text, reason)
        keywords[keyword.arg] = _literal(keyword.value, text)
    values = [_literal(value, text) for value in node.args]
    if not values and not keywords:
        check_call(known[found])
    return known[found](*values, **keywords)


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _error(text, f"{ast.unparse(node)} is not a number, a text or a list") from None


def _error(text: str, reason: str) -> ArgumentError:
    return ArgumentError(
        f"schedule: must be a call such as warmup_cosine(100, 1000), got {text!r} ({reason}); "
        "join parts with .then, as in 'warmup(100).then(cosine(900))'"
    )

"""An extension of Griffe that reads Fallline's docstrings: `Example:` holds doctests, `Use when:` is a paragraph."""

import re
from typing import Any

from griffe import Extension, Object

GENERATED = re.compile(r"\n\nWritten by `make names`.*\Z", re.DOTALL)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
LITERAL = re.compile(r"::$", re.MULTILINE)
USE_WHEN = re.compile(r"^Use when: (.*(?:\n +.*)*)", re.MULTILINE)


class Docstrings(Extension):
    """Rewrite what Griffe's parser of Google style would read as an admonition, and what only concerns developers."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = GENERATED.sub("", obj.docstring.value)
            text = LITERAL.sub(":", EXAMPLE.sub("Examples:", text))
            obj.docstring.value = USE_WHEN.sub(lambda match: "**Use when** " + re.sub(r"\n +", "\n", match[1]), text)

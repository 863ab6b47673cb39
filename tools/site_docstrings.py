"""An extension of Griffe, which reads the source for the API reference: docstrings, and what a package exports."""

import re
from collections.abc import Iterator
from typing import Any

from griffe import Alias, AliasResolutionError, Extension, Module, Object

GENERATED = re.compile(r"\n\nWritten by `make names`.*\Z", re.DOTALL)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
LITERAL = re.compile(r"::$", re.MULTILINE)
USE_WHEN = re.compile(r"^Use when: (.*(?:\n +.*)*)", re.MULTILINE)


class Fallline(Extension):
    """Make Griffe read Fallline as Python and its users do."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Rewrite docstrings, and prefer a function to the module of its name, as an import in the package does."""
        everything = list(objects(pkg))
        for each in everything:
            if each.docstring:
                each.docstring.value = rewritten(each.docstring.value)
        packages = [each for each in everything if isinstance(each, Module) and each.exports]
        # All exports are looked up before any is replaced.
        exported = [(each, str(name), target(each, str(name))) for each in packages for name in each.exports or ()]
        for package, name, found in exported:
            if found and found.is_module and name in found.members:
                package.set_member(name, Alias(name, found.members[name], parent=package))


def rewritten(text: str) -> str:
    """Read `Example:` as doctests and `Use when:` as a paragraph; Griffe's parser takes both for admonitions."""
    text = LITERAL.sub(":", EXAMPLE.sub("Examples:", GENERATED.sub("", text)))
    return USE_WHEN.sub(lambda match: "**Use when** " + re.sub(r"\n +", "\n", match[1]), text)


def objects(parent: Object) -> Iterator[Object]:
    """Yield an object and all that is defined in it."""
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from objects(member)


def target(package: Module, name: str) -> Any:
    """Return what an exported name stands for; None if that is outside the package."""
    try:
        member = package.members[name]
        return member.final_target if member.is_alias else member
    except (KeyError, AliasResolutionError):
        return None

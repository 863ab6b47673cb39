"""What a message of an error must say."""

import re

from fallline.errors import FalllineError


def check_message(error, owner, argument, value, remedy=r"\w+"):
    """Owner: argument must …, got value; remedy."""
    message = str(error.value)
    assert isinstance(error.value, FalllineError)
    assert re.fullmatch(rf"{owner}: .*(must|needs|cannot).*, got .*; .+", message, re.DOTALL), message
    assert argument in message.split(", got ")[0], message
    assert value in message.split(", got ")[1], message
    assert re.search(remedy, message.rpartition("; ")[2]), message

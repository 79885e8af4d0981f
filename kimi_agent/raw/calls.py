"""Calls that were found in a text. No I/O."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass
from typing import Final

from ..errors import ToolArgumentsError
from ..message import parse_arguments

__all__ = ["NAME", "Found", "Malformed", "checked"]

NAME: Final = r"[\w.:/-]"
"""What a name of a function is made of."""
_NAME: Final = re.compile(f"{NAME}+")


class Malformed(ValueError):
    """A call that cannot be read."""


@dataclass(frozen=True, slots=True)
class Found:
    """A call in a text.

    Args:
        name: of the function.
        arguments: the JSON of an object.
        id: if the model wrote one that is worth keeping.
    """

    name: str
    arguments: str
    id: str | None = None


def checked(name: str, arguments: str, id: str | None = None, *, closed: bool = True) -> Found:
    """A call, if it is one.

    Args:
        name: as the model wrote it, of letters, digits and `_ . - : /`.
        arguments: the JSON of an object. Nothing means none, if the call is closed.
        id: as `Found` has it.
        closed: whether the mark that closes the call is there.

    Raises:
        Malformed: that is no name, or the arguments are no JSON object.
    """
    name, arguments = name.strip(), arguments.strip()
    if not _NAME.fullmatch(name):
        raise Malformed(f"{reprlib.repr(name)} is no name of a function")
    if not closed and not arguments.startswith("{"):
        raise Malformed("it has no arguments, and does not end")
    try:
        parse_arguments(arguments)
    except ToolArgumentsError as error:
        raise Malformed(str(error)) from None
    return Found(name, arguments or "{}", id)

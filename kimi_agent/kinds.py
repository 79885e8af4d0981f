"""What somebody hands over: the right kind of thing, or a sentence that names it and says what it is."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Final, TypeAlias

__all__ = ["NUMBER", "TEXT_OR_NONE", "Kinds", "check_kinds", "problem"]

Kinds: TypeAlias = Mapping[str, tuple[type | UnionType | Callable[[Any], bool], str]]
"""By the name of an argument: its type, or what is true of it, and how that is said."""

NUMBER: Final = int | float
TEXT_OR_NONE: Final = str | None


def problem(kinds: Kinds, given: Mapping[str, object]) -> str | None:
    """What is wrong with the first argument that is of another kind, in a sentence; `None` if all are right."""
    for name, (kind, words) in kinds.items():
        value = given[name]
        if not (isinstance(value, kind) if isinstance(kind, (type, UnionType)) else kind(value)):
            return f"{name} is {words}; not {reprlib.repr(value)}"
    return None


def check_kinds(kinds: Kinds, given: Mapping[str, object]) -> None:
    """Make sure that all arguments are of their kinds.

    Raises:
        TypeError: naming the first that is not.
    """
    if (wrong := problem(kinds, given)) is not None:
        raise TypeError(wrong)

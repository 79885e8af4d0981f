"""What a hook gives that somebody has overridden: the right thing, or an error that names the hook."""

from __future__ import annotations

import reprlib
from collections.abc import Awaitable
from inspect import isawaitable
from typing import TypeVar

__all__ = ["given"]

T = TypeVar("T")


async def given(agent: object, hook: str, answer: Awaitable[T], kind: type) -> T:
    """What a hook gives.

    Args:
        agent: whose hook it is.
        hook: its name.
        answer: what calling it gave.
        kind: what it has to give when it is awaited.

    Raises:
        TypeError: it cannot be awaited, or gives something else.
    """
    if not isawaitable(answer):
        raise TypeError(f"{type(agent).__name__}.{hook} cannot be awaited: make it `async def {hook}(...)`")
    value = await answer
    if not isinstance(value, kind):
        wrong = reprlib.repr(value)
        raise TypeError(f"{type(agent).__name__}.{hook} gave {wrong}, which is no {kind.__name__}")
    return value

"""What a hook gives that somebody has overridden: the right thing, or an error that names the hook."""

from __future__ import annotations

import reprlib
from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any, Protocol, TypeVar

__all__ = ["added", "given"]

T = TypeVar("T")


class _Adding(Protocol):
    """An agent, as far as it has a history."""

    def add_to_history(self, message: Any) -> Awaitable[None]:
        """The hook through which every message goes."""
        ...


async def added(agent: _Adding, message: object) -> None:
    """Let a message go through `add_to_history`, whatever that gives.

    Raises:
        TypeError: it cannot be awaited.
    """
    await _awaitable(agent, "add_to_history", agent.add_to_history(message))


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
    value = await _awaitable(agent, hook, answer)
    if not isinstance(value, kind):
        wrong = reprlib.repr(value)
        raise TypeError(f"{type(agent).__name__}.{hook} gave {wrong}, which is no {kind.__name__}")
    return value


def _awaitable(agent: object, hook: str, answer: Awaitable[T]) -> Awaitable[T]:
    if not isawaitable(answer):
        raise TypeError(f"{type(agent).__name__}.{hook} cannot be awaited: make it `async def {hook}(...)`")
    return answer

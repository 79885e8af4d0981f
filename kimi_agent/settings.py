"""What an agent is given: checked where it is handed over, so that nothing goes wrong rounds later."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from .kinds import NUMBER, TEXT_OR_NONE, Kinds, check_kinds
from .limits import UsageLimits
from .message import Content, Message
from .prompt.compaction import Compaction, Compactor
from .tools.allowance import LoopGuard
from .tools.toolset import check_bounds

__all__ = ["check_settings", "said_by_user"]


def _is_provider(value: Any) -> bool:
    asked_for = ("generate", "model_name", "context_window")
    return not isinstance(value, type) and all(hasattr(value, name) for name in asked_for)


def _is_compaction(value: Any) -> bool:
    return isinstance(value, (Compaction, Iterable, type, Compactor))


def _is_list(value: Any) -> bool:
    """Iterating one of the others would give its letters, or the names of its fields."""
    return value is None or (isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | BaseModel))


_MESSAGES: Final = _is_list, "a list of messages, such as [Message.user(...)], or None"
_KINDS: Final[Kinds] = {
    "provider": (_is_provider, "a ChatProvider, such as Kimi()"),
    "system_prompt": (TEXT_OR_NONE, "text, or None"),
    "always_included_messages": _MESSAGES,
    "desired_response_tokens": (NUMBER | None, "a number, or None"),
    "chat_history": _MESSAGES,
    "retry_attempts": (NUMBER, "a number"),
    "trim_ratio": (NUMBER, "a number"),
    "compaction": (_is_compaction, "a Compaction(...), or compactors"),
    "limits": (UsageLimits | None, "UsageLimits(...), or None for no limits"),
    "loop_guard": (LoopGuard | None, "a LoopGuard(...), or None for nothing"),
}


def check_settings(given: Mapping[str, Any]) -> None:
    """Make sure that an agent can work with what its constructor was given.

    Args:
        given: the arguments by name.

    Raises:
        TypeError: one is of another kind.
        ValueError: a number is out of its range.
    """
    check_kinds(_KINDS, given)
    wanted = given["desired_response_tokens"]
    if not (wanted is None or wanted >= 0) or given["retry_attempts"] < 0 or not 0 < given["trim_ratio"] <= 1:
        raise ValueError("desired_response_tokens and retry_attempts are 0 or more; trim_ratio is in (0, 1]")
    check_bounds(given["tool_timeout"], given["max_parallel_tools"])


def said_by_user(query: Content) -> Message | None:
    """The message with which a round begins; `None` adds none.

    Raises:
        TypeError: that is nothing to say.
    """
    try:
        return None if query is None else Message.user(query)
    except ValidationError as error:
        raise TypeError(
            f"a query is text, a content part, a list of both, or None; not {reprlib.repr(query)}; put messages into "
            "agent.chat_history"
        ) from error

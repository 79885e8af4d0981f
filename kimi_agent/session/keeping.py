"""What of an agent lasts: taken from it, and given back to it."""

from __future__ import annotations

from typing import Protocol

from .. import history
from ..limits import Spent
from ..message import FrozenDict, Message
from ..prompt.window import Window
from ..tools.texts import ToolTexts
from .file import SessionState

__all__ = ["Kept", "give_back", "state_of"]


class Kept(Protocol):
    """What lasts of an agent, and what going on with it needs."""

    always_included_messages: list[Message]
    chat_history: list[Message]
    usage: Spent
    prompt_cache_key: str
    texts: ToolTexts
    _window: Window
    _unknown: FrozenDict


def state_of(agent: Kept) -> SessionState:
    """Everything of an agent that lasts."""
    said, window = tuple(agent.chat_history), agent._window
    return SessionState(
        always_included_messages=tuple(agent.always_included_messages),
        chat_history=said,
        usage=agent.usage,
        cut=window.start_in(said),
        scale=window.scale,
        prompt_cache_key=agent.prompt_cache_key,
        unknown=agent._unknown,
        counted=window.counted(said),
    )


def give_back(agent: Kept, state: SessionState) -> None:
    """Let an agent go on where another one was. Calls that were left open are answered."""
    agent.always_included_messages = list(state.always_included_messages)
    agent.chat_history = history.repair(state.chat_history, interrupted=agent.texts.interrupted())
    agent.usage, agent._unknown = state.usage, state.unknown
    agent.prompt_cache_key = state.prompt_cache_key or agent.prompt_cache_key
    agent._window = Window(state.scale)
    agent._window.move_to(state.chat_history, state.cut)
    if state.counted:
        agent._window.go_on(state.counted, state.always_included_messages, state.chat_history)

"""Functions that come into a conversation after its first request.

Tools are the very beginning of a prompt: a longer list is another beginning, and nothing behind it is found in Kimi's
cache any more. Kimi K3 takes tools half-way, too: a system message declares them, and all that was before stays as it
is. So a function that comes late is declared by a message of its own at the end of the history, which stays there.

One rule says what a request tells the model, and it looks at nothing but the functions and the messages of the request:

1. a declaration is sent as far as it is true: what is disabled, gone or described otherwise by now is left out of it;
2. the list of the request has every function that no message declares.

So it holds after a restart, when all functions are there from the beginning, when the window or a compactor has left a
declaration out, and for a model that takes no declarations. What declarations others put into the messages is theirs:
they are sent as they are, and what they declare is not declared twice.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from .history import is_begun, open_calls
from .kimi.models import ModelInfo, model_info
from .kimi.wire import tool_json
from .message import Message
from .tools.base import Tool, ToolLike, ToolsPart

if TYPE_CHECKING:
    from .provider import ChatProvider

__all__ = ["as_sent", "at_top", "declaration", "declarations", "latecomers", "undeclared"]

LATE: Final = "kimi_agent.late"
"""Marks in `extra` the declarations that are made here."""


def declaration(tools: Iterable[Tool]) -> Message:
    """A message that declares functions which came late."""
    plain = [Tool(name=tool.name, description=tool.description, parameters=tool.parameters) for tool in tools]
    return Message.system(ToolsPart(tools=plain), extra={LATE: True})


def latecomers(provider: ChatProvider, offered: Sequence[ToolLike], told: frozenset[str] | None) -> list[Tool]:
    """What the model has not been told of, and can be told late.

    Nothing before the first request, and for a model that takes no declarations. Kimi's own tools are never declared
    late: whether it takes that is not known.

    Args:
        provider: who is asked.
        offered: the functions that the model may call.
        told: those that the model has been told of, by name; `None` before the first request.
    """
    if told is None:
        return []
    new = [tool for tool in _tools_of(offered) if not (tool.name in told or tool.name.startswith("$"))]
    return new if new and takes_declarations(provider) else []


def undeclared(tools: Sequence[Tool], messages: Sequence[Message]) -> list[Tool]:
    """What of some tools a message behind these has to declare.

    Nothing where no such message can stand: before the results of open calls, and behind the beginning of an answer.
    """
    if (messages and is_begun(messages[-1])) or open_calls(messages):
        return []
    declared = {tool.name for tool in _declared_by(messages)}
    late = [tool for tool in tools if tool.name not in declared]
    for tool in late:
        tool_json(tool)  # one that Kimi would refuse has to be refused before it is in the history
    return late


def takes_declarations(provider: ChatProvider) -> bool:
    """Whether the model takes tools half-way."""
    info = getattr(provider, "model_info", None)
    return (info if isinstance(info, ModelInfo) else model_info(provider.model_name)).dynamic_tools is True


# ==== what a request tells ====


def as_sent(provider: ChatProvider, offered: Sequence[ToolLike], messages: list[Message]) -> list[Message]:
    """The messages with declarations as far as they are true. Those that are stay the very objects they are."""
    declaring = declarations(messages)
    if not any(map(_is_late, declaring)):
        return messages
    others = {tool.name for message in declaring if not _is_late(message) for tool in _tools_in(message)}
    true = {tool.name: tool_json(tool) for tool in _tools_of(offered) if tool.name not in others}
    if not takes_declarations(provider):
        true.clear()
    sent: list[Message] = []
    for message in messages:
        if not _is_late(message):
            sent.append(message)
            continue
        tools = _tools_in(message)
        kept = tuple(tool for tool in tools if true.get(tool.name) == tool_json(tool))
        for tool in kept:
            del true[tool.name]  # a name is declared once
        if kept:
            sent.append(message if len(kept) == len(tools) else _rest(kept))
    return sent


def at_top(offered: Sequence[ToolLike], messages: Iterable[Message]) -> list[Tool]:
    """The list of a request: the functions that no message declares.

    One that somebody declares otherwise stays in the list, and is refused by its name.
    """
    declared = {tool.name: tool for tool in _declared_by(messages)}
    if not declared:
        return _tools_of(offered)
    return [
        tool
        for tool in _tools_of(offered)
        if tool.name not in declared or tool_json(declared[tool.name]) != tool_json(tool)
    ]


def declarations(messages: Iterable[Message]) -> list[Message]:
    """Those of the messages that declare functions, whoever made them."""
    if not ToolsPart.made:
        return []
    return [message for message in messages if message.role == "system" and _tools_in(message)]


@functools.lru_cache(maxsize=64)
def _rest(tools: tuple[Tool, ...]) -> Message:
    """The same object again and again, which is counted and encoded once."""
    return declaration(tools)


def _tools_of(offered: Sequence[ToolLike]) -> list[Tool]:
    return [function.base for function in offered]


def _is_late(message: Message) -> bool:
    return message.role == "system" and LATE in message.extra


def _tools_in(message: Message) -> list[Tool]:
    return [tool for part in message.content if isinstance(part, ToolsPart) for tool in part.tools]


def _declared_by(messages: Iterable[Message]) -> Iterable[Tool]:
    return (tool for message in declarations(messages) for tool in _tools_in(message))

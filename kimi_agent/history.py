"""What makes a history one that can be sent, as pure functions.

An *exchange* is an assistant message with tool calls and the tool messages that answer them. Kimi takes a history if

1. every call of an exchange has exactly one result, before any other message;
2. no result stands anywhere else;
3. no assistant message is empty (text or calls; reasoning alone does not count).

This package adds: results stand in the order of the calls, so that a prompt has the same bytes however fast its tools
were.
Ids are unique within their message only (`get_weather_0` comes back in every turn), so a result belongs to the nearest
assistant message before it; among equal ids, first to first, second to second.

Nothing else in the package decides what is valid. Nothing here looks at a clock, draws a random number or changes its
input.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from .message import Message, TextPart, ThinkPart, ToolCall, once_per_value

__all__ = [
    "Repaired",
    "calls_of",
    "check_messages",
    "is_begun",
    "is_empty",
    "naming_what_is_no_message",
    "open_calls",
    "paired",
    "placed",
    "problems",
    "remove",
    "repair",
]


class Said(Protocol):
    """The messages of a conversation, which is an agent's."""

    always_included_messages: list[Message]
    chat_history: list[Message]


def check_messages(conversation: Said) -> None:
    """Make sure that what stands in the lists of a conversation, which anybody may change, are messages.

    Raises:
        TypeError: naming the first that is none.
    """
    for name in ("always_included_messages", "chat_history"):
        messages: Sequence[Any] = getattr(conversation, name)
        if not all(issubclass(kind, Message) for kind in set(map(type, messages))):
            place = next(at for at, item in enumerate(messages) if not isinstance(item, Message))
            kind = type(messages[place]).__name__
            better = "Message.model_validate(...)" if kind == "dict" else "Message.user(...)"
            raise TypeError(f"item {place} of {name} is a {kind}, and no Message; use {better}")


@contextmanager
def naming_what_is_no_message(conversation: Said) -> Generator[None]:
    """Say which item is no message where that is why something failed. A long history is not looked through before.

    Raises:
        TypeError: naming the first that is none.
    """
    try:
        yield
    except AttributeError:
        check_messages(conversation)
        raise


def calls_of(message: Message) -> tuple[ToolCall, ...]:
    """The calls that a message waits for: an assistant's; nobody else can call."""
    return (message.tool_calls or ()) if message.role == "assistant" else ()


def _newest_caller(messages: Sequence[Message]) -> int | None:
    """Where the newest message with calls is: results belong to it, whatever else was said since."""
    places = range(len(messages) - 1, -1, -1)
    return next((place for place in places if messages[place].tool_calls and calls_of(messages[place])), None)


def open_calls(messages: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls of the newest message with calls that have no result yet, in their order."""
    start = _newest_caller(messages)
    if start is None:
        return ()
    pairs = paired(calls_of(messages[start]), _results_until_next_turn(messages, start + 1))
    return tuple(call for call, result in pairs if result is None)


def placed(messages: Sequence[Message], result: Message) -> int:
    """Where `result` has to be inserted, so that the newest exchange keeps its results in the order of the calls.

    At the end, when it answers no open call of the newest message with calls.
    """
    start = _newest_caller(messages)
    if start is None:
        return len(messages)
    pairs = paired(calls_of(messages[start]), _results_until_next_turn(messages, start + 1))
    for position, (call, known) in enumerate(pairs):
        if known is None and call.id == result.tool_call_id:
            return start + 1 + sum(earlier is not None for _, earlier in pairs[:position])
    return len(messages)


def paired(calls: Iterable[ToolCall], results: Iterable[Message]) -> list[tuple[ToolCall, Message | None]]:
    """Each call with its result: first to first among equal ids."""
    by_id: defaultdict[str | None, deque[Message]] = defaultdict(deque)
    for result in results:
        by_id[result.tool_call_id].append(result)
    return [(call, by_id[call.id].popleft() if by_id[call.id] else None) for call in calls]


def is_begun(message: Message) -> bool:
    """Whether it is the beginning of an answer that Kimi is to continue, when it is the last message."""
    return bool(message.partial) and message.role == "assistant" and not message.tool_calls


@once_per_value
def is_empty(message: Message) -> bool:
    """Whether Kimi would refuse it as an empty assistant message: no calls, nothing but blanks or reasoning.

    As the last message it may be the beginning of an answer that is to be continued: see `Message.partial`.
    """
    if message.role != "assistant" or message.tool_calls:
        return False
    return all(
        isinstance(part, ThinkPart) or (isinstance(part, TextPart) and not part.text.strip())
        for part in message.content
    )


class Repaired(list[Message]):
    """What `repair` gives. Whoever gets one need not repair it again."""


def repair(messages: Sequence[Message], *, interrupted: str) -> Repaired:
    """The same conversation as one that can be sent.

    Calls without a result get one that says `interrupted`. Results that answer no call, and second results, are left
    out, as are empty assistant messages. Results move to their exchange, in the order of the calls. Messages that are
    in order stay the very objects they are. Repairing twice changes nothing more.

    Args:
        messages: any list of messages.
        interrupted: the text of a result that is made up.
    """
    repaired = Repaired()
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        if message.role == "assistant":
            if message.tool_calls:
                repaired += _whole_exchange(message, _results_until_next_turn(messages, position), interrupted)
            elif not is_empty(message) or (is_begun(message) and position == len(messages)):
                repaired.append(message)
        elif message.role != "tool":
            repaired.append(message)
    return repaired


def _whole_exchange(asking: Message, results: list[Message], interrupted: str) -> list[Message]:
    answers = [
        result or Message.tool(interrupted, call.id, name=call.name, is_tool_call_error=True)
        for call, result in paired(calls_of(asking), results)
    ]
    return [asking, *answers]


def _results_until_next_turn(messages: Sequence[Message], position: int) -> list[Message]:
    """The results that belong to the assistant message before `position`: all until the next assistant message."""
    results: list[Message] = []
    for index in range(position, len(messages)):
        message = messages[index]
        if message.role == "assistant":
            break
        if message.role == "tool":
            results.append(message)
    return results


def remove(messages: list[Message], message: Message) -> None:
    """Take this very message out, wherever near the end it is; equal ones stay."""
    place = next((index for index in range(len(messages) - 1, -1, -1) if messages[index] is message), None)
    if place is not None:
        del messages[place]


def problems(messages: Sequence[Message]) -> list[str]:
    """What keeps the messages from being sent: a sentence each, with the index of the message."""
    found: list[str] = []
    pending: dict[str, int] = {}
    caller = -1
    for index, message in enumerate(messages):
        if message.role == "tool":
            found += _claim(pending, message, index)
            continue
        found += [f"call {call_id!r} of message {caller} has no result" for call_id in pending]
        pending, caller = {}, index
        if is_empty(message) and not (is_begun(message) and index == len(messages) - 1):
            found.append(f"assistant message {index} is empty")
        for call in calls_of(message):
            pending[call.id] = pending.get(call.id, 0) + 1
    return found + [f"call {call_id!r} of message {caller} has no result" for call_id in pending]


def _claim(pending: dict[str, int], result: Message, index: int) -> list[str]:
    call_id = result.tool_call_id or ""
    if call_id not in pending:
        return [f"message {index} answers {call_id!r}, which is no open call"]
    pending[call_id] -= 1
    if not pending[call_id]:
        del pending[call_id]
    return []

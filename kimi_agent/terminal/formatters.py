"""What of a message to show: functions from a message to text, or to `None` for "nothing".

They fit `Agent.full_round_str(..., message_formatter=...)`; give them options with `functools.partial`. None of them
raises, whatever the model wrote. What they give is for a terminal: control characters, of which a terminal would do
something else than show them, are made `visible`. `color=False` gives the text as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from ..errors import ToolArgumentsError
from ..message import Message, TextPart, ThinkPart, ToolCall
from .text import visible

__all__ = [
    "all_message_contents",
    "assistant_message_contents",
    "assistant_message_contents_thinking",
    "assistant_message_thinking",
    "with_arguments",
]

_GREY: Final = "\x1b[90m"
_PLAIN: Final = "\x1b[0m"


def all_message_contents(msg: Message, *, color: bool = True) -> str:
    """The text of any message.

    Args:
        msg: the message.
        color: the result goes to a terminal: control characters are made `visible`.
    """
    return visible(msg.text) if color else msg.text


def assistant_message_contents(msg: Message, *, show_reasoning: bool = True, color: bool = True) -> str | None:
    """The text of an assistant message; `None` for any other message.

    Args:
        msg: the message.
        show_reasoning: with what the model thought, in paragraphs of its own.
        color: the result goes to a terminal: the reasoning is grey, and control characters are made `visible`.
    """
    if msg.role != "assistant":
        return None
    kinds = (TextPart, ThinkPart) if show_reasoning else (TextPart,)
    shown = [part for part in msg.parts if isinstance(part, kinds)]
    paragraphs = [_paragraph(list(parts), color) for _, parts in groupby(shown, _is_reasoning)]
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def _is_reasoning(part: TextPart | ThinkPart) -> bool:
    return isinstance(part, ThinkPart)


def _paragraph(parts: Sequence[TextPart | ThinkPart], color: bool) -> str:
    text = "".join(part.think if isinstance(part, ThinkPart) else part.text for part in parts)
    if not (text and color):
        return text
    return f"{_GREY}{visible(text)}{_PLAIN}" if _is_reasoning(parts[0]) else visible(text)


def assistant_message_contents_thinking(
    msg: Message, *, show_args: bool = False, show_reasoning: bool = True, color: bool = True
) -> str | None:
    """The text of an assistant message and, on a line of its own, what it calls; `None` for any other message.

    Args:
        msg: the message.
        show_args: with the arguments of each call.
        show_reasoning: with what the model thought, in paragraphs of its own.
        color: the result goes to a terminal: the reasoning is grey, and control characters are made `visible`.
    """
    contents = assistant_message_contents(msg, show_reasoning=show_reasoning, color=color)
    thinking = assistant_message_thinking(msg, show_args=show_args, color=color)
    if contents is None or thinking is None:
        return contents
    return f"{contents}\n{thinking}" if contents else thinking


def assistant_message_thinking(msg: Message, *, show_args: bool = False, color: bool = True) -> str | None:
    """`Thinking... [get_weather; get_time]` for an assistant message that calls functions; `None` for any other.

    For a message whose text is shown by other means, such as a stream.

    Args:
        msg: the message.
        show_args: with the arguments of each call. What is no JSON object is shown as the model wrote it.
        color: the result goes to a terminal: control characters are made `visible`, and it is one line.
    """
    if msg.role != "assistant" or not msg.tool_calls:
        return None
    calls = [with_arguments(call) if show_args else call.name for call in msg.tool_calls]
    thinking = f"Thinking... [{'; '.join(calls)}]"
    return visible(thinking).replace("\n", "\\n") if color else thinking


UNREADABLE: Final = (ToolArgumentsError, RecursionError, ValueError)
"""Why arguments cannot be shown as values: they are no object, nest deeply, or have numbers of thousands of digits."""


def with_arguments(call: ToolCall) -> str:
    """`get_weather(city='Oslo')`. What is no JSON object is shown as the model wrote it."""
    try:
        arguments = ", ".join(f"{name}={value!r}" for name, value in call.args.items())
    except UNREADABLE:
        arguments = call.arguments
    return f"{call.name}({arguments})"

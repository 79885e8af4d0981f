"""Messages and tools as the JSON of Kimi's chat-completions.

Values never change, so each one is encoded once and its bytes stay with it; a request body is joined from them. That is
fast, and it keeps the head of the prompt the same to the byte from turn to turn, which Kimi's prefix cache needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import to_json

from ..history import calls_of
from ..message import ContentPart, Message, TextPart, ThinkPart, ToolCall, UnknownPart, Value, once_per_value
from ..provider import GenerationKwargs
from ..tools.base import Tool

__all__ = ["encode", "message_json", "request_body", "tool_json"]


def request_body(
    model: str,
    system_prompt: str,
    tools: Sequence[Tool],
    history: Sequence[Message],
    overrides: GenerationKwargs | None = None,
) -> bytes:
    """The body of a streamed request. What is not given is not sent.

    Raises:
        TypeError: `extra_body` has messages or tools.
    """
    messages = [message.__dict__.get(_KEY) or message_json(message) for message in history]
    if system_prompt:
        messages.insert(0, message_json(Message.system(system_prompt)))
    tail = [b"]", b',"tools":[' + b",".join(map(tool_json, tools)) + b"]"] if tools else [b"]"]
    tail += [b",", encode(_fields(model, overrides or {}))[1:]]
    if messages:  # a long body is copied once: what stands around the messages goes to the first and the last of them
        messages[-1] += b"".join(tail)
        messages[0] = b'{"messages":[' + messages[0]
        return b",".join(messages)
    return b'{"messages":[' + b"".join(tail)


def _fields(model: str, overrides: GenerationKwargs) -> dict[str, Any]:
    """Everything but messages and tools; `extra_body` has the last word."""
    fields: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **overrides}
    extra: dict[str, Any] = dict(fields.pop("extra_body", None) or {})
    if taken := {"messages", "tools"} & extra.keys():
        raise TypeError(f"extra_body cannot replace {' and '.join(sorted(taken))} of the request")
    return {name: value for name, value in {**fields, **extra}.items() if value is not None}


@once_per_value
def message_json(message: Message) -> bytes:
    """A message as JSON."""
    return encode(_message(message))


_KEY: Final[str] = message_json.key  # pyright: ignore[reportFunctionMemberAccess]


@once_per_value
def tool_json(tool: Tool) -> bytes:
    """A tool as JSON."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return encode({"type": "function", "function": function})


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8. Lone surrogates, which UTF-8 cannot carry, become escapes."""
    try:
        return to_json(value, inf_nan_mode="null")
    except ValueError:
        return json.dumps(value, separators=(",", ":"), default=dict).encode()


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role}
    if (reasoning := message.reasoning) is not None and message.role == "assistant":
        body["reasoning_content"] = reasoning
    calls = calls_of(message)
    content = _content(message)
    if not (calls and _is_blank(content)):  # with calls Kimi takes no blank content
        body["content"] = content
    if calls:
        body["tool_calls"] = [_call(call) for call in calls]
    optional = {"tool_call_id": message.tool_call_id, "name": message.name, "partial": message.partial}
    return body | {field: value for field, value in optional.items() if value is not None}


def _content(message: Message) -> str | list[dict[str, Any]]:
    """One string where that says it all. An assistant's texts are one text; a user's parts stay parts."""
    parts = [part for part in message.content if not isinstance(part, ThinkPart)]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(texts) == len(parts) and (len(texts) < 2 or message.role == "assistant"):
        return "".join(texts)
    return [_part(part) for part in parts]


def _is_blank(content: str | list[dict[str, Any]]) -> bool:
    return isinstance(content, str) and not content.strip()


def _part(part: ContentPart) -> dict[str, Any]:
    if isinstance(part, UnknownPart):
        return {"type": part.type, **part.data}
    return part.model_dump(exclude=_private(part))


def _private(value: Value) -> dict[str, Any]:
    """What of a value is not for Kimi, at every depth: `extra`, and fields that this version does not know."""
    fields: dict[str, Any] = dict.fromkeys(("extra", *(value.__pydantic_extra__ or ())), True)
    inner = {name: _private(item) for name, item in value.__dict__.items() if isinstance(item, Value)}
    return fields | inner


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments if call.arguments.strip() else "{}"}
    return {"id": call.id, "type": call.type, "function": function}

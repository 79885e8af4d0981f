"""Messages and tools as the JSON of Kimi's chat-completions.

Values never change, so each one is encoded once and its bytes stay with it; a request body is joined from them. That is
fast, and it keeps the head of the prompt the same to the byte from turn to turn, which Kimi's prefix cache needs.

What comes from elsewhere is made to fit here, on the way out: the messages themselves stay as they are.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from pydantic_core import to_json

from ..errors import FunctionSpecError, InvalidRequestError
from ..history import calls_of, is_begun
from ..message import (
    AudioURLPart,
    ContentPart,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    UnknownPart,
    Value,
    VideoURLPart,
    once_per_value,
)
from ..tools.base import NAME_RULE, Tool, ToolsPart, is_safe_name

__all__ = [
    "DECLARATION",
    "DEFAULT_REASONING_KEY",
    "Dialect",
    "encode",
    "joined",
    "message_fields",
    "messages_json",
    "tool_json",
]

DEFAULT_REASONING_KEY: Final = "reasoning_content"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How messages look to one server.

    Args:
        reasoning_key: under which key the server sends reasoning, and wants it back.
        strict: the rules of Kimi's own servers hold: calls come with reasoning, ids are plain, pictures are no links.
    """

    reasoning_key: str = DEFAULT_REASONING_KEY
    strict: bool = False


# ==== bodies ====


def messages_json(dialect: Dialect, system_prompt: str, history: Sequence[Message]) -> list[bytes]:
    """All messages of a request, each as JSON.

    Raises:
        InvalidRequestError: Kimi would refuse one.
    """
    encoder = _encoder(dialect)
    key: str = encoder.key  # pyright: ignore[reportFunctionMemberAccess]
    try:
        encoded = [message.__dict__[key] for message in history]
    except KeyError:  # some are new
        encoded = [encoder(message) for message in history]
    if history and is_begun(history[-1]):
        encoded[-1] = encoded[-1][:-1] + b',"partial":true}'
    if system_prompt:
        encoded.insert(0, encoder(Message.system(system_prompt)))
    return encoded


DECLARATION: Final = b'{"role":"system","tools":['
"""How the JSON of a message that declares tools begins. Inside a string the quotes would be escaped."""


def joined(messages: list[bytes], tools: Sequence[Tool], fields: dict[str, Any]) -> bytes:
    """The body of a request.

    Args:
        messages: each as JSON; the list is used up.
        tools: what the model may call.
        fields: everything else.
    """
    tail = [b"]", b',"tools":[' + b",".join(map(tool_json, tools)) + b"]"] if tools else [b"]"]
    tail += [b",", encode(fields)[1:]]
    if messages:  # a long body is copied once: what stands around the messages goes to the first and the last of them
        messages[-1] += b"".join(tail)
        messages[0] = b'{"messages":[' + messages[0]
        return b",".join(messages)
    return b'{"messages":[' + b"".join(tail)


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8. Lone surrogates, which UTF-8 cannot carry, become escapes."""
    try:
        return to_json(value, inf_nan_mode="null")
    except ValueError:
        return json.dumps(value, separators=(",", ":"), default=dict).encode()


# ==== tools ====


@once_per_value
def tool_json(tool: Tool) -> bytes:
    """A tool as JSON, its parameters in Kimi's schema dialect. A name that begins with `$` is one of Kimi's own tools.

    Raises:
        FunctionSpecError: Kimi would refuse it.
    """
    return encode(_tool(tool))


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.name.startswith("$") and is_safe_name(tool.name[1:]):
        return {"type": "builtin_function", "function": {"name": tool.name}}
    if not is_safe_name(tool.name):
        raise FunctionSpecError(f"Kimi refuses the tool name {tool.name!r}; it has to be {NAME_RULE}")
    function = {"name": tool.name, "description": tool.description, "parameters": _parameters(tool)}
    return {"type": "function", "function": function}


def _parameters(tool: Tool) -> dict[str, Any]:
    from .parameters import object_schema  # only who has tools pays for it

    parameters = object_schema(tool.parameters)
    if parameters is None:
        raise FunctionSpecError(f"the parameters of the tool {tool.name!r} are no schema of an object")
    return parameters


# ==== messages ====


@functools.cache
def _encoder(dialect: Dialect) -> Callable[[Message], bytes]:
    """What encodes messages for a dialect; each dialect keeps bytes of its own with a message."""

    def message_json(message: Message) -> bytes:
        return encode(message_fields(message, dialect))

    message_json.__qualname__ = f"message_json({dialect.reasoning_key}, {dialect.strict})"
    return once_per_value(message_json)


def message_fields(message: Message, dialect: Dialect) -> dict[str, Any]:
    if declared := [part for part in message.content if isinstance(part, ToolsPart)]:
        return _declaration(message, declared)
    calls = calls_of(message)
    body: dict[str, Any] = {"role": message.role, **_reasoning(message, bool(calls), dialect)}
    content = _content(message, dialect)
    if not (calls and _is_blank(content)):  # with calls Kimi takes no blank content
        body["content"] = content
    if calls:
        body["tool_calls"] = [_call(call, dialect) for call in calls]
    if message.tool_call_id is not None:
        body["tool_call_id"] = _sent_id(message.tool_call_id, dialect)
    if message.name is not None:
        body["name"] = message.name
    return body


def _declaration(message: Message, declared: Sequence[ToolsPart]) -> dict[str, Any]:
    if message.role != "system" or len(declared) != len(message.content):
        raise InvalidRequestError(
            "tools are declared by a system message that has no other content; make it two messages"
        )
    tools = [_tool(tool) for part in declared for tool in part.tools]
    if not tools:
        raise InvalidRequestError("a system message that declares tools needs one")
    return {"role": "system", "tools": tools}


def _reasoning(message: Message, calls: bool, dialect: Dialect) -> dict[str, Any]:
    """The reasoning as the server sent it. A call without any, from another model, gets the least that Kimi takes."""
    reasoning = message.reasoning if message.role == "assistant" else None
    if reasoning is None and calls and dialect.strict:
        reasoning = PLACEHOLDER
    if reasoning is None:
        return {}
    if dialect.reasoning_key == "reasoning_details":
        return {"reasoning_details": [{"type": "reasoning.text", "text": reasoning}]}
    return {dialect.reasoning_key: reasoning}


PLACEHOLDER: Final = " "
"""Kimi refuses a call without reasoning while it thinks; a space is the least that it takes."""


def _content(message: Message, dialect: Dialect) -> str | list[dict[str, Any]]:
    """One string where that says it all. An assistant's texts are one text; a user's parts stay parts."""
    parts = [part for part in message.content if not isinstance(part, ThinkPart)]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(texts) == len(parts) and (len(texts) < 2 or message.role == "assistant"):
        return "".join(texts)
    return [_part(part, dialect) for part in parts if not (isinstance(part, TextPart) and not part.text)]


def _is_blank(content: str | list[dict[str, Any]]) -> bool:
    return isinstance(content, str) and not content.strip()


def _part(part: ContentPart, dialect: Dialect) -> dict[str, Any]:
    if isinstance(part, UnknownPart):
        return {"type": part.type, **part.data}
    if dialect.strict:
        _check_media(part)
    return part.model_dump(exclude=_private(part))


def _check_media(part: ContentPart) -> None:
    """Kimi fetches nothing from the web, and does not see every format."""
    where, (formats, names) = _media_of(part)
    if where is None:
        return
    kind, _, rest = where.url[:100].lower().partition(":")
    if kind == "data" and not rest.startswith(formats):
        raise InvalidRequestError(f"Kimi does not see {where.url[:40]!r}; send {names}")
    if kind not in ("data", "ms"):
        raise InvalidRequestError(
            f"Kimi fetches nothing from the web: {where.url[:80]!r}; send a data: URL, or upload the file with"
            " kimi.files and send its ms:// URL"
        )


IMAGES: Final = (
    tuple(f"image/{name}" for name in ("png", "jpeg", "jpg", "gif", "webp", "bmp", "heic", "heif")),
    "a PNG, JPEG, GIF, WebP, BMP or HEIC",
)
VIDEOS: Final = (("video/", "image/gif", "image/webp"), "a film, or an animated GIF or WebP")
SOUNDS: Final = (("audio/",), "a sound")
"""How the types begin that Kimi sees, and what they are called."""


def _media_of(part: ContentPart) -> tuple[MediaURL | None, tuple[tuple[str, ...], str]]:
    match part:
        case ImageURLPart(image_url=where):
            return where, IMAGES
        case VideoURLPart(video_url=where):
            return where, VIDEOS
        case AudioURLPart(audio_url=where):
            return where, SOUNDS
        case _:
            return None, SOUNDS


def _private(value: Value) -> dict[str, Any]:
    """What of a value is not for Kimi, at every depth: `extra`, and fields that this version does not know."""
    fields: dict[str, Any] = dict.fromkeys(("extra", *(value.__pydantic_extra__ or ())), True)
    inner = {name: _private(item) for name, item in value.__dict__.items() if isinstance(item, Value)}
    return fields | inner


# ==== calls ====

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_K2_ID: Final = re.compile(r"functions\.[A-Za-z0-9_-]+:\d+")
_MENDED_ID: Final = re.compile(r".*_[0-9a-f]{16}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")


def _call(call: ToolCall, dialect: Dialect) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments if call.arguments.strip() else "{}"}
    return {"id": _sent_id(call.id, dialect), "type": call.type, "function": function}


def _sent_id(call_id: str, dialect: Dialect) -> str:
    """The id, in letters that every server takes. It depends on nothing else, so a call and its result stay together.

    K2 on a server of one's own works best with ids of its own form, which other servers may refuse. An id that looks
    like a mended one is mended as well, so that two ids never become one.
    """
    if not dialect.strict and _K2_ID.fullmatch(call_id):
        return call_id
    if _PLAIN_ID.fullmatch(call_id) and not _MENDED_ID.fullmatch(call_id):
        return call_id
    digest = blake2b(call_id.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{_UNSAFE.sub('_', call_id)[:46]}_{digest}"

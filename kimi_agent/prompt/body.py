"""A chat-completions body, read field by field before it is counted.

What has another type than Kimi takes is refused by the name of its field: a count that ignored it would be a wrong
one. What is left out, or `None`, has Kimi's default.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from ..errors import InvalidRequestError
from .pictures import Size, size_of

__all__ = ["Call", "Request", "Said", "compact", "message_of", "request_of", "spaced"]

Role = Literal["system", "user", "assistant", "tool"]
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call in a message: what Kimi is shown of it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A message.

    Args:
        role: who said it.
        parts: texts, and sizes of pictures; `None` for what cannot be measured here.
        name: of the speaker, or of the function whose result it is.
        reasoning: `""` for none.
        calls: what is called.
        tools: what a system message declares.
        call_id: the call that a result answers.
        called: the function of that call; `None` where it is not known.
        index: the place of that call among those of its message, from 1.
        begun: it is the beginning of an answer that Kimi is to continue.
    """

    role: Role
    parts: tuple[str | Size | None, ...] = ()
    name: str | None = None
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    tools: Sequence[Any] = ()
    call_id: str = ""
    called: str | None = None
    index: int = 1
    begun: bool = False

    @property
    def is_plain_answer(self) -> bool:
        """Whether it is an assistant message that calls nothing."""
        return self.role == "assistant" and not self.calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What of a body is in the prompt.

    Args:
        model: that is asked, where the body says it.
        messages: in their order. Kimi puts results into the order of their calls, which costs the same.
        tools: as they were sent.
        thinks: whether the model is to think.
        effort: how hard.
        keeps: whether the reasoning of all messages is to be kept.
        tool_choice: `auto`, `none` or `required`.
        response_format: `text`, `json_object` or `json_schema`.
        schema: of the last.
    """

    model: str | None = None
    messages: tuple[Said, ...] = ()
    tools: Sequence[Any] = ()
    thinks: bool = True
    effort: str = "max"
    keeps: bool = False
    tool_choice: str = "auto"
    response_format: str = "text"
    schema: Fields | None = None


# ==== fields ====


def _refused(where: str, expected: str, value: object) -> InvalidRequestError:
    return InvalidRequestError(f"cannot count the request: {where} has to be {expected}, and is {_shown(value)}")


def _shown(value: object) -> str:
    """Short, whatever it is."""
    if value is None:
        return "missing"
    return repr(value[:60]) if isinstance(value, str) else f"of type {type(value).__name__}"


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _refused(where, "a string", value)
    return value


def _string_or_none(value: Any, where: str) -> str | None:
    return None if value is None else _string(value, where)


def _object(value: Any, where: str) -> Fields:
    if not isinstance(value, Mapping):
        raise _refused(where, "an object", value)
    return cast("Fields", value)


def _array(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _refused(where, "an array", value)
    return cast("Sequence[Any]", value)


def _flag(value: Any, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise _refused(where, "true or false", value)
    return bool(value)


def _one_of(value: Any, words: Sequence[str], where: str) -> str:
    if not (isinstance(value, str) and value in words):
        raise _refused(where, f"one of {', '.join(words)}", value)
    return value


# ==== JSON ====


def compact(value: Any, where: str) -> str:
    """JSON without spaces, keys sorted at every level.

    Raises:
        InvalidRequestError: JSON cannot say it.
    """
    return _dumped(value, where, sort_keys=True, separators=(",", ":"))


def spaced(value: Any, where: str) -> str:
    """JSON with spaces, keys in their order."""
    return _dumped(value, where)


def _dumped(value: Any, where: str, **style: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_dict, **style)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"cannot count the request: {where} is no JSON: {error}") from error


def _as_dict(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(cast("Fields", value))
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


# ==== the body ====


def request_of(body: Fields, *, needs_messages: bool = True) -> Request:
    """What of a body is in the prompt.

    Args:
        body: of a chat-completions request.
        needs_messages: a body without messages is refused.

    Raises:
        InvalidRequestError: a field is missing or has another type than Kimi takes; the text names it.
    """
    fields = _object(body, "the body")
    thinks, effort, keeps = _thinking(fields)
    kind, schema = _response_format(fields.get("response_format"))
    return Request(
        model=_string_or_none(fields.get("model"), "model"),
        messages=tuple(_messages(fields)) if needs_messages or fields.get("messages") else (),
        tools=_tools(fields.get("tools"), "tools"),
        thinks=thinks,
        effort=effort,
        keeps=keeps,
        tool_choice=_one_of(_given(fields, "tool_choice", "auto"), _CHOICES, "tool_choice"),
        response_format=kind,
        schema=schema,
    )


_CHOICES: Final = ("auto", "none", "required")
_EFFORTS: Final = ("low", "high", "max", "none")
_FORMATS: Final = ("text", "json_object", "json_schema")


def _given(fields: Fields, name: str, default: str) -> Any:
    value = fields.get(name)
    return default if value is None else value


def _thinking(fields: Fields) -> tuple[bool, str, bool]:
    """Whether it thinks, how hard, and whether it keeps all reasoning. `thinking.effort` goes before the other."""
    thinking = _object(_given(fields, "thinking", cast(Any, {})), "thinking")
    kind = _one_of(_given(thinking, "type", "enabled"), ("enabled", "disabled"), "thinking.type")
    if kind == "disabled":
        return False, "none", False
    where = "reasoning_effort" if thinking.get("effort") is None else "thinking.effort"
    wanted = thinking.get("effort") if thinking.get("effort") is not None else fields.get("reasoning_effort")
    effort = _one_of("max" if wanted is None else wanted, _EFFORTS, where)
    keep = _string_or_none(thinking.get("keep"), "thinking.keep")
    if keep not in (None, "all"):
        raise _refused("thinking.keep", "'all' or left out", keep)
    return effort != "none", effort, keep == "all"


def _response_format(value: Any) -> tuple[str, Fields | None]:
    if value is None:
        return "text", None
    wanted = _object(value, "response_format")
    kind = _one_of(wanted.get("type"), _FORMATS, "response_format.type")
    if kind != "json_schema":
        return kind, None
    described = _object(wanted.get("json_schema"), "response_format.json_schema")
    return kind, _object(described.get("schema"), "response_format.json_schema.schema")


def _tools(value: Any, where: str) -> Sequence[Any]:
    tools = () if value is None else _array(value, where)
    for index, tool in enumerate(tools):
        place = f"{where}[{index}]"
        fields = _object(tool, place)
        _string(fields.get("type"), f"{place}.type")
        _string(_object(fields.get("function"), f"{place}.function").get("name"), f"{place}.function.name")
    return tools


# ==== messages ====


def _messages(fields: Fields) -> Iterator[Said]:
    """The messages, results with the place and the name of the call that they answer."""
    given = _array(fields.get("messages"), "messages")
    if not given:
        raise _refused("messages", "an array of at least one message", given)
    calls: dict[str, deque[tuple[int, str]]] = {}
    for number, value in enumerate(given):
        said = message_of(value, f"messages[{number}]")
        if said.begun and number < len(given) - 1:
            raise _refused(f"messages[{number}].partial", "on the last message only", True)
        if said.role == "assistant":
            calls = _by_id(said.calls)
        yield _answering(said, calls, f"messages[{number}].tool_call_id") if said.role == "tool" else said


def _by_id(calls: Iterable[Call]) -> dict[str, deque[tuple[int, str]]]:
    places: defaultdict[str, deque[tuple[int, str]]] = defaultdict(deque)
    for index, call in enumerate(calls, 1):
        places[call.id].append((index, call.name))
    return places


def _answering(result: Said, calls: Mapping[str, deque[tuple[int, str]]], where: str) -> Said:
    if not calls.get(result.call_id):
        raise _refused(where, "the id of an open call", result.call_id)
    index, called = calls[result.call_id].popleft()
    return replace(result, index=index, called=called)


def message_of(value: Any, where: str) -> Said:
    """A message of a body.

    Args:
        value: as it was sent.
        where: it stands, for errors.

    Raises:
        InvalidRequestError: a field is missing or has another type than Kimi takes; the text names it.
    """
    fields = _object(value, where)
    role = cast("Role", _one_of(fields.get("role"), tuple(_OWN_FIELDS), f"{where}.role"))
    for owner, names in _OWN_FIELDS.items():
        if alien := [name for name in names if owner != role and fields.get(name)]:
            raise _refused(f"{where}.{alien[0]}", f"in a message of the {owner}", fields[alien[0]])
    return _READERS[role](fields, where)


_OWN_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("tools",),
    "user": (),
    "assistant": ("tool_calls", "partial"),
    "tool": ("tool_call_id",),
}
"""The fields that only messages of one role have."""


def _user(fields: Fields, where: str) -> Said:
    return Said(role="user", parts=_content(fields, where), name=_name(fields, where))


def _system(fields: Fields, where: str) -> Said:
    tools = _tools(fields.get("tools"), f"{where}.tools")
    if not tools:
        return replace(_user(fields, where), role="system")
    if fields.get("content"):
        raise _refused(f"{where}.content", "left out beside tools", fields["content"])
    return Said(role="system", name=_name(fields, where), tools=tools)


def _assistant(fields: Fields, where: str) -> Said:
    begun = _flag(fields.get("partial"), f"{where}.partial")
    given = fields.get("tool_calls")
    calls = () if given is None else _array(given, f"{where}.tool_calls")
    if begun and calls:
        raise _refused(f"{where}.partial", "left out beside tool_calls", begun)
    return Said(
        role="assistant",
        parts=_content(fields, where, needed=False),
        name=_name(fields, where),
        reasoning=_reasoning(fields, where),
        calls=tuple(_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)),
        begun=begun,
    )


def _tool(fields: Fields, where: str) -> Said:
    call_id = _string(fields.get("tool_call_id"), f"{where}.tool_call_id")
    name = _name(fields, where)
    return Said(role="tool", parts=_content(fields, where), name=name, called=name, call_id=call_id)


_READERS: Final[Mapping[str, Callable[[Fields, str], Said]]] = {
    "system": _system,
    "user": _user,
    "assistant": _assistant,
    "tool": _tool,
}


def _name(fields: Fields, where: str) -> str | None:
    return _string_or_none(fields.get("name"), f"{where}.name") or None


def _reasoning(fields: Fields, where: str) -> str:
    """Under whichever key the server has it."""
    for key in ("reasoning_content", "reasoning"):
        if fields.get(key) is not None:
            return _string(fields[key], f"{where}.{key}")
    details = fields.get("reasoning_details")
    pieces = () if details is None else _array(details, f"{where}.reasoning_details")
    places = [(f"{where}.reasoning_details[{index}]", piece) for index, piece in enumerate(pieces)]
    return "".join(_string(_object(piece, place).get("text"), f"{place}.text") for place, piece in places)


def _call(value: Any, where: str) -> Call:
    fields = _object(value, where)
    function = _object(fields.get("function"), f"{where}.function")
    return Call(
        _string(fields.get("id"), f"{where}.id"),
        _string(function.get("name"), f"{where}.function.name"),
        _string(function.get("arguments"), f"{where}.function.arguments"),
    )


# ==== content ====


def _content(fields: Fields, where: str, *, needed: bool = True) -> tuple[str | Size | None, ...]:
    content = fields.get("content")
    if isinstance(content, str):
        return (content,)
    if content is None and not needed:
        return ()
    if not isinstance(content, list | tuple):
        raise _refused(f"{where}.content", "a string or an array of parts", content)
    parts = cast("Sequence[Any]", content)
    return tuple(_part(part, f"{where}.content[{index}]") for index, part in enumerate(parts))


def _part(value: Any, where: str) -> str | Size | None:
    fields = _object(value, where)
    kind = _one_of(fields.get("type"), tuple(_PARTS), f"{where}.type")
    return _PARTS[kind](fields.get(kind), f"{where}.{kind}")


def _picture(value: Any, where: str) -> Size | None:
    url = _url(value, where)
    try:
        return size_of(url)
    except ValueError as error:
        raise InvalidRequestError(f"cannot count the request: {where} has no picture: {error}") from error


def _url(value: Any, where: str) -> str:
    return value if isinstance(value, str) else _string(_object(value, where).get("url"), f"{where}.url")


def _unmeasured(value: Any, where: str) -> None:
    _url(value, where)


_PARTS: Final[Mapping[str, Callable[[Any, str], str | Size | None]]] = {
    "text": _string,
    "image_url": _picture,
    "video_url": _unmeasured,
    "audio_url": _unmeasured,
}
"""By type, which is also the name of the field that has the content."""

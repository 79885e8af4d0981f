"""What Kimi refuses in a chat request, as a pure function with Kimi's own status, type and words.

Where Kimi's words are not known, they begin with `Invalid request:` and are our own. Not everything that Kimi checks is
here: the bytes of pictures are not looked at, and lengths are estimated in favour of the request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard, cast

from ..kimi.schema import mfjs_errors
from .chunks import prompt_tokens
from .script import Body, Failure

__all__ = ["check_request"]

MAX_TOOLS: Final = 128
ROLES: Final = ("system", "user", "assistant", "tool")
TOOL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
BUILTIN_NAME: Final = re.compile(r"\$[A-Za-z0-9_-]{1,127}")
PINNED_MODELS: Final = ("kimi-k3", "k3", "kimi-k2.5", "kimi-k2.6", "kimi-k2.7")
"""How the names begin of the models whose sampling cannot be changed."""
PINNED: Final[dict[str, float]] = {
    "temperature": 1,
    "top_p": 0.95,
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
TEMPERATURE_WITHOUT_THINKING: Final = 0.6
K3: Final = ("kimi-k3", "k3")
"""How the names begin of the models that take `tool_choice: required`, tools in messages, and efforts."""
K2: Final = "kimi-k2"
ALWAYS_THINKING: Final = "kimi-k2.7"
EFFORTS: Final = ("low", "high", "max")
THINKING_TYPES: Final = ("enabled", "disabled")
KEPT_THINKING: Final = (None, "all")
FORMATS: Final = ("text", "json_object", "json_schema")
K3_WINDOW: Final = 1_048_576
WINDOW: Final = 262_144
"""Tokens of prompt and completion together, for every model but K3."""
MEDIA: Final = ("image_url", "video_url")
SVG: Final = "data:image/svg"
MAX_STOPS: Final = 5
MAX_STOP_SIZE: Final = 32
"""Bytes of one stop text."""


def check_request(body: Any) -> Failure | None:
    """The error that Kimi would answer a decoded chat request with; `None` when it would answer it."""
    complaint = next(_complaints(body), None)
    return Failure(400, "invalid_request_error", complaint) if complaint else None


def _complaints(body: Any) -> Iterator[str]:
    """Every complaint, the gravest first. Each check may rely on the ones before it."""
    if not _is_object(body):
        yield "Invalid request: the body must be a JSON object"
        return
    for check in _CHECKS:
        yield from check(body)


def _is_object(value: Any) -> TypeGuard[Body]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


# ==== fields ====


def _check_required(body: Body) -> Iterator[str]:
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield "Invalid request: model is required"
    if not _is_list(body.get("messages")) or not body["messages"]:
        yield "Invalid request: messages must be a list with at least one message"


def _check_sampling(body: Body) -> Iterator[str]:
    if not str(body["model"]).startswith(PINNED_MODELS):
        return
    for field, allowed in _pinned(body).items():
        if body.get(field) not in (None, allowed):
            yield f"invalid {field}: only {allowed:g} is allowed for this model"


def _pinned(body: Body) -> dict[str, float]:
    return PINNED if _thinks(body) else PINNED | {"temperature": TEMPERATURE_WITHOUT_THINKING}


def _thinks(body: Body) -> bool:
    thinking = body.get("thinking")
    return not (_is_object(thinking) and thinking.get("type") == "disabled")


def _check_thinking(body: Body) -> Iterator[str]:
    model, thinking = str(body["model"]), body.get("thinking")
    if thinking is None or not model.startswith(PINNED_MODELS):
        return
    if not _is_object(thinking) or thinking.get("type", "enabled") not in THINKING_TYPES:
        yield "Invalid request: thinking must be an object with the type enabled or disabled"
    elif model.startswith(ALWAYS_THINKING) and not _thinks(body):
        yield "invalid thinking: only type=enabled is allowed for this model"
    elif _thinks(body) and thinking.get("keep") not in KEPT_THINKING:
        yield "Invalid request: thinking.keep must be null or 'all'"


def _check_effort(body: Body) -> Iterator[str]:
    effort = body.get("reasoning_effort")
    if str(body["model"]).startswith(K3) and effort is not None and effort not in EFFORTS:
        yield f"invalid reasoning_effort: only {', '.join(EFFORTS)} are allowed for this model"


def _check_fields(body: Body) -> Iterator[str]:
    given = {field: value for field, value in body.items() if value is not None}
    yield from _broken_rules(given, _FIELDS, "")


def _broken_rules(values: Body, rules: Rules, prefix: str) -> Iterator[str]:
    """What is wrong with the fields that are there, one after the other."""
    for field, (holds, rule) in rules.items():
        if field in values and not holds(values[field]):
            yield f"Invalid request: {prefix}{field} must be {rule}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_named(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_stop(value: Any) -> bool:
    stops: list[Any] = value if _is_list(value) else [value]
    return len(stops) <= MAX_STOPS and all(map(_is_short, stops))


def _is_short(stop: Any) -> bool:
    return isinstance(stop, str) and len(stop.encode(errors="replace")) <= MAX_STOP_SIZE


Rules: TypeAlias = Mapping[str, tuple[Callable[[Any], bool], str]]
"""By name of a field: whether its value will do, and what it must be."""

_FIELDS: Final[Rules] = {
    "prompt_cache_key": (_is_text, "a string"),
    "safety_identifier": (_is_text, "a string"),
    "max_completion_tokens": (_is_positive, "a positive integer"),
    "max_tokens": (_is_positive, "a positive integer"),
    "stop": (_is_stop, f"a string or at most {MAX_STOPS} strings, each of at most {MAX_STOP_SIZE} bytes"),
}


# ==== response formats ====


def _check_response_format(body: Body) -> Iterator[str]:
    wanted = body.get("response_format")
    if wanted is None:
        return
    kind = wanted.get("type") if _is_object(wanted) else None
    if not _is_object(wanted) or kind not in FORMATS:
        yield f"Invalid request: response_format.type must be one of {', '.join(FORMATS)}"
    elif kind == "json_schema":
        yield from _check_json_schema(wanted.get("json_schema"))


def _check_json_schema(wanted: Any) -> Iterator[str]:
    if not _is_object(wanted):
        yield "Invalid request: response_format.json_schema must be an object"
        return
    complete: Body = {"name": None, "schema": None, **wanted}
    yield from _broken_rules(complete, _JSON_SCHEMA, "response_format.json_schema.")
    yield from _not_mfjs(wanted["schema"], "Invalid request: response_format.json_schema")


def _not_mfjs(schema: Any, what: str) -> Iterator[str]:
    for error in mfjs_errors(schema):
        yield f"{what} is not a valid moonshot flavored json schema, details: <{error}>"


_JSON_SCHEMA: Final[Rules] = {
    "name": (_is_named, "a string that is not empty"),
    "schema": (_is_object, "an object"),
    "strict": (_is_flag, "a boolean"),
}


# ==== tools ====


def _check_tools(body: Body) -> Iterator[str]:
    declared = list(_declared_tools(body))
    for tools in declared:
        if not _is_list(tools):
            yield "Invalid request: tools must be a list"
            return
    tools = [tool for group in declared for tool in group]
    if len(tools) > MAX_TOOLS:
        yield f"Invalid request: at most {MAX_TOOLS} tools are allowed, got {len(tools)}"
    for tool in tools:
        yield from _check_tool(tool)
    names = Counter(tool["function"]["name"] for tool in tools)
    yield from (f"function name {name} is duplicated" for name, times in names.items() if times > 1)


def _declared_tools(body: Body) -> Iterator[Any]:
    """The tool lists of the request: its own, and those of system messages, which add tools half-way."""
    if body.get("tools") is not None:
        yield body["tools"]
    for message in body["messages"]:
        if _is_object(message) and message.get("role") == "system" and "tools" in message:
            yield message["tools"]


def _check_tool(tool: Any) -> Iterator[str]:
    function = tool.get("function") if _is_object(tool) else None
    if not _is_object(tool) or tool.get("type") not in ("function", "builtin_function") or not _is_object(function):
        yield "Invalid request: a tool must be an object with a type and a function"
        return
    rule = BUILTIN_NAME if tool["type"] == "builtin_function" else TOOL_NAME
    if not isinstance(function.get("name"), str) or not rule.fullmatch(function["name"]):
        yield (
            "Invalid request: function name is invalid, must start with a letter and can contain letters, numbers,"
            " underscores, and dashes"
        )
    yield from _check_parameters(function)


def _check_parameters(function: Body) -> Iterator[str]:
    parameters = function.get("parameters")
    if parameters is None:
        return
    if not (_is_object(parameters) and parameters.get("type") == "object"):
        yield f"Invalid request: the parameters of function {function['name']} must be a schema of type object"
    yield from _not_mfjs(parameters, "tools.function.parameters")


def _check_late_tools(body: Body) -> Iterator[str]:
    """Tools in messages belong to K3; what other models make of them is what their tokenizer says."""
    late = any("tools" in message for message in body["messages"] if _is_object(message))
    if late and str(body["model"]).startswith(K2):
        yield "tokenization failed"


def _check_tool_choice(body: Body) -> Iterator[str]:
    choice = body.get("tool_choice")
    if _is_object(choice) and _thinks(body):
        yield "tool_choice 'specified' is incompatible with thinking enabled"
    elif not _is_object(choice) and choice not in (None, "auto", "none", "required"):
        yield f"Invalid request: unknown tool_choice {choice!r}"
    elif choice == "required":
        yield from _check_required_choice(body)


def _check_required_choice(body: Body) -> Iterator[str]:
    if not any(_declared_tools(body)):
        yield "Invalid request: tool_choice 'required' needs tools"
    pinned = str(body["model"]).startswith(PINNED_MODELS)
    if pinned and _thinks(body) and not str(body["model"]).startswith(K3):
        yield "tool_choice 'required' is incompatible with thinking enabled"


# ==== messages ====


def _check_messages(body: Body) -> Iterator[str]:
    for position, message in enumerate(body["messages"]):
        if not _is_object(message) or message.get("role") not in ROLES:
            role = message.get("role") if _is_object(message) else message
            yield f"Invalid request: the message at position {position} has the unknown role {role!r}"
            return
        yield from _check_content(message, position)
        yield from _check_media(message)
        if message["role"] == "assistant":
            yield from _check_assistant(message, position)
    yield from _check_partial(body["messages"])


def _check_content(message: Body, position: int) -> Iterator[str]:
    content, role = message.get("content"), message["role"]
    if "tools" in message and (role != "system" or content):
        yield f"Invalid request: the message at position {position} cannot carry tools"
    if content is None and (role == "assistant" or "tools" in message):
        return
    if not isinstance(content, str) and not (_is_list(content) and all(map(_is_part, content))):
        yield (
            f"Invalid request: the content of the message at position {position} with role '{role}' must be a string"
            " or a list of parts"
        )


def _is_part(part: Any) -> bool:
    if not _is_object(part) or not isinstance(part.get("type"), str):
        return False
    return part["type"] != "text" or isinstance(part.get("text"), str)


def _check_media(message: Body) -> Iterator[str]:
    """Pictures and films come in the request or as uploaded files, never from the web."""
    for kind, url in _media(message):
        if url.lower().startswith(("http://", "https://")):
            yield f"Invalid request: unsupported {kind}: a data: URL or ms://<file_id> is needed, not {url[:200]}"
        elif url.lower().startswith(SVG):
            yield "unsupported image format: image/svg+xml"


def _media(message: Body) -> Iterator[tuple[str, str]]:
    """The kind and the URL of each part that has a URL."""
    content = message.get("content")
    for part in content if _is_list(content) else ():
        inner = part.get(part["type"])
        url = inner.get("url") if _is_object(inner) else inner
        if part["type"] in MEDIA and isinstance(url, str):
            yield part["type"], url


def _check_partial(messages: Sequence[Body]) -> Iterator[str]:
    for position, message in enumerate(messages):
        if message.get("partial") and (message["role"] != "assistant" or position < len(messages) - 1):
            yield "Invalid request: partial is for the last message, and only with role 'assistant'"


def _check_assistant(message: Body, position: int) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls and not (_is_list(calls) and all(map(_is_call, calls))):
        yield f"Invalid request: the message at position {position} has a malformed tool call"
    if not calls and not message.get("partial") and _is_blank(message.get("content")):
        yield f"the message at position {position} with role 'assistant' must not be empty"


def _check_reasoning(body: Body) -> Iterator[str]:
    """While a model that thinks is in the middle of calling, it wants to see what it thought when it called."""
    if not str(body["model"]).startswith(PINNED_MODELS) or not _thinks(body):
        return
    messages: list[Body] = body["messages"]
    asked = max((position for position, message in enumerate(messages) if message["role"] == "user"), default=0)
    for position, message in enumerate(messages[asked:], start=asked):
        if message.get("tool_calls") and message.get("reasoning_content") is None:
            yield (
                "thinking is enabled but reasoning_content is missing in assistant tool call message at index"
                f" {position}"
            )


def _is_blank(content: Any) -> bool:
    return not content or (isinstance(content, str) and not content.strip())


def _is_call(call: Any) -> bool:
    if not _is_object(call) or not isinstance(call.get("id"), str):
        return False
    function = call.get("function")
    return _is_object(function) and all(isinstance(function.get(field), str) for field in ("name", "arguments"))


def _check_exchanges(body: Body) -> Iterator[str]:
    """Every call has one result before the next other message, and every result a call."""
    pending: list[str] = []
    for position, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            yield from _check_result(message, position, pending)
            continue
        yield from _check_answered(pending)
        calls = message.get("tool_calls") if message["role"] == "assistant" else None
        pending = [call["id"] for call in cast(Sequence[Body], calls or ())]
    yield from _check_answered(pending)


def _check_result(message: Body, position: int, pending: list[str]) -> Iterator[str]:
    call_id = message.get("tool_call_id")
    if not call_id:
        yield f"Invalid request: the message at position {position} with role 'tool' has no tool_call_id"
    elif call_id in pending:
        pending.remove(call_id)
    else:
        yield "tool_call_id  is not found"


def _check_answered(pending: Sequence[str]) -> Iterator[str]:
    if pending:
        yield (
            "Invalid request: an assistant message with 'tool_calls' must be followed by tool messages responding to"
            f" each 'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(pending)}"
        )


# ==== length ====


def _check_length(body: Body) -> Iterator[str]:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    window = K3_WINDOW if str(body["model"]).startswith(K3) else WINDOW
    if _least_tokens(body) + limit > window:
        yield f"Invalid request: Your request exceeded model token limit : {window}"


def _least_tokens(body: Body) -> int:
    """Half of what the doubles estimate elsewhere: text that repeats itself has few tokens."""
    return max(1, prompt_tokens({**body, "messages": _without_media(body["messages"])}) // 2)


def _without_media(messages: Sequence[Body]) -> list[Body]:
    """A picture in base64 is long, and costs little."""
    return [
        message | {"content": _texts(message["content"])} if "content" in message else message for message in messages
    ]


def _texts(content: Any) -> Any:
    return [part for part in content if part["type"] == "text"] if _is_list(content) else content


_CHECKS: Final[tuple[Callable[[Body], Iterator[str]], ...]] = (
    _check_required,
    _check_sampling,
    _check_thinking,
    _check_effort,
    _check_fields,
    _check_response_format,
    _check_tools,
    _check_late_tools,
    _check_tool_choice,
    _check_messages,
    _check_reasoning,
    _check_exchanges,
    _check_length,
)

"""What Kimi refuses in a chat request, as a pure function with Kimi's own status, type and words.

Not everything that Kimi checks is here: schemas of tools and of response formats, pictures, and lengths are not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeGuard, cast

from .script import Body, Failure

__all__ = ["check_request"]

MAX_TOOLS: Final = 128
ROLES: Final = ("system", "user", "assistant", "tool")
TOOL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
BUILTIN_NAME: Final = re.compile(r"\$[A-Za-z0-9_-]{1,127}")
PINNED_MODELS: Final = ("kimi-k3", "k3", "kimi-k2.5", "kimi-k2.6", "kimi-k2.7", "kimi-for-coding")
"""How the names begin of the models whose sampling cannot be changed."""
PINNED: Final[dict[str, float]] = {
    "temperature": 1,
    "top_p": 0.95,
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
TEMPERATURE_WITHOUT_THINKING: Final = 0.6
ALWAYS_FREE_TO_REQUIRE: Final = ("kimi-k3", "k3")
"""Only these models take `tool_choice: required`."""


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
    parameters = function.get("parameters")
    if parameters is not None and not (_is_object(parameters) and parameters.get("type") == "object"):
        yield f"Invalid request: the parameters of function {function['name']} must be a schema of type object"


def _check_tool_choice(body: Body) -> Iterator[str]:
    choice = body.get("tool_choice")
    if _is_object(choice):
        yield "tool_choice 'specified' is incompatible with thinking enabled"
    elif choice not in (None, "auto", "none", "required"):
        yield f"Invalid request: unknown tool_choice {choice!r}"
    elif choice == "required":
        yield from _check_required_choice(body)


def _check_required_choice(body: Body) -> Iterator[str]:
    if not any(_declared_tools(body)):
        yield "Invalid request: tool_choice 'required' needs tools"
    pinned = str(body["model"]).startswith(PINNED_MODELS)
    if pinned and _thinks(body) and not str(body["model"]).startswith(ALWAYS_FREE_TO_REQUIRE):
        yield "tool_choice 'required' is incompatible with thinking enabled"


# ==== messages ====


def _check_messages(body: Body) -> Iterator[str]:
    for position, message in enumerate(body["messages"]):
        if not _is_object(message) or message.get("role") not in ROLES:
            role = message.get("role") if _is_object(message) else message
            yield f"Invalid request: the message at position {position} has the unknown role {role!r}"
            return
        yield from _check_content(message, position)
        if message["role"] == "assistant":
            yield from _check_assistant(message, position)


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


def _check_assistant(message: Body, position: int) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls and not (_is_list(calls) and all(map(_is_call, calls))):
        yield f"Invalid request: the message at position {position} has a malformed tool call"
    if not calls and not message.get("partial") and _is_blank(message.get("content")):
        yield f"the message at position {position} with role 'assistant' must not be empty"


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


_CHECKS: Final[tuple[Callable[[Body], Iterator[str]], ...]] = (
    _check_required,
    _check_sampling,
    _check_tools,
    _check_tool_choice,
    _check_messages,
    _check_exchanges,
)

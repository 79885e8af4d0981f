"""A small stand-in for the model, for demos and tests without a network. It thinks of nothing, but it calls tools.

It looks for a tool that fits the user's message, fills its arguments from the message, and repeats what the tools said:
in plain words, or in the shape that a `response_format` or a `MarkdownFormat` asks for.
It knows no tool by name but the built-in `$web_search`, and computes nothing. The same request gets the same reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, cast

from .function import Function
from .question import Question
from .script import Body, Call, Reply

__all__ = ["persona"]

MAX_CALLS: Final = 8
"""Calls in one message, however many values the text names."""

SEARCH: Final = "$web_search"
"""Kimi's built-in tool. The model does not say what it looks for: the platform knows."""
FOUND: Final = {"search_result": {"search_id": "offline"}, "usage": {"total_tokens": 64}}
"""The arguments of a search: where its results are, and how many tokens they have."""
_SEARCHING: Final = Function({"name": "web_search", "description": "Search the web, the internet, online."})

MAX_QUESTION: Final = 2_000
"""Characters of a message that are searched for arguments."""


def persona(body: Body) -> Reply:
    """The stand-in's reply to a decoded chat request."""
    messages = cast(list[Body], body.get("messages") or [])
    spoken = [message for message in messages if message.get("role") != "system"]
    if spoken and spoken[-1].get("role") == "tool":
        told = _retold(spoken)
        return Reply(_shaped(body, told) or told, reasoning="The results are in, so I repeat them.")
    asked = _last_question(messages)
    calls = _calls(body, Question(asked[:MAX_QUESTION])) if asked else []
    if calls:
        return Reply(reasoning=f"{calls[0].name} fits the question, so I call it.", tool_calls=calls)
    return Reply(_shaped(body, asked) or _plain(asked), reasoning="There is nothing to call, so I answer myself.")


def _last_question(messages: Sequence[Body]) -> str:
    return next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "").strip()


def _text(message: Body) -> str:
    content = message.get("content")
    if not isinstance(content, list):
        return str(content or "")
    parts = cast(list[Body], content)
    return " ".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")


# ==== calls ====


def _calls(body: Body, question: Question) -> list[Call]:
    """The calls of the function that fits best; none when no function fits or may be called."""
    choice = body.get("tool_choice")
    functions = [Function(tool["function"]) for tool in _tools(body) if tool.get("type") == "function"]
    if choice == "none":
        return []
    if SEARCH in _builtins(body) and (_SEARCHING.fits(question) > 1 or (choice == "required" and not functions)):
        return [Call(SEARCH, json.dumps(FOUND))]
    if not functions:
        return []
    ranked = sorted(functions, key=lambda function: -function.fits(question))
    for function in ranked:
        if function.fits(question) and (fillings := function.fillings(question)):
            return [_call(function, arguments) for arguments in fillings[:MAX_CALLS]]
    return [_call(ranked[0], ranked[0].guess(question))] if choice == "required" else []


def _tools(body: Body) -> list[Body]:
    """The tools of the request, and those that system messages declare."""
    late = [message.get("tools") for message in cast(list[Body], body.get("messages") or [])]
    return [tool for tools in (body.get("tools"), *late) for tool in cast(list[Body], tools or [])]


def _builtins(body: Body) -> set[str]:
    return {tool["function"]["name"] for tool in _tools(body) if tool.get("type") == "builtin_function"}


def _call(function: Function, arguments: Body) -> Call:
    return Call(function.name, json.dumps(arguments, ensure_ascii=False))


# ==== answers ====


def _plain(asked: str) -> str:
    if not asked:
        return "I am the offline stand-in for Kimi. Ask me something that one of my tools can do."
    return (
        "I am the offline stand-in for Kimi: I can call tools, but I cannot think, and here I found nothing to call."
        f" You said: {asked}"
    )


def _shaped(body: Body, text: str) -> str | None:
    """What there is to say in the shape that the request asks for; `None` when it asks for none.

    Of a format it only has the examples, and repeats them.
    """
    if examples := _EXAMPLE.findall(_text(body["messages"][-1])) if _ends_with_instructions(body) else []:
        return "\n\n".join(examples)
    schema = _json_schema(body.get("response_format"))
    if schema is None:
        return None
    wanted = Function({"name": "answer", "parameters": schema})
    return json.dumps(wanted.guess(Question(text[:MAX_QUESTION] or "nothing")), ensure_ascii=False)


_EXAMPLE: Final = re.compile(r"^<example>\n(.*?)\n</example>$", re.DOTALL | re.MULTILINE)


def _ends_with_instructions(body: Body) -> bool:
    return body["messages"][-1].get("role") == "system"


def _json_schema(response_format: Any) -> Body | None:
    if not isinstance(response_format, dict):
        return None
    wanted = cast(Body, response_format)
    return wanted["json_schema"]["schema"] if wanted.get("type") == "json_schema" else None


def _retold(messages: Sequence[Body]) -> str:
    """The results at the end of the conversation, a sentence for each."""
    start = len(messages)
    while start and messages[start - 1].get("role") == "tool":
        start -= 1
    made = cast(list[Body], messages[start - 1].get("tool_calls") or []) if start else []
    functions = {call["id"]: call["function"] for call in made}
    return "\n".join(_told(functions.get(result.get("tool_call_id")), _text(result)) for result in messages[start:])


def _told(function: Body | None, result: str) -> str:
    if function is None:
        return f"The result is: {result}"
    if function["name"] == SEARCH:
        return "The web was searched, and the offline stand-in has no web to read."
    values = ", ".join(_shown(value) for value in _arguments(function).values())
    return f"{function['name']} ({values}) says: {result}" if values else f"{function['name']} says: {result}"


def _arguments(function: Body) -> Body:
    try:
        arguments: Any = json.loads(function.get("arguments") or "{}")
    except ValueError:
        return {}
    return cast(Body, arguments) if isinstance(arguments, dict) else {}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

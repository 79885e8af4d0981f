"""A chat request as Kimi takes it. What Kimi would refuse for its form is refused here, with what to change.

`FIELD_CHECKS` is the list of what is looked at. A model of which nothing is known is asked for anything. `extra_body`
is not looked at either: it is the way out when a server knows more than this package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

from pydantic_core import from_json

from ..errors import FunctionSpecError, InvalidRequestError
from ..message import Message
from ..prompt.tokens import prompt_cost
from ..tools.base import Tool, ToolsPart
from .models import TEMPERATURE_WITHOUT_THINKING, ModelInfo
from .wire import DECLARATION, Dialect, encode, joined, messages_json

__all__ = ["ChatRequest", "merged"]

MOST_TOOLS: Final = 128
LEAST_COMPLETION: Final = 1_024
"""Tokens. A prompt that leaves less is Kimi's to refuse: it counts exactly."""
MOST_TOKENS_PER_BYTE: Final = 2 / 3
"""More than any text has; hexadecimal digits come close."""
MARGIN: Final = 16
"""The estimate of a prompt may be too low by one part in this many."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Everything that a request says.

    Args:
        model: who is asked.
        system_prompt: goes before the history; `""` for none.
        tools: what the model may call.
        history: the messages.
        asked: the named fields, as `GenerationKwargs` has them.
        stream: whether the answer is to be streamed.
        reasoning_key: under which key the server wants reasoning back.
    """

    model: ModelInfo
    system_prompt: str
    tools: Sequence[Tool]
    history: Sequence[Message]
    asked: Mapping[str, Any]
    stream: bool = True
    reasoning_key: str = "reasoning_content"

    def body(self) -> bytes:
        """The request as JSON.

        Raises:
            InvalidRequestError: the model would refuse it.
            FunctionSpecError: it would refuse a tool.
            TypeError: `extra_body` has messages or tools.
        """
        named, extra = self._fields()
        self._check(named, _thinks(merged(named, extra)))
        named["response_format"] = _in_mfjs(named.get("response_format"))
        messages = messages_json(Dialect(self.reasoning_key, self.model.is_known), self.system_prompt, self.history)
        if "max_completion_tokens" not in named:
            named["max_completion_tokens"] = self._completion_limit(sum(map(len, messages)))
        head: dict[str, Any] = {"model": self.model.name, "stream": self.stream}
        if self.stream:
            head["stream_options"] = {"include_usage": True}
        body = joined(messages, self.tools, _given({**head, **merged(named, extra)}))
        _check_tools([*self.tools, *self._declared()] if DECLARATION in body else self.tools)
        return body

    def _check(self, named: dict[str, Any], thinks: bool) -> None:
        if not self.model.is_known:
            return
        asked = Asked(self.model, named, thinks, has_tools=lambda: bool(self.tools or self._declared()))
        for check in FIELD_CHECKS:
            for complaint in check(asked):
                raise InvalidRequestError(complaint)

    def _fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields that have a name, and those of `extra_body`."""
        named = dict(self.asked)
        extra: dict[str, Any] = dict(named.pop("extra_body", None) or {})
        if taken := {"messages", "tools"} & extra.keys():
            raise TypeError(f"extra_body cannot replace {' and '.join(sorted(taken))} of the request")
        if "max_tokens" in named:
            named.setdefault("max_completion_tokens", named.pop("max_tokens"))
            named.pop("max_tokens", None)
        return named, extra

    def _declared(self) -> list[Tool]:
        """The tools of system messages."""
        parts = [part for message in self.history for part in message.content if isinstance(part, ToolsPart)]
        return [tool for part in parts for tool in part.tools]

    def _completion_limit(self, size: int) -> int | None:
        """The model's default, or what the window has left.

        The whole limit counts against the tokens per minute of the account when a request comes in, so it is never
        simply the window. Most prompts are so short that they need not be counted.
        """
        default, window = self.model.default_completion, self.model.context_window
        if default is None or size * MOST_TOKENS_PER_BYTE <= window - default:
            return default
        cost = prompt_cost(self.history, self.tools) + len(self.system_prompt)
        return max(min(default, window - cost - cost // MARGIN), LEAST_COMPLETION)


def merged(named: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """All fields; `extra_body` has the last word, and of `thinking` field by field."""
    fields = {**named, **extra}
    if isinstance(named.get("thinking"), Mapping) and isinstance(extra.get("thinking"), Mapping):
        fields["thinking"] = {**named["thinking"], **extra["thinking"]}
    return fields


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is not `None`, or has something in it in the case of `thinking`."""
    return {name: value for name, value in fields.items() if value is not None and (name, value) != ("thinking", {})}


def _thinks(fields: Mapping[str, Any]) -> bool:
    return _mapping(fields.get("thinking")).get("type") != "disabled"


def _in_mfjs(wanted: Any) -> Any:
    """A response format, its schema in Kimi's dialect."""
    described = _mapping(_mapping(wanted).get("json_schema"))
    schema = described.get("schema")
    if not isinstance(schema, Mapping):
        return wanted
    return {**wanted, "json_schema": {**described, "schema": _mfjs(encode(schema))}}


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


@lru_cache(maxsize=32)
def _mfjs(schema: bytes) -> dict[str, Any]:
    from .schema import to_mfjs

    return to_mfjs(from_json(schema))


# ==== tools ====


def _check_tools(tools: Sequence[Tool]) -> None:
    if len(tools) > MOST_TOOLS:
        raise InvalidRequestError(f"Kimi takes {MOST_TOOLS} tools at most, and these are {len(tools)}; leave some out")
    if len({tool.name for tool in tools}) < len(tools):
        twice = sorted(name for name, times in Counter(tool.name for tool in tools).items() if times > 1)
        raise FunctionSpecError(f"Kimi refuses two tools with one name: {', '.join(twice)}")


# ==== fields ====


@dataclass(frozen=True, slots=True)
class Asked:
    """What the checks look at.

    Args:
        model: who is asked.
        fields: of the request, by name; `None` is not sent.
        thinks: whether the model thinks.
        has_tools: tells whether there is anything to call.
    """

    model: ModelInfo
    fields: Mapping[str, Any]
    thinks: bool
    has_tools: Callable[[], bool]

    def __getitem__(self, name: str) -> Any:
        return self.fields.get(name)


def _sampling(asked: Asked) -> Iterator[str]:
    for name, only in (asked.model.sampling or {}).items():
        if name == "temperature" and not asked.thinks:
            only = TEMPERATURE_WITHOUT_THINKING
        if asked[name] is not None and asked[name] != only:
            yield f"{asked.model.name} takes {name}={only:g} only, not {asked[name]!r}; leave it out"


def _completion(asked: Asked) -> Iterator[str]:
    limit = asked["max_completion_tokens"]
    if limit is None:
        return
    if type(limit) is not int or limit < 1:
        yield f"max_completion_tokens is a whole number of tokens above 0, not {limit!r}"
    elif asked.model.max_completion is not None and limit > asked.model.max_completion:
        yield f"{asked.model.name} answers with {asked.model.max_completion:,} tokens at most, not {limit:,}"


def _thinking(asked: Asked) -> Iterator[str]:
    model, effort = asked.model, asked["reasoning_effort"]
    if not asked.thinks and model.thinking == "always":
        yield f"{model.name} always thinks; leave thinking out"
    if effort is not None and effort not in model.efforts:
        known = f"it has {', '.join(model.efforts)}" if model.efforts else "it has none"
        yield f"{model.name} has no reasoning_effort {effort!r}: {known}. Kimi.with_thinking finds what a model takes"


def _stop(asked: Asked) -> Iterator[str]:
    stop: Any = asked["stop"]
    words: Any = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in cast("list[Any]", words)):
        yield f"stop is a string or a list of strings, not {stop!r}"
    elif len(cast("list[str]", words)) > 5 or any(len(word.encode()) > 32 for word in cast("list[str]", words)):
        yield "Kimi takes five stop strings at most, of 32 bytes at most each"


def _tool_choice(asked: Asked) -> Iterator[str]:
    choice, allowed = asked["tool_choice"], asked.model.tool_choices
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        yield f"tool_choice is 'auto', 'none' or 'required', not {choice!r}"
    elif choice == "required" and not asked.has_tools():
        yield "tool_choice 'required' needs tools"
    elif choice is not None and asked.thinks and allowed is not None:
        what = choice if isinstance(choice, str) else "of one function"
        if what not in allowed:
            known = ", ".join(sorted(allowed))
            yield f"{asked.model.name} takes no tool_choice {what!r} while it thinks; it takes {known}"


_FORMATS: Final = ("text", "json_object", "json_schema")


def _response_format(asked: Asked) -> Iterator[str]:
    wanted: Any = asked["response_format"]
    if wanted is None:
        return
    kind = _mapping(wanted).get("type")
    if kind not in _FORMATS:
        yield f"response_format has a type of {', '.join(_FORMATS)}, not {kind!r}"
    elif kind == "json_schema":
        yield from _json_schema(_mapping(wanted).get("json_schema"))


def _json_schema(wanted: Any) -> Iterator[str]:
    if not isinstance(wanted, Mapping):
        yield "response_format of type json_schema needs a json_schema with a name and a schema"
        return
    described = _mapping(wanted)
    if not (isinstance(described.get("name"), str) and described["name"]):
        yield "response_format.json_schema needs a name"
    if not isinstance(described.get("schema"), Mapping):
        yield "response_format.json_schema needs a schema, which is an object"
    if not isinstance(described.get("strict", True), bool):
        yield "response_format.json_schema.strict is true or false"


FIELD_CHECKS: Final[tuple[Callable[[Asked], Iterator[str]], ...]] = (
    _sampling,
    _completion,
    _thinking,
    _stop,
    _tool_choice,
    _response_format,
)

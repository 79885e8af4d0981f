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
from ..history import is_begun
from ..message import Message
from ..prompt.tokens import prompt_cost
from ..tools.base import Tool, ToolsPart
from .models import TEMPERATURE_WITHOUT_THINKING, ModelInfo
from .wire import DECLARATION, Dialect, encode, joined, messages_json, tool_json

__all__ = ["ChatRequest", "merged", "renamed"]

MOST_TOOLS: Final = 128
LEAST_COMPLETION: Final = 1_024
"""Tokens. A prompt that leaves less is Kimi's to refuse: it counts exactly."""
MOST_TOKENS_PER_BYTE: Final = 2 / 3
"""More than prose, code and digits have; only rare scripts and noise have more."""
MARGIN: Final = 4
"""One part in this many of what is left stays free: the prompt is estimated."""


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
        if not (self.history or self.system_prompt):
            raise InvalidRequestError("a request needs a message")
        self._check(named, _thinks(merged(named, extra)))
        named["response_format"] = _in_mfjs(named.get("response_format"))
        if named.get("tool_choice") == "none" and not (self.tools or self._declared()):
            del named["tool_choice"]  # some servers take it beside tools only
        messages = messages_json(Dialect(self.reasoning_key, self.model.is_known), self.system_prompt, self.history)
        if not _LIMITS & (named.keys() | extra.keys()):
            named["max_completion_tokens"] = self._completion_limit(sum(map(len, messages)))
        head: dict[str, Any] = {"model": self.model.name, "stream": self.stream}
        if self.stream:
            head["stream_options"] = {"include_usage": True}
        body = joined(messages, self.tools, _given({**head, **merged(named, extra)}))
        self._check_tools(self._declared() if DECLARATION in body else [])
        self._check_sight(body)
        return body

    def _check_sight(self, body: bytes) -> None:
        seen = {b'"type":"image_url"': self.model.images, b'"type":"video_url"': self.model.videos}
        if any(sees is False and part in body for part, sees in seen.items()):
            raise InvalidRequestError(f"{self.model.name} sees no pictures and films; leave them out")

    def _check_tools(self, declared: Sequence[Tool]) -> None:
        if declared and self.model.dynamic_tools is False:
            raise InvalidRequestError(
                f"{self.model.name} knows no tools in system messages; give them as tools of the request"
            )
        names = Counter(tool.name for tool in (*self.tools, *declared))
        if (number := names.total()) > MOST_TOOLS:
            raise InvalidRequestError(f"Kimi takes {MOST_TOOLS} tools at most, and these are {number}; leave some out")
        if twice := sorted(name for name, times in names.items() if times > 1):
            raise FunctionSpecError(f"Kimi refuses two tools with one name: {', '.join(twice)}")

    def _check(self, named: dict[str, Any], thinks: bool) -> None:
        if not self.model.is_known:
            return
        begun = bool(self.history) and is_begun(self.history[-1])
        asked = Asked(self.model, named, thinks, begun, has_tools=lambda: bool(self.tools or self._declared()))
        for check in FIELD_CHECKS:
            for complaint in check(asked):
                raise InvalidRequestError(complaint)

    def _fields(self) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The fields that have a name, and those of `extra_body`."""
        named = renamed(self.asked)
        wanted: Any = named.pop("extra_body", None) or {}
        if not isinstance(wanted, Mapping):
            raise TypeError(f"extra_body is a mapping of fields, not {wanted!r}")
        extra = cast("Mapping[str, Any]", wanted)
        if taken := {"messages", "tools"} & extra.keys():
            raise TypeError(f"extra_body cannot replace {' and '.join(sorted(taken))} of the request")
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
        size += len(self.system_prompt) + sum(map(len, map(tool_json, self.tools)))
        if default is None or size * MOST_TOKENS_PER_BYTE <= window - default:
            return default
        system = [Message.system(self.system_prompt)] if self.system_prompt else []
        left = window - prompt_cost([*system, *self.history], self.tools)
        return max(min(default, left - left // MARGIN), LEAST_COMPLETION)


def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under today's names: `max_tokens` is an old one, which counts where it stands alone."""
    today = {name: value for name, value in fields.items() if name != "max_tokens"}
    if "max_tokens" in fields:
        today.setdefault("max_completion_tokens", fields["max_tokens"])
    return today


_LIMITS: Final = frozenset({"max_completion_tokens", "max_tokens"})


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


# ==== fields ====


@dataclass(frozen=True, slots=True)
class Asked:
    """What the checks look at.

    Args:
        model: who is asked.
        fields: of the request, by name; `None` is not sent.
        thinks: whether the model thinks.
        begun: whether the last message is the beginning of the answer.
        has_tools: tells whether there is anything to call.
    """

    model: ModelInfo
    fields: Mapping[str, Any]
    thinks: bool
    begun: bool
    has_tools: Callable[[], bool]

    def __getitem__(self, name: str) -> Any:
        return self.fields.get(name)


def _kinds(asked: Asked) -> Iterator[str]:
    for name, (kind, what) in _KINDS.items():
        value = asked[name]
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool)):
            yield f"{name} is {what}, not {value!r}"


_KINDS: Final[dict[str, tuple[Any, str]]] = {
    "max_completion_tokens": (int, "a whole number of tokens"),
    "stop": ((str, list, tuple), "a string or a list of strings"),
    "tool_choice": ((str, Mapping), "'auto', 'none', 'required' or an object that names a function"),
    "thinking": (Mapping, "an object with a type"),
    "prompt_cache_key": (str, "a string"),
    "safety_identifier": (str, "a string"),
    "logprobs": (bool, "true or false"),
    "top_logprobs": (int, "a whole number"),
    "prediction": (Mapping, "an object"),
}


def _sampling(asked: Asked) -> Iterator[str]:
    for name, only in (asked.model.sampling or {}).items():
        if name == "temperature" and not asked.thinks:
            only = TEMPERATURE_WITHOUT_THINKING
        value = asked[name]
        if value is not None and (value != only or isinstance(value, bool)):
            yield f"{asked.model.name} takes {name}={only:g} only, not {value!r}; leave it out"


def _lengths(asked: Asked) -> Iterator[str]:
    limit, likely, model = asked["max_completion_tokens"], asked["top_logprobs"], asked.model
    if limit is not None and limit < 1:
        yield f"max_completion_tokens is above 0, not {limit}"
    if limit is not None and model.max_completion is not None and limit > model.max_completion:
        yield f"{model.name} answers with {model.max_completion:,} tokens at most, not {limit:,}"
    if limit is not None and limit >= model.context_window:
        yield f"{model.name} has a window of {model.context_window:,} tokens for prompt and answer; ask for less"
    if likely is not None and not 0 <= likely <= 20:
        yield f"top_logprobs is 0 to 20, not {likely}"


def _thinking(asked: Asked) -> Iterator[str]:
    model, thinking, effort = asked.model, asked["thinking"], asked["reasoning_effort"]
    if not asked.thinks and model.thinking == "always":
        yield f"{model.name} always thinks; leave thinking out"
    if thinking is not None and thinking.get("type", "enabled") not in ("enabled", "disabled"):
        yield f"thinking.type is 'enabled' or 'disabled', not {thinking['type']!r}"
    if thinking is not None and asked.thinks and thinking.get("keep") not in (None, "all"):
        yield f"thinking.keep is None or 'all', not {thinking['keep']!r}"
    if effort is not None and effort not in model.efforts:
        known = f"it has {', '.join(model.efforts)}" if model.efforts else "it has none"
        yield f"{model.name} has no reasoning_effort {effort!r}: {known}. Kimi.with_thinking finds what a model takes"


def _stop(asked: Asked) -> Iterator[str]:
    stop: Any = asked["stop"]
    words: list[Any] = [stop] if isinstance(stop, str) else list(stop or ())
    if not all(isinstance(word, str) for word in words):
        yield f"stop is a string or a list of strings, not {stop!r}"
    elif len(words) > 5 or any(len(word.encode(errors="surrogatepass")) > 32 for word in words):
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
    elif kind == "json_object" and asked.begun:
        yield "response_format json_object does not go with the beginning of an answer (partial)"
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
    _kinds,
    _sampling,
    _lengths,
    _thinking,
    _stop,
    _tool_choice,
    _response_format,
)

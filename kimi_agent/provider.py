"""Who answers: the protocols that stand between an agent and a model."""

from __future__ import annotations

import reprlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypedDict, TypeGuard, runtime_checkable

from pydantic_core import to_json

from .events import RequestRetried, RequestSent, StreamFrame
from .message import Message, StreamedMessagePart, TokenUsage
from .tools.base import Tool

__all__ = ["ChatProvider", "Format", "GenerationKwargs", "Overrides", "StreamedMessage"]


class GenerationKwargs(TypedDict, total=False):
    """What a single request may ask for beyond its messages and tools. What is not given is not sent."""

    max_completion_tokens: int | None
    """The limit of the answer, reasoning included. `None` sends none, in place of the model's default."""
    max_tokens: int
    """The old name of `max_completion_tokens`, under which it is sent."""
    temperature: float
    """How much chance has a say in the choice of tokens. Since K2.5 Kimi has this and the next four fixed."""
    top_p: float
    """Tokens are chosen among the likeliest that have this probability together."""
    n: int
    """How many answers are made. The first one is read; all are paid for."""
    presence_penalty: float
    """From -2 to 2: how much less likely a token becomes when it has been said."""
    frequency_penalty: float
    """The same for each time that it has been said."""
    stop: str | Sequence[str]
    """Ends the answer where it would be said, and is not in it. Up to five texts of at most 32 bytes."""
    tool_choice: str | Mapping[str, Any]
    """Whether functions are called: `auto`, `none`, or `required`, which of Kimi's models the K3 family alone takes; an
    object that names one is for other servers."""
    response_format: Mapping[str, Any]
    """The form of the answer: `{"type": "json_object"}`, or of type `json_schema` and beside it a `json_schema` with a
    `name` and a `schema`, which becomes one of Kimi's dialect."""
    reasoning_effort: str
    """How long the K3 family thinks: `low`, `high` or `max`, which is the default."""
    thinking: Mapping[str, Any]
    """Whether Kimi K2.6 thinks: `{"type": "disabled"}`. `Kimi.with_thinking` knows what other models want."""
    prompt_cache_key: str | None
    """The same for all requests of a conversation, so that they find the same cache. An agent gives its own."""
    safety_identifier: str
    """Your name for the end user, hashed, such that Kimi knows them apart but not who they are."""
    logprobs: bool
    """Wanted for each token of the answer; `KimiStreamedMessage.logprobs` has them."""
    top_logprobs: int
    """How many of the likeliest tokens are told at each place of the answer: 0 to 20, beside `logprobs`."""
    prediction: Mapping[str, Any]
    """What the answer is likely to be, so that it comes faster: `{"type": "content", "content": ...}`."""
    extra_body: Mapping[str, Any]
    """More top-level fields of the request, for what has no name here. They are sent unchecked and have the last word;
    of `thinking`, field by field."""


@runtime_checkable
class Format(Protocol):
    """How an answer is to look: a `MarkdownFormat`, or one of your own."""

    @property
    def message(self) -> Message:
        """The instructions. They stand at the end of the prompt and are in nobody's history; always the same object."""
        ...


class Overrides(GenerationKwargs, total=False):
    """What one round may ask for: everything that a request may, and two things of its own."""

    include_functions: bool
    """Whether the functions are in the prompt."""
    format: Format | None
    """How the answers of the round are to look."""


def checked(overrides: Mapping[str, Any], kind: type[GenerationKwargs] = Overrides) -> dict[str, Any]:
    """The overrides, if a request knows them all.

    Raises:
        TypeError: naming those that it does not know, or what of them is no JSON, or no format.
    """
    known = kind.__required_keys__ | kind.__optional_keys__
    if unknown := overrides.keys() - known:
        raise TypeError(f"a request has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    if not isinstance(wanted := overrides.get("format"), Format | None):
        raise TypeError(f"format is a MarkdownFormat, or has a message as one, not {reprlib.repr(wanted)}")
    try:
        to_json({name: value for name, value in overrides.items() if name != "format"})
    except ValueError as error:
        raise TypeError(f"what a request asks for has to be JSON: {error}") from error
    return dict(overrides)


def names_in(*asked: Mapping[str, Any]) -> set[str]:
    """The fields that are given, by name or in `extra_body`."""
    return {name for fields in asked for name in (*fields, *(fields.get("extra_body") or ()))}


RequestEvent: TypeAlias = RequestSent | RequestRetried
OnEvent: TypeAlias = Callable[[RequestEvent], Awaitable[None] | None]


class PartStream(Protocol):
    """The least that an answer on its way is: its parts, and what is known of it at the end."""

    def __aiter__(self) -> AsyncIterator[StreamedMessagePart]: ...

    @property
    def id(self) -> str | None:
        """The provider's id of the answer, once known."""
        ...

    @property
    def usage(self) -> TokenUsage | None:
        """What it cost, known at the end."""
        ...


class Answerer(Protocol):
    """The least that a provider is: what `generate` and `step` need. Every `ChatProvider` is one."""

    async def generate(self, system_prompt: str, tools: Sequence[Tool], history: Sequence[Message]) -> PartStream:
        """Ask the model."""
        ...


@runtime_checkable
class StreamedMessage(Protocol):
    """An answer on its way. Iterating it gives its parts, once.

    A stream may also have `batches()`: an async iterator of lists of frames, one list per network read, the last frame
    of all an `End`. Whoever reads it that way pays for no part. Its `logprobs`, if it has any, come with the result; a
    true `may_be_empty` says that an answer of nothing is one.
    """

    def __aiter__(self) -> AsyncIterator[StreamedMessagePart]: ...

    @property
    def id(self) -> str | None:
        """The provider's id of the answer, once known."""
        ...

    @property
    def usage(self) -> TokenUsage | None:
        """What it cost, known at the end."""
        ...

    @property
    def trace_id(self) -> str | None:
        """The provider's id of the request."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, known at the end."""
        ...

    async def aclose(self) -> None:
        """Let go of the connection. Closing twice, or after the end, does nothing."""
        ...


@runtime_checkable
class BatchedMessage(Protocol):
    """A `StreamedMessage` that can hand over its frames by the network read."""

    def batches(self) -> AsyncIterator[list[StreamFrame]]:
        """One list of frames per network read; the last frame of all is an `End`."""
        ...


def has_batches(stream: object) -> TypeGuard[BatchedMessage]:
    """Whether the stream is a `BatchedMessage` itself, and does not only pass on what it has no attribute for."""
    return hasattr(type(stream), "batches")


@runtime_checkable
class ChatProvider(Protocol):
    """Something that answers a conversation: `Kimi`, or a double of `kimi_agent.testing`.

    A provider may also have `generation_kwargs`: what it sends with each request. An agent does not replace those.
    """

    @property
    def name(self) -> str:
        """Of the provider, such as `kimi`."""
        ...

    @property
    def model_name(self) -> str:
        """Of the model, such as `kimi-k3`."""
        ...

    @property
    def context_window(self) -> int:
        """How many tokens prompt and completion may have together."""
        ...

    async def generate(
        self,
        system_prompt: str,
        tools: Sequence[Tool],
        history: Sequence[Message],
        *,
        generation_overrides: GenerationKwargs | None = None,
        on_event: OnEvent | None = None,
    ) -> StreamedMessage:
        """Ask the model. Returns when it begins to answer.

        Args:
            system_prompt: goes before the history; `""` for none.
            tools: what the model may call.
            history: the messages; they are not changed.
            generation_overrides: for this request only.
            on_event: gets `RequestSent` and `RequestRetried`, and is awaited if it is async.

        Raises:
            ChatProviderError: the model could not be asked.
        """
        ...


class Batches:
    """Iterates what `next_batch` gives, until that is `None`.

    An object and not a generator: dropping it half-way leaves nothing to clean up.
    """

    def __init__(self, next_batch: Callable[[], Awaitable[list[StreamFrame] | None]]) -> None:
        self._next_batch = next_batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[StreamFrame]:
        frames = await self._next_batch()
        if frames is None:
            raise StopAsyncIteration
        return frames

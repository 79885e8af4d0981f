"""Spans and metrics of OpenTelemetry, out of the events of an agent.

They need the extra: `pip install 'kimi_agent[otel]'`.

    invoke_agent {agent}            a round
    ├── chat {model}                an answer of the model
    └── execute_tool {function}     a call
        └── invoke_agent {function} the round of the sub-agent that answers it

Names and attributes are those of the semantic conventions for generative AI in version 1.41.0, the last one that was
published as such: https://github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-spans.md, and
beside it gen-ai-agent-spans.md and gen-ai-metrics.md. All of them have the status "development": they may change.

A span ends with what it stands for, however that ends, and at the latest with the span above it: an agent has an end of
each round, also of one that nobody goes on with. Only the span of a call is made current, in the task of the call and
while the function runs; all others have their parents by name. So nothing has to be detached where it was not attached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakSet

from loguru import logger

from . import __version__
from .agent import Agent
from .errors import text_of
from .events import (
    Event,
    HistoryCompacted,
    RequestRetried,
    RequestSent,
    RoundFinished,
    RoundStarted,
    StreamCancelled,
    StreamCompleted,
    StreamFailed,
    StreamFrameReceived,
    StreamStarted,
    ToolCallFinished,
)
from .message import Message, TokenUsage, ToolCall
from .provider import ChatProvider
from .turns import marks_here

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "kimi_agent.otel needs the extra: pip install 'kimi_agent[otel]'", name=error.name
    ) from error

__all__ = ["instrument"]

SCHEMA: Final = "https://opentelemetry.io/schemas/1.41.0"

Attributes: TypeAlias = dict[str, str | bool | int | float | Sequence[str]]

_PROVIDERS: Final = {"kimi": "moonshot_ai"}
"""What the conventions call a provider. All others go by their own name."""

_UNKNOWN: Final = "_unknown"
"""The name of a function that does not exist."""

_SECONDS: Final = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS: Final = [4.0**power for power in range(14)]
"""The bounds of the buckets, as the conventions have them."""


def instrument(
    agent: Agent,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    content: bool = False,
) -> Callable[[], None]:
    """Trace an agent from now on, and the sub-agents that answer its calls.

    Who traces it for the same providers already is replaced. For other providers it is traced besides, by itself.

    Args:
        agent: which one. A fork or a copy is another agent: it is traced if it is instrumented itself.
        tracer_provider: takes the spans; else the global one.
        meter_provider: takes the metrics; else the global one.
        content: whether spans tell what was said: prompts, answers, arguments, results, and the texts of errors.

    Returns:
        A function that ends it, and all spans that are open. Twice is once; if it was replaced, nothing happens.
    """
    telemetry = _Telemetry.of(_Providers(tracer_provider, meter_provider), content=content)
    for observer in agent._handlers._observers:
        if isinstance(observer, _Tracing) and observer.is_for(telemetry.providers):
            observer.end()
    return _Tracing(telemetry, agent, type(agent).__name__).end


# ==== where it goes ====


class _Providers(NamedTuple):
    """Who takes spans and figures; `None` is the global one."""

    traces: trace.TracerProvider | None
    measures: metrics.MeterProvider | None

    def named(self) -> tuple[trace.TracerProvider, metrics.MeterProvider]:
        """The same, with the global ones as they are by now."""
        return (
            trace.get_tracer_provider() if self.traces is None else self.traces,
            metrics.get_meter_provider() if self.measures is None else self.measures,
        )


@dataclass(frozen=True, slots=True)
class _Telemetry:
    """Where spans and figures go, and whether they tell what was said."""

    providers: _Providers
    tracer: trace.Tracer
    tokens: metrics.Histogram
    duration: metrics.Histogram
    first_chunk: metrics.Histogram
    content: bool

    @classmethod
    def of(cls, providers: _Providers, *, content: bool) -> _Telemetry:
        meter = metrics.get_meter("kimi_agent", __version__, providers.measures, SCHEMA)

        def histogram(name: str, unit: str, description: str, bounds: Sequence[float]) -> metrics.Histogram:
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)

        return cls(
            providers,
            trace.get_tracer("kimi_agent", __version__, providers.traces, SCHEMA),
            histogram("gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", _TOKENS),
            histogram("gen_ai.client.operation.duration", "s", "GenAI operation duration.", _SECONDS),
            histogram("gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.", _SECONDS),
            content,
        )


# ==== spans that are open ====


class _Ending(NamedTuple):
    """How something ended."""

    outcome: str
    error_type: str | None = None
    """What went wrong."""
    error: str = ""
    """The same in words, which may be somebody's."""

    @classmethod
    def by(cls, error: BaseException) -> _Ending:
        """Of what ended with an error: whoever is cancelled has not failed."""
        return cls("failed", type(error).__name__, text_of(error)) if isinstance(error, Exception) else _CANCELLED


_COMPLETED: Final = _Ending("completed")
_CANCELLED: Final = _Ending("cancelled")


@contextmanager
def _whatever_happens(doing: str) -> Generator[None]:
    """What is raised within is logged: a processor or an exporter of somebody must not keep other spans open."""
    try:
        yield
    except Exception as error:
        logger.opt(exception=error).error("tracing raised, {}", doing)


class _OpenSpan:
    """A span until it ends, which it does once. None of its methods raises."""

    def __init__(self, telemetry: _Telemetry, span: trace.Span) -> None:
        self.telemetry, self.span = telemetry, span
        self.ended = False
        self._began = monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return monotonic() - self._began

    def add(self, attributes: Attributes) -> None:
        """Give it more attributes."""
        with _whatever_happens("giving a span attributes"):
            self.span.set_attributes(attributes)

    def happened(self, name: str, attributes: Attributes) -> None:
        """Give it an event."""
        with _whatever_happens(f"giving a span the event {name}"):
            self.span.add_event(name, attributes)

    def tell(self, name: str, text: Callable[[], str]) -> None:
        """Say what was said, if that is wanted, and anybody reads it."""
        with _whatever_happens(f"giving a span {name}"):
            if self.telemetry.content and self.span.is_recording():
                self.span.set_attribute(name, text().encode(errors="replace").decode())

    def end(self, ending: _Ending) -> None:
        """End it. Twice is once."""
        if self.ended:
            return
        self.ended = True
        self.add(_outcome(ending))
        with _whatever_happens("giving a span its status"):
            if ending.error_type is not None:
                self.span.set_status(trace.StatusCode.ERROR, ending.error if self.telemetry.content else None)
        with _whatever_happens("ending a span"):
            self.span.end()


class _AnswerSpan(_OpenSpan):
    """The span of an answer, and its figures.

    Args:
        telemetry: who takes them.
        span: its own.
        asked: who was asked, as attributes of the figures.
        streamed: whether the answer comes in pieces.
    """

    def __init__(self, telemetry: _Telemetry, span: trace.Span, asked: Attributes, *, streamed: bool) -> None:
        super().__init__(telemetry, span)
        self.begun = False
        """Whether anything of it has come."""
        self._asked_for = False
        self._asked, self._streamed = asked, streamed

    def sent(self, body: str) -> None:
        """A request went out for it, or another one: when it broke off and is continued, say."""
        if self._asked_for:
            self.happened("kimi_agent.asked_again", {})
        else:
            self._asked_for = True
            self.tell("gen_ai.input.messages", lambda: _as_json(map(_message, _messages_in(body))))

    def begins(self) -> None:
        """The first of it has come."""
        self.begun = True
        if self._streamed:
            seconds = self.seconds
            self.add({"gen_ai.response.time_to_first_chunk": seconds})
            self._record(self.telemetry.first_chunk, seconds)

    def retried(self, event: RequestRetried) -> None:
        """A request for it failed and is made again."""
        known = {"error.type": event.error_type, "http.response.status_code": event.status_code}
        told = {"attempt": event.attempt, "delay": event.delay}
        attributes = {**known, **{f"kimi_agent.retry.{name}": value for name, value in told.items()}}
        self.happened("kimi_agent.retry", {name: value for name, value in attributes.items() if value is not None})

    def completed(self, event: StreamCompleted) -> None:
        """It is whole."""
        if event.id is not None:
            self.add({"gen_ai.response.id": event.id})
        _tell_result(self, event)
        if event.usage is not None:
            self.add(_spent(event.usage))
            for kind, tokens in (("input", event.usage.input), ("output", event.usage.output)):
                self._record(self.telemetry.tokens, tokens, {"gen_ai.token.type": kind})
        self.end(_COMPLETED)

    def end(self, ending: _Ending) -> None:
        """End it, and say how long it took."""
        if not self.ended:
            self._record(self.telemetry.duration, self.seconds, _outcome(ending))
        super().end(ending)

    def _record(self, histogram: metrics.Histogram, value: float, more: Attributes | None = None) -> None:
        with _whatever_happens("counting"):
            histogram.record(value, {**self._asked, **(more or {})}, context=_within(self.span))


class _RoundSpan(_OpenSpan):
    """The span of a round, and what its answers come to."""

    def __init__(self, telemetry: _Telemetry, span: trace.Span) -> None:
        super().__init__(telemetry, span)
        self.answer: _AnswerSpan | None = None
        """The one that is on its way, or was the last."""
        self._usage: TokenUsage | None = None
        self._last: StreamCompleted | None = None

    @property
    def waits_for_answer(self) -> bool:
        """Whether a model was asked and nothing has come of its answer."""
        return self.answer is not None and not (self.answer.begun or self.answer.ended)

    def answered(self, event: StreamCompleted) -> None:
        """An answer is whole."""
        self._last = event
        if event.usage is not None:
            self._usage = event.usage if self._usage is None else self._usage + event.usage

    def end(self, ending: _Ending) -> None:
        """End it, with the answer that is on its way."""
        if self.answer is not None:
            self.answer.end(_CANCELLED)
        if not self.ended and self._last is not None:
            _tell_result(self, self._last)
        if not self.ended and self._usage is not None:
            self.add(_spent(self._usage))
        super().end(ending)


class _CallSpan(_OpenSpan):
    """The span of a call. `round` is that of the round that it belongs to, if it does."""

    def __init__(self, telemetry: _Telemetry, span: trace.Span, call: ToolCall, round_: _RoundSpan | None) -> None:
        super().__init__(telemetry, span)
        self.call, self.round = call, round_
        self.has_returned = False
        """Whether its function has, so that only its result has to find its place."""
        self.tell("gen_ai.tool.call.arguments", lambda: call.arguments)

    def finished(self, event: ToolCallFinished) -> None:
        """It has its result."""
        self.tell("gen_ai.tool.call.result", lambda: event.message.text)
        if event.message.is_tool_call_error:
            self.end(_Ending("failed", event.error_type or "ToolError", event.message.text))
        else:
            self.end(_COMPLETED)


# ==== an agent ====


class _InsideOfCall(NamedTuple):
    """For the code that runs inside of a traced call."""

    providers: _Providers
    span: trace.Span
    marks: tuple[object, ...]
    """Of the rounds that the call is inside of."""


_calls_here: Final[ContextVar[tuple[_InsideOfCall, ...]]] = ContextVar("kimi_agent_otel", default=())
"""The traced calls that this code runs inside of, the innermost last. Only the span of that one is the current one."""


class _Tracing:
    """Sees an agent at work, as an `Observer`, and opens and ends spans.

    Args:
        telemetry: who takes them.
        agent: that is seen.
        name: that it goes by.
    """

    def __init__(self, telemetry: _Telemetry, agent: Agent, name: str) -> None:
        self._telemetry, self._agent, self._name = telemetry, agent, name
        self._rounds: dict[object, _RoundSpan] = {}
        """Those that are open, by the marks of their turns. The end of one may be told after the next has begun."""
        self._calls: dict[int, list[_CallSpan]] = {}
        """Those that are open, by the identity of the call. The calls of a message may be one object."""
        self._below: WeakSet[_Tracing] = WeakSet()
        self._unobserve = agent._handlers.observe(self)

    def is_for(self, providers: _Providers) -> bool:
        """Whether these providers take what it sees."""
        return self._telemetry.providers.named() == providers.named()

    def end(self) -> None:
        """See no more, and end what is open."""
        self._unobserve()
        for below in self._below:
            below.end()
        for mark in tuple(self._rounds):
            self._end_round(self._rounds.pop(mark), RoundFinished("closed"))
        for call in self._open_calls():
            self._end_call(call, _CANCELLED)

    # ---- what an observer does ----

    def hears(self, event_type: type[Event]) -> bool:
        """Of frames, the first one of an answer."""
        if event_type is StreamFrameReceived:
            return any(round_.waits_for_answer for round_ in self._rounds.values())
        return event_type in _TOLD

    def told(self, event: Event) -> None:
        """An event happened."""
        if (tell := _TOLD.get(type(event))) is not None:
            tell(self, event)

    @contextmanager
    def around(self, call: ToolCall) -> Generator[None]:
        """The span of a call is the current one while its function runs."""
        opened = self._begin_call(call)
        inside = _InsideOfCall(self._telemetry.providers, opened.span, marks_here())
        here = _calls_here.set((*_calls_here.get(), inside))
        attached = contexts.attach(_within(opened.span))
        try:
            yield
            opened.has_returned = True
        except BaseException as error:
            self._end_call(opened, _Ending.by(error))
            raise
        finally:
            with suppress(ValueError):  # a task that is torn down with its loop leaves in another context
                _calls_here.reset(here)
                contexts.detach(attached)

    def follow(self, agent: Any, call: ToolCall) -> None:
        """A sub-agent goes by the name of the function that it is."""
        self._below.add(_Tracing(self._telemetry, agent, call.name))

    # ---- rounds ----

    def _round_started(self, event: RoundStarted) -> None:
        attributes = {"gen_ai.agent.name": self._name, **self._asks(self._agent.provider.model_name)}
        span = self._start("invoke_agent", self._name, attributes, None)
        self._rounds[marks_here()[-1]] = round_ = _RoundSpan(self._telemetry, span)
        if (query := event.query) is not None:
            round_.tell("gen_ai.input.messages", lambda: _as_json([_message(_fields(query))]))

    def _round_finished(self, event: RoundFinished) -> None:
        if (round_ := self._rounds.pop(_innermost_mark(), None)) is not None:
            self._end_round(round_, event)

    def _end_round(self, round_: _RoundSpan, event: RoundFinished) -> None:
        for call in self._open_calls():
            if call.round is round_:
                self._end_call(call, _COMPLETED if call.has_returned else _CANCELLED)
        round_.end(_Ending(event.outcome, event.error_type))

    def _round_here(self) -> _RoundSpan | None:
        """The round in which something happens. That of another one, which this one has ended, is none of its own."""
        return self._rounds.get(_innermost_mark())

    def _round_around(self) -> _RoundSpan | None:
        """The round that this code runs inside of, maybe with rounds of other agents in between."""
        return next((self._rounds[mark] for mark in reversed(marks_here()) if mark in self._rounds), None)

    def _compacted(self, event: HistoryCompacted) -> None:
        if (round_ := self._round_here()) is not None:
            round_.happened("kimi_agent.history_compacted", _compaction(event))

    # ---- answers ----

    def _answer_started(self, event: StreamStarted) -> None:
        if (round_ := self._round_here()) is None:
            return
        provider = self._agent.provider
        asked: Attributes = {"gen_ai.operation.name": "chat", **self._asks(event.model), **_server(provider)}
        streamed = bool(getattr(provider, "stream", True))
        more: Attributes = {**asked, **({"gen_ai.request.stream": True} if streamed else {})}
        span = self._start("chat", event.model, more, round_, trace.SpanKind.CLIENT)
        round_.answer = _AnswerSpan(self._telemetry, span, asked, streamed=streamed)

    def _answer_here(self) -> _AnswerSpan | None:
        """The answer that is on its way."""
        round_ = self._round_here()
        return None if round_ is None or round_.answer is None or round_.answer.ended else round_.answer

    def _request_sent(self, event: RequestSent) -> None:
        if (answer := self._answer_here()) is not None:
            answer.sent(event.body)

    def _request_retried(self, event: RequestRetried) -> None:
        if (answer := self._answer_here()) is not None:
            answer.retried(event)

    def _frame_received(self, event: StreamFrameReceived) -> None:
        if (answer := self._answer_here()) is not None and not answer.begun:
            answer.begins()

    def _answer_completed(self, event: StreamCompleted) -> None:
        if (answer := self._answer_here()) is not None and (round_ := self._round_here()) is not None:
            round_.answered(event)
            answer.completed(event)

    def _answer_failed(self, event: StreamFailed) -> None:
        if (answer := self._answer_here()) is not None:
            answer.end(_Ending("failed", event.error_type, event.error))

    def _answer_cancelled(self, event: StreamCancelled) -> None:
        if (answer := self._answer_here()) is not None:
            answer.end(_CANCELLED)

    # ---- calls ----

    def _begin_call(self, call: ToolCall) -> _CallSpan:
        round_, inside = self._round_around(), self._call_here()
        parent = None if inside is not None and inside.marks == marks_here() else round_
        name, known = self._identity(call)
        opened = _CallSpan(self._telemetry, self._start("execute_tool", name, known, parent), call, round_)
        self._calls.setdefault(id(call), []).append(opened)
        return opened

    def _call_here(self) -> _InsideOfCall | None:
        """The innermost call that this code runs inside of, of those that are seen for the same providers."""
        return next((call for call in reversed(_calls_here.get()) if self.is_for(call.providers)), None)

    def _identity(self, call: ToolCall) -> tuple[str, Attributes]:
        """The name of the function, if there is one, and what is known of the call.

        What else a model may have written as a name is something that was said. An id often has it, too.
        """
        kind: Attributes = {"gen_ai.tool.type": "function"}
        if self._telemetry.content or call.name in self._agent.functions:
            return call.name, {"gen_ai.tool.name": call.name, "gen_ai.tool.call.id": call.id, **kind}
        return _UNKNOWN, {"gen_ai.tool.name": _UNKNOWN, **kind}

    def _call_finished(self, event: ToolCallFinished) -> None:
        if (opened := next(iter(self._calls.get(id(event.call), ())), None)) is not None:
            self._forget(opened)
            opened.finished(event)

    def _end_call(self, opened: _CallSpan, ending: _Ending) -> None:
        self._forget(opened)
        opened.end(ending)

    def _open_calls(self) -> list[_CallSpan]:
        return [call for calls in self._calls.values() for call in calls]

    def _forget(self, opened: _CallSpan) -> None:
        calls = [call for call in self._calls.pop(id(opened.call), ()) if call is not opened]
        if calls:
            self._calls[id(opened.call)] = calls

    # ---- spans ----

    def _start(
        self,
        operation: str,
        name: str,
        attributes: Attributes,
        parent: _OpenSpan | None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    ) -> trace.Span:
        """A span below another one, else below the current one. If it cannot begin, that one itself, to no effect."""
        context = self._around() if parent is None else _within(parent.span)
        with _whatever_happens(f"beginning a span of {operation}"):
            known: Attributes = {"gen_ai.operation.name": operation, **attributes, **_conversation(self._agent)}
            return self._telemetry.tracer.start_span(f"{operation} {name}", context, kind, known)
        return trace.NonRecordingSpan(trace.get_current_span(context).get_span_context())

    def _around(self) -> contexts.Context | None:
        """Where a span without a parent stands, if that is not the current one: it may be that of another provider."""
        calls = _calls_here.get()
        if not calls or self.is_for(calls[-1].providers) or (call := self._call_here()) is None:
            return None
        return _within(call.span)

    def _asks(self, model: str) -> Attributes:
        """Who is asked."""
        name = self._agent.provider.name
        return {"gen_ai.provider.name": _PROVIDERS.get(name, name), "gen_ai.request.model": model}


_TOLD: Final[dict[type[Any], Callable[[_Tracing, Any], None]]] = {
    HistoryCompacted: _Tracing._compacted,
    RequestRetried: _Tracing._request_retried,
    RequestSent: _Tracing._request_sent,
    RoundFinished: _Tracing._round_finished,
    RoundStarted: _Tracing._round_started,
    StreamCancelled: _Tracing._answer_cancelled,
    StreamCompleted: _Tracing._answer_completed,
    StreamFailed: _Tracing._answer_failed,
    StreamFrameReceived: _Tracing._frame_received,
    StreamStarted: _Tracing._answer_started,
    ToolCallFinished: _Tracing._call_finished,
}
"""What is done when an event is told."""


def _innermost_mark() -> object:
    """Of the turn in which an event happens."""
    return next(reversed(marks_here()), None)


# ==== attributes ====


def _within(span: trace.Span) -> contexts.Context:
    return trace.set_span_in_context(span)


def _outcome(ending: _Ending) -> Attributes:
    known = {"kimi_agent.outcome": ending.outcome, "error.type": ending.error_type}
    return {name: value for name, value in known.items() if value is not None}


def _conversation(agent: Agent) -> Attributes:
    """By which name its session is known: the id in a store, or the name of the file."""
    session = agent._keeper._session
    name = getattr(session, "id", None) or os.path.basename(str(getattr(session, "path", None) or ""))
    return {"gen_ai.conversation.id": str(name)} if name else {}


def _server(provider: ChatProvider) -> Attributes:
    """Where a provider is, if that is anywhere."""
    with suppress(Exception):  # half an address, a port that is none, whatever a provider of somebody's does
        url = urlsplit(str(getattr(provider, "base_url", None) or ""))
        port = url.port or (80 if url.scheme == "http" else 443)
        return {"server.address": url.hostname, "server.port": port} if url.hostname else {}
    return {}


def _spent(usage: TokenUsage) -> Attributes:
    spent = {
        "gen_ai.usage.input_tokens": usage.input,
        "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.input_cache_read,
    }
    told_by_some = {
        "gen_ai.usage.cache_creation.input_tokens": usage.input_cache_creation,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
    }
    return {**spent, **{name: tokens for name, tokens in told_by_some.items() if tokens}}


def _compaction(event: HistoryCompacted) -> Attributes:
    told = ("messages_before", "messages_after", "tokens_before", "tokens_after", "by")
    return {f"kimi_agent.compaction.{name}": getattr(event, name) for name in told}


def _tell_result(opened: _OpenSpan, event: StreamCompleted) -> None:
    """What came of an answer, or of a round that ends with it."""
    if event.finish_reason is not None:
        opened.add({"gen_ai.response.finish_reasons": (event.finish_reason,)})
    said = {"finish_reason": event.finish_reason or ""}
    opened.tell("gen_ai.output.messages", lambda: _as_json([{**_message(_fields(event.message)), **said}]))


# ==== what was said ====


def _as_json(messages: Iterable[Any]) -> str:
    return json.dumps(list(messages), ensure_ascii=False)


def _fields(message: Message) -> Mapping[str, Any]:
    return message.model_dump(mode="json")


def _messages_in(body: str) -> list[Any]:
    """The messages of a request, or the text that is to be continued."""
    request = json.loads(body)
    return request.get("messages") or [{"role": "user", "content": request.get("prompt")}]


def _message(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a request, or one as it is saved, as the conventions have it."""
    content = fields.get("content") or ()
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if fields["role"] == "tool":
        response = {"type": "tool_call_response", "id": fields.get("tool_call_id"), "response": _response(parts)}
        return {"role": "tool", "parts": [response]}
    reasoning = fields.get("reasoning_content") or fields.get("reasoning") or ""
    thought = [{"type": "think", "think": reasoning}] if reasoning.strip() else []
    calls = map(_call_part, fields.get("tool_calls") or ())
    return {"role": fields["role"], "parts": [*map(_part, (*thought, *parts)), *calls]}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A piece of a message. The bytes of pictures are left out."""
    kind = str(part.get("type"))
    if kind in _TEXTS:
        return {"type": _TEXTS[kind], "content": part[kind]}
    if kind.endswith("_url"):
        url = str(part[kind]["url"])
        shown = f"{url.partition(',')[0]},..." if url.startswith("data:") else url
        return {"type": "uri", "modality": kind.removesuffix("_url"), "uri": shown}
    return {"type": kind}


_TEXTS: Final = {"text": "text", "think": "reasoning"}


def _response(parts: Sequence[Mapping[str, Any]]) -> Any:
    """What a call gave: its text, if it gave nothing else."""
    if all(part.get("type") == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return list(map(_part, parts))


def _call_part(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments: Any = function.get("arguments")
    with suppress(ValueError, TypeError):
        arguments = json.loads(arguments)
    return {"type": "tool_call", "id": call.get("id"), "name": function["name"], "arguments": arguments}

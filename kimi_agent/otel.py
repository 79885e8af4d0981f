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
from typing import Any, Final, TypeAlias
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

    Args:
        agent: which one. A fork is another agent: it is traced if it is instrumented itself.
        tracer_provider: takes the spans; else the global one.
        meter_provider: takes the metrics; else the global one.
        content: whether spans tell what was said: prompts, answers, arguments, results, and the texts of errors.

    Returns:
        A function that ends it, and all spans that are open. Twice is once.
    """
    telemetry = _Telemetry.of(tracer_provider, meter_provider, content=content)
    return _Tracing(telemetry, agent, type(agent).__name__).end


# ==== where it goes ====


@dataclass(frozen=True, slots=True)
class _Telemetry:
    """Who takes spans and figures, and whether they tell what was said."""

    tracer: trace.Tracer
    tokens: metrics.Histogram
    duration: metrics.Histogram
    first_chunk: metrics.Histogram
    content: bool

    @classmethod
    def of(
        cls, traces: trace.TracerProvider | None, measures: metrics.MeterProvider | None, *, content: bool
    ) -> _Telemetry:
        meter = metrics.get_meter("kimi_agent", __version__, measures, SCHEMA)

        def histogram(name: str, unit: str, description: str, bounds: Sequence[float]) -> metrics.Histogram:
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)

        return cls(
            trace.get_tracer("kimi_agent", __version__, traces, SCHEMA),
            histogram("gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", _TOKENS),
            histogram("gen_ai.client.operation.duration", "s", "GenAI operation duration.", _SECONDS),
            histogram("gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.", _SECONDS),
            content,
        )


# ==== spans that are open ====


class _Open:
    """A span until it ends, which it does once."""

    def __init__(self, telemetry: _Telemetry, span: trace.Span) -> None:
        self.telemetry, self.span = telemetry, span
        self.ended = False
        self._began = monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return monotonic() - self._began

    def tell(self, name: str, text: Callable[[], str]) -> None:
        """Say what was said, if that is wanted, and anybody reads it."""
        if self.telemetry.content and self.span.is_recording():
            self.span.set_attribute(name, text().encode(errors="replace").decode())

    def end(self, outcome: str, error_type: str | None = None, error: str = "") -> None:
        """End it. Twice is once.

        Args:
            outcome: how it ended.
            error_type: what went wrong.
            error: the same in words, which may be somebody's.
        """
        if self.ended:
            return
        self.ended = True
        self.span.set_attribute("kimi_agent.outcome", outcome)
        if error_type is not None:
            self.span.set_attribute("error.type", error_type)
            self.span.set_status(trace.StatusCode.ERROR, error if self.telemetry.content else None)
        self.span.end()


class _Answer(_Open):
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
        self._asked, self._streamed = asked, streamed

    def sent(self, body: str) -> None:
        """A request went out for it."""
        self.tell("gen_ai.input.messages", lambda: _as_json(map(_message, _messages_in(body))))

    def begins(self) -> None:
        """The first of it has come."""
        self.begun = True
        if self._streamed:
            self.span.set_attribute("gen_ai.response.time_to_first_chunk", seconds := self.seconds)
            self._record(self.telemetry.first_chunk, seconds)

    def retried(self, event: RequestRetried) -> None:
        """A request for it failed and is made again."""
        known = {"error.type": event.error_type, "http.response.status_code": event.status_code}
        told = {"attempt": event.attempt, "delay": event.delay}
        attributes = {**known, **{f"kimi_agent.retry.{name}": value for name, value in told.items()}}
        self.span.add_event(
            "kimi_agent.retry", {name: value for name, value in attributes.items() if value is not None}
        )

    def completed(self, event: StreamCompleted) -> None:
        """It is whole."""
        if event.id is not None:
            self.span.set_attribute("gen_ai.response.id", event.id)
        _tell_result(self, event)
        if event.usage is not None:
            self.span.set_attributes(_spent(event.usage))
            for kind, tokens in (("input", event.usage.input), ("output", event.usage.output)):
                self._record(self.telemetry.tokens, tokens, {"gen_ai.token.type": kind})
        self.end("completed")

    def end(self, outcome: str, error_type: str | None = None, error: str = "") -> None:
        """End it, and say how long it took."""
        if not self.ended:
            how = {"kimi_agent.outcome": outcome, **({} if error_type is None else {"error.type": error_type})}
            self._record(self.telemetry.duration, self.seconds, how)
        super().end(outcome, error_type, error)

    def _record(self, histogram: metrics.Histogram, value: float, more: Mapping[str, str] | None = None) -> None:
        histogram.record(value, {**self._asked, **(more or {})}, context=_within(self.span))


class _Round(_Open):
    """The span of a round, and what its answers come to."""

    def __init__(self, telemetry: _Telemetry, span: trace.Span) -> None:
        super().__init__(telemetry, span)
        self.answer: _Answer | None = None
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

    def end(self, outcome: str, error_type: str | None = None, error: str = "") -> None:
        """End it, with the answer that is on its way."""
        if self.answer is not None:
            self.answer.end("cancelled")
        if not self.ended and self._last is not None:
            _tell_result(self, self._last)
        if not self.ended and self._usage is not None:
            self.span.set_attributes(_spent(self._usage))
        super().end(outcome, error_type, error)


class _Call(_Open):
    """The span of a call. `round` is the one that it belongs to, if it does."""

    def __init__(self, telemetry: _Telemetry, span: trace.Span, call: ToolCall, round_: _Round | None) -> None:
        super().__init__(telemetry, span)
        self.call, self.round = call, round_
        self.tell("gen_ai.tool.call.arguments", lambda: call.arguments)

    def finished(self, event: ToolCallFinished) -> None:
        """It has its result."""
        self.tell("gen_ai.tool.call.result", lambda: event.message.text)
        if event.message.is_tool_call_error:
            self.end("failed", event.error_type or "ToolError", event.message.text)
        else:
            self.end("completed")


# ==== an agent ====

_calls_here: Final[ContextVar[tuple[object, ...] | None]] = ContextVar("kimi_agent_otel", default=None)
"""The rounds that a traced call is inside of, for the code that runs inside of the call."""


class _Tracing:
    """Sees an agent at work, as an `Observer`, and opens and ends spans.

    Args:
        telemetry: who takes them.
        agent: that is seen.
        name: that it goes by.
    """

    def __init__(self, telemetry: _Telemetry, agent: Agent, name: str) -> None:
        self._telemetry, self._agent, self._name = telemetry, agent, name
        self._rounds: dict[object, _Round] = {}
        """Those that are open, by the marks of their turns. The end of one may be told after the next has begun."""
        self._calls: dict[int, list[_Call]] = {}
        """Those that are open, by the identity of the call. The calls of a message may be one object."""
        self._below: WeakSet[_Tracing] = WeakSet()
        self._unobserve = agent._handlers.observe(self)

    def end(self) -> None:
        """See no more, and end what is open."""
        self._unobserve()
        for below in self._below:
            below.end()
        for mark in tuple(self._rounds):
            self._end_round(self._rounds.pop(mark), RoundFinished("closed"))
        for call in self._open_calls():
            self._end_call(call, "cancelled")

    # ---- what an observer does ----

    def hears(self, event_type: type[Event]) -> bool:
        """Of frames, the first one of an answer; of requests, what was said in them."""
        if event_type is StreamFrameReceived:
            return any(round_.waits_for_answer for round_ in self._rounds.values())
        return event_type in _TOLD and (event_type is not RequestSent or self._telemetry.content)

    def told(self, event: Event) -> None:
        """An event happened."""
        if (tell := _TOLD.get(type(event))) is not None:
            tell(self, event)

    @contextmanager
    def around(self, call: ToolCall) -> Generator[None]:
        """The span of a call is the current one while its function runs."""
        opened = self._begin_call(call)
        here = _calls_here.set(marks_here())
        attached = contexts.attach(_within(opened.span))
        try:
            yield
        except BaseException as error:
            with logger.catch(Exception, message="the span of a call could not be ended"):
                self._end_call(opened, *_end_by(error))
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
        self._rounds[marks_here()[-1]] = round_ = _Round(self._telemetry, span)
        if (query := event.query) is not None:
            round_.tell("gen_ai.input.messages", lambda: _as_json([_message(_fields(query))]))

    def _round_finished(self, event: RoundFinished) -> None:
        mark = next((mark for mark in marks_here() if mark in self._rounds), None)
        if (round_ := self._rounds.pop(mark, None)) is not None:
            self._end_round(round_, event)

    def _end_round(self, round_: _Round, event: RoundFinished) -> None:
        for call in self._open_calls():
            if call.round is round_:
                self._end_call(call, "cancelled")
        round_.end(event.outcome, event.error_type)

    def _round_here(self) -> _Round | None:
        """The round that this code runs inside of."""
        return next((self._rounds[mark] for mark in marks_here() if mark in self._rounds), None)

    def _compacted(self, event: HistoryCompacted) -> None:
        if (round_ := self._round_here()) is not None:
            round_.span.add_event("kimi_agent.history_compacted", _compaction(event))

    # ---- answers ----

    def _answer_started(self, event: StreamStarted) -> None:
        if (round_ := self._round_here()) is None:
            return
        provider = self._agent.provider
        asked: Attributes = {"gen_ai.operation.name": "chat", **self._asks(event.model), **_server(provider)}
        streamed = bool(getattr(provider, "stream", True))
        more: Attributes = {**asked, **({"gen_ai.request.stream": True} if streamed else {})}
        span = self._start("chat", event.model, more, round_, trace.SpanKind.CLIENT)
        round_.answer = _Answer(self._telemetry, span, asked, streamed=streamed)

    def _answer_here(self) -> _Answer | None:
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
            answer.end("failed", event.error_type, event.error)

    def _answer_cancelled(self, event: StreamCancelled) -> None:
        if (answer := self._answer_here()) is not None:
            answer.end("cancelled")

    # ---- calls ----

    def _begin_call(self, call: ToolCall) -> _Call:
        round_ = self._round_here()
        inside_of_another = _calls_here.get() == marks_here()
        attributes: Attributes = {
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.call.id": call.id,
            "gen_ai.tool.type": "function",
        }
        span = self._start("execute_tool", call.name, attributes, None if inside_of_another else round_)
        opened = _Call(self._telemetry, span, call, round_)
        self._calls.setdefault(id(call), []).append(opened)
        return opened

    def _call_finished(self, event: ToolCallFinished) -> None:
        for opened in self._calls.get(id(event.call), ())[:1]:
            self._forget(opened)
            opened.finished(event)

    def _end_call(self, opened: _Call, outcome: str, error_type: str | None = None, error: str = "") -> None:
        self._forget(opened)
        opened.end(outcome, error_type, error)

    def _open_calls(self) -> list[_Call]:
        return [call for calls in self._calls.values() for call in calls]

    def _forget(self, opened: _Call) -> None:
        calls = [call for call in self._calls.pop(id(opened.call), ()) if call is not opened]
        if calls:
            self._calls[id(opened.call)] = calls

    # ---- spans ----

    def _start(
        self,
        operation: str,
        name: str,
        attributes: Attributes,
        parent: _Open | None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    ) -> trace.Span:
        """A span below another one, else below the current one."""
        context = None if parent is None else _within(parent.span)
        known: Attributes = {"gen_ai.operation.name": operation, **attributes, **_conversation(self._agent)}
        return self._telemetry.tracer.start_span(f"{operation} {name}", context, kind, known)

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


# ==== attributes ====


def _within(span: trace.Span) -> contexts.Context:
    return trace.set_span_in_context(span)


def _end_by(error: BaseException) -> tuple[str, str | None, str]:
    """How something ended that ended with an error: whoever is cancelled has not failed."""
    return ("failed", type(error).__name__, text_of(error)) if isinstance(error, Exception) else ("cancelled", None, "")


def _conversation(agent: Agent) -> Attributes:
    """By which name its session is known: the id in a store, or the name of the file."""
    session = agent._keeper._session
    name = getattr(session, "id", None) or os.path.basename(str(getattr(session, "path", None) or ""))
    return {"gen_ai.conversation.id": str(name)} if name else {}


def _server(provider: ChatProvider) -> Attributes:
    """Where a provider is, if that is anywhere."""
    with suppress(ValueError):  # half an address, a port that is none
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


def _tell_result(opened: _Open, event: StreamCompleted) -> None:
    """What came of an answer, or of a round that ends with it."""
    if event.finish_reason is not None:
        opened.span.set_attribute("gen_ai.response.finish_reasons", (event.finish_reason,))
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
    calls = map(_call, fields.get("tool_calls") or ())
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


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments: Any = function.get("arguments")
    with suppress(ValueError, TypeError):
        arguments = json.loads(arguments)
    return {"type": "tool_call", "id": call.get("id"), "name": function["name"], "arguments": arguments}

"""Spans and metrics of an agent: what they tell, what they keep to themselves, and that each of them ends."""

import asyncio
import contextvars
import copy
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from pydantic import BaseModel
from rounds import read, turns_of_the_loop

from kimi_agent import (
    Agent,
    Approval,
    ApprovalPending,
    GenerateResult,
    ImageURLPart,
    JournalSession,
    Kimi,
    Message,
    RoundFinished,
    ServerError,
    SessionError,
    SQLiteSessionStore,
    StreamCancelled,
    StreamFrameReceived,
    StreamInterruptedError,
    TextPart,
    TokenUsage,
    ToolError,
    ToolResult,
    ToolReturnValue,
    UsageLimitExceeded,
    UsageLimits,
    ai_function,
)
from kimi_agent.message import MediaURL
from kimi_agent.otel import instrument
from kimi_agent.testing import Call, Delivery, Failure, Gate, KimiServer, Reply, ScriptedKimi, call, say

USAGE = TokenUsage(input_other=1_000, output=100, input_cache_read=9_000)


class Starts(SpanProcessor):
    """Remembers the spans that have begun, in their order."""

    def __init__(self) -> None:
        self.begun: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.begun.append(span)


class Telemetry:
    """Takes spans and metrics into memory."""

    def __init__(self, **options: Any) -> None:
        self.traces = TracerProvider(shutdown_on_exit=False, **options)
        self.exporter, self.starts = InMemorySpanExporter(), Starts()
        self.traces.add_span_processor(self.starts)
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.measures = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.traces.get_tracer("of the tests")

    def trace(self, agent: Agent, *, content: bool = False) -> Callable[[], None]:
        return instrument(agent, tracer_provider=self.traces, meter_provider=self.measures, content=content)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in the order in which they began."""
        place = {span.context.span_id: place for place, span in enumerate(self.starts.begun)}
        return sorted(self.exporter.get_finished_spans(), key=lambda span: place[span.context.span_id])

    @property
    def tree(self) -> list[str]:
        """The names of the spans, indented as they are below each other."""
        spans = self.spans
        depth: dict[int | None, int] = {None: -1}
        for span in spans:
            depth[span.context.span_id] = depth.get(above(span), -1) + 1
        return ["  " * depth[span.context.span_id] + span.name for span in spans]

    @property
    def open(self) -> list[str]:
        return [span.name for span in self.starts.begun if span.end_time is None]

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def outcomes(self) -> list[tuple[str, Any, Any]]:
        told = ("kimi_agent.outcome", "error.type")
        return [(span.name, *(attributes(span).get(name) for name in told)) for span in self.spans]

    def figures(self, name: str) -> list[tuple[dict[str, Any], int, float]]:
        """The points of a metric: attributes, number and sum."""
        data = self.reader.get_metrics_data()
        metrics = [
            metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
        ]
        return [
            (dict(point.attributes), point.count, point.sum)
            for metric in metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def check(self) -> None:
        """Every span has ended, once, and inside of the one above it."""
        assert self.open == []
        spans = {span.context.span_id: span for span in self.spans}
        assert len(spans) == len(self.exporter.get_finished_spans()) == len(self.starts.begun)
        for span in spans.values():
            if (parent := spans.get(above(span) or 0)) is not None:
                assert parent.start_time <= span.start_time
                assert span.end_time <= parent.end_time, f"{span.name} ends after {parent.name}"


def above(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


class Busy(Agent):
    """Functions that do well, badly, and nothing for a long time."""

    reached: asyncio.Event
    tracer: Any = None

    @ai_function()
    async def quick(self) -> str:
        return "quick"

    @ai_function()
    async def wait(self) -> str:
        self.reached.set()
        await asyncio.Event().wait()
        return "waited"

    @ai_function()
    def wrong(self) -> str:
        raise ValueError("a secret of the function")

    @ai_function()
    async def refused(self) -> ToolReturnValue:
        return ToolError(message="a secret of the tool", brief="no")

    @ai_function(timeout=0.01)
    async def slow(self) -> None:
        await asyncio.Event().wait()

    @ai_function(approval=True)
    async def remove(self) -> str:
        return "gone"

    @ai_function()
    async def traced(self) -> str:
        with self.tracer.start_as_current_span("inside"):
            await asyncio.sleep(0)
        return "traced"

    @ai_function()
    def blocking(self) -> str:
        with self.tracer.start_as_current_span("in a thread"):
            return "traced"

    @ai_function()
    async def calling(self) -> str:
        return await self.call_tool_raw("traced")


def busy(telemetry: Telemetry, *script: Any, content: bool = False, **options: Any) -> Busy:
    agent = Busy(ScriptedKimi(script), **options)
    agent.reached, agent.tracer = asyncio.Event(), telemetry.tracer
    telemetry.trace(agent, content=content)
    return agent


def calling(*names: str, **more: Any) -> Reply:
    return Reply(tool_calls=[call(name) for name in names], **more)


# ==== what is told ====


async def test_a_round_is_a_span_with_its_answers_and_calls_below_it(telemetry: Telemetry):
    await read(busy(telemetry, calling("quick", "wrong"), say("done")))
    assert telemetry.tree == [
        "invoke_agent Busy",
        "  chat kimi-k3",
        "  execute_tool quick",
        "  execute_tool wrong",
        "  chat kimi-k3",
    ]
    assert [span.kind.name for span in telemetry.spans] == ["INTERNAL", "CLIENT", "INTERNAL", "INTERNAL", "CLIENT"]
    telemetry.check()


async def test_a_round_sums_up_its_answers(telemetry: Telemetry):
    await read(busy(telemetry, calling("quick", usage=USAGE), Reply("done", usage=USAGE)))
    assert attributes(telemetry.named("invoke_agent Busy")) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "Busy",
        "gen_ai.provider.name": "moonshot_ai",
        "gen_ai.request.model": "kimi-k3",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 20_000,
        "gen_ai.usage.cache_read.input_tokens": 18_000,
        "gen_ai.usage.output_tokens": 200,
        "kimi_agent.outcome": "completed",
    }


async def test_an_answer_tells_who_was_asked_what_it_cost_and_when_it_began(telemetry: Telemetry):
    async with KimiServer([Reply("done", reasoning="hm", usage=USAGE)]) as server:
        agent = Agent(Kimi(api_key=server.api_key, base_url=server.base_url))
        telemetry.trace(agent)
        async with agent:
            completion = await agent.chat_round_stream("?").completion()
        port = int(server.base_url.rpartition(":")[2].partition("/")[0])
    told = attributes(telemetry.named("chat kimi-k3"))
    first = told.pop("gen_ai.response.time_to_first_chunk")
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "moonshot_ai",
        "gen_ai.request.model": "kimi-k3",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": completion.id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10_000,
        "gen_ai.usage.cache_read.input_tokens": 9_000,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "server.address": "127.0.0.1",
        "server.port": port,
        "kimi_agent.outcome": "completed",
    }
    span = telemetry.named("chat kimi-k3")
    assert 0 < first < (span.end_time - span.start_time) / 1e9 + 0.001


async def test_a_call_tells_which_function_it_called(telemetry: Telemetry):
    await read(busy(telemetry, calling("quick"), say("done")))
    assert attributes(telemetry.named("execute_tool quick")) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "quick",
        "gen_ai.tool.call.id": "quick_0",
        "gen_ai.tool.type": "function",
        "kimi_agent.outcome": "completed",
    }


async def test_metrics_count_tokens_and_seconds_by_model(telemetry: Telemetry):
    await read(busy(telemetry, calling("quick", usage=USAGE), Reply("done", usage=USAGE)))
    asked = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "moonshot_ai",
        "gen_ai.request.model": "kimi-k3",
    }
    assert telemetry.figures("gen_ai.client.token.usage") == [
        ({**asked, "gen_ai.token.type": "input"}, 2, 20_000),
        ({**asked, "gen_ai.token.type": "output"}, 2, 200),
    ]
    ((kind, number, seconds),) = telemetry.figures("gen_ai.client.operation.duration")
    assert (kind, number) == ({**asked, "kimi_agent.outcome": "completed"}, 2)
    ((kind, number, first),) = telemetry.figures("gen_ai.client.operation.time_to_first_chunk")
    assert (kind, number) == (asked, 2)
    assert 0 < first <= seconds


async def test_an_answer_that_does_not_come_in_pieces_has_no_first_one(telemetry: Telemetry):
    async with KimiServer([say("done")]) as server:
        agent = Agent(Kimi(api_key=server.api_key, base_url=server.base_url, stream=False))
        telemetry.trace(agent)
        async with agent:
            await agent.chat_round("?")
    told = attributes(telemetry.named("chat kimi-k3"))
    assert told.keys() & {"gen_ai.request.stream", "gen_ai.response.time_to_first_chunk"} == set()
    assert telemetry.figures("gen_ai.client.operation.time_to_first_chunk") == []


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://example.org/v1", ("example.org", 443)),
        ("http://[::1]:81", ("::1", 81)),
        ("http://example.org:port", (None, None)),
        ("http://[", (None, None)),
        (None, (None, None)),
    ],
)
async def test_a_provider_of_ones_own_goes_by_its_name(url: Any, server: Any, telemetry: Telemetry):
    provider: Any = ScriptedKimi([say("done")])
    provider.name, provider.base_url = "my-models", url
    agent = Agent(provider)
    telemetry.trace(agent)
    await agent.chat_round("?")
    told = attributes(telemetry.named("chat kimi-k3"))
    assert told["gen_ai.provider.name"] == "my-models"
    assert (told.get("server.address"), told.get("server.port")) == server


@pytest.mark.parametrize("kind", ["store", "journal"])
async def test_a_conversation_goes_by_the_name_of_its_session(kind: str, telemetry: Telemetry, tmp_path: Path):
    path = tmp_path / "monday.jsonl"
    session = JournalSession(path) if kind == "journal" else SQLiteSessionStore(tmp_path / "db").open("monday")
    agent = busy(telemetry, calling("quick"), say("done"), session=session)
    async with agent:
        await read(agent)
    name = "monday.jsonl" if kind == "journal" else "monday"
    assert {attributes(span).get("gen_ai.conversation.id") for span in telemetry.spans} == {name}


class Newest:
    """Keeps the newest message only."""

    async def compact(self, history: Any, task: Any) -> Any:
        return history[-1:]


async def test_a_compaction_is_an_event_of_its_round(telemetry: Telemetry):
    said = [Message.user("why " * 2_000), Message.assistant("because")] * 2
    agent = Agent(ScriptedKimi([say("done")], context_window=4_000), chat_history=said, compaction=Newest())
    telemetry.trace(agent)
    await read(agent)
    (event,) = telemetry.named("invoke_agent Agent").events
    told = dict(event.attributes or {})
    tokens = told.pop("kimi_agent.compaction.tokens_before"), told.pop("kimi_agent.compaction.tokens_after")
    assert tokens[0] > 4_000 > tokens[1]
    assert event.name == "kimi_agent.history_compacted"
    assert told == {
        "kimi_agent.compaction.messages_before": 5,
        "kimi_agent.compaction.messages_after": 1,
        "kimi_agent.compaction.by": ("Newest",),
    }


async def test_a_request_that_is_made_again_is_an_event_of_its_answer(telemetry: Telemetry):
    async with KimiServer([Failure(429, "rate_limit_reached_error", "secret", retry_after=0), say("done")]) as server:
        agent = Agent(Kimi(api_key=server.api_key, base_url=server.base_url))
        telemetry.trace(agent)
        async with agent:
            await agent.chat_round("?")
    chat = telemetry.named("chat kimi-k3")
    (event,) = chat.events
    told = dict(event.attributes or {})
    assert told.pop("kimi_agent.retry.delay") >= 0
    assert (event.name, told) == (
        "kimi_agent.retry",
        {"error.type": "RateLimitError", "http.response.status_code": 429, "kimi_agent.retry.attempt": 1},
    )
    assert attributes(chat)["kimi_agent.outcome"] == "completed"


@pytest.mark.parametrize("method", ["chat_round", "chat_round_str", "chat_round_stream"])
async def test_a_question_with_one_answer_is_a_round_too(method: str, telemetry: Telemetry):
    await getattr(busy(telemetry, say("done")), method)("?")
    assert telemetry.tree == ["invoke_agent Busy", "  chat kimi-k3"]
    telemetry.check()


@pytest.mark.parametrize("method", ["full_round", "full_round_str", "full_round_stream", "full_round_frames"])
async def test_a_round_is_the_same_however_it_is_read(method: str, telemetry: Telemetry):
    await read(busy(telemetry, calling("quick"), say("done")), method)
    assert telemetry.tree == ["invoke_agent Busy", "  chat kimi-k3", "  execute_tool quick", "  chat kimi-k3"]
    assert {outcome for _, outcome, _ in telemetry.outcomes()} == {"completed"}
    telemetry.check()


class City(BaseModel):
    name: str


async def test_an_answer_of_a_type_is_one_round_with_its_repairs(telemetry: Telemetry):
    agent = busy(telemetry, say("Oslo"), say('{"name": "Oslo"}'))
    assert await agent.structured(City, "Where?") == City(name="Oslo")
    assert telemetry.tree == ["invoke_agent Busy", "  chat kimi-k3", "  chat kimi-k3"]
    assert {outcome for _, outcome, _ in telemetry.outcomes()} == {"completed"}
    telemetry.check()


# ==== where it stands ====


async def test_a_round_stands_below_the_span_of_who_asks(telemetry: Telemetry):
    agent = busy(telemetry, calling("quick"), say("done"))
    with telemetry.tracer.start_as_current_span("request"):
        await read(agent)
        assert trace.get_current_span().name == "request"  # type: ignore[attr-defined]
    assert telemetry.tree[:3] == ["request", "  invoke_agent Busy", "    chat kimi-k3"]
    telemetry.check()


async def test_the_spans_of_a_function_stand_below_its_call(telemetry: Telemetry):
    agent = busy(telemetry, calling("traced", "blocking", "calling"), say("done"))
    await read(agent)
    assert sorted(telemetry.tree) == sorted(
        [
            "invoke_agent Busy",
            "  chat kimi-k3",
            "  execute_tool traced",
            "    inside",
            "  execute_tool blocking",
            "    in a thread",
            "  execute_tool calling",
            "    execute_tool traced",
            "      inside",
            "  chat kimi-k3",
        ]
    )
    assert not trace.get_current_span().get_span_context().is_valid
    telemetry.check()


async def test_calls_side_by_side_are_side_by_side(telemetry: Telemetry):
    both = asyncio.Barrier(2)
    current: list[str] = []

    async def meet() -> None:
        await both.wait()
        current.append(trace.get_current_span().name)  # type: ignore[attr-defined]
        await both.wait()

    async def greet() -> None:
        await meet()

    agent = Agent(ScriptedKimi([calling("meet", "greet"), say("done")]), functions=[meet, greet])
    telemetry.trace(agent)
    await read(agent)
    first, second = telemetry.named("execute_tool meet"), telemetry.named("execute_tool greet")
    assert above(first) == above(second) == telemetry.named("invoke_agent Agent").context.span_id
    assert max(first.start_time, second.start_time) < min(first.end_time, second.end_time)
    assert sorted(current) == ["execute_tool greet", "execute_tool meet"]
    telemetry.check()


async def test_a_sub_agent_stands_below_the_call_that_it_answers(telemetry: Telemetry):
    scout = Busy(ScriptedKimi([calling("traced"), say("seen")]))
    scout.tracer = telemetry.tracer
    guide = Agent(ScriptedKimi([call("scout", query="?"), say("asked")]), functions=[scout.as_tool("scout", "Looks.")])
    boss = Agent(ScriptedKimi([call("guide", query="?"), say("done")]), functions=[guide.as_tool("guide", "Asks.")])
    telemetry.trace(boss)
    await read(boss)
    assert telemetry.tree == [
        "invoke_agent Agent",
        "  chat kimi-k3",
        "  execute_tool guide",
        "    invoke_agent guide",
        "      chat kimi-k3",
        "      execute_tool scout",
        "        invoke_agent scout",
        "          chat kimi-k3",
        "          execute_tool traced",
        "            inside",
        "          chat kimi-k3",
        "      chat kimi-k3",
        "  chat kimi-k3",
    ]
    telemetry.check()


async def test_two_agents_at_once_do_not_meet(telemetry: Telemetry):
    class Other(Busy):
        pass

    agents = [kind(ScriptedKimi([calling("traced"), say("done")])) for kind in (Busy, Other)]
    for agent in agents:
        agent.tracer = telemetry.tracer
        telemetry.trace(agent)
    await asyncio.gather(*map(read, agents))
    telemetry.check()
    of_traces = {span.context.trace_id: [] for span in telemetry.spans}
    for span in telemetry.spans:
        of_traces[span.context.trace_id].append(span.name)
    below = ["chat kimi-k3", "execute_tool traced", "inside", "chat kimi-k3"]
    assert list(of_traces.values()) == [["invoke_agent Busy", *below], ["invoke_agent Other", *below]]


async def test_calls_of_the_program_stand_below_its_own_span(telemetry: Telemetry):
    agent = busy(telemetry)
    await agent.call_tool("traced")
    with telemetry.tracer.start_as_current_span("program"):
        async for _ in agent.map_tool("quick", [None, None]):
            pass
    assert telemetry.tree == [
        "execute_tool traced",
        "  inside",
        "program",
        "  execute_tool quick",
        "  execute_tool quick",
    ]
    telemetry.check()


async def test_a_call_of_a_hook_stands_below_the_round(telemetry: Telemetry):
    class Looking(Busy):
        async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
            await self.call_tool("quick")
            return await super().get_prompt(include_functions, **overrides)

    agent = Looking(ScriptedKimi([say("done")]))
    telemetry.trace(agent)
    await read(agent)
    assert telemetry.tree == ["invoke_agent Looking", "  chat kimi-k3", "  execute_tool quick"]


async def test_the_calls_of_a_message_may_be_one_object(telemetry: Telemetry):
    class Twice(Busy):
        async def add_completion_to_history(self, completion: Any) -> Message:
            message = await super().add_completion_to_history(completion)
            return message.copy_with(tool_calls=list(message.tool_calls or ()) * 2)

    first_is_told, calls = asyncio.Event(), list[None]()

    async def look() -> None:
        calls.append(None)
        if len(calls) == 2:
            await first_is_told.wait()
        while len(calls) < 2:
            await asyncio.sleep(0)

    agent = Twice(ScriptedKimi([calling("look"), say("done")]), functions=[look])
    telemetry.trace(agent)
    async for message in agent.full_round("go"):
        if message.role == "tool" and not first_is_told.is_set():
            assert telemetry.open == ["invoke_agent Twice", "execute_tool look"]
            first_is_told.set()
    assert telemetry.outcomes()[2:4] == [("execute_tool look", "completed", None)] * 2
    telemetry.check()


# ==== what goes wrong ====


@pytest.mark.parametrize(
    ("name", "error_type"),
    [
        ("wrong", "ValueError"),
        ("refused", "ToolError"),
        ("slow", "FunctionTimeout"),
        ("_unknown", "NoSuchFunction"),
    ],
)
async def test_a_call_that_goes_wrong_names_the_error(name: str, error_type: str, telemetry: Telemetry):
    await read(busy(telemetry, calling(name), say("done")))
    span = telemetry.named(f"execute_tool {name}")
    assert (attributes(span)["kimi_agent.outcome"], attributes(span)["error.type"]) == ("failed", error_type)
    assert (span.status.status_code.name, span.status.description) == ("ERROR", None)
    assert telemetry.outcomes()[0] == ("invoke_agent Busy", "completed", None)
    telemetry.check()


async def test_an_answer_that_breaks_off_ends_its_round(telemetry: Telemetry):
    broken = Reply("a long answer that breaks off", delivery=Delivery(stop_after=600))
    with pytest.raises(StreamInterruptedError):
        await read(busy(telemetry, calling("quick"), broken))
    assert telemetry.outcomes() == [
        ("invoke_agent Busy", "failed", "StreamInterruptedError"),
        ("chat kimi-k3", "completed", None),
        ("execute_tool quick", "completed", None),
        ("chat kimi-k3", "failed", "StreamInterruptedError"),
    ]
    kinds = [kind for kind, *_ in telemetry.figures("gen_ai.client.operation.duration")]
    assert [kind.get("error.type") for kind in kinds] == [None, "StreamInterruptedError"]
    telemetry.check()


class Hooked(Agent):
    """Something happens between an answer and its place in the history."""

    telemetry: Telemetry
    reached: asyncio.Event
    happens: Callable[[], Any]

    async def add_completion_to_history(self, completion: GenerateResult) -> Message:
        assert self.telemetry.open == ["invoke_agent Hooked"]
        self.reached.set()
        await self.happens()
        return await super().add_completion_to_history(completion)


async def breaking() -> None:
    raise SessionError("the disk is full")


@pytest.mark.parametrize(
    ("happens", "outcome"), [(breaking, ("failed", "SessionError")), (asyncio.Event().wait, ("closed", None))]
)
async def test_an_answer_that_came_whole_is_paid_for_whatever_becomes_of_it(
    happens: Any, outcome: Any, telemetry: Telemetry
):
    agent = Hooked(ScriptedKimi([Reply("done", usage=USAGE)]))
    agent.telemetry, agent.reached, agent.happens = telemetry, asyncio.Event(), happens
    telemetry.trace(agent)
    asking = asyncio.create_task(agent.chat_round("go"))
    await agent.reached.wait()
    await turns_of_the_loop(5)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert telemetry.outcomes() == [("invoke_agent Hooked", *outcome), ("chat kimi-k3", "completed", None)]
    for span in telemetry.spans:
        assert attributes(span)["gen_ai.usage.input_tokens"] == USAGE.input == agent.usage.input
        assert attributes(span)["gen_ai.response.finish_reasons"] == ("stop",)
    assert sum(spent for _, _, spent in telemetry.figures("gen_ai.client.token.usage")) == USAGE.total
    telemetry.check()


async def test_an_answer_that_is_continued_says_so_and_tells_what_was_asked_at_first(telemetry: Telemetry):
    cut = Reply("Bergen is", chunk_size=9, delivery=Delivery(finish=False, done=False))
    agent = busy(telemetry, cut, say(" warmer."), content=True, resume_interrupted=True)
    assert (await agent.chat_round("Which is warmer?")).text == "Bergen is warmer."
    span = telemetry.named("chat kimi-k3")
    assert [event.name for event in span.events] == ["kimi_agent.asked_again"]
    asked = json.loads(attributes(span)["gen_ai.input.messages"])
    assert [message["role"] for message in asked] == ["user"]
    telemetry.check()


async def test_a_call_whose_function_has_returned_is_complete_when_its_round_is_cancelled(telemetry: Telemetry):
    class Careful(Busy):
        async def add_to_history(self, message: Message) -> None:
            await super().add_to_history(message)
            if message.role == "tool":
                self.reached.set()
                await asyncio.Event().wait()

    agent = Careful(ScriptedKimi([calling("quick")]))
    agent.reached = asyncio.Event()
    telemetry.trace(agent)
    asking = asyncio.create_task(read(agent))
    await agent.reached.wait()
    asking.cancel()
    await asyncio.wait([asking])
    assert [message.text for message in agent.chat_history if message.role == "tool"] == ["quick"]
    assert telemetry.outcomes()[-1] == ("execute_tool quick", "completed", None)
    telemetry.check()


async def test_a_model_that_refuses_ends_the_round(telemetry: Telemetry):
    with pytest.raises(ServerError):
        await busy(telemetry, Failure(500, "server_error", "no")).chat_round("?")
    assert telemetry.outcomes() == [
        ("invoke_agent Busy", "failed", "ServerError"),
        ("chat kimi-k3", "failed", "ServerError"),
    ]
    assert "gen_ai.response.time_to_first_chunk" not in attributes(telemetry.named("chat kimi-k3"))
    telemetry.check()


async def test_a_round_that_is_beyond_a_limit_asks_nobody(telemetry: Telemetry):
    agent = busy(telemetry, calling("quick"), limits=UsageLimits(requests=1))
    with pytest.raises(UsageLimitExceeded):
        await read(agent)
    assert telemetry.outcomes() == [
        ("invoke_agent Busy", "failed", "UsageLimitExceeded"),
        ("chat kimi-k3", "completed", None),
        ("execute_tool quick", "completed", None),
    ]
    telemetry.check()


async def test_a_sub_agent_that_fails_is_a_call_that_went_wrong(telemetry: Telemetry):
    scout = Agent(ScriptedKimi([Failure(500)]))
    boss = Agent(ScriptedKimi([call("scout", query="?"), say("done")]), functions=[scout.as_tool("scout", "Looks.")])
    telemetry.trace(boss)
    await read(boss)
    assert telemetry.outcomes()[2:5] == [
        ("execute_tool scout", "failed", "SubAgentError"),
        ("invoke_agent scout", "failed", "ServerError"),
        ("chat kimi-k3", "failed", "ServerError"),
    ]
    telemetry.check()


async def test_a_round_that_waits_for_approval_ends_and_another_one_goes_on(telemetry: Telemetry):
    agent = busy(telemetry, calling("remove", "quick"), say("done"))
    with pytest.raises(ApprovalPending):
        await read(agent)
    telemetry.check()
    async for _ in agent.resume([Approval.approve(agent.waiting_calls[0])]):
        pass
    assert telemetry.outcomes() == [
        ("invoke_agent Busy", "waiting", None),
        ("chat kimi-k3", "completed", None),
        ("execute_tool quick", "completed", None),
        ("invoke_agent Busy", "completed", None),
        ("execute_tool remove", "completed", None),
        ("chat kimi-k3", "completed", None),
    ]
    assert telemetry.tree[3:] == ["invoke_agent Busy", "  execute_tool remove", "  chat kimi-k3"]
    assert all(span.status.is_unset for span in telemetry.spans)
    telemetry.check()


# ==== who walks away ====

LONG = "an answer in quite a few pieces, so that somebody may leave in the middle"
FRAMES = 30
"""More than a round of `script_of_frames` has."""


def script_of_frames() -> list[Any]:
    return [calling("quick", "traced", text=LONG, reasoning="hm"), say(LONG)]


async def leave_by_break(agent: Agent, frames: int) -> None:
    async for _ in agent.full_round_frames("go"):
        if not (frames := frames - 1):
            break


async def leave_by_closing(agent: Agent, frames: int) -> None:
    async with agent.full_round_frames("go") as round_:
        async for _ in round_:
            if not (frames := frames - 1):
                break


async def leave_by_raising(agent: Agent, frames: int) -> None:
    with suppress(ZeroDivisionError):
        await leave_by_break_and_raise(agent, frames)


async def leave_by_break_and_raise(agent: Agent, frames: int) -> None:
    async for _ in agent.full_round_frames("go"):
        if not (frames := frames - 1):
            raise ZeroDivisionError


LEAVES = [leave_by_break, leave_by_closing, leave_by_raising]


@pytest.mark.parametrize("leave", LEAVES)
async def test_whoever_leaves_at_any_frame_leaves_no_span_open(leave: Callable[..., Any]):
    seen: set[Any] = set()
    for frames in range(1, FRAMES + 1):
        telemetry = Telemetry()
        agent = busy(telemetry, *script_of_frames())
        await leave(agent, frames)
        gc.collect(1)
        await turns_of_the_loop(3)
        telemetry.check()
        assert telemetry.tree[0] == "invoke_agent Busy"
        seen |= {(name, outcome) for name, outcome, _ in telemetry.outcomes()}
    assert {("invoke_agent Busy", "closed"), ("chat kimi-k3", "cancelled"), ("chat kimi-k3", "completed")} <= seen
    assert ("invoke_agent Busy", "completed") in seen
    assert "failed" not in {outcome for _, outcome in seen}


@pytest.mark.parametrize("method", ["full_round_frames", "chat_round_stream"])
async def test_a_round_that_is_cancelled_anywhere_leaves_no_span_open(method: str):
    async def reads(agent: Agent) -> None:
        round_ = getattr(agent, method)("go")
        async for _ in round_ if method == "full_round_frames" else round_.frames():
            await asyncio.sleep(0)

    outcomes: set[Any] = set()
    for steps in range(1, 60):
        telemetry = Telemetry()
        agent = busy(telemetry, *(script_of_frames() if method == "full_round_frames" else [say(LONG)]))
        task = asyncio.create_task(reads(agent))
        await turns_of_the_loop(steps)
        task.cancel()
        await asyncio.wait([task])
        del task
        await turns_of_the_loop(5)
        telemetry.check()
        outcomes |= {outcome for name, outcome, _ in telemetry.outcomes() if name == "invoke_agent Busy"}
    assert outcomes == {"closed", "completed"}


async def test_a_call_that_is_cancelled_ends_with_its_round(telemetry: Telemetry):
    agent = busy(telemetry, calling("wait"))
    task = asyncio.create_task(read(agent))
    await agent.reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert telemetry.outcomes() == [
        ("invoke_agent Busy", "closed", None),
        ("chat kimi-k3", "completed", None),
        ("execute_tool wait", "cancelled", None),
    ]
    assert all(span.status.is_unset for span in telemetry.spans)
    telemetry.check()


async def test_a_call_of_the_program_that_is_given_up_ends_and_nothing_stays_current(telemetry: Telemetry):
    agent = busy(telemetry)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await agent.call_tool("wait")
    assert not trace.get_current_span().get_span_context().is_valid
    assert telemetry.outcomes() == [("execute_tool wait", "cancelled", None)]
    telemetry.check()


async def test_a_call_that_does_not_end_when_it_is_cancelled_ends_with_its_round(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kimi_agent.tools.running.CANCEL_GRACE", 0.01)
    let_go, reached = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        reached.set()
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    agent = Agent(ScriptedKimi([calling("stubborn")]), functions=[stubborn])
    telemetry.trace(agent)
    task = asyncio.create_task(read(agent))
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    ended_with_the_round = telemetry.outcomes()
    let_go.set()
    await turns_of_the_loop(5)
    assert ended_with_the_round[2:] == [("execute_tool stubborn", "cancelled", None)]
    telemetry.check()


async def test_the_next_round_may_begin_before_the_end_of_the_last_one_is_told(telemetry: Telemetry):
    agent = busy(telemetry, calling("quick"), calling("quick"), say("done"))
    await leave_by_break(agent, 1)
    assert telemetry.open == ["invoke_agent Busy", "chat kimi-k3"]
    await read(agent)
    await turns_of_the_loop(3)
    rounds = [(name, outcome) for name, outcome, _ in telemetry.outcomes() if name.startswith("invoke")]
    assert rounds == [("invoke_agent Busy", "closed"), ("invoke_agent Busy", "completed")]
    assert telemetry.tree.count("  execute_tool quick") == 1
    assert telemetry.open == []


async def test_the_end_of_a_round_is_that_of_no_other_one(telemetry: Telemetry):
    agent = busy(telemetry, calling("quick"), say("done"))
    told = agent._handlers.emit_later
    held: list[Any] = []
    agent._handlers.emit_later = lambda event: held.append((contextvars.copy_context(), event))  # type: ignore[method-assign]
    await leave_by_break(agent, 1)
    await agent.chat_round("?")
    for context, event in held:
        context.run(told, event)
    await turns_of_the_loop(3)
    rounds = [(name, outcome) for name, outcome, _ in telemetry.outcomes() if name.startswith("invoke")]
    assert rounds == [("invoke_agent Busy", "closed"), ("invoke_agent Busy", "completed")]


async def test_a_round_that_ends_as_its_task_does_while_another_one_waits_ends_its_own_span(telemetry: Telemetry):
    agent, rounds = busy(telemetry, calling("quick"), calling("quick"), say("done")), list[Any]()
    left = asyncio.Event()

    async def leaves() -> None:
        rounds.append(agent.full_round_frames("go"))
        async for _ in rounds[0]:
            break
        left.set()
        await turns_of_the_loop(10)

    async def waits() -> None:
        await left.wait()
        await read(agent, "full_round_frames")

    await asyncio.gather(leaves(), waits())
    await turns_of_the_loop(10)
    check_the_next_round(telemetry)


def test_a_round_that_is_lost_with_its_loop_ends_its_own_span_when_the_next_one_begins(telemetry: Telemetry):
    agent, rounds = busy(telemetry, calling("quick"), calling("quick"), say("done")), list[Any]()

    async def leaves() -> None:
        rounds.append(agent.full_round_frames("go"))
        async for _ in rounds[0]:
            break

    asyncio.run(leaves())
    asyncio.run(read(agent, "full_round_frames"))
    check_the_next_round(telemetry)


def check_the_next_round(telemetry: Telemetry) -> None:
    """One round was left, and the next one has all that is its own."""
    outcomes = telemetry.outcomes()
    assert outcomes[0] == ("invoke_agent Busy", "closed", None)
    assert outcomes[2:] == [
        ("invoke_agent Busy", "completed", None),
        ("chat kimi-k3", "completed", None),
        ("execute_tool quick", "completed", None),
        ("chat kimi-k3", "completed", None),
    ]
    assert sum(number for _, number, _ in telemetry.figures("gen_ai.client.operation.duration")) == 3
    telemetry.check()


async def test_the_end_of_an_answer_is_that_of_no_other_one(telemetry: Telemetry):
    agent = busy(telemetry, say(LONG), say(LONG))
    old = agent.full_round_frames("go")
    await anext(old)
    new = agent.full_round_frames("go on")
    await anext(new)
    with new._turn.inside(), old._turn.inside():
        await agent._handlers.emit_beside(StreamCancelled(Message.assistant("")))
    assert telemetry.open == ["invoke_agent Busy", "chat kimi-k3"]
    await new.aclose()
    telemetry.check()


async def test_a_round_that_is_found_to_be_garbage_while_a_span_is_exported_is_no_deadlock(telemetry: Telemetry):
    lock, told = threading.Lock(), list[str]()

    class Collects(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            assert lock.acquire(blocking=False), "somebody waits here for good"
            gc.collect()
            told.append(span.name)
            lock.release()

    telemetry.traces.add_span_processor(Collects())
    gc.disable()
    try:
        round_: Any = busy(telemetry, *script_of_frames()).full_round_frames("go")
        await anext(round_)
        circle: list[Any] = [round_]
        circle.append(circle)
        del round_, circle
        telemetry.tracer.start_span("other").end()
    finally:
        gc.enable()
    assert told == ["other"]
    await turns_of_the_loop(3)
    assert told == ["other", "chat kimi-k3", "invoke_agent Busy"]
    telemetry.check()


def test_a_program_that_ends_after_a_break_has_all_spans(telemetry: Telemetry):
    async def main() -> None:
        await leave_by_break(busy(telemetry, *script_of_frames()), 3)

    asyncio.run(main())
    telemetry.check()
    assert telemetry.outcomes()[0] == ("invoke_agent Busy", "closed", None)


def test_a_round_that_outlives_its_event_loop_ends_when_it_is_dropped(telemetry: Telemetry):
    async def main() -> Any:
        agent = busy(telemetry, *script_of_frames())
        round_ = agent.full_round("go")
        await anext(round_)
        return round_

    kept = [asyncio.run(main())]
    assert telemetry.open == ["invoke_agent Busy"]
    kept.clear()
    gc.collect()
    telemetry.check()


async def test_a_handler_that_waits_holds_no_span_open(telemetry: Telemetry):
    never = asyncio.Event()
    agent = Busy(ScriptedKimi([say("done")]))

    async def wait(event: object) -> None:
        await never.wait()

    agent.on(RoundFinished, wait)
    telemetry.trace(agent)
    task = asyncio.create_task(read(agent))
    while telemetry.open or not telemetry.spans:
        await asyncio.sleep(0)
    never.set()
    await task
    telemetry.check()


# ==== what was said ====

SECRETS = ("pinned", "prompt", "argument", "result", "answer", "thought", "of the function", "of the server")


def talkative(telemetry: Telemetry, *, content: bool) -> Agent:
    def tell(text: str) -> str:
        return "a secret result"

    def wrong() -> str:
        raise ValueError("a secret of the function")

    script = [
        Reply("let me see", tool_calls=[call("tell", text="a secret argument"), call("wrong")]),
        Reply("a secret answer", reasoning="a secret thought"),
        Failure(400, "invalid_request_error", "a secret of the server"),
    ]
    agent = Agent(ScriptedKimi(script), "a secret pinned text", functions=[tell, wrong])
    telemetry.trace(agent, content=content)
    return agent


async def everything_told(telemetry: Telemetry, agent: Agent) -> str:
    picture = ImageURLPart(image_url=MediaURL(url="data:image/png;base64,iVBORw0KGgo="))
    async for _ in agent.full_round([TextPart(text="a secret prompt"), picture]):
        pass
    with pytest.raises(Exception, match="of the server"):
        await agent.chat_round("another secret prompt")
    return "".join(span.to_json() for span in telemetry.spans) + str(telemetry.reader.get_metrics_data())


async def test_nothing_that_was_said_is_told(telemetry: Telemetry):
    told = await everything_told(telemetry, talkative(telemetry, content=False))
    assert "secret" not in told
    assert "ValueError" in told


@pytest.mark.parametrize(("content", "name"), [(False, "_unknown"), (True, "a_secret_of_the_model")])
async def test_a_function_that_does_not_exist_has_no_name_of_its_own(content: bool, name: str, telemetry: Telemetry):
    await read(
        busy(
            telemetry,
            Reply(tool_calls=[Call("a_secret_of_the_model", id="a_secret_of_the_model:0")]),
            say("done"),
            content=content,
        )
    )
    assert attributes(telemetry.named(f"execute_tool {name}"))["gen_ai.tool.name"] == name
    told = "".join(span.to_json() for span in telemetry.spans)
    assert ("secret" in told) is content


async def test_what_was_said_is_told_to_who_asks_for_it(telemetry: Telemetry):
    told = await everything_told(telemetry, talkative(telemetry, content=True))
    assert [word for word in SECRETS if f"secret {word}" not in told] == []
    assert "iVBORw0KGgo" not in told


async def test_messages_are_told_as_the_conventions_have_them(telemetry: Telemetry):
    await everything_told(telemetry, talkative(telemetry, content=True))
    chats = [span for span in telemetry.spans if span.name == "chat kimi-k3"]
    asked = json.loads(attributes(chats[1])["gen_ai.input.messages"])
    user = [
        {"type": "text", "content": "a secret prompt"},
        {"type": "uri", "modality": "image", "uri": "data:image/png;base64,..."},
    ]
    calls = [
        {"type": "tool_call", "id": "tell_0", "name": "tell", "arguments": {"text": "a secret argument"}},
        {"type": "tool_call", "id": "wrong_1", "name": "wrong", "arguments": {}},
    ]
    assert asked[:3] == [
        {"role": "system", "parts": [{"type": "text", "content": "a secret pinned text"}]},
        {"role": "user", "parts": user},
        {"role": "assistant", "parts": [{"type": "text", "content": "let me see"}, *calls]},
    ]
    result = {"type": "tool_call_response", "id": "tell_0", "response": "a secret result"}
    assert asked[3] == {"role": "tool", "parts": [result]}
    said = [{"type": "reasoning", "content": "a secret thought"}, {"type": "text", "content": "a secret answer"}]
    answer = [{"role": "assistant", "parts": said, "finish_reason": "stop"}]
    assert json.loads(attributes(chats[1])["gen_ai.output.messages"]) == answer
    whole = attributes(telemetry.spans[0])
    assert json.loads(whole["gen_ai.output.messages"]) == answer
    assert json.loads(whole["gen_ai.input.messages"]) == [{"role": "user", "parts": user}]
    tell = attributes(telemetry.named("execute_tool tell"))
    assert json.loads(tell["gen_ai.tool.call.arguments"]) == {"text": "a secret argument"}
    assert tell["gen_ai.tool.call.result"] == "a secret result"
    assert "a secret of the function" in telemetry.named("execute_tool wrong").status.description


async def test_a_result_with_a_picture_is_told_in_pieces_and_half_a_character_as_a_question_mark(telemetry: Telemetry):
    def draw() -> list[Any]:
        return [TextPart(text="here \ud83d"), ImageURLPart(image_url=MediaURL(url="ms://a-file"))]

    agent = Agent(ScriptedKimi([calling("draw"), say("done")]), functions=[draw])
    telemetry.trace(agent, content=True)
    await read(agent)
    chats = [span for span in telemetry.spans if span.name == "chat kimi-k3"]
    (part,) = json.loads(attributes(chats[1])["gen_ai.input.messages"])[-1]["parts"]
    assert part["response"][-1] == {"type": "uri", "modality": "image", "uri": "ms://a-file"}
    for span in telemetry.spans:
        json.dumps(attributes(span), ensure_ascii=False).encode()


async def test_what_is_not_sampled_is_not_put_into_words(monkeypatch: pytest.MonkeyPatch):
    telemetry = Telemetry(sampler=ALWAYS_OFF)
    monkeypatch.setattr("kimi_agent.otel._as_json", lambda messages: pytest.fail("somebody was told"))
    agent = busy(telemetry, calling("traced"), say("done"), content=True)
    assert len(await read(agent)) == 3
    assert telemetry.spans == []
    assert telemetry.figures("gen_ai.client.operation.duration")[0][1] == 2


# ==== on and off ====


async def test_undo_ends_what_is_open_and_traces_no_more(telemetry: Telemetry):
    scout = Busy(ScriptedKimi([calling("wait")]))
    scout.reached = asyncio.Event()
    boss = Agent(ScriptedKimi([call("scout", query="?")]), functions=[scout.as_tool("scout", "Looks.")])
    undo = telemetry.trace(boss)
    task = asyncio.create_task(read(boss))
    await scout.reached.wait()
    undo()
    undo()
    telemetry.check()
    assert telemetry.outcomes() == [
        ("invoke_agent Agent", "closed", None),
        ("chat kimi-k3", "completed", None),
        ("execute_tool scout", "cancelled", None),
        ("invoke_agent scout", "closed", None),
        ("chat kimi-k3", "completed", None),
        ("execute_tool wait", "cancelled", None),
    ]
    task.cancel()
    await asyncio.wait([task])
    boss.provider = ScriptedKimi([say("done")])
    await read(boss)
    assert len(telemetry.starts.begun) == 6
    assert boss._handlers._observers == ()


async def test_undo_in_the_middle_of_an_answer_ends_it(telemetry: Telemetry):
    gate = Gate(before=3)
    agent = Agent(ScriptedKimi([Reply(LONG, delivery=Delivery(gate=gate))]))
    undo = telemetry.trace(agent)
    stream = agent.chat_round_stream("?")
    async for _ in stream:
        undo()
        gate.open()
    assert telemetry.outcomes() == [("invoke_agent Agent", "closed", None), ("chat kimi-k3", "cancelled", None)]
    telemetry.check()


async def test_a_fork_is_traced_if_it_is_instrumented_itself(telemetry: Telemetry):
    agent = busy(telemetry, say("done"), say("done"))
    fork = agent.fork()
    await fork.chat_round("?")
    assert telemetry.spans == []
    telemetry.trace(fork)
    await fork.chat_round("?")
    assert telemetry.tree == ["invoke_agent Busy", "  chat kimi-k3"]


async def test_a_copy_is_not_traced(telemetry: Telemetry):
    agent = Busy(ScriptedKimi([say("done"), say("done")]))
    telemetry.trace(agent)
    another = copy.deepcopy(agent)
    await another.chat_round("?")
    assert telemetry.starts.begun == []
    await agent.chat_round("?")
    assert telemetry.tree == ["invoke_agent Busy", "  chat kimi-k3"]


async def test_an_agent_may_be_traced_for_two_providers():
    one, two = Telemetry(), Telemetry()
    scout = Busy(ScriptedKimi([calling("calling"), say("seen")]))
    scout.tracer = trace.NoOpTracer()
    boss = Agent(ScriptedKimi([call("scout", query="?"), say("done")]), functions=[scout.as_tool("scout", "Looks.")])
    one.trace(boss)
    undo = two.trace(boss)
    await read(boss)
    undo()
    boss.provider = ScriptedKimi([say("done")])
    await boss.chat_round("?")
    assert two.tree == [
        "invoke_agent Agent",
        "  chat kimi-k3",
        "  execute_tool scout",
        "    invoke_agent scout",
        "      chat kimi-k3",
        "      execute_tool calling",
        "        execute_tool traced",
        "      chat kimi-k3",
        "  chat kimi-k3",
    ]
    assert one.tree == [*two.tree, "invoke_agent Agent", "  chat kimi-k3"]
    for telemetry in (one, two):
        ours = {span.context.span_id for span in telemetry.spans}
        assert {above(span) for span in telemetry.spans} <= {None, *ours}
        telemetry.check()


async def test_the_spans_of_a_function_stand_below_the_call_of_the_last_provider():
    one, two = Telemetry(), Telemetry()
    agent = busy(two, calling("traced"), say("done"))
    one.trace(agent)
    two.trace(agent)
    await read(agent)
    assert one.tree == ["invoke_agent Busy", "  chat kimi-k3", "  execute_tool traced", "  chat kimi-k3"]
    assert two.tree == [*one.tree[:3], "    inside", *one.tree[3:]]


async def test_two_that_share_a_provider_of_spans_have_a_tree_each(telemetry: Telemetry):
    agent = busy(telemetry, calling("calling"), say("done"))
    agent.tracer = trace.NoOpTracer()
    instrument(agent, tracer_provider=telemetry.traces, meter_provider=Telemetry().measures)
    await read(agent)
    calls = [line for line in telemetry.tree if "execute_tool" in line]
    assert sorted(calls) == ["    execute_tool traced"] * 2 + ["  execute_tool calling"] * 2
    assert [number for _, number, _ in telemetry.figures("gen_ai.client.operation.duration")] == [2]
    telemetry.check()


async def test_who_traces_for_the_same_provider_again_replaces_what_was_there(telemetry: Telemetry):
    agent = busy(telemetry, calling("quick"), say("done"), say("again"))
    first = telemetry.trace(agent)
    second = telemetry.trace(agent, content=True)
    first()
    await read(agent)
    assert telemetry.tree == ["invoke_agent Busy", "  chat kimi-k3", "  execute_tool quick", "  chat kimi-k3"]
    assert [number for _, number, _ in telemetry.figures("gen_ai.client.operation.duration")] == [2]
    assert "gen_ai.input.messages" in attributes(telemetry.spans[0])
    second()
    await agent.chat_round("?")
    assert len(telemetry.starts.begun) == 4


async def test_the_global_providers_are_the_same_ones_by_their_name(
    monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry
):
    agent = Agent(ScriptedKimi([say("done")]))
    instrument(agent)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.traces)
    instrument(agent, tracer_provider=telemetry.traces)
    await agent.chat_round("?")
    assert telemetry.tree == ["invoke_agent Agent", "  chat kimi-k3"]


async def test_of_an_answer_only_the_first_frames_are_made_events(
    monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry
):
    made: list[object] = []
    new = StreamFrameReceived.__init__

    def count(self: Any, frame: Any) -> None:
        made.append(frame)
        new(self, frame)

    monkeypatch.setattr(StreamFrameReceived, "__init__", count)
    gate = Gate(before=3)
    agent = busy(telemetry, Reply(LONG, delivery=Delivery(gate=gate)))
    stream = agent.chat_round_stream("?")
    async for _ in stream.frames():
        gate.open()
    assert 1 <= len(made) <= 2
    telemetry.check()


async def test_what_goes_wrong_in_tracing_stops_no_agent(telemetry: Telemetry):
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("no start")

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("no end")

    agent = busy(telemetry, calling("quick", "wrong"), say("done"))
    telemetry.traces.add_span_processor(Broken())
    assert [message.role for message in await read(agent)] == ["assistant", "tool", "tool", "assistant"]


class EndsBadly(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("no end")


async def test_a_cancelled_call_stays_cancelled_when_its_span_cannot_be_ended(telemetry: Telemetry):
    agent = busy(telemetry)
    telemetry.traces.add_span_processor(EndsBadly())
    task = asyncio.create_task(agent.call_tool("wait"))
    await agent.reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("nth", range(3))
@pytest.mark.parametrize("leave", ["undo", "aclose"])
async def test_a_span_that_cannot_be_ended_holds_no_other_one_open(leave: str, nth: int, telemetry: Telemetry):
    class EndsOneBadly(SpanProcessor):
        ended = 0

        def on_end(self, span: ReadableSpan) -> None:
            self.ended += 1
            if self.ended == nth + 1:
                raise RuntimeError("no end")

    telemetry.traces.add_span_processor(EndsOneBadly())
    agent = Busy(ScriptedKimi([calling("quick"), say(LONG)]))
    undo = telemetry.trace(agent)
    round_ = agent.full_round_frames("go")
    async for frame in round_:
        if isinstance(frame, ToolResult):
            break
    await anext(round_)
    undo() if leave == "undo" else await round_.aclose()
    assert len(telemetry.starts.begun) == 4
    telemetry.check()
    undo()
    await round_.aclose()
    assert agent._handlers._observers == ()


@pytest.mark.parametrize("operation", ["invoke_agent", "chat", "execute_tool"])
async def test_a_span_that_cannot_begin_is_missing_and_nothing_else(operation: str, telemetry: Telemetry):
    class StartsBadly(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if span.name.startswith(operation):
                raise RuntimeError("no start")

    telemetry.traces._active_span_processor._span_processors = (StartsBadly(), telemetry.starts)
    telemetry.traces.add_span_processor(SimpleSpanProcessor(telemetry.exporter))
    agent = busy(telemetry, calling("traced", usage=USAGE), Reply("done", usage=USAGE))
    with telemetry.tracer.start_as_current_span("request"):
        await read(agent)
    names = ["request", "invoke_agent Busy", "chat kimi-k3", "execute_tool traced", "inside", "chat kimi-k3"]
    assert [span.name for span in telemetry.spans] == [name for name in names if not name.startswith(operation)]
    assert len({span.context.trace_id for span in telemetry.spans}) == 1
    assert [number for _, number, _ in telemetry.figures("gen_ai.client.token.usage")] == [2, 2]
    telemetry.check()


async def test_figures_that_cannot_be_taken_hold_no_span_open(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("opentelemetry.sdk.metrics.Histogram.record", lambda *_, **__: 1 / 0)
    await read(busy(telemetry, calling("quick"), say("done")))
    assert {outcome for _, outcome, _ in telemetry.outcomes()} == {"completed"}
    telemetry.check()


async def test_without_a_provider_the_global_one_is_asked(monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.traces)
    agent = Agent(ScriptedKimi([say("done")]))
    instrument(agent)
    await agent.chat_round("?")
    assert telemetry.tree == ["invoke_agent Agent", "  chat kimi-k3"]
    (scope,) = {span.instrumentation_scope for span in telemetry.spans}
    assert (scope.name, scope.schema_url) == ("kimi_agent", "https://opentelemetry.io/schemas/1.41.0")


# ==== who does not ask for it ====

WORKS = """
import asyncio, sys
from kimi_agent import Agent
from kimi_agent.testing import ScriptedKimi, call, say

def look() -> str:
    return "seen"

async def main():
    agent = Agent(ScriptedKimi([call("look"), say("done")]), functions=[look])
    return [message.text async for message in agent.full_round("?")]

print(asyncio.run(main()), [name for name in sys.modules if name.startswith("opentelemetry")])
"""

MISSING = """
import sys
sys.modules["opentelemetry"] = None
import kimi_agent
try:
    from kimi_agent.otel import instrument
except ModuleNotFoundError as error:
    print(error)
"""


def printed_by(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_an_agent_that_is_not_instrumented_knows_nothing_of_opentelemetry():
    assert printed_by(WORKS) == "['', 'seen', 'done'] []"


def test_without_the_extra_the_error_names_it():
    assert printed_by(MISSING) == "kimi_agent.otel needs the extra: pip install 'kimi_agent[otel]'"


async def test_an_agent_that_is_not_instrumented_does_nothing_for_it(monkeypatch: pytest.MonkeyPatch):
    agent = Busy(ScriptedKimi([calling("quick"), say(LONG)]))
    monkeypatch.setattr(StreamFrameReceived, "__init__", lambda *_: pytest.fail("an event was made for nobody"))
    before = contexts.get_current()
    await read(agent, "full_round_stream")
    assert agent._handlers._observers == ()
    assert contexts.get_current() is before

"""Handlers of events, strict ones too, and events and frames as JSON."""

import asyncio
import copy
import gc
import json
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from pydantic_core import from_json

from kimi_agent import (
    Agent,
    Append,
    AudioURLPart,
    BriefDisplayBlock,
    ContentPart,
    DisplayBlock,
    End,
    HistoryCompacted,
    ImageURLPart,
    Kimi,
    Message,
    Reasoning,
    RequestRetried,
    RequestSent,
    RoundFinished,
    RoundInProgressError,
    RoundStarted,
    ServerError,
    SessionRestored,
    StreamCancelled,
    StreamCompleted,
    StreamFailed,
    StreamFrameReceived,
    StreamInterruptedError,
    StreamStarted,
    SubAgentEvent,
    TextPart,
    ThinkPart,
    TokenCountDrifted,
    TokenUsage,
    ToolCall,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    ToolError,
    ToolOk,
    ToolProgress,
    ToolResult,
    ToolReturnValue,
    VideoURLPart,
    ai_function,
)
from kimi_agent.events import Event, Handlers, from_dict, to_dict
from kimi_agent.history import repair
from kimi_agent.message import MediaURL, UnknownPart
from kimi_agent.stream import MessageStream, on_batch
from kimi_agent.testing import Delivery, Failure, Gate, KimiServer, Reply, ScriptedKimi, call, say
from kimi_agent.tools.base import UnknownDisplayBlock

EVENTS: tuple[type[Any], ...] = get_args(Event)
TERMINAL = (StreamCompleted, StreamFailed, StreamCancelled)
STARTED = StreamStarted("kimi-k3")


# ==== who is told ====


def told_by(handlers: Handlers, *names: str) -> list[str]:
    """Handlers that write their names down."""
    told: list[str] = []
    for name in names:
        handlers.add(StreamStarted, lambda event, name=name: told.append(name))
    return told


async def test_a_handler_that_takes_itself_away_is_told_once():
    handlers = Handlers()
    told: list[str] = []

    def once(event: StreamStarted) -> None:
        told.append("once")
        unsubscribe()

    unsubscribe = handlers.add(StreamStarted, once)
    handlers.add(StreamStarted, lambda event: told.append("always"))
    for _ in range(2):
        await handlers.emit(STARTED)
    assert told == ["once", "always", "always"]


async def test_a_handler_that_another_one_takes_away_is_not_told_any_more():
    handlers = Handlers()
    handlers.add(StreamStarted, lambda event: unsubscribe())
    told: list[str] = []
    unsubscribe = handlers.add(StreamStarted, lambda event: told.append("taken away"))
    await handlers.emit(STARTED)
    assert told == []


async def test_a_handler_that_is_added_while_handlers_are_told_hears_the_next_event():
    handlers = Handlers()
    told: list[str] = []
    handlers.add(StreamStarted, lambda event: handlers.add(StreamStarted, lambda event: told.append("new")) and None)
    await handlers.emit(STARTED)
    assert told == []
    await handlers.emit(STARTED)
    assert told == ["new"]


async def test_the_same_function_may_listen_twice_and_each_registration_ends_by_itself():
    handlers = Handlers()
    told: list[str] = []

    def twice(event: StreamStarted) -> None:
        told.append("twice")

    handlers.add(StreamStarted, twice)
    handlers.add(StreamStarted, lambda event: told.append("between"))
    unsubscribe = handlers.add(StreamStarted, twice)
    await handlers.emit(STARTED)
    assert told == ["twice", "between", "twice"]
    told.clear()
    unsubscribe()
    unsubscribe()
    await handlers.emit(STARTED)
    assert told == ["twice", "between"]


async def test_a_type_without_handlers_is_not_listened_to_any_more():
    handlers = Handlers()
    first, second = handlers.add(StreamStarted, print), handlers.add(StreamStarted, print)
    first()
    assert StreamStarted in handlers
    second()
    assert StreamStarted not in handlers
    handlers.add(StreamStarted, print)
    first()
    assert StreamStarted in handlers


def test_listening_to_what_is_no_event_is_refused():
    with pytest.raises(TypeError, match=r"Append.*is no type of event.*StreamStarted"):
        Agent(ScriptedKimi()).on(Append, print)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("streamed", [True, False])
async def test_no_handler_no_cost(streamed: bool, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: object, *args: object, **fields: object) -> None:
        raise AssertionError("an event of a frame was made for nobody")

    agent = Agent(ScriptedKimi([say("a few words in pieces")]))
    monkeypatch.setattr(StreamFrameReceived, "__init__", refuse)
    if streamed:
        await agent.chat_round_stream("?")
    else:
        await agent.chat_round("?")
    assert on_batch(agent._handlers)([Append("a")]) is None


async def test_whoever_begins_to_listen_in_the_middle_of_a_stream_hears_the_rest():
    agent = Agent(ScriptedKimi([say("a few words in pieces")]))
    told: list[object] = []
    gate = Gate(before=2)
    agent.provider = ScriptedKimi([Reply("a few words in pieces", delivery=Delivery(gate=gate))])
    stream = agent.chat_round_stream("?")
    async for _ in stream:
        unsubscribe = agent.on(StreamFrameReceived, told.append)
        gate.open()
        await stream
        unsubscribe()
        break
    assert [type(event.frame) for event in told] == [Append, End]  # type: ignore[attr-defined]


# ==== strict handlers ====


class Broken(Exception):
    """What a handler raises."""


async def cancelled_inside(event: object) -> None:
    """Waits for something that was cancelled; its own task was not."""
    waited = asyncio.get_running_loop().create_future()
    waited.cancel()
    await waited


async def test_what_a_strict_handler_raises_goes_on_once_the_others_were_told():
    handlers = Handlers(strict=True)
    told = told_by(handlers, "before")
    handlers.add(StreamStarted, lambda event: fail(Broken("first")))
    handlers.add(StreamStarted, lambda event: fail(Broken("second")))
    handlers.add(StreamStarted, lambda event: told.append("after"))
    with pytest.raises(Broken, match="first"):
        await handlers.emit(STARTED)
    assert told == ["before", "after"]


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("emit", ["emit_beside", "emit_later"])
async def test_where_nobody_can_be_told_what_a_strict_handler_raises_is_logged(emit: str):
    handlers = Handlers(strict=True)
    handlers.add(StreamStarted, broken)
    told = told_by(handlers, "after")
    if (emitting := getattr(handlers, emit)(STARTED)) is not None:
        await emitting
    while not told:
        await asyncio.sleep(0)


async def test_a_handler_whose_own_wait_is_cancelled_does_not_cancel_who_emits():
    handlers = Handlers()
    handlers.add(StreamStarted, cancelled_inside)
    told = told_by(handlers, "after")
    await handlers.emit(STARTED)
    assert told == ["after"]
    strict = Handlers(strict=True)
    strict.add(StreamStarted, cancelled_inside)
    with pytest.raises(RuntimeError, match="a handler raised CancelledError"):
        await strict.emit(STARTED)


async def test_an_emitter_that_is_cancelled_is_cancelled_through_its_handlers():
    handlers = Handlers()
    reached = asyncio.Event()

    async def endless(event: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    handlers.add(StreamStarted, endless)
    told = told_by(handlers, "after")
    emitting = asyncio.create_task(handlers.emit(STARTED))
    await reached.wait()
    emitting.cancel()
    await asyncio.wait([emitting])
    assert emitting.cancelled()
    assert told == []


# ==== observers ====


class Seen:
    """An observer that writes down what it sees."""

    def __init__(self, log: list[Any], *wanted: type[Any], fails: bool = False) -> None:
        self.log, self.wanted, self.fails = log, wanted, fails

    def hears(self, event_type: type[Event]) -> bool:
        return event_type in self.wanted

    def told(self, event: Event) -> None:
        self.log.append(type(event).__name__)
        if self.fails:
            raise Broken

    @contextmanager
    def around(self, call: ToolCall) -> Generator[None]:
        self.log.append(f"in {call.name}")
        try:
            yield
        finally:
            self.log.append(f"out {call.name}")

    def follow(self, agent: Any, call: ToolCall) -> None:
        self.log.append(f"{call.name} is answered by {type(agent).__name__}")
        agent._handlers.observe(self)


@pytest.mark.parametrize("emit", ["emit", "emit_beside", "emit_later"])
async def test_an_observer_is_told_before_any_handler_and_stops_nothing_when_it_raises(emit: str):
    handlers = Handlers(strict=True)
    log = told_by(handlers, "handler")
    handlers.observe(Seen(log, fails=True))
    if (emitting := getattr(handlers, emit)(STARTED)) is not None:
        await emitting
    while "handler" not in log:
        await asyncio.sleep(0)
    assert log == ["StreamStarted", "handler"]


async def test_what_an_observer_wants_is_made_until_it_is_taken_away():
    handlers, log = Handlers(), list[Any]()
    first, second = Seen(log, StreamStarted), Seen(log)
    unobserve = handlers.observe(first)
    handlers.observe(second)
    assert StreamStarted in handlers
    assert RoundStarted not in handlers
    unobserve()
    unobserve()
    assert StreamStarted not in handlers
    await handlers.emit(STARTED)
    assert len(log) == 1


async def test_an_observer_is_told_at_once_where_nobody_can_wait():
    handlers = Handlers()
    log = told_by(handlers, "handler")
    handlers.observe(Seen(log))
    handlers.emit_later(STARTED)
    assert log == ["StreamStarted"]
    while "handler" not in log:
        await asyncio.sleep(0)
    assert log == ["StreamStarted", "handler"]


async def test_no_task_is_made_to_tell_nobody():
    handlers = Handlers()
    handlers.observe(Seen([], StreamStarted))
    handlers.emit_later(STARTED)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_log_says_which_observer_raised_and_at_what():
    class Unhappy(Seen):
        def around(self, call: ToolCall) -> Any:
            raise Broken

        def follow(self, agent: Any, call: ToolCall) -> None:
            raise Broken

    handlers, lines = Handlers(), list[str]()
    handlers.observe(Unhappy([], fails=True))
    sink = logger.add(lambda line: lines.append(line.record["message"]))
    logger.enable("kimi_agent")
    try:
        await handlers.emit(STARTED)
        with handlers.around(call_of("add")):
            handlers.follow(None, call_of("ask"))
    finally:
        logger.disable("kimi_agent")
        logger.remove(sink)
    assert lines == [
        "the observer Unhappy raised, told of StreamStarted",
        "the observer Unhappy raised, entering the call add",
        "the observer Unhappy raised, following the call ask",
    ]


def test_a_copy_of_an_agent_has_its_handlers_and_no_observers():
    log: list[Any] = []
    agent = Agent(ScriptedKimi())
    agent.on(StreamStarted, broken)
    agent._handlers.observe(Seen(log, RoundStarted))
    another = copy.deepcopy(agent)
    assert StreamStarted in another._handlers
    assert RoundStarted not in another._handlers
    assert RoundStarted in agent._handlers


def test_without_an_event_loop_observers_are_told_and_handlers_are_not():
    handlers = Handlers()
    log = told_by(handlers, "handler")
    handlers.observe(Seen(log))
    handlers.emit_later(STARTED)
    assert log == ["StreamStarted"]


async def test_nobody_is_around_the_calls_of_an_agent_that_nobody_observes():
    handlers = Handlers()
    assert handlers.around(call_of("a")) is handlers.around(call_of("b"))


async def test_an_observer_is_around_each_call_and_follows_it_into_another_agent():
    scout = Busy(ScriptedKimi([call("quick"), say("all quick")]))
    agent = Agent(ScriptedKimi([call("ask", query="?"), say("ok")]), functions=[scout.as_tool("ask", "A scout.")])
    log: list[Any] = []
    agent._handlers.observe(Seen(log, RoundStarted, RoundFinished))
    await read(agent, "full_round")
    of_rounds_and_calls = [entry for entry in log if " " in entry or entry.startswith("Round")]
    assert of_rounds_and_calls == [
        "RoundStarted",
        "in ask",
        "ask is answered by Busy",
        "RoundStarted",
        "in quick",
        "out quick",
        "RoundFinished",
        "out ask",
        "RoundFinished",
    ]


async def test_an_observer_is_around_a_call_that_is_cancelled():
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.Event().wait()

    agent = Agent(ScriptedKimi(), functions=[wait])
    log: list[Any] = []
    agent._handlers.observe(Seen(log))
    task = asyncio.create_task(agent.call_tool("wait"))
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert log == ["ToolCallStarted", "in wait", "out wait"]


def call_of(name: str) -> ToolCall:
    return ToolCall.from_function(name)


# ==== what went wrong, by name ====


async def test_the_end_of_a_call_names_what_was_raised():
    agent = Busy(ScriptedKimi([Reply(tool_calls=[call("quick"), call("wrong"), call("unknown")]), say("done")]))
    told: list[ToolCallFinished] = []
    agent.on(ToolCallFinished, told.append)
    await read(agent, "full_round")
    await agent.call_tool("wrong")
    named = [(event.call.name, event.error_type) for event in told]
    assert sorted(named[:3]) == [("quick", None), ("unknown", "NoSuchFunction"), ("wrong", "ValueError")]
    assert named[3] == ("wrong", "ValueError")


async def test_the_end_of_an_answer_has_the_id_that_the_provider_gave():
    agent = Agent(ScriptedKimi([say("ok")]))
    told: list[StreamCompleted] = []
    agent.on(StreamCompleted, told.append)
    stream = agent.chat_round_stream("?")
    await stream
    assert told[0].id == (await stream.completion()).id is not None


# ==== a strict handler that raises at the n-th event ====


@dataclass
class Nth:
    """Counts all events of an agent, and does something at the n-th one."""

    number: int
    act: Callable[[object], Awaitable[None] | None]
    seen: list[Any] = field(default_factory=list)
    acted_at: Any = None

    async def __call__(self, event: object) -> None:
        self.seen.append(event)
        if len(self.seen) == self.number:
            self.acted_at = event
            if (acting := self.act(event)) is not None:
                await acting


class Busy(Agent):
    @ai_function()
    async def quick(self) -> str:
        return "quick"

    @ai_function()
    async def slow(self) -> str:
        for _ in range(3):
            await asyncio.sleep(0)
        return "slow"

    @ai_function()
    def wrong(self) -> str:
        raise ValueError("wrong")


METHODS = ["full_round", "full_round_stream", "full_round_frames"]


def busy(nth: Nth, strict: bool = True) -> Busy:
    calls = [call("quick"), call("slow"), call("wrong")]
    script = [Reply("let me see", tool_calls=calls), say("done, as you see")]
    agent = Busy(ScriptedKimi(script), strict_hooks=strict)
    for kind in EVENTS:
        agent.on(kind, nth)
    return agent


async def read(agent: Agent, method: str) -> None:
    async for item in getattr(agent, method)("go"):
        if isinstance(item, MessageStream):
            async for _ in item:
                pass


async def attempt(agent: Agent, method: str) -> list[BaseException]:
    """Read a round to its end or its error; which errors came out."""
    try:
        async with asyncio.timeout(5):
            await read(agent, method)
    except Exception as error:
        return [error]
    return []


async def settled() -> None:
    """What was dropped is collected, and what that leads to has happened."""
    gc.collect(1)
    for _ in range(20):
        await asyncio.sleep(0)


async def check_afterwards(agent: Agent, nth: Nth) -> None:
    """The history can be sent, each stream was told to its end once, the agent goes on, and nothing runs any more."""
    assert repair(agent.chat_history, interrupted="") == agent.chat_history
    check_streams(nth.seen)
    assert sum(type(event) is RoundStarted for event in nth.seen) == 1
    assert sum(type(event) is RoundFinished for event in nth.seen) == 1
    agent.provider = ScriptedKimi([say("still here")])
    async with asyncio.timeout(5):
        assert await agent.chat_round_str("and now?") == "still here"
    await settled()
    assert len(asyncio.all_tasks()) == 1


def check_streams(seen: list[Any]) -> None:
    """After each StreamStarted there is exactly one end of it, before the next one starts and the round finishes."""
    kinds = [type(event) for event in seen if type(event) in (StreamStarted, RoundFinished, *TERMINAL)]
    assert kinds[-1] is RoundFinished
    starts, ends = kinds[:-1:2], kinds[1:-1:2]
    assert set(starts) <= {StreamStarted}
    assert set(ends) <= set(TERMINAL)
    assert len(starts) == len(ends)


async def every_event(method: str) -> int:
    """How many events a round has that nobody disturbs."""
    nth = Nth(0, lambda event: None)
    assert await attempt(busy(nth), method) == []
    return len(nth.seen)


def broken(event: object) -> None:
    raise Broken


async def wait(event: object) -> None:
    for _ in range(4):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("act", "raised"), [(broken, Broken), (cancelled_inside, RuntimeError)])
@pytest.mark.parametrize("method", METHODS)
async def test_whatever_event_a_strict_handler_raises_at_the_round_ends_well(
    method: str, act: Callable[[object], Awaitable[None] | None], raised: type[Exception]
):
    async def run(number: int) -> None:
        nth = Nth(number, act)
        agent = busy(nth)
        errors = await attempt(agent, method)
        assert [type(error) for error in errors] == [raised], nth.acted_at
        del errors  # they hold the round
        await settled()
        check_failure(nth, agent, raised)
        await check_afterwards(agent, nth)

    total = await every_event(method)
    assert total > 20
    for number in range(1, total + 1):
        await run(number)


async def read_all_of(answer: Any) -> None:
    if isawaitable(answer):
        await answer
        return
    async for message in answer:
        if isinstance(message, MessageStream):
            await message


@pytest.mark.parametrize("method", ["chat_round", "full_round", "chat_round_stream", "full_round_stream"])
async def test_who_hears_of_a_failure_hears_what_had_come(method: str) -> None:
    agent = Agent(ScriptedKimi(["text: Both have four\nerror: 503 busy"]))
    told: list[StreamFailed] = []
    agent.on(StreamFailed, told.append)
    with pytest.raises(ServerError):
        await read_all_of(getattr(agent, method)("Hi"))
    assert [event.partial.text for event in told] == ["Both have four"]


async def test_who_hears_that_an_answer_was_given_up_hears_what_had_come() -> None:
    gate = Gate(3)
    agent = Agent(ScriptedKimi([Reply("one two three", chunk_size=3, delivery=Delivery(gate=gate))]))
    told: list[StreamCancelled] = []
    agent.on(StreamCancelled, told.append)
    answer = asyncio.create_task(agent.chat_round("Hi"))
    await gate.reached()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert [event.partial.text for event in told] == ["one tw"]


def check_failure(nth: Nth, agent: Agent, raised: type[Exception]) -> None:
    """The stream in which it was raised has failed, unless it had completed; the round has, unless it had ended.

    Who reads a round of streams gets the error from the stream, and leaves the round, which is closed.
    """
    ends = [event for event in nth.seen if type(event) in TERMINAL]
    failed = [event for event in ends if type(event) is StreamFailed]
    in_a_stream = isinstance(nth.acted_at, StreamStarted | StreamFrameReceived | RequestSent)
    assert [event.error_type for event in failed] == ([raised.__name__] if in_a_stream else [])
    completed = [event.message for event in ends if type(event) is StreamCompleted]
    assert [message for message in agent.chat_history if message.role == "assistant"] == completed
    outcomes = [event.outcome for event in nth.seen if type(event) is RoundFinished]
    assert outcomes in ([["completed"]] if type(nth.acted_at) is RoundFinished else [["failed"], ["closed"]])


@pytest.mark.parametrize(("strict", "act"), [(True, wait), (False, broken), (False, cancelled_inside)])
@pytest.mark.parametrize("method", METHODS)
async def test_whatever_event_a_handler_waits_or_breaks_at_nothing_is_lost(
    method: str, strict: bool, act: Callable[[object], Awaitable[None] | None]
):
    async def run(number: int) -> None:
        nth = Nth(number, act)
        agent = busy(nth, strict)
        assert await attempt(agent, method) == []
        assert [message.role for message in agent.chat_history] == ["user", "assistant", *["tool"] * 3, "assistant"]
        await settled()
        await check_afterwards(agent, nth)

    for number in range(1, await every_event(method) + 1):
        await run(number)


@pytest.mark.parametrize("method", METHODS)
async def test_at_whatever_event_the_consumer_is_cancelled_the_round_ends_well(method: str):
    async def endless(event: object) -> None:
        await asyncio.Event().wait()

    async def run(number: int) -> None:
        nth = Nth(number, endless)
        agent = busy(nth)
        consumer = asyncio.create_task(read(agent, method))
        while nth.acted_at is None:
            await asyncio.sleep(0)
        consumer.cancel()
        await asyncio.wait([consumer], timeout=5)
        assert consumer.cancelled()
        del consumer
        await settled()
        await check_afterwards(agent, nth)

    for number in range(1, await every_event(method) + 1):
        await run(number)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("kind", [StreamStarted, StreamFrameReceived, StreamCompleted, RoundFinished])
async def test_a_chat_round_raises_what_a_strict_handler_raised(kind: type[Any], streamed: bool):
    agent = Agent(ScriptedKimi([say("a few words"), say("ok")]), strict_hooks=True)
    unsubscribe = agent.on(kind, broken)
    with pytest.raises(Broken):
        await (agent.chat_round_stream("?") if streamed else agent.chat_round("?"))
    unsubscribe()
    assert await agent.chat_round_str("!")
    said = ["user", "assistant"] if kind in (StreamCompleted, RoundFinished) else ["user"]
    assert [message.role for message in agent.chat_history] == [*said, "user", "assistant"]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("kind", [StreamFailed, RoundFinished])
async def test_what_a_strict_handler_raises_does_not_hide_why_a_stream_failed(kind: type[Any], streamed: bool):
    agent = Agent(ScriptedKimi([Failure(500, "server_error", "no")]), strict_hooks=True)
    told: list[object] = []
    for other in (*TERMINAL, RoundFinished):
        agent.on(other, told.append)
    agent.on(kind, broken)
    with pytest.raises(ServerError):
        await (agent.chat_round_stream("?") if streamed else agent.chat_round("?"))
    assert [type(event) for event in told] == [StreamFailed, RoundFinished]


async def test_what_a_strict_handler_raises_does_not_hide_that_a_stream_was_closed():
    gate = Gate(before=2)
    agent = Agent(ScriptedKimi([Reply("a long answer in pieces", delivery=Delivery(gate=gate))]), strict_hooks=True)
    agent.on(StreamCancelled, broken)
    stream = agent.chat_round_stream("?")
    async for _ in stream:
        break
    await stream.aclose()
    with pytest.raises(StreamInterruptedError):
        await stream


async def test_a_strict_handler_of_requests_leaves_no_connection_behind():
    async with KimiServer([Failure(500, "server_error", "no"), say("ok")]) as server:
        kimi = Kimi(base_url=server.base_url, api_key=server.api_key)
        async with Agent(kimi, strict_hooks=True) as agent:
            for kind in (RequestSent, RequestRetried):
                unsubscribe = agent.on(kind, broken)
                with pytest.raises(Broken):
                    await agent.chat_round("?")
                unsubscribe()
            assert await agent.chat_round_str("?") == "ok"
        await server.until(lambda: server.connections == 0)


async def test_an_answer_whose_count_drifted_is_completed_whatever_a_strict_handler_says():
    agent = Agent(ScriptedKimi([Reply("ok", usage=TokenUsage(input_other=5_000, output=1))]), strict_hooks=True)
    told: list[object] = []
    for kind in TERMINAL:
        agent.on(kind, told.append)
    agent.on(TokenCountDrifted, broken)
    with pytest.raises(Broken):
        await agent.chat_round("?")
    assert agent.chat_history[-1].text == "ok"
    assert [type(event) for event in told] == [StreamCompleted]


async def test_a_handler_that_waits_for_the_stream_it_is_told_of_is_refused():
    agent = Agent(ScriptedKimi([say("a few words")]), strict_hooks=True)
    streams: list[MessageStream] = []

    async def wait(event: object) -> None:
        await streams[0]

    agent.on(StreamStarted, wait)
    streams.append(agent.chat_round_stream("?"))
    async with asyncio.timeout(5):
        with pytest.raises(RoundInProgressError, match="cannot wait for the stream"):
            await streams[0]


# ==== as JSON ====


class Note(ContentPart):
    type: str = "note-of-test-events"
    body: str


class Table(DisplayBlock):
    type: str = "table-of-test-events"
    rows: tuple[int, ...]


class Measured(ToolOk):
    seconds: float


texts = st.text(max_size=5) | st.sampled_from(["", "\U0001f600", "\u2028", "\x00", "\ud800"])
names = st.sampled_from(["add", "get_weather"])
scalars = st.none() | st.booleans() | st.integers(-5, 5) | texts
extras = st.dictionaries(st.sampled_from(["a", "b"]), scalars | st.lists(scalars, max_size=2), max_size=2)
media = st.builds(MediaURL, url=st.just("data:image/png;base64,aGk="), id=st.none() | st.just("1"))
parts = st.one_of(
    st.builds(TextPart, text=texts, extra=extras),
    st.builds(ThinkPart, think=texts, encrypted=st.none() | texts),
    st.builds(ImageURLPart, image_url=media),
    st.builds(AudioURLPart, audio_url=media),
    st.builds(VideoURLPart, video_url=media),
    st.builds(Note, body=texts),
    st.builds(UnknownPart, type=st.just("hologram"), data=extras),
)
calls = st.builds(
    ToolCall,
    id=st.sampled_from(["c1", "c2"]),
    function=st.builds(ToolCall.FunctionBody, name=names, arguments=st.none() | texts),
    extras=st.none() | extras,
    extra=extras,
)
messages = st.one_of(
    st.builds(Message.user, st.lists(parts, max_size=3), name=st.none() | names, extra=extras),
    st.builds(Message.assistant, st.lists(parts, max_size=3), tool_calls=st.lists(calls, max_size=2)),
    st.builds(Message.tool, texts, st.just("c1"), name=names, is_tool_call_error=st.none() | st.booleans()),
)
usages = st.builds(
    TokenUsage, input_other=st.integers(0, 9), output=st.integers(0, 9), input_cache_read=st.integers(0, 9)
)
blocks = st.one_of(
    st.builds(BriefDisplayBlock, text=texts),
    st.builds(Table, rows=st.tuples(st.integers(0, 9))),
    st.builds(UnknownDisplayBlock, type=st.just("chart"), data=extras),
)
outputs = texts | st.lists(parts, max_size=2).map(tuple)
returned = st.one_of(
    st.builds(ToolReturnValue, is_error=st.booleans(), output=outputs, display=st.lists(blocks, max_size=2)),
    st.builds(ToolOk, output=outputs, message=texts, extras=st.none() | extras),
    st.builds(lambda message, brief: ToolError(message=message, brief=brief), texts, texts),
    st.builds(Measured, output=outputs, seconds=st.floats(0, 9)),
)
results = st.builds(ToolResult, tool_call_id=st.just("c1"), return_value=returned)
reasons = st.none() | st.sampled_from(["stop", "tool_calls", "length"])
frames = st.one_of(
    st.builds(Append, texts),
    st.builds(Reasoning, texts),
    st.builds(ToolCallDelta, st.integers(0, 3) | st.just("a"), st.none() | texts, st.none() | texts, texts),
    calls,
    results,
    st.builds(End, reasons, st.none() | usages, messages),
)
counts = st.integers(0, 100_000)
fields_of: dict[type[Any], tuple[st.SearchStrategy[Any], ...]] = {
    RoundStarted: (st.none() | messages,),
    RoundFinished: (st.sampled_from(["completed", "waiting", "failed", "closed"]), st.none() | names),
    StreamStarted: (texts,),
    StreamFrameReceived: (frames,),
    StreamCompleted: (messages, st.none() | usages, reasons, st.none() | texts),
    StreamFailed: (texts, texts, messages),
    StreamCancelled: (messages,),
    RequestSent: (texts,),
    RequestRetried: (counts, st.floats(0, 99), texts, texts),
    ToolCallStarted: (calls,),
    ToolCallFinished: (calls, messages, st.floats(0, 99), st.none() | names),
    ToolProgress: (calls, texts, st.none() | st.floats(0, 1)),
    TokenCountDrifted: (counts, counts),
    HistoryCompacted: (counts, counts, counts, counts, st.lists(names, max_size=2).map(tuple)),
    SessionRestored: (counts, counts, st.lists(names, max_size=2).map(tuple)),
}
alone = st.one_of([st.builds(kind, *fields) for kind, fields in fields_of.items()])
paths = st.lists(calls, max_size=2).map(tuple)
fields_of[SubAgentEvent] = (paths, alone | st.builds(SubAgentEvent, paths, alone))
happened = alone | st.builds(SubAgentEvent, *fields_of[SubAgentEvent])


def deep(value: Any) -> Any:
    """A value with its class at every depth, for results whose classes `==` does not compare."""
    if isinstance(value, ToolResult):
        shown = value.return_value
        return type(shown), shown, [type(block) for block in shown.display]
    if isinstance(value, StreamFrameReceived):
        return deep(value.frame)
    if isinstance(value, SubAgentEvent):
        return deep(value.event)
    return type(value)


@settings(max_examples=200)
@given(frames | happened)
def test_events_and_frames_come_back_from_json_as_they_were(value: Any):
    written = to_dict(value)
    assert written["type"] == type(value).__name__
    read_again = from_dict(json.loads(json.dumps(written)))
    assert read_again == value
    assert deep(read_again) == deep(value)
    assert from_dict(written) == value


def test_every_kind_of_event_is_drawn_above():
    assert fields_of.keys() == set(EVENTS)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "type None is neither an event nor a frame"),
        ({"type": "Thunder"}, "'Thunder' is neither an event nor a frame; there are RoundStarted"),
        ({"type": ["Append"]}, "neither an event nor a frame"),
        ({"type": "Append"}, "this is no Append: text: Field required"),
        ({"type": "Append", "text": 5}, "this is no Append: text: "),
        ({"type": "ToolCall", "id": "a"}, "this is no ToolCall: function: Field required"),
        ({"type": "RoundFinished", "outcome": "won"}, "this is no RoundFinished: outcome: "),
        ({"type": "StreamFrameReceived"}, "this is no StreamFrameReceived: frame: None is none"),
        ({"type": "StreamFrameReceived", "frame": {"type": "Append"}}, "this is no Append: text: Field required"),
        ({"type": "StreamFrameReceived", "frame": {"type": "RequestSent", "body": ""}}, "StreamFrameReceived: frame"),
        ({"type": "StreamFrameReceived", "frame": "a"}, "this is no StreamFrameReceived: frame"),
        ({"type": "StreamCancelled", "partial": {"role": "wizard"}}, "this is no StreamCancelled: partial.role: "),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(data: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        from_dict(data)


def test_what_is_no_event_is_not_written():
    with pytest.raises(TypeError, match="neither an event nor a frame"):
        to_dict("Append")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="serialize"):
        to_dict(RoundStarted(Message.user("a", extra={"thing": object()})))


def test_fields_that_only_a_newer_version_knows_are_no_obstacle():
    assert from_dict({"type": "Append", "text": "a", "colour": "red"}) == Append("a")
    newer = {"type": "RoundStarted", "query": {"role": "user", "content": "a", "mood": "good"}}
    assert to_dict(from_dict(newer)) == newer


async def test_everything_that_a_round_tells_can_be_written_down_and_read_without_the_key():
    class Adder(Agent):
        @ai_function()
        async def add(self, a: int, b: int) -> int:
            return a + b

    script = [Failure(500, "server_error", "no"), Reply(tool_calls=[call("add", a=1, b=2)], reasoning="hm"), say("3")]
    async with KimiServer(script) as server:
        async with Adder(Kimi(base_url=server.base_url, api_key=server.api_key)) as agent:
            told: list[Any] = []
            for kind in EVENTS:
                agent.on(kind, told.append)
            async for _ in agent.full_round("1 + 2?"):
                pass
    lines = [json.dumps(to_dict(event)) for event in told]
    assert [from_dict(from_json(line)) for line in lines] == told
    assert server.api_key not in "".join(lines)
    assert {type(event) for event in told} >= {RequestSent, RequestRetried, StreamFrameReceived, ToolCallFinished}

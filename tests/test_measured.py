"""What answers and calls took is kept with them where the conversation lasts, and nowhere else."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kimi_agent import (
    Agent,
    ChatProviderError,
    End,
    Kimi,
    Message,
    RequestRetried,
    StreamFrameReceived,
    TokenUsage,
    ai_function,
)
from kimi_agent import measured as rooms
from kimi_agent.measured import KEY, of_answer, of_call
from kimi_agent.session import JournalSession
from kimi_agent.testing import Delivery, Failure, KimiServer, Reply, ScriptedKimi, call, say

USAGE = TokenUsage(input_other=40, output=7, input_cache_read=60)


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return 1_000_000.0 + self.passed

    def monotonic(self) -> float:
        return 5.0 + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rooms, "time", clock.time)
    monkeypatch.setattr(rooms, "monotonic", clock.monotonic)
    monkeypatch.setattr("kimi_agent.calls.time", clock.time)
    monkeypatch.setattr("kimi_agent.calls.monotonic", clock.monotonic)
    return clock


class Slow(Agent):
    clock: Clock

    @ai_function()
    async def wait(self, seconds: float) -> str:
        """Wait."""
        self.clock.passed += seconds
        return "waited"

    @ai_function()
    async def fail(self) -> str:
        """Go wrong."""
        self.clock.passed += 0.5
        raise ValueError("no")


def slow(clock: Clock, script: Any, **options: Any) -> Slow:
    agent = Slow(script if isinstance(script, Kimi) else ScriptedKimi(script), **options)
    agent.clock = clock
    return agent


def passing(clock: Clock, *seconds: float) -> Delivery:
    """So many seconds before each piece of an answer."""

    async def gate(number: int) -> None:
        clock.passed += seconds[number] if number < len(seconds) else 0.0

    return Delivery(gate=gate)


def kept(messages: Sequence[Message]) -> list[Any]:
    return [message.extra.get(KEY) for message in messages]


@pytest.mark.parametrize("method", ["full_round", "full_round_stream", "full_round_frames"])
async def test_an_answer_and_its_calls_are_measured_where_a_session_keeps_them(
    clock: Clock, tmp_path: Path, method: str
):
    first = Reply(tool_calls=[call("wait", seconds=2)], usage=USAGE, delivery=passing(clock, 1.0, 0.5, 0.25))
    async with slow(clock, [first, say("done")], session=JournalSession(tmp_path / "s.jsonl")) as agent:
        async for item in getattr(agent, method)("go"):
            if method == "full_round_stream":
                await item
        asked, answer, result, last = agent.chat_history
        assert not asked.extra
        took = of_answer(answer)
        assert took is not None
        assert (took.began, took.first, took.model, took.window) == (1_000_000.0, 1.5, "kimi-k3", 262_144)
        assert (took.input, took.cached, took.output, took.retries) == (100, 60, 7, ())
        assert took.seconds >= 1.75
        assert took.prompt
        ran = of_call(result)
        assert ran is not None
        assert (ran.began, ran.seconds) == (1_000_000.0 + took.seconds, 2.0)
        assert (after := of_answer(last)) is not None
        assert after.began == ran.began + 2


async def test_what_was_measured_is_saved_and_never_sent(clock: Clock, tmp_path: Path):
    path = tmp_path / "s.jsonl"
    async with slow(clock, [call("wait", seconds=1), say("a"), say("b")], session=JournalSession(path)) as agent:
        async for _ in agent.full_round("go"):
            pass
        await agent.chat_round("more")
        said = list(agent.chat_history)
        assert len(agent.provider.requests) == 3
        assert all(KEY not in json.dumps(request.body) for request in agent.provider.requests)
    async with Slow(ScriptedKimi(), session=JournalSession(path)) as again:
        assert again.chat_history == said
        assert [of_answer(each) for each in again.chat_history] == [of_answer(each) for each in said]


async def test_the_message_that_is_handed_out_is_the_one_of_the_history(clock: Clock, tmp_path: Path):
    async with slow(clock, [say("a"), say("b")], session=JournalSession(tmp_path / "s.jsonl")) as agent:
        assert await agent.chat_round("one") is agent.chat_history[-1]
        frames = [frame async for frame in agent.chat_round_stream("two").frames()]
        assert isinstance(frames[-1], End)
        assert frames[-1].message is agent.chat_history[-1]
        assert of_answer(frames[-1].message) is not None


async def test_a_frame_that_a_handler_was_given_does_not_change_when_its_answer_is_committed(
    clock: Clock, tmp_path: Path
):
    async with slow(clock, [say("a")], session=JournalSession(tmp_path / "s.jsonl")) as agent:
        given: list[End] = []
        agent.on(StreamFrameReceived, lambda event: given.append(event.frame) if isinstance(event.frame, End) else None)
        frames = [frame async for frame in agent.chat_round_stream("go").frames()]
    (end,) = given
    assert end is not frames[-1]
    assert end.message.text == "a"
    assert KEY not in end.message.extra


@pytest.mark.parametrize("streamed", [False, True])
async def test_without_a_session_nothing_is_measured(clock: Clock, streamed: bool):
    agent = slow(clock, [call("wait", seconds=1), say("done")])
    async for item in agent.full_round_stream("go") if streamed else agent.full_round("go"):
        if streamed:
            await item
    assert kept(agent.chat_history) == [None] * 4


async def test_a_call_that_goes_wrong_is_measured_and_one_that_does_not_run_is_not(clock: Clock, tmp_path: Path):
    cut = Reply(tool_calls=[call("wait", seconds=3)], finish_reason="length")
    script = [call("fail"), cut, say("done")]
    async with slow(clock, script, session=JournalSession(tmp_path / "s.jsonl"), retry_attempts=5) as agent:
        async for _ in agent.full_round("go"):
            pass
        results = [message for message in agent.chat_history if message.role == "tool"]
        assert [each.is_tool_call_error for each in results] == [True, True]
        assert kept(results)[0]["seconds"] == 0.5
        assert kept(results)[1] is None


@pytest.mark.parametrize("listens", [False, True])
async def test_requests_that_are_made_again_are_counted_and_still_told(tmp_path: Path, listens: bool):
    busy = Failure(429, "engine_overloaded_error", "busy", retry_after=0)
    told: list[RequestRetried] = []
    async with KimiServer([busy, busy, say("ok")]) as server:
        kimi = Kimi("kimi-k3", api_key=server.api_key, base_url=server.base_url)
        async with Agent(kimi, session=JournalSession(tmp_path / "s.jsonl")) as agent:
            if listens:
                agent.on(RequestRetried, told.append)
            await agent.chat_round("go")
            took = of_answer(agent.chat_history[-1])
    assert took is not None
    assert len(took.retries) == 2
    assert all(retry.error.startswith("RateLimitError") and "busy" in retry.error for retry in took.retries)
    assert all(0 <= retry.at <= took.seconds for retry in took.retries)
    assert [event.delay for event in told] == ([retry.delay for retry in took.retries] if listens else [])


async def test_an_answer_that_fails_leaves_the_next_one_to_be_measured_anew(clock: Clock, tmp_path: Path):
    script = [Failure(500, "server_error", "oops"), say("ok"), say("on the side")]
    async with slow(clock, script, session=JournalSession(tmp_path / "s.jsonl")) as agent:
        with pytest.raises(ChatProviderError):
            await agent.chat_round("go")
        clock.passed += 100
        await agent.chat_round(None)
        took = of_answer(agent.chat_history[-1])
        assert took is not None
        assert (took.began, took.seconds) == (1_000_100.0, 0)
        await agent.get_model_completion()
        assert of_answer(agent.chat_history[-1]) == took


async def test_an_answer_that_a_reader_closes_leaves_the_next_one_to_be_measured(clock: Clock, tmp_path: Path):
    opened = asyncio.Event()

    async def never(_: int) -> None:
        opened.set()
        await asyncio.Event().wait()

    script = [Reply("never", delivery=Delivery(gate=never)), say("ok")]
    async with slow(clock, script, session=JournalSession(tmp_path / "s.jsonl")) as agent:
        stream = agent.chat_round_stream("go")
        waiting = asyncio.ensure_future(stream.message())
        await opened.wait()
        await stream.aclose()
        await asyncio.wait([waiting])
        assert waiting.exception() is not None
        assert not agent._stopwatch.running
        await agent.chat_round("again")
        assert of_answer(agent.chat_history[-1]) is not None


async def test_whoever_asks_a_model_some_other_way_is_measured_as_far_as_that_goes(clock: Clock, tmp_path: Path):
    class Other(Slow):
        async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> Any:
            result = await super().get_model_completion(include_functions, **overrides)
            self._stopwatch._first = None
            self.clock.passed += 3
            return result

    agent = Other(ScriptedKimi([Reply("a", usage=USAGE)]), session=JournalSession(tmp_path / "s.jsonl"))
    agent.clock = clock
    async with agent:
        await agent.chat_round("go")
        took = of_answer(agent.chat_history[-1])
    assert took is not None
    assert (took.first, took.seconds) == (None, 3)


async def test_what_cannot_be_measured_does_not_stop_a_conversation(clock: Clock, tmp_path: Path):
    script = [Reply(tool_calls=[call("wait", seconds=1e12)]), say("done")]
    async with slow(clock, script, session=JournalSession(tmp_path / "s.jsonl")) as agent:
        agent.provider.context_window = 2**60
        clock.passed -= 2_000_000
        assert len([message async for message in agent.full_round("go")]) == 3
        assert kept(agent.chat_history[:3]) == [None] * 3


FOREIGN = [
    None,
    7,
    "soon",
    [],
    {"began": 1},
    {"began": "x", "seconds": 1},
    {"began": -1, "seconds": 1},
    {"began": 1e300, "seconds": 1},
    {"began": 1, "seconds": 1e9},
    {"began": 1, "seconds": 1, "input": -5},
    {"began": 1, "seconds": 1, "output": 10**400},
    {"began": 1, "seconds": 1, "retries": [[1]]},
    {"began": 1, "seconds": 1, "retries": "often"},
]


@pytest.mark.parametrize("value", FOREIGN, ids=[json.dumps(value)[:50] for value in FOREIGN])
def test_what_is_no_measure_counts_as_not_measured(value: Any):
    assert of_answer(Message.assistant("a", extra={KEY: value})) is None


def test_fields_of_a_newer_version_do_no_harm():
    took = of_answer(Message.assistant("a", extra={KEY: {"began": 1, "seconds": 2, "colour": "green"}}))
    assert took is not None
    assert (took.began, took.seconds, took.first, took.input, took.retries) == (1, 2, None, None, ())

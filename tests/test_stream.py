"""Streams for people: replay, waiting, early ends, frames."""

import asyncio
import gc
from typing import Any

import httpx
import pytest

from kimi_agent import (
    Agent,
    Append,
    End,
    GenerateResult,
    Kimi,
    Message,
    MessageStream,
    RateLimitError,
    Reasoning,
    RoundInProgressError,
    ServerError,
    StreamCancelled,
    StreamCompleted,
    StreamFailed,
    StreamFrameReceived,
    StreamInterruptedError,
    StreamStarted,
    ToolCall,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    ToolResult,
    ai_function,
)
from kimi_agent.history import problems
from kimi_agent.testing import Delivery, Failure, Gate, KimiServer, Recorded, Reply, ScriptedKimi, call, say


class Weather(Agent):
    @ai_function()
    async def get_weather(self, city: str) -> str:
        return f"{city}: 4"


def agent_for(*script: Any) -> Weather:
    return Weather(ScriptedKimi(script))


def asked(agent: Agent) -> int:
    assert isinstance(agent.provider, ScriptedKimi)
    return len(agent.provider.requests)


async def until_idle() -> None:
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


BROKEN = Recorded(
    [
        {"choices": [{"index": 0, "delta": {"content": "some "}}]},
        {"choices": [{"index": 0, "delta": {"content": "words"}}]},
        {"error": {"message": "boom", "type": "server_error"}},
    ]
)


async def test_a_stream_gives_text_and_then_the_message():
    agent = agent_for(say("It is four degrees in Oslo."))
    stream = agent.chat_round_stream("?")
    assert stream.role == "assistant"
    tokens = [token async for token in stream]
    assert len(tokens) > 1
    assert "".join(tokens) == "It is four degrees in Oslo."
    assert await stream.message() == agent.chat_history[-1]


async def test_nothing_happens_before_a_stream_is_used():
    agent = agent_for(say("x"))
    stream = agent.chat_round_stream("?")
    await asyncio.sleep(0)
    assert (asked(agent), agent.chat_history) == (0, [])
    del stream


async def test_awaiting_a_stream_gives_the_message():
    agent = agent_for(say("x"))
    assert await agent.chat_round_stream("?") == Message.assistant("x")


async def test_iterating_again_replays_and_asks_nothing():
    agent = agent_for(say("a few words, in pieces", reasoning="hm"))
    stream = agent.chat_round_stream("?")
    first = [token async for token in stream]
    assert [token async for token in stream] == first
    assert [token async for token in stream.text()] == first
    assert [thought async for thought in stream.reasoning()] == ["hm", ""] or "".join(
        [thought async for thought in stream.reasoning()]
    ) == "hm"
    assert await stream.collect_text() == "a few words, in pieces"
    assert isinstance([frame async for frame in stream.frames()][-1], End)
    assert (await stream.completion()).finish_reason == "stop"
    assert asked(agent) == 1


async def test_two_consumers_at_once_see_the_same():
    agent = agent_for(say("a few words, in pieces"))
    stream = agent.chat_round_stream("?")

    async def tokens() -> list[str]:
        return [token async for token in stream]

    one, two, message = await asyncio.gather(tokens(), tokens(), stream.message())
    assert one == two
    assert message.text == "".join(one)


async def test_an_error_reaches_every_waiter_and_later_ones_too():
    agent = agent_for(BROKEN)
    stream = agent.chat_round_stream("?")
    got: list[str] = []
    with pytest.raises(ServerError, match="boom"):
        async for token in stream:
            got.append(token)
    assert got == ["some ", "words"]
    for _ in range(2):
        with pytest.raises(ServerError):
            await stream.message()
    assert stream.partial.text == "some words"
    assert [message.role for message in agent.chat_history] == ["user"]


async def test_a_request_that_fails_reaches_the_waiters():
    stream = agent_for(Failure(429, "rate_limit_reached_error", "slow")).chat_round_stream("?")
    with pytest.raises(RateLimitError):
        await stream


async def test_cancelling_a_consumer_cancels_its_wait_only():
    gate = Gate(before=2)
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=gate)))
    stream = agent.chat_round_stream("?")
    waiter = asyncio.ensure_future(stream.message())
    await gate.reached()
    waiter.cancel()
    await asyncio.wait([waiter])
    gate.open()
    assert (await stream.message()).text == "a long answer in pieces"


async def test_a_slow_consumer_delays_nobody():
    agent = agent_for(say("a long answer in many pieces indeed"), say("second"))
    stream = agent.chat_round_stream("?")
    async for _ in stream:
        assert (await agent.chat_round("next")).text == "second"
        break
    assert await stream.collect_text() == "a long answer in many pieces indeed"


async def test_closing_early_leaves_nothing_in_the_history_and_keeps_what_came():
    gate = Gate(before=2)
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=gate)), say("ok"))
    stream = agent.chat_round_stream("?")
    async for _ in stream:
        break
    await stream.aclose()
    assert stream.closed
    assert stream.partial.text == "a long answer in"
    assert [message.role for message in agent.chat_history] == ["user"]
    with pytest.raises(StreamInterruptedError) as caught:
        await stream
    assert caught.value.partial.text == "a long answer in"
    await agent.chat_round("next")


async def test_async_with_closes_the_stream_and_its_socket():
    gate = Gate(before=2)
    async with KimiServer([Reply("a long answer in pieces", delivery=Delivery(gate=gate))]) as server:
        async with Agent(Kimi(base_url=server.base_url, api_key=server.api_key)) as agent:
            async with agent.chat_round_stream("?") as stream:
                async for _ in stream:
                    break
            await server.until(lambda: server.connections == 0)


async def test_a_stream_that_nobody_holds_ends_and_gives_the_turn_back():
    gate = Gate(before=2)
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=gate)), say("ok"))
    stream = agent.chat_round_stream("?")
    async for _ in stream:
        break
    del stream
    gc.collect()
    await until_idle()
    assert (await agent.chat_round("next")).text == "ok"
    assert [message.role for message in agent.chat_history] == ["user", "user", "assistant"]


@pytest.mark.parametrize("kind", ["text", "frames", "reasoning"])
async def test_giving_up_a_wait_ends_no_iteration(kind: str):
    gate = Gate(before=3)
    agent = agent_for(Reply("a long answer in pieces", reasoning="hm", delivery=Delivery(gate=gate)))
    stream = agent.chat_round_stream("?")
    reading = getattr(stream, kind)()
    seen: list[object] = []
    waits = 0
    while True:
        try:
            async with asyncio.timeout(0.002):
                seen.append(await anext(reading))
        except TimeoutError:
            waits += 1
            gate.open()
        except StopAsyncIteration:
            break
    assert waits
    assert seen == [item async for item in getattr(stream, kind)()]


async def test_leaving_a_stream_half_way_leaves_nothing_to_clean_up():
    gate = Gate(before=2)
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=gate)))
    stream = agent.chat_round_stream("?")
    for reading in (stream, stream.text(), stream.frames()):
        async for _ in reading:
            break
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 2  # this one, and the reader
    gate.open()
    await stream


async def test_the_error_of_a_stream_does_not_grow_with_each_who_waits():
    agent = agent_for(BROKEN)
    stream = agent.chat_round_stream("?")
    depths: list[int] = []
    for _ in range(3):
        with pytest.raises(ServerError) as caught:
            await stream
        depths.append(len(caught.traceback))
        del caught
    assert len(set(depths)) == 1


async def test_a_hook_whose_own_wait_is_cancelled_is_an_error_and_no_close():
    class Odd(Weather):
        async def add_completion_to_history(self, completion: GenerateResult) -> Message:
            raise asyncio.CancelledError

    agent = Odd(ScriptedKimi([say("a")]))
    with pytest.raises(RuntimeError, match="a hook of the agent raised CancelledError"):
        async for stream in agent.full_round_stream("?"):
            await stream


async def test_what_an_error_calls_partial_need_not_be_a_message():
    class Odd(Weather):
        async def add_completion_to_history(self, completion: GenerateResult) -> Message:
            raise asyncio.IncompleteReadError(b"bytes", 9)

    agent = Odd(ScriptedKimi([say("a")]))
    told: list[StreamFailed] = []
    agent.on(StreamFailed, told.append)
    with pytest.raises(asyncio.IncompleteReadError):
        await agent.chat_round_stream("?")
    assert [event.partial for event in told] == [Message.assistant("a")]


# ==== full rounds of streams ====


async def test_a_full_round_of_streams_gives_each_message():
    agent = agent_for(call("get_weather", city="Oslo"), say("Four degrees."))
    seen: list[tuple[str, str]] = []
    async for stream in agent.full_round_stream("?"):
        role = stream.role
        seen.append((role, "".join([token async for token in stream])))
    assert seen == [("assistant", ""), ("tool", "Oslo: 4"), ("assistant", "Four degrees.")]


async def test_streams_that_are_not_read_are_finished_by_the_next_step():
    agent = agent_for(call("get_weather", city="Oslo"), say("Four degrees."))
    streams = [stream async for stream in agent.full_round_stream("?")]
    assert [(await stream).text for stream in streams] == ["", "Oslo: 4", "Four degrees."]
    assert len(agent.chat_history) == 4


async def test_breaking_out_of_the_tokens_and_going_on_does_not_hang():
    agent = agent_for(call("get_weather", city="Oslo"), say("Four degrees, and a few words more."))
    async for stream in agent.full_round_stream("?"):
        async for _ in stream:
            break
    assert agent.chat_history[-1].text == "Four degrees, and a few words more."


async def test_catching_the_error_of_a_stream_and_going_on_raises_it_again():
    agent = agent_for(BROKEN)
    with pytest.raises(ServerError):
        async for stream in agent.full_round_stream("?"):
            with pytest.raises(ServerError):
                async for _ in stream:
                    pass
    assert [message.role for message in agent.chat_history] == ["user"]


async def test_closing_the_stream_ends_the_round():
    gate = Gate(before=2)
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=gate)), say("ok"))
    async for stream in agent.full_round_stream("?"):
        async for _ in stream:
            break
        await stream.aclose()
    assert [message.role for message in agent.chat_history] == ["user"]
    await agent.chat_round("next")


async def test_breaking_out_of_a_round_of_streams_closes_the_stream_it_was_reading():
    gate = Gate(before=2)
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=gate)), say("ok"))
    stream: MessageStream | None = None
    async for stream in agent.full_round_stream("?"):
        async for _ in stream:
            break
        break
    assert stream is not None
    with pytest.raises(StreamInterruptedError):
        await stream
    await agent.chat_round("next")
    await until_idle()


async def test_a_whole_round_as_frames():
    agent = agent_for(Reply(tool_calls=[call("get_weather", city="Oslo")], reasoning="hm"), say("Four."))
    frames = [frame async for frame in agent.full_round_frames("?")]
    kinds = [type(frame) for frame in frames]
    assert kinds.count(End) == 2
    assert kinds[0] is Reasoning
    assert [k for k in kinds if k in (ToolCall, ToolResult, End)] == [ToolCall, End, ToolResult, End]
    assert "".join(frame.arguments for frame in frames if isinstance(frame, ToolCallDelta)) == '{"city": "Oslo"}'
    assert "".join(frame.text for frame in frames if isinstance(frame, Append)) == "Four."
    end = frames[-1]
    assert isinstance(end, End)
    assert (end.message, end.finish_reason) == (agent.chat_history[-1], "stop")
    assert end.usage is not None


async def test_reasoning_comes_before_the_text_that_came_in_the_same_piece_of_the_network():
    answers = [Reply("Four.", "hm", delivery=Delivery(whole=True)), Reply("Five.", "oh", delivery=Delivery(whole=True))]
    async with KimiServer(answers) as server, Kimi(api_key=server.api_key, base_url=server.base_url) as kimi:
        agent = Agent(kimi)
        of_stream = [frame async for frame in agent.chat_round_stream("?").frames()]
        of_round = [frame async for frame in agent.full_round_frames("?")]
    assert of_stream[:-1] == [Reasoning("hm"), Append("Four.")]
    assert of_round[:-1] == [Reasoning("oh"), Append("Five.")]


async def test_breaking_out_of_frames_leaves_a_valid_history():
    agent = agent_for(call("get_weather", city="Oslo"), say("ok"))
    async for frame in agent.full_round_frames("?"):
        if isinstance(frame, End):
            break
    assert problems(agent.chat_history) == []
    await until_idle()


# ==== events ====


async def test_a_stream_is_told_from_start_to_end():
    agent = agent_for(call("get_weather", city="Oslo"), say("ok"))
    told: list[str] = []

    def tell(event: object) -> None:
        told.append(type(event).__name__)

    async def tell_later(event: object) -> None:
        await asyncio.sleep(0)
        tell(event)

    for kind in (StreamStarted, StreamCompleted, StreamFailed, StreamCancelled, ToolCallStarted):
        agent.on(kind, tell)
    agent.on(ToolCallFinished, tell_later)
    async for _ in agent.full_round("?"):
        pass
    turn = ["StreamStarted", "StreamCompleted"]
    assert told == [*turn, "ToolCallStarted", "ToolCallFinished", *turn]


@pytest.mark.parametrize("streamed", [True, False])
async def test_frames_are_told_in_both_modes_before_the_consumer_sees_them(streamed: bool):
    agent = agent_for(say("a few words in pieces"))
    told: list[str] = []
    agent.on(StreamFrameReceived, lambda event: told.append(type(event.frame).__name__))
    if streamed:
        async for _ in agent.chat_round_stream("?"):
            assert told
    else:
        await agent.chat_round("?")
    assert told == ["Append", "Append", "End"]


async def test_a_failed_and_a_cancelled_stream_are_told_once_with_what_came():
    gate = Gate(before=2)
    agent = agent_for(BROKEN, Reply("a long answer in pieces", delivery=Delivery(gate=gate)))
    told: list[Any] = []
    for kind in (StreamCompleted, StreamFailed, StreamCancelled):
        agent.on(kind, told.append)
    with pytest.raises(ServerError):
        await agent.chat_round_stream("?")
    stream = agent.chat_round_stream("?")
    async for _ in stream:
        break
    await stream.aclose()
    failed, cancelled = told
    assert (failed.error_type, failed.partial.text) == ("ServerError", "some words")
    assert cancelled.partial.text == "a long answer in"


async def test_handlers_are_called_in_order_can_be_removed_and_stop_nothing():
    agent = agent_for(say("a"), say("b"))
    told: list[int] = []

    def broken(event: StreamStarted) -> None:
        told.append(0)
        raise ValueError("handler")

    agent.on(StreamStarted, broken)
    unsubscribe = agent.on(StreamStarted, lambda event: told.append(1))
    await agent.chat_round("x")
    unsubscribe()
    unsubscribe()
    await agent.chat_round("y")
    assert told == [0, 1, 0]


@pytest.mark.parametrize("method", ["full_round", "full_round_stream", "full_round_frames"])
async def test_a_handler_that_closes_its_own_round_is_refused_and_the_round_goes_on(method: str):
    agent = agent_for(call("get_weather", city="Oslo"), say("ok"))
    refused: list[str] = []

    async def close(event: StreamFrameReceived) -> None:
        with pytest.raises(RoundInProgressError) as caught:
            await round_.aclose()
        refused.append(str(caught.value))

    agent.on(StreamFrameReceived, close)
    round_ = getattr(agent, method)("?")
    async for item in round_:
        if isinstance(item, MessageStream):
            await item
    assert refused
    assert agent.chat_history[-1].text == "ok"


# ==== loops ====


def test_a_stream_of_a_loop_that_was_closed_without_a_word_says_so():
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=Gate(before=2))))
    stream = agent.chat_round_stream("?")

    async def begin() -> None:
        async for _ in stream:
            break

    async def go_on() -> None:
        with pytest.raises(StreamInterruptedError):
            await stream

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    left = asyncio.all_tasks(loop)
    loop.close()
    asyncio.run(go_on())
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_dropped_streams_give_their_connections_back():
    limits = httpx.Limits(max_connections=2)
    async with KimiServer(lambda body: say("hello " * 50)) as server, httpx.AsyncClient(limits=limits) as client:
        agent = Agent(Kimi(api_key=server.api_key, base_url=server.base_url, http_client=client))
        for _ in range(8):
            stream = agent.chat_round_stream("x")
            async for _ in stream:
                break
            del stream
            gc.collect()
        async with asyncio.timeout(5):
            assert (await agent.chat_round("y")).text == "hello " * 50


def test_a_stream_that_a_dead_loop_left_behind_says_so():
    agent = agent_for(Reply("a long answer in pieces", delivery=Delivery(gate=Gate(before=2))))
    held: list[MessageStream] = []

    async def begin() -> None:
        held.append(agent.chat_round_stream("?"))
        async for _ in held[0]:
            break

    async def go_on() -> None:
        with pytest.raises(StreamInterruptedError):
            await held[0]

    asyncio.run(begin())
    asyncio.run(go_on())

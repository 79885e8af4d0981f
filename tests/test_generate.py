"""One model turn: it asks, folds, tells its callbacks in order, closes what it opened, and changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from kimi_agent import generate
from kimi_agent.errors import (
    APIEmptyResponseError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
    StreamProtocolError,
)
from kimi_agent.events import Append, End
from kimi_agent.generate import collect
from kimi_agent.kimi.client import Kimi
from kimi_agent.message import (
    ContentPart,
    ImageURLPart,
    Message,
    StreamedMessagePart,
    TextPart,
    ThinkPart,
    TokenUsage,
    ToolCall,
    ToolCallPart,
)
from kimi_agent.testing import Call, Delivery, Failure, KimiServer, Recorded, Reply, ScriptedKimi, say

QUESTION = [Message.user("Which is warmer?")]
USAGE = TokenUsage(input_other=5, output=2)


class PartsOnly:
    """A stream of another provider: it has parts and no batches."""

    def __init__(self, *parts: StreamedMessagePart | Exception, finish_reason: str | None = "stop") -> None:
        self._parts = parts
        self.closed = 0
        self.id: str | None = "answer-1"
        self.usage: TokenUsage | None = USAGE
        self.trace_id: str | None = "trace-1"
        self.finish_reason = finish_reason

    async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        self.closed += 1


class Provider:
    """Answers with one stream."""

    name = "double"
    model_name = "double"
    context_window = 1000

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.asked: list[Any] = []

    async def generate(self, system_prompt: str, tools: Sequence[Any], history: Sequence[Message], **_: Any) -> Any:
        self.asked.append((system_prompt, list(tools), list(history)))
        return self.stream


def call(arguments: str | None = None, *, name: str = "f", id: str = "c") -> ToolCall:
    return ToolCall(id=id, function=ToolCall.FunctionBody(name=name, arguments=arguments))


async def turn(*parts: StreamedMessagePart | Exception, finish_reason: str | None = "stop", **callbacks: Any) -> Any:
    stream = PartsOnly(*parts, finish_reason=finish_reason)
    try:
        return await generate(Provider(stream), "", [], QUESTION, **callbacks)
    finally:
        assert stream.closed


# ==== what it gives ====


async def test_a_result_has_the_message_its_cost_and_its_ids() -> None:
    result = await turn(TextPart(text="Bergen"), TextPart(text="."))
    assert (result.message, result.usage) == (Message.assistant("Bergen."), USAGE)
    assert (result.id, result.trace_id, result.finish_reason) == ("answer-1", "trace-1", "stop")
    assert not result.is_cut_off


async def test_the_provider_is_asked_what_was_given_and_the_history_is_left_alone() -> None:
    provider, history = Provider(PartsOnly(TextPart(text="x"))), list(QUESTION)
    await generate(provider, "Be terse.", [], history)
    assert provider.asked == [("Be terse.", [], QUESTION)]
    assert history == QUESTION


async def test_parts_are_merged_and_keep_their_order() -> None:
    picture = ImageURLPart(image_url=ImageURLPart.ImageURL(url="data:x"))
    result = await turn(
        ThinkPart(think="a"),
        ThinkPart(think="b"),
        TextPart(text="Hello"),
        TextPart(text=""),
        picture,
        TextPart(text=" world"),
        call(),
        ToolCallPart(arguments_part='{"a"'),
        ToolCallPart(arguments_part=":1}"),
        ToolCallPart(arguments_part=None),
    )
    assert result.message == Message.assistant(
        [ThinkPart(think="ab"), "Hello", picture, " world"], tool_calls=[call('{"a":1}')]
    )


async def test_both_doubles_and_the_real_client_give_the_same_result() -> None:
    reply = Reply("Look.", "hm", (Call("f", '{"a": 1}'), Call("g", "{}")), usage=USAGE)
    scripted = await generate(ScriptedKimi([reply]), "", [], QUESTION)
    async with KimiServer([reply]) as server, Kimi(api_key=server.api_key, base_url=server.base_url) as kimi:
        real = await generate(kimi, "", [], QUESTION)
    assert real == scripted
    assert [c.name for c in real.message.tool_calls or ()] == ["f", "g"]


# ==== empty and cut off ====


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (TextPart(text=""),),
        (TextPart(text=" \n"),),
        (ThinkPart(think="hm"),),
        (ThinkPart(think="hm"), TextPart(text=" ")),
    ],
    ids=repr,
)
async def test_an_answer_without_text_and_calls_is_an_error(parts: tuple[ContentPart, ...]) -> None:
    with pytest.raises(APIEmptyResponseError):
        await turn(*parts)


@pytest.mark.parametrize("parts", [(TextPart(text="x"),), (call(),), (ThinkPart(think="hm"), call())], ids=repr)
async def test_an_answer_with_text_or_calls_is_none(parts: tuple[StreamedMessagePart, ...]) -> None:
    assert (await turn(*parts)).message.role == "assistant"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_was_cut_off_is_a_result_that_says_so(reason: str) -> None:
    told: list[ToolCall] = []
    result = await turn(
        ThinkPart(think="hm"), call('{"a": "lo'), finish_reason=reason, on_tool_call=lambda call: told.append(call)
    )
    assert (result.finish_reason, result.is_cut_off) == (reason, True)
    assert result.message.tool_calls == (call('{"a": "lo'),)
    assert told == []


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_was_cut_off_before_it_began_is_a_result(reason: str) -> None:
    result = await turn(ThinkPart(think="long thoughts"), finish_reason=reason)
    assert result.is_cut_off
    assert result.message.text == ""


async def test_a_stream_without_an_end_is_interrupted() -> None:
    class Endless(PartsOnly):
        async def batches(self) -> AsyncIterator[list[Append]]:
            yield [Append("Par")]

    stream: Any = Endless()
    with pytest.raises(StreamInterruptedError):
        await collect(stream)
    assert stream.closed


# ==== callbacks ====


async def test_callbacks_hear_the_trace_first_then_each_part_then_each_whole_call() -> None:
    parts = (ThinkPart(think=""), TextPart(text="Look."), call(None), ToolCallPart(arguments_part="{}"))
    told: list[Any] = []
    result = await turn(
        *parts,
        on_trace_id=lambda trace: told.append(trace),
        on_message_part=lambda part: told.append(part),
        on_tool_call=lambda whole: told.append(whole),
    )
    assert told == [
        "trace-1",
        ThinkPart(think=""),
        TextPart(text="Look."),
        call(None),
        ToolCallPart(arguments_part="{}"),
        call("{}"),
    ]
    assert result.message.tool_calls == (told[-1],)


async def test_async_callbacks_are_awaited_one_after_the_other() -> None:
    log: list[str] = []

    async def slow(part: StreamedMessagePart) -> None:
        log.append("begin")
        await asyncio.sleep(0)
        log.append("end")

    await turn(TextPart(text="a"), TextPart(text="b"), call("{}"), on_message_part=slow, on_tool_call=slow)
    assert log == ["begin", "end"] * 4


async def test_calls_are_told_in_their_order_after_the_last_part_whatever_came_between() -> None:
    def chunk(reason: str | None = None, **delta: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    def piece(index: int, arguments: str, **head: Any) -> dict[str, Any]:
        return chunk(tool_calls=[{"index": index, **head, "function": {"name": f"f{index}", "arguments": arguments}}])

    chunks = [piece(1, "{", id="b"), piece(0, "{", id="a"), piece(1, "}"), piece(0, "}"), chunk("tool_calls")]
    told: list[Any] = []
    async with KimiServer([Recorded(chunks)]) as server, Kimi(api_key="sk-test", base_url=server.base_url) as kimi:
        await generate(
            kimi,
            "",
            [],
            QUESTION,
            on_message_part=lambda part: told.append(type(part)),
            on_tool_call=lambda call: told.append(call.id),
        )
    assert told == [ToolCall, ToolCall, ToolCallPart, ToolCallPart, "b", "a"]


async def test_no_call_is_told_when_the_stream_fails() -> None:
    told: list[Any] = []
    with pytest.raises(ServerError):
        await turn(call("{}"), ServerError(500, "boom"), on_tool_call=lambda whole: told.append(whole))
    assert told == []


@pytest.mark.parametrize("callback", ["on_message_part", "on_tool_call", "on_trace_id"])
async def test_what_a_callback_raises_comes_out_and_the_stream_is_closed(callback: str) -> None:
    def refuse(_: Any) -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await turn(TextPart(text="x"), call("{}"), **{callback: refuse})


async def test_a_callback_that_raises_lets_go_of_the_connection() -> None:
    def refuse(_: Any) -> None:
        raise LookupError("no")

    async with KimiServer([say("Hello")]) as server, Kimi(api_key="sk-test", base_url=server.base_url) as kimi:
        with pytest.raises(LookupError):
            await generate(kimi, "", [], QUESTION, on_trace_id=refuse)
        await server.until(lambda: server.connections == 0)


# ==== errors ====


async def test_an_error_of_the_provider_comes_out_as_it_is() -> None:
    with pytest.raises(RateLimitError):
        await generate(ScriptedKimi([Failure(429, "rate_limit_reached_error", "slow down")]), "", [], QUESTION)


async def test_an_interrupted_answer_has_what_came() -> None:
    reply = Reply("Partial", delivery=Delivery(finish=False, done=False))
    async with KimiServer([reply]) as server, Kimi(api_key="sk-test", base_url=server.base_url) as kimi:
        with pytest.raises(StreamInterruptedError) as caught:
            await generate(kimi, "", [], QUESTION)
    assert caught.value.partial == Message.assistant("Partial")


async def test_a_part_that_belongs_to_no_call_is_a_protocol_error() -> None:
    with pytest.raises(StreamProtocolError):
        await turn(ToolCallPart(arguments_part="{}"))


async def test_a_cancelled_turn_closes_its_stream() -> None:
    begun = asyncio.Event()

    class Silent(PartsOnly):
        async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
            begun.set()
            await asyncio.Event().wait()
            yield TextPart(text="never")

    stream = Silent()
    task = asyncio.create_task(generate(Provider(stream), "", [], QUESTION))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.closed


# ==== batches ====


async def test_who_reads_batches_gets_every_frame_and_the_end_last() -> None:
    batches: list[Any] = []
    result = await collect(PartsOnly(TextPart(text="a"), TextPart(text=""), TextPart(text="b")), batches.append)
    assert batches == [[Append("a")], [Append("b")], [End("stop", USAGE, result.message)]]


@pytest.mark.parametrize("deltas", [1, 10_000])
async def test_any_number_of_deltas_is_one_message(deltas: int) -> None:
    reply = Reply("x" * deltas, chunk_size=1, delivery=Delivery(whole=True))
    async with KimiServer([reply]) as server, Kimi(api_key="sk-test", base_url=server.base_url) as kimi:
        result = await generate(kimi, "", [], QUESTION)
    assert result.message.text == "x" * deltas


async def test_a_hundred_calls_of_one_turn_are_whole() -> None:
    calls = tuple(Call("f", f'{{"n": {number}}}') for number in range(100))
    result = await generate(ScriptedKimi([Reply(tool_calls=calls, chunk_size=3)]), "", [], QUESTION)
    assert [call.args["n"] for call in result.message.tool_calls or ()] == list(range(100))

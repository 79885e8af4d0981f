"""One model turn: it asks, folds, tells its callbacks in order, closes what it opened, and changes nothing."""

import asyncio
import copy
import enum
import gc
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


# ==== parts of other providers ====


def merged(parts: Iterable[Any]) -> list[Any]:
    """Parts, each joined with the one before it where that is possible."""
    whole: list[Any] = []
    for part in parts:
        both = whole[-1].merged_with(part) if whole else None
        if both is None:
            whole.append(part)
        else:
            whole[-1] = both
    return whole


def shown(calls: Iterable[ToolCall]) -> list[Any]:
    return [(call.id, call.name, call.arguments, call.extras, call.extra) for call in calls]


words = st.text(min_size=1, max_size=4)
contents = st.one_of(
    st.builds(TextPart, text=words),
    st.builds(ThinkPart, think=words, encrypted=st.none() | words),
    st.builds(lambda url: ImageURLPart(image_url=ImageURLPart.ImageURL(url=url)), words),
)
pieces = st.builds(ToolCallPart, arguments_part=st.none() | st.text(max_size=4))
heads = st.builds(
    lambda name, arguments, extras: ToolCall(
        id="", function=ToolCall.FunctionBody(name=name, arguments=arguments), extras=extras
    ),
    st.sampled_from(["f", "g"]),
    st.none() | st.text(max_size=4),
    st.none() | st.dictionaries(words, st.integers(), max_size=1),
)
groups = st.lists(
    contents.map(lambda part: [part])
    | st.tuples(heads, st.lists(pieces, max_size=3)).map(lambda group: [group[0], *group[1]]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150)
@given(groups)
def test_a_stream_of_parts_is_what_its_parts_are_merged_one_after_the_other(groups: list[list[Any]]) -> None:
    numbered = [
        [part.copy_with(id=f"c{place}") if isinstance(part, ToolCall) else part for part in group]
        for place, group in enumerate(groups)
    ]
    parts = [part for group in numbered for part in group]
    before = copy.deepcopy(parts)
    told: list[Any] = []
    try:
        result = asyncio.run(turn(*parts, on_message_part=told.append))
    except APIEmptyResponseError:
        assert not any(isinstance(part, ToolCall | ImageURLPart) for part in parts)
        assert not "".join(part.text for part in parts if isinstance(part, TextPart)).strip()
        return
    whole = [part for part in parts if isinstance(part, ContentPart)]
    calls = [part for part in parts if not isinstance(part, ContentPart)]
    assert result.message.content == tuple(merged(whole))
    assert shown(result.message.tool_calls or ()) == shown(merged(calls))
    assert parts == told == before


async def test_text_picture_and_text_keep_their_order_around_reasoning_and_calls() -> None:
    picture = ImageURLPart(image_url=ImageURLPart.ImageURL(url="data:x"))
    result = await turn(
        TextPart(text="a"),
        picture,
        TextPart(text="b"),
        call("{", id="c0"),
        ToolCallPart(arguments_part="}"),
        ThinkPart(think="hm", encrypted="signature"),
        ThinkPart(think="so"),
        TextPart(text="c"),
        picture,
    )
    assert result.message == Message.assistant(
        ["a", picture, "b", ThinkPart(think="hm", encrypted="signature"), ThinkPart(think="so"), "c", picture],
        tool_calls=[call("{}", id="c0")],
    )


class Shout(TextPart):
    """Text of another provider's own kind."""

    type: str = "test_generate_shout"


@pytest.mark.parametrize(
    "part",
    [
        TextPart(text="a", extra={"cited": "b"}),
        ThinkPart(think="a", extra={"cited": "b"}),
        Shout(text="a"),
    ],
    ids=repr,
)
async def test_what_a_provider_keeps_with_a_part_stays_with_it(part: ContentPart) -> None:
    result = await turn(part, TextPart(text="b"))
    assert result.message.content == (part, TextPart(text="b"))


async def test_empty_reasoning_after_a_text_does_not_go_before_it() -> None:
    result = await turn(TextPart(text="a"), ThinkPart(think=""))
    assert result.message.content[0] == TextPart(text="a")


class Wrapper:
    """A provider around another one: it hands on the parts of that one, as programs do that log or retry."""

    name = model_name = "wrapper"
    context_window = 1000

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def generate(self, system_prompt: str, tools: Sequence[Any], history: Sequence[Message]) -> Any:
        inner = await self.inner.generate(system_prompt, tools, history)

        class Stream:
            id = "answer-1"
            usage = None

            def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
                return aiter(inner)

        return Stream()


def interleaved(first: Any, second: Any) -> Recorded:
    """The pieces of two calls by turns: f gets 1, g gets 2."""

    def chunk(index: Any, arguments: str, **head: Any) -> dict[str, Any]:
        name = {"name": head.pop("name")} if head else {}
        piece = {"index": index, **head, "function": {**name, "arguments": arguments}}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}]}

    return Recorded(
        [
            chunk(first, "", id="c1", name="f"),
            chunk(second, "", id="c2", name="g"),
            chunk(first, "1"),
            chunk(second, "2"),
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        ]
    )


@pytest.mark.parametrize("indexes", [(0, 1), (1, 0), (5, 6), ("a", "b"), (0, "0")], ids=repr)
async def test_pieces_of_two_calls_by_turns_reach_their_calls(indexes: tuple[Any, Any]) -> None:
    result = await generate(ScriptedKimi([interleaved(*indexes)]), "", [], QUESTION)
    assert [(call.name, call.arguments) for call in result.message.tool_calls or ()] == [("f", "1"), ("g", "2")]


@pytest.mark.parametrize("indexes", [(0, 1), (1, 0), (5, 6), ("a", "b")], ids=repr)
async def test_a_provider_that_hands_on_the_parts_of_kimi_gives_the_same_calls(indexes: tuple[Any, Any]) -> None:
    result = await generate(Wrapper(ScriptedKimi([interleaved(*indexes)])), "", [], QUESTION)  # type: ignore[arg-type]
    assert [(call.name, call.arguments) for call in result.message.tool_calls or ()] == [("f", "1"), ("g", "2")]


async def test_a_stream_that_changes_the_parts_of_another_one_is_read_by_its_parts() -> None:
    class Shouting:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
            async for part in self.inner:
                yield TextPart(text=part.text.upper()) if isinstance(part, TextPart) else part

    inner = await ScriptedKimi([say("hello")]).generate("", [], QUESTION)
    assert (await generate(Provider(Shouting(inner)), "", [], QUESTION)).message.text == "HELLO"


# ==== what is left behind ====


class Cleaning(PartsOnly):
    """A stream whose generators have something to clean up, and wait for it."""

    cleaned = 0

    async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
        try:
            yield TextPart(text="a")
            yield TextPart(text="b")
        finally:
            await asyncio.sleep(0)
            self.cleaned += 1


class CleaningBatches(Cleaning):
    """The same for one that has batches."""

    async def batches(self) -> AsyncIterator[list[Any]]:
        try:
            yield [Append("a")]
            yield [Append("b"), End("stop", USAGE, Message.assistant("ab"))]
        finally:
            await asyncio.sleep(0)
            self.cleaned += 1


@pytest.mark.parametrize(
    "stream",
    [
        Cleaning,
        CleaningBatches,
    ],
)
async def test_a_generator_of_a_stream_is_closed_before_the_error_of_a_callback_comes_out(stream: Any) -> None:
    def refuse(_: Any) -> None:
        raise LookupError("no")

    given = stream()
    before = asyncio.all_tasks()
    with pytest.raises(LookupError):
        await generate(Provider(given), "", [], QUESTION, on_message_part=refuse)
    cleaned, tasks = given.cleaned, asyncio.all_tasks()
    del given
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (cleaned, tasks) == (1, before)


async def test_a_cancel_at_each_turn_of_the_loop_leaves_no_stream_open() -> None:
    async def wait_a_turn(_: Any) -> None:
        await asyncio.sleep(0)

    cancelled, moment = True, 0
    while cancelled:
        stream = PartsOnly(TextPart(text="x"), call("{"), ToolCallPart(arguments_part="}"))
        callbacks = dict.fromkeys(["on_trace_id", "on_message_part", "on_tool_call"], wait_a_turn)
        task = asyncio.create_task(generate(Provider(stream), "", [], QUESTION, **callbacks))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert stream.closed or moment == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        cancelled, moment = task.cancelled(), moment + 1
    assert moment > 5


async def test_an_answer_of_one_picture_is_an_answer() -> None:
    picture = ImageURLPart(image_url=ImageURLPart.ImageURL(url="data:x"))
    assert (await turn(picture)).message == Message.assistant(picture)


async def test_the_first_argument_may_be_named_as_other_libraries_name_it() -> None:
    provider = Provider(PartsOnly(TextPart(text="x")))
    result = await generate(chat_provider=provider, system_prompt="s", tools=[], history=QUESTION)
    assert result.message.text == "x"
    assert provider.asked == [("s", [], QUESTION)]


@pytest.mark.parametrize("number", [1, 3])
async def test_turns_of_one_provider_at_once_do_not_mix(number: int) -> None:
    provider = ScriptedKimi(lambda body: say(body["messages"][-1]["content"] * 50))
    histories = [[Message.user(f"{place} ")] for place in range(number)]
    results = await asyncio.gather(*[generate(provider, "", [], history) for history in histories])
    assert [result.message.text for result in results] == [f"{place} " * 50 for place in range(number)]


@pytest.mark.parametrize("part", [None, "text", 42])
async def test_what_is_no_part_ends_no_answer(part: Any) -> None:
    with pytest.raises(StreamProtocolError, match="no part of a message"):
        await turn(TextPart(text="a"), part, TextPart(text="b"))


class Reason(enum.Enum):
    LENGTH = "length"


@pytest.mark.parametrize("reason", [Reason.LENGTH, "LENGTH"])
async def test_a_finish_reason_may_be_written_in_other_ways(reason: Any) -> None:
    result = await turn(call("{"), finish_reason=reason)
    assert result.finish_reason == "length"
    assert result.is_cut_off


async def test_a_stream_that_cannot_be_closed_hides_neither_the_answer_nor_the_error() -> None:
    class Unclosable(PartsOnly):
        async def aclose(self) -> None:
            raise OSError("stuck")

    assert (await generate(Provider(Unclosable(TextPart(text="a"))), "", [], QUESTION)).message.text == "a"
    with pytest.raises(ZeroDivisionError):
        stream = Unclosable(TextPart(text="a"))
        await generate(Provider(stream), "", [], QUESTION, on_message_part=lambda part: 1 / 0)  # type: ignore[func-returns-value]


async def test_a_batch_of_nothing_is_nothing() -> None:
    class Sparse:
        id = usage = logprobs = None

        async def batches(self) -> AsyncIterator[list[Any]]:
            yield []
            yield [Append("a")]
            yield [End("stop", None, Message.assistant("a"))]
            yield []

        async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
            yield TextPart(text="never")

    assert (await generate(Provider(Sparse()), "", [], QUESTION)).message.text == "a"  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [(None, None), ("a", "a"), ("a", None)])
async def test_parts_have_the_ids_of_the_calls(ids: tuple[Any, ...]) -> None:
    pieces = [
        {"index": index, "id": call_id, "function": {"name": "add", "arguments": "{}"}}
        for index, call_id in zip((4, 7), ids, strict=True)
    ]
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}]} for piece in pieces]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    told: list[str] = []
    result = await generate(
        ScriptedKimi([Recorded([*chunks, end])]),
        "",
        [],
        QUESTION,
        on_message_part=lambda part: told.append(part.id) if isinstance(part, ToolCall) else None,
    )
    assert told == [call.id for call in result.message.tool_calls or ()]

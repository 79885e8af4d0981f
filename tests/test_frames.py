"""Frames: every way in which an answer can come, however its bytes are cut, and what people make of frames."""

import asyncio
import gc
import json
import random
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent import (
    Agent,
    Append,
    ChatProviderError,
    End,
    ImageURLPart,
    Kimi,
    Message,
    MessageStream,
    Reasoning,
    ServerError,
    StreamCancelled,
    StreamCompleted,
    StreamFailed,
    StreamFrame,
    StreamInterruptedError,
    StreamProtocolError,
    StreamStarted,
    TextPart,
    ThinkPart,
    TokenUsage,
    ToolArgumentsError,
    ToolCall,
    ToolCallDelta,
    ToolOk,
    ToolResult,
    ToolReturnValue,
    ai_function,
)
from kimi_agent.frames import collect_text, text_only, to_assistant_message, to_frames, to_messages, to_tool_calls
from kimi_agent.history import problems
from kimi_agent.kimi.answer import KimiStreamedMessage
from kimi_agent.message import MediaURL
from kimi_agent.testing import Delivery, Gate, KimiServer, RawBody, Recorded, Reply, ScriptedKimi, say

CUTTINGS = 200
Chunk = dict[str, Any]
TERMINAL = (StreamCompleted, StreamFailed, StreamCancelled)


# ==== the cases: chunks of Kimi, and the frames that they are ====


def chunk(reason: str | None = None, /, *, usage: Chunk | None = None, **delta: Any) -> Chunk:
    """A chunk with a delta, the finish reason, and the usage where Kimi puts it."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason, **({"usage": usage} if usage else {})}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


def text(*pieces: str) -> list[Chunk]:
    return [chunk(content=piece) for piece in pieces]


def thought(*pieces: str) -> list[Chunk]:
    return [chunk(reasoning_content=piece) for piece in pieces]


def piece(arguments: str | None, index: int | None = 0, id: str | None = None, name: str | None = None) -> Chunk:
    """A chunk with a piece of a call."""
    function = {"name": name, "arguments": arguments}
    found = {"index": index, "id": id, "function": {key: item for key, item in function.items() if item is not None}}
    return chunk(tool_calls=[{key: item for key, item in found.items() if item is not None}])


def said(content: Any = None, *calls: ToolCall) -> Message:
    return Message.assistant(content, tool_calls=calls)


def called(id: str, arguments: str | None, name: str = "add") -> ToolCall:
    return ToolCall(id=id, function=ToolCall.FunctionBody(name=name, arguments=arguments))


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
USED = TokenUsage(input_other=9, output=3)
STOP, CALLS = chunk("stop"), chunk("tool_calls")
ONE = called("c1", '{"a":1}')
X, Y = called("c1", '{"x":1}'), called("c2", '{"y":2}')
CUT = called("c1", '{"a": "lo')
EMPTY = called("c1", "")
RAW = called("c1", "{a:1")


@dataclass(frozen=True)
class Case:
    """What Kimi sends, the frames that it is (without the deltas of calls), and how it ends if not well."""

    chunks: Sequence[Chunk]
    frames: Sequence[StreamFrame]
    error: type[ChatProviderError] | None = None
    partial: Message | None = None
    done: bool = True

    @property
    def body(self) -> bytes:
        """As server-sent events."""
        events = [json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in self.chunks]
        return "".join(f"data: {event}\n\n" for event in [*events, *(["[DONE]"] if self.done else [])]).encode()


def answer(*frames: StreamFrame, reason: str = "stop", usage: TokenUsage | None = None, message: Message) -> list[Any]:
    return [*frames, End(reason, usage, message)]


THINK = ThinkPart(think="think")
CASES = {
    "F1 text, and the usage behind the end": Case(
        [*text("He", "llo"), STOP, {"choices": [], "usage": USAGE}],
        answer(Append("He"), Append("llo"), usage=USED, message=said("Hello")),
    ),
    "F2 empty text": Case([*text("", "a"), STOP], answer(Append("a"), message=said("a"))),
    "F3 reasoning": Case(
        [*thought("", "think"), *text("ans"), STOP],
        answer(Reasoning("think"), Append("ans"), message=said([THINK, "ans"])),
    ),
    "F3 reasoning about nothing": Case(
        [*thought(""), *text("ans"), STOP],
        answer(Reasoning(""), Append("ans"), message=said([ThinkPart(think=""), "ans"])),
    ),
    "F4 a call": Case(
        [piece('{"a"', 0, "c1", "add"), piece(":1}"), CALLS], answer(ONE, reason="tool_calls", message=said(None, ONE))
    ),
    "F5 interleaved calls": Case(
        [piece('{"x":', 0, "c1", "add"), piece('{"y":', 1, "c2", "add"), piece("1}", 0), piece("2}", 1), CALLS],
        answer(X, Y, reason="tool_calls", message=said(None, X, Y)),
    ),
    "F7 no arguments": Case(
        [piece("", 0, "c1", "add"), CALLS],
        answer(EMPTY, reason="tool_calls", message=said(None, EMPTY)),
    ),
    "F8 the id on each piece": Case(
        [piece('{"a"', 0, "c1", "add"), piece(":1}", 0, "c1"), CALLS],
        answer(ONE, reason="tool_calls", message=said(None, ONE)),
    ),
    "F9 blank ids and names": Case(
        [piece('{"a"', 0, "c1", "add"), piece(":1}", 0, "", ""), CALLS],
        answer(ONE, reason="tool_calls", message=said(None, ONE)),
    ),
    "F10 a late name": Case(
        [piece("", 0, "c1"), piece('{"a":1}', 0, None, "add"), CALLS],
        answer(ONE, reason="tool_calls", message=said(None, ONE)),
    ),
    "F12 neither id nor index": Case([piece("{}", None, None, "add"), CALLS], [], StreamProtocolError),
    "F13 no finish_reason": Case(
        text("par", "tial"), [Append("par"), Append("tial")], StreamInterruptedError, said("partial"), done=False
    ),
    "F14 nothing at all": Case([], [], StreamInterruptedError, said(), done=False),
    "F15 a call that is cut off": Case(
        [piece('{"a": "lo', 0, "c1", "add"), chunk("length")], answer(reason="length", message=said(None, CUT))
    ),
    "F16 usage in the choice": Case(
        [*text("a"), chunk("stop", usage=USAGE)], answer(Append("a"), usage=USED, message=said("a"))
    ),
    "F18 an error in the middle": Case(
        [*text("par", "tial"), {"error": {"message": "boom", "type": "server_error"}}],
        [Append("par"), Append("tial")],
        ServerError,
        said("partial"),
    ),
    "F19 arguments that are no JSON": Case(
        [piece("{a:1", 0, "c1", "add"), CALLS], answer(RAW, reason="tool_calls", message=said(None, RAW))
    ),
}


# ==== however the bytes are cut ====


class Pieces:
    """A body that is there already, in pieces."""

    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    async def read(self) -> bytes | None:
        return next(self._pieces, None)

    read_near_end = read

    async def aclose(self) -> None:
        pass


def cuttings(body: bytes) -> Iterator[list[int]]:
    """Whole, byte by byte, and at random."""
    yield []
    yield list(range(1, len(body)))
    draw = random.Random(len(body))
    for _ in range(CUTTINGS - 2 if body else 0):
        yield sorted(draw.sample(range(1, len(body)), draw.randint(1, min(12, len(body) - 1))))


def cut(body: bytes, positions: Sequence[int]) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *positions, len(body)])]


async def decoded(pieces: Iterable[bytes]) -> tuple[list[StreamFrame], ChatProviderError | None]:
    """The frames, and the error that they ended with."""
    frames: list[StreamFrame] = []
    try:
        async for batch in KimiStreamedMessage(Pieces(pieces)).batches():
            frames += batch
    except ChatProviderError as error:
        return frames, error
    return frames, None


def without_deltas(frames: Iterable[StreamFrame]) -> list[StreamFrame]:
    return [frame for frame in frames if not isinstance(frame, ToolCallDelta)]


@pytest.mark.parametrize("name", CASES)
async def test_the_frames_of_an_answer_do_not_depend_on_how_its_bytes_are_cut(name: str):
    case = CASES[name]
    first, _ = await decoded([case.body])
    assert without_deltas(first) == list(case.frames)
    for positions in cuttings(case.body):
        frames, error = await decoded(cut(case.body, positions))
        assert frames == first, positions
        assert type(error) is (case.error or type(None)), positions
        if isinstance(error, StreamInterruptedError):
            assert error.partial == case.partial


@pytest.mark.parametrize("name", CASES)
async def test_the_helpers_agree_on_the_frames_of_an_answer(name: str):
    frames, error = await decoded([CASES[name].body])
    whole = frames[-1].message if frames and isinstance(frames[-1], End) else CASES[name].partial
    assert collect_text(frames) == (whole.text if whole else "")
    assert to_assistant_message(frames) == (None if whole in (None, said()) else whole)
    calls = [] if error or frames[-1].finish_reason == "length" else list(whole.tool_calls or ())  # type: ignore
    assert to_tool_calls(frames) == calls


def test_a_call_without_arguments_has_no_arguments():
    assert to_tool_calls(CASES["F7 no arguments"].frames)[0].args == {}


def test_usage_and_truncated_calls_are_at_the_end():
    ends = {name: frame for name, case in CASES.items() for frame in case.frames if isinstance(frame, End)}
    assert {name[:3] for name, end in ends.items() if end.usage} == {"F1 ", "F16"}
    assert {name[:3]: end.truncated_calls for name, end in ends.items() if end.truncated_calls} == {"F15": (CUT,)}


def test_arguments_that_are_no_json_stay_as_they_came():
    (raw,) = to_tool_calls(CASES["F19 arguments that are no JSON"].frames)
    assert raw.arguments == "{a:1"
    with pytest.raises(ToolArgumentsError):
        _ = raw.args


# ==== the same in a round ====


class Caller(Agent):
    """Its one function writes down that it ran."""

    def __init__(self, *script: Any) -> None:
        super().__init__(ScriptedKimi(script, check=False))
        self.ran: list[object] = []
        self.told: list[Any] = []
        for kind in (StreamStarted, *TERMINAL):
            self.on(kind, self.told.append)

    @ai_function()
    async def add(self, a: object = None) -> str:
        self.ran.append(a)
        return "done"

    @property
    def ended(self) -> list[type[Any]]:
        """How its streams ended; each of them did, once."""
        starts = [type(event) for event in self.told if type(event) is StreamStarted]
        ends = [type(event) for event in self.told if type(event) is not StreamStarted]
        assert len(starts) == len(ends)
        return ends


async def rounds(name: str, *more: Any) -> AsyncIterator[tuple[Caller, list[StreamFrame], ChatProviderError | None]]:
    """A full round by frames for every fifth way to cut the answer: the frames do not depend on it, as was seen."""
    case = CASES[name]
    for positions in list(cuttings(case.body))[::5]:
        agent = Caller(RawBody(case.body, delivery=Delivery(whole=True, cuts=positions)), *more)
        frames: list[StreamFrame] = []
        caught: ChatProviderError | None = None
        try:
            async for frame in agent.full_round_frames("?"):
                frames.append(frame)
        except ChatProviderError as error:
            caught = error
        assert problems(agent.chat_history) == []
        yield agent, frames, caught


FAILING = [name for name, case in CASES.items() if case.error]


@pytest.mark.parametrize("name", FAILING)
async def test_a_broken_answer_is_an_error_and_what_the_user_said_stays(name: str):
    case = CASES[name]
    async for agent, frames, error in rounds(name):
        assert without_deltas(frames) == list(case.frames)
        assert type(error) is case.error
        assert agent.chat_history == [Message.user("?")]
        assert agent.ended == [StreamFailed]
        if case.partial is not None:
            assert agent.told[-1].partial == case.partial


async def test_a_call_that_is_cut_off_is_not_run():
    async for agent, frames, _ in rounds("F15 a call that is cut off", say("I stop")):
        assert agent.ran == []
        assert not any(isinstance(frame, ToolCall) for frame in frames)
        assert [message.is_tool_call_error for message in agent.chat_history if message.role == "tool"] == [True]


async def test_the_model_is_told_that_its_arguments_are_no_json():
    async for agent, frames, _ in rounds("F19 arguments that are no JSON", say("I stop")):
        assert agent.ran == []
        (result,) = (frame for frame in frames if isinstance(frame, ToolResult))
        assert result.return_value.is_error
        assert "not valid JSON" in agent.chat_history[2].text
        assert agent.ended == [StreamCompleted] * 2


async def test_the_frames_of_a_round_are_its_messages():
    async for agent, frames, _ in rounds("F5 interleaved calls", say("I stop", reasoning="so")):
        assert to_messages(frames) == agent.chat_history[1:]
        assert to_assistant_message(frames) == agent.chat_history[-1]
        assert to_tool_calls(frames) == [X, Y]
        assert collect_text(frames) == "I stop"


async def test_leaving_after_one_frame_closes_the_response_and_leaves_nothing_behind():
    async with KimiServer(lambda body: Reply("a long answer in pieces", delivery=Delivery(gate=Gate(2)))) as server:
        async with Agent(Kimi(base_url=server.base_url, api_key=server.api_key)) as agent:
            told: list[Any] = []
            for kind in (StreamStarted, *TERMINAL):
                agent.on(kind, told.append)
            tasks = asyncio.all_tasks()
            async for frame in agent.full_round_frames("?"):
                assert frame == Append("a long answer in")
                break
            await server.until(lambda: server.connections == 0)
            async with asyncio.timeout(5):
                while asyncio.all_tasks() - tasks:
                    await asyncio.sleep(0)
            assert [type(event) for event in told] == [StreamStarted, StreamCancelled]
            assert agent.chat_history == [Message.user("?")]


async def test_iterating_twice_and_then_asking_for_the_message_is_one_request():
    for name, case in CASES.items():
        if case.error:
            continue
        agent = Caller(RawBody(case.body))
        stream = agent.chat_round_stream("?")
        first = [frame async for frame in stream.frames()]
        assert [frame async for frame in stream.frames()] == first, name
        assert await stream.message() == first[-1].message  # type: ignore[union-attr]
        assert len(agent.provider.requests) == 1  # type: ignore[attr-defined]


async def test_leaving_after_one_frame_cancels_the_answer_once_however_it_is_cut():
    """F20, under each cutting."""
    body = CASES["F1 text, and the usage behind the end"].body
    ends: set[type[Any]] = set()
    for positions in cuttings(body):
        kimi = ScriptedKimi([RawBody(body, delivery=Delivery(whole=True, cuts=positions))])
        agent = Agent(kimi)
        told: list[Any] = []
        for kind in (StreamStarted, *TERMINAL):
            agent.on(kind, told.append)
        tasks = asyncio.all_tasks()
        round_ = agent.full_round_frames("?")
        async for _ in round_:
            break
        await round_.aclose()
        assert asyncio.all_tasks() == tasks
        kinds = [type(event) for event in told]
        assert kinds[0] is StreamStarted
        assert len(kinds) == 2  # an answer that came in few pieces may have been whole already
        assert roles(agent) == (["user"] if kinds[1] is StreamCancelled else ["user", "assistant"])
        ends.add(kinds[1])
    assert StreamCancelled in ends


def roles(agent: Agent) -> list[str]:
    return [message.role for message in agent.chat_history]


async def test_iterating_twice_gives_the_same_frames_however_the_answer_is_cut():
    """F21, under each cutting."""
    body = CASES["F4 a call"].body
    for positions in cuttings(body):
        agent = Agent(ScriptedKimi([RawBody(body, delivery=Delivery(whole=True, cuts=positions))]))
        stream = agent.chat_round_stream("?", tool_choice="auto")
        first = [frame async for frame in stream.frames()]
        assert [frame async for frame in stream.frames()] == first
        assert without_deltas(first) == list(CASES["F4 a call"].frames)
        assert (await stream.message()) == first[-1].message  # type: ignore[union-attr]


# ==== what people make of frames ====


class Arriving:
    """Frames that come one by one, from an object with nothing but `__aiter__`."""

    def __init__(self, frames: Iterable[StreamFrame]) -> None:
        self._frames = iter(frames)

    def __aiter__(self) -> "Arriving":
        return self

    async def __anext__(self) -> StreamFrame:
        await asyncio.sleep(0)
        for frame in self._frames:
            return frame
        raise StopAsyncIteration


ROUND = [
    Reasoning("hm"),
    ToolCallDelta(0, "c1", "add", '{"a":1}'),
    ONE,
    End("tool_calls", USED, said(ThinkPart(think="hm"), ONE)),
    ToolResult(tool_call_id="c1", return_value=ToolReturnValue(is_error=False, output="done")),
    Append("I "),
    Append("stop"),
    End("stop", USED, said("I stop")),
]
ROUND_MESSAGES = [
    said(ThinkPart(think="hm"), ONE),
    Message.tool("done", "c1", name="add"),
    said("I stop"),
]


async def test_the_helpers_take_frames_that_are_there_and_frames_that_arrive():
    assert list(text_only(ROUND)) == ["I ", "stop"] == [piece async for piece in text_only(Arriving(ROUND))]
    assert collect_text(ROUND) == "I stop" == await collect_text(Arriving(ROUND))
    assert to_assistant_message(ROUND) == ROUND_MESSAGES[-1] == await to_assistant_message(Arriving(ROUND))
    assert to_messages(ROUND) == ROUND_MESSAGES == await to_messages(Arriving(ROUND))
    assert to_tool_calls(ROUND) == [ONE] == await to_tool_calls(Arriving(ROUND))
    assert to_messages(iter(ROUND)) == ROUND_MESSAGES


async def test_a_stream_stands_for_its_frames():
    agent = Agent(ScriptedKimi([say("a few words", reasoning="hm")]))
    stream = agent.chat_round_stream("?")
    assert "".join([piece async for piece in text_only(stream)]) == "a few words"
    assert await collect_text(stream) == "a few words"
    assert await to_assistant_message(stream) == agent.chat_history[-1]
    assert await to_messages(stream) == agent.chat_history[1:]
    assert await to_tool_calls(stream) == []


def test_a_message_needs_text_a_call_or_reasoning():
    for nothing in ([], [End("stop", None, said())], [End("stop", None, said(TextPart(text="")))]):
        assert to_assistant_message(nothing) is None
        assert to_messages(nothing) == []
        assert (collect_text(nothing), to_tool_calls(nothing)) == ("", [])
    for something in ("a", ThinkPart(think=""), THINK):
        assert to_assistant_message([End("stop", None, said(something))]) == said(something)
    assert to_assistant_message([ONE]) == said(None, ONE)


def test_of_several_turns_the_last_one_counts_even_if_it_says_nothing():
    assert to_assistant_message([*ROUND, Append("and ")]) == said("and ")
    assert to_assistant_message(ROUND[:5]) == ROUND_MESSAGES[0]
    assert to_assistant_message([*ROUND, End("stop", None, said())]) is None


@pytest.mark.parametrize("length", range(len(ROUND) + 1))
def test_a_round_that_broke_off_gives_the_messages_that_came(length: int):
    messages = to_messages(ROUND[:length])
    whole = sum(isinstance(frame, End | ToolResult) for frame in ROUND[:length])
    assert messages[:whole] == ROUND_MESSAGES[:whole]
    assert len(messages) - whole == (length not in (0, 4, 5, 8))


def test_the_end_says_what_the_message_is():
    picture = ImageURLPart(image_url=MediaURL(url="data:image/png;base64,aGk="))
    message = said(["a", picture, "b"])
    assert to_messages([Append("a"), Append("b"), End("stop", None, message)]) == [message]


def test_a_result_whose_call_is_not_there_has_no_name():
    result = ToolResult(tool_call_id="c9", return_value=ToolReturnValue(is_error=True, output="no"))
    assert to_messages([result]) == [Message.tool("no", "c9", is_tool_call_error=True)]


async def test_an_error_of_the_frames_goes_on():
    agent = Agent(ScriptedKimi([Recorded([*text("a"), {"error": {"message": "boom", "type": "server_error"}}])]))
    stream = agent.chat_round_stream("?")
    for helper in (collect_text, to_assistant_message, to_messages, to_tool_calls):
        with pytest.raises(ServerError):
            await helper(stream)
    got: list[str] = []
    with pytest.raises(ServerError):
        async for piece in text_only(stream):
            got.append(piece)
    assert got == ["a"]


def test_what_has_no_frames_is_refused():
    for helper in (collect_text, text_only, to_assistant_message, to_messages, to_tool_calls):
        with pytest.raises(TypeError):
            helper(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def test_dropping_the_text_half_way_gives_the_turn_back():
    gate = Gate(before=2)
    agent = Agent(ScriptedKimi([Reply("a long answer in pieces", delivery=Delivery(gate=gate)), say("ok")]))
    pieces = text_only(agent.full_round_frames("?"))
    async for _ in pieces:
        break
    dropped = weakref.ref(pieces)
    del pieces
    assert dropped() is None
    assert await agent.chat_round_str("next") == "ok"
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


async def test_dropping_the_text_of_a_stream_half_way_ends_the_stream():
    gate = Gate(before=2)
    agent = Agent(ScriptedKimi([Reply("a long answer in pieces", delivery=Delivery(gate=gate))]))
    async for _ in text_only(agent.chat_round_stream("?")):
        break
    gc.collect(1)
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    assert agent.chat_history == [Message.user("?")]


# ==== and back ====

plain = st.text(min_size=1, max_size=5)
thoughts = st.builds(ThinkPart, think=st.text(max_size=5))
model_messages = st.builds(
    lambda thinks, content, calls: said([*thinks, *content], *calls),
    st.lists(thoughts, max_size=1),
    st.lists(st.builds(TextPart, text=plain), max_size=1),
    st.lists(st.builds(called, st.sampled_from(["c1", "c2"]), st.none() | plain), max_size=2, unique_by=lambda c: c.id),
)
NOTHING = said()


@settings(max_examples=100)
@given(st.lists(model_messages, max_size=3))
def test_frames_of_messages_are_the_messages_again(messages: list[Message]):
    frames = [frame for message in messages for frame in to_frames(message)]
    spoken = [message for message in messages if message != NOTHING]
    assert to_messages(frames) == spoken
    assert collect_text(frames) == "".join(message.text for message in spoken)
    if messages:
        without_end = to_frames(messages[-1])[:-1]
        assert to_messages(without_end) == ([messages[-1]] if messages[-1] != NOTHING else [])


@pytest.mark.parametrize("content", ["done", "", [TextPart(text="a"), TextPart(text="b")], ["a", THINK]])
def test_the_result_of_a_call_comes_as_one_frame(content: Any):
    message = Message.tool(content, "c1", name="add", is_tool_call_error=True)
    (frame,) = to_frames(message)
    assert isinstance(frame, ToolResult)
    if content:
        assert to_messages([ONE, frame]) == [said(None, ONE), message]


def test_what_neither_model_nor_function_said_does_not_come_as_frames():
    for message in (Message.user("a"), Message.system("a")):
        with pytest.raises(ValueError, match=f"a {message.role} message does not come as frames"):
            to_frames(message)


async def test_a_stream_of_a_message_that_is_there_has_its_frames():
    message = said([THINK, "a few words"], ONE)
    stream = MessageStream.of(message)
    assert [frame async for frame in stream.frames()] == to_frames(message)
    assert [piece async for piece in stream] == ["a few words"]
    assert [piece async for piece in stream.reasoning()] == ["think"]
    assert await stream == message


@pytest.mark.parametrize(
    "frame", [Append("a"), Reasoning("a"), ToolCallDelta(0, None, None, ""), End(None, None, said(["a"]))], ids=str
)
def test_a_frame_is_frozen_and_slotted(frame: Any):
    with pytest.raises(FrozenInstanceError):
        setattr(frame, fields(frame)[0].name, None)
    assert not hasattr(frame, "__dict__")


def test_many_results_take_linear_time():
    frames = [ToolResult(tool_call_id=f"c{n}", return_value=ToolOk(output="x")) for n in range(4000)]
    assert len(to_messages(frames)) == 4000
    assert takes_at_most(24, lambda: to_messages(frames[:500]), lambda: to_messages(frames))

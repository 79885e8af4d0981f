"""The double without HTTP behaves like `Kimi` against the double with HTTP."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kimi_agent.errors import (
    APIConnectionError,
    APIEmptyResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    InvalidRequestError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
    StreamProtocolError,
)
from kimi_agent.events import Append, End, Reasoning, RequestSent, StreamFrame, ToolCallDelta
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.patience import Timeouts
from kimi_agent.message import Message, TextPart, ThinkPart, TokenUsage, ToolCall, ToolCallPart
from kimi_agent.provider import BatchedMessage, ChatProvider, StreamedMessage
from kimi_agent.testing import (
    Call,
    Delivery,
    Failure,
    Gate,
    HangUp,
    KimiServer,
    RawBody,
    Recorded,
    Reply,
    ScriptedKimi,
    Step,
    call,
    say,
)
from kimi_agent.tools.base import Tool

HISTORY = [Message.user("Which is warmer?")]
WEATHER = Tool(name="get_weather", description="", parameters={"type": "object", "properties": {}})


async def frames_of(
    provider: ChatProvider, history: list[Message] | None = None, **overrides: Any
) -> list[StreamFrame]:
    answer = await provider.generate("Be terse.", [WEATHER], history or HISTORY, generation_overrides=overrides or None)  # type: ignore[arg-type]
    assert isinstance(answer, BatchedMessage)
    return [frame async for batch in answer.batches() for frame in batch]


async def outcome(provider: ChatProvider) -> object:
    """What asking the provider gives: the end of its answer, or its error as a value."""
    try:
        return (await frames_of(provider))[-1]
    except StreamInterruptedError as error:
        return type(error), error.partial
    except APIStatusError as error:
        return type(error), str(error), error.type, error.body, error.retry_after, error.request_id, error.trace_id
    except (StreamProtocolError, APIEmptyResponseError) as error:
        return type(error), str(error)
    except (APIConnectionError, APITimeoutError) as error:  # its text names the host
        return type(error)


async def over_http(step: Step, **options: Any) -> object:
    async with KimiServer([step]) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=0, **options) as kimi:
            return await outcome(kimi)


async def test_it_streams_frames_in_small_batches() -> None:
    kimi = ScriptedKimi([Reply("abcd", "hm", [call("get_weather", city="Oslo")], chunk_size=2)])
    answer = await kimi.generate("", [], HISTORY)
    batches = [batch async for batch in answer.batches()]
    assert batches[0] == [Reasoning("hm")]
    assert batches[1:3] == [[Append("ab")], [Append("cd")]]
    assert batches[3] == [ToolCallDelta(0, "get_weather_0", "get_weather", "")]
    made = ToolCall(
        id="get_weather_0", function=ToolCall.FunctionBody(name="get_weather", arguments='{"city": "Oslo"}')
    )
    assert batches[-1][0] == made
    end = batches[-1][-1]
    assert isinstance(end, End)
    assert end.message == Message.assistant([ThinkPart(think="hm"), "abcd"], tool_calls=[made])
    assert (answer.id, answer.trace_id, answer.finish_reason) == ("chatcmpl-1", "trace-1", "tool_calls")
    assert answer.usage == end.usage


async def test_its_parts_come_by_iteration() -> None:
    answer: StreamedMessage = await ScriptedKimi([Reply("abcd", "hm", [call("f")])]).generate("", [], HISTORY)
    parts = [part async for part in answer]
    assert parts[:2] == [ThinkPart(think="hm"), TextPart(text="abcd")]
    assert isinstance(parts[2], ToolCall)
    assert parts[3] == ToolCallPart(arguments_part="{}", index=0)
    await answer.aclose()
    await answer.aclose()


async def test_it_records_what_it_was_asked() -> None:
    kimi = ScriptedKimi([say("a")])
    sent: list[object] = []
    answer = await kimi.generate(
        "Be terse.", [WEATHER], HISTORY, generation_overrides={"tool_choice": "none"}, on_event=sent.append
    )
    await answer.aclose()
    (request,) = kimi.requests
    assert (request.system_prompt, request.tools, request.history) == ("Be terse.", (WEATHER,), tuple(HISTORY))
    assert request.overrides == {"tool_choice": "none"}
    assert request.body["messages"] == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "Which is warmer?"},
    ]
    assert request.body["tool_choice"] == "none"
    (event,) = sent
    assert isinstance(event, RequestSent)
    assert json.loads(event.body) == request.body


async def test_an_async_listener_is_awaited() -> None:
    sent: list[object] = []

    async def listen(event: object) -> None:
        await asyncio.sleep(0)
        sent.append(event)

    await ScriptedKimi([say("a")]).generate("", [], HISTORY, on_event=listen)
    assert len(sent) == 1


async def test_it_refuses_what_kimi_refuses_before_the_script_is_asked() -> None:
    kimi = ScriptedKimi([say("still there")])
    with pytest.raises(BadRequestError, match="invalid temperature: only 1 is allowed for this model"):
        await frames_of(kimi, extra_body={"temperature": 0.5})
    orphan = ToolCall.from_function("get_weather", call_id_="a")
    with pytest.raises(BadRequestError, match="did not have response messages: a"):
        await frames_of(kimi, [*HISTORY, Message.assistant(tool_calls=[orphan])])
    assert len(kimi.requests) == 2
    assert (await frames_of(kimi))[0] == Append("still there")


async def test_without_checks_it_answers_everything() -> None:
    kimi = ScriptedKimi([say("fine")], check=False)
    assert (await frames_of(kimi, extra_body={"temperature": 0.5}))[0] == Append("fine")


async def test_what_kimi_would_not_send_is_not_sent() -> None:
    kimi = ScriptedKimi([say("still there")])
    with pytest.raises(InvalidRequestError, match="temperature"):
        await frames_of(kimi, temperature=0.5)
    assert kimi.requests == []
    assert (await frames_of(kimi))[0] == Append("still there")


async def test_an_override_that_no_request_knows_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a request has no warmth"):
        await frames_of(ScriptedKimi([say("fine")]), warmth=1)


async def nothing(body: dict[str, Any]) -> Any:
    return None


@pytest.mark.parametrize("script", [nothing, [nothing], lambda body: None])
async def test_a_function_that_gives_no_answer_is_a_type_error_that_says_so(script: Any) -> None:
    with pytest.raises(TypeError, match="a function of the script gave None; it has to give a Reply"):
        await frames_of(ScriptedKimi(script))


async def test_an_exhausted_script_is_a_server_error() -> None:
    with pytest.raises(ServerError, match="the script is exhausted: it has no answer to request 1"):
        await frames_of(ScriptedKimi([]))


async def test_what_was_not_asked_for_is_named() -> None:
    kimi = ScriptedKimi([say("first"), say("second")])
    await frames_of(kimi)
    with pytest.raises(AssertionError, match="second"):
        kimi.assert_complete()
    await frames_of(kimi)
    kimi.assert_complete()


async def test_a_function_that_raises_raises_where_the_model_was_asked() -> None:
    def broken(body: dict[str, Any]) -> Reply:
        raise AssertionError(f"{body['model']} should not have been asked")

    with pytest.raises(AssertionError, match="kimi-k3 should not"):
        await frames_of(ScriptedKimi([broken]))


async def test_a_failure_is_the_error_that_kimi_would_raise() -> None:
    kimi = ScriptedKimi([Failure(429, "engine_overloaded_error", "busy", retry_after=2)])
    with pytest.raises(RateLimitError) as error:
        await frames_of(kimi)
    assert (error.value.retry_after, error.value.trace_id) == (2, "trace-1")
    with pytest.raises(AuthenticationError):
        await frames_of(ScriptedKimi([Failure(401, "invalid_authentication_error", "Invalid Authentication")]))


async def test_a_gate_holds_the_stream_and_gives_way_to_others() -> None:
    gate = Gate(before=2)
    kimi = ScriptedKimi([Reply("abcd", chunk_size=2)], delivery=Delivery(gate=gate))
    batches = (await kimi.generate("", [], HISTORY)).batches()
    assert await anext(batches) == [Append("ab")]
    waiting = asyncio.ensure_future(anext(batches))
    await gate.reached()
    assert not waiting.done()
    gate.open()
    assert await waiting == [Append("cd")]


async def test_other_tasks_run_between_two_batches() -> None:
    turns: list[int] = []

    async def other() -> None:
        turns.append(1)

    batches = (await ScriptedKimi([say("abc")]).generate("", [], HISTORY)).batches()
    await anext(batches)
    task = asyncio.ensure_future(other())
    await anext(batches)
    assert turns == [1]
    await task


async def test_the_model_and_the_window_are_its_own() -> None:
    kimi = ScriptedKimi([say("a")], model="kimi-k2.6", context_window=1_000)
    await frames_of(kimi)
    assert (kimi.model_name, kimi.context_window, kimi.requests[0].body["model"]) == ("kimi-k2.6", 1_000, "kimi-k2.6")


async def test_lone_surrogates_pass_through() -> None:
    kimi = ScriptedKimi(lambda body: say(body["messages"][-1]["content"]))
    end = (await frames_of(kimi, [Message.user("\ud83d!")]))[-1]
    assert isinstance(end, End)
    assert end.message.text == "\ud83d!"


@pytest.mark.parametrize("name", ["k3-text-live", "v1-text-live", "indexless-tools", "error-midstream"])
async def test_recorded_streams_end_alike_with_and_without_http(data: Any, name: str) -> None:
    step = Recorded(data / "streams" / f"{name}.jsonl")
    assert await outcome(ScriptedKimi([step])) == await over_http(step)


@pytest.mark.parametrize("stop", ["close", "reset"])
async def test_a_connection_that_ends_before_an_answer_is_a_connection_error(stop: Literal["close", "reset"]) -> None:
    kimi = ScriptedKimi([HangUp(stop), say("again")])
    with pytest.raises(APIConnectionError) as error:
        await frames_of(kimi)
    assert not isinstance(error.value, StreamInterruptedError)
    assert (await frames_of(kimi))[0] == Append("again")


@pytest.mark.parametrize(
    "step",
    [HangUp("stall"), Reply("abc", delivery=Delivery(stop_after=0, stop="stall"))],
    ids=["no answer", "headers alone"],
)
async def test_silence_before_an_answer_is_a_timeout_at_once(step: Step) -> None:
    with pytest.raises(APITimeoutError):
        await frames_of(ScriptedKimi([step]))
    assert await over_http(step, timeout=Timeouts(first_byte=0.02, between_chunks=0.02)) is APITimeoutError


async def test_silence_inside_an_answer_interrupts_it_at_once() -> None:
    step = Reply("abcdef" * 20, delivery=Delivery(stop_after=1_000, stop="stall"))
    kind, partial = await outcome(ScriptedKimi([step]))  # type: ignore[misc]
    assert kind is StreamInterruptedError
    assert partial.text.startswith("abcdef")
    assert await over_http(step, timeout=Timeouts(between_chunks=0.05)) == (kind, partial)


async def test_silence_after_the_end_is_no_failure() -> None:
    step = Reply("abc", delivery=Delivery(stop_after=100_000, stop="stall"))
    end = (await frames_of(ScriptedKimi([step])))[-1]
    assert isinstance(end, End)


def zipped(text: bytes, *, status: int = 200, cuts: Sequence[int] = ()) -> RawBody:
    return RawBody(
        gzip.compress(text), status=status, delivery=Delivery(cuts=cuts), headers={"Content-Encoding": "gzip"}
    )


STREAM = b'data: {"choices":[{"delta":{"content":"abc"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

ODD_ANSWERS: dict[str, Step] = {
    "hung up": HangUp(),
    "hung up with a reset": HangUp("reset"),
    "hung up by a function": lambda body: HangUp(),
    "no type": Failure(500, message="oops"),
    "no words": Failure(503),
    "a past date": Failure(429, "engine_overloaded_error", "busy", "Wed, 21 Oct 2015 07:28:00 GMT"),
    "nonsense to wait": Failure(429, "engine_overloaded_error", "busy", "soon"),
    "headers of its own": RawBody(b"later", "text/plain", 503, headers={"Retry-After": "2", "X-Trace-Id": "mine"}),
    "zipped": zipped(STREAM),
    "zipped in pieces": zipped(STREAM, cuts=range(1, 200, 7)),
    "zipped another way": RawBody(zlib.compress(STREAM), headers={"content-encoding": "deflate"}),
    "a zipped error": zipped(b'{"error": {"message": "no"}}', status=400),
    "not zipped at all": RawBody(STREAM, headers={"content-encoding": "gzip"}),
    "failure": Failure(429, "rate_limit_reached_error", "slow down", retry_after=3),
    "no money": Failure(429, "exceeded_current_quota_error", "recharge"),
    "gateway": RawBody(b"<html>late</html>", content_type="text/html", status=504),
    "html with 200": RawBody(b"<html>hello</html>", content_type="text/html"),
    "carriage returns": RawBody(b'data: {"choices":[{"delta":{"content":"a"}}]}\r\rdata: [DONE]\r\r'),
    "nothing": RawBody(b""),
    "closed": Reply("abcdef" * 20, delivery=Delivery(stop_after=1_000, stop="close")),
    "reset": Reply("abcdef" * 20, delivery=Delivery(stop_after=1_000, stop="reset")),
    "ended": Reply("abcdef" * 20, delivery=Delivery(stop_after=1_000, stop="end")),
    "closed after the end": Reply("abc", delivery=Delivery(stop_after=100_000, stop="close")),
    "no reason": Reply("abc", delivery=Delivery(finish=False)),
    "no done": Reply("abc", delivery=Delivery(done=False)),
    "neither": Reply("abc", delivery=Delivery(done=False, finish=False)),
    "cut off": Reply(tool_calls=[Call("f", '{"a": ')], finish_reason="length"),
}


@pytest.mark.parametrize("step", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
async def test_odd_answers_end_alike_with_and_without_http(step: Step) -> None:
    assert await outcome(ScriptedKimi([step])) == await over_http(step)


texts = st.text(max_size=60)
calls = st.builds(Call, st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.sampled_from(["{}", '{"a": "ß"}', "", "{"]))
deliveries = st.builds(
    Delivery,
    whole=st.booleans(),
    cuts=st.lists(st.integers(0, 3_000), max_size=20),
    stop_after=st.none() | st.integers(0, 3_000),
    stop=st.sampled_from(["end", "close"]),
    finish=st.booleans(),
    done=st.booleans(),
)
replies = st.builds(
    Reply,
    text=texts,
    reasoning=st.none() | texts,
    tool_calls=st.lists(calls, max_size=3),
    finish_reason=st.none() | st.sampled_from(["length", "content_filter"]),
    usage=st.none() | st.builds(TokenUsage, input_other=st.integers(0, 99), output=st.integers(0, 99)),
    chunk_size=st.integers(1, 40),
    delivery=deliveries,
)


@settings(max_examples=60)
@given(replies)
def test_any_reply_ends_alike_with_and_without_http(reply: Reply) -> None:
    async def both() -> tuple[object, object]:
        return await outcome(ScriptedKimi([reply])), await over_http(reply)

    without, over = asyncio.run(both())
    assert without == over


@given(replies)
def test_the_message_is_what_the_reply_says(reply: Reply) -> None:
    assume(reply.text.strip() or reply.tool_calls)
    plain = Reply(reply.text, reply.reasoning, reply.tool_calls, chunk_size=reply.chunk_size)
    end = asyncio.run(frames_of(ScriptedKimi([plain])))[-1]
    assert isinstance(end, End)
    assert (end.message.text, end.message.reasoning) == (reply.text, reply.reasoning)
    made = [(call.name, call.arguments) for call in end.message.tool_calls or ()]
    assert made == [(call.name, call.arguments) for call in reply.tool_calls]
    assert end.finish_reason == ("tool_calls" if reply.tool_calls else "stop")

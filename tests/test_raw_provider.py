"""A model that answers in raw text is one to talk to like any other."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from kimi_agent import (
    Agent,
    APITimeoutError,
    Append,
    AuthenticationError,
    ContextLengthError,
    End,
    InvalidRequestError,
    Kimi,
    Message,
    Reasoning,
    ServerError,
    StreamInterruptedError,
    Timeouts,
    Tool,
    ToolCallDelta,
    ai_function,
    generate,
)
from kimi_agent.errors import APIEmptyResponseError, StreamProtocolError
from kimi_agent.events import RequestRetried, RequestSent, StreamFrame
from kimi_agent.kimi.models import model_info
from kimi_agent.kimi.prompts import prompt_request
from kimi_agent.message import ToolCall
from kimi_agent.prompt.pipeline import PromptPipeline
from kimi_agent.prompt.rawtext import RawTextProvider
from kimi_agent.provider import ChatProvider, has_batches
from kimi_agent.raw.base import BaseParser
from kimi_agent.raw.deepseek import DeepSeekR1Parser
from kimi_agent.raw.kimi_k2 import KimiK2Parser
from kimi_agent.raw.mistral import MistralParser
from kimi_agent.raw.qwen3 import Qwen3Parser
from kimi_agent.testing import Call, Delivery, Failure, Gate, HangUp, KimiServer, RawBody, Reply, ScriptedKimi, say

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
ANSWER = f"<think>\nThe user wants weather.\n</think>\n\nLet me look.\n{CALL}<|im_end|>"
TOOL = Tool(name="get_weather", description="Weather.", parameters={"type": "object", "properties": {}})
MODEL = "my/qwen3"

ROOT = Path(__file__).parent.parent
QWEN3 = ROOT / "examples" / "qwen3.py"

Piped = Callable[[Sequence[Message], Sequence[Tool]], Any]


def as_text(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    names = ",".join(tool.name for tool in tools)
    return "".join(f"<{message.role}>{message.text}\n" for message in messages) + f"[{names}]<assistant>"


def as_messages(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[Mapping[str, Any]]:
    said = [{"role": message.role, "content": message.text.upper()} for message in messages]
    return [*said, *({"role": "system", "content": tool.name} for tool in tools)]


@asynccontextmanager
async def raw(
    script: Any,
    parser: Callable[[], BaseParser] = Qwen3Parser,
    pipeline: Piped | None = None,
    **options: Any,
) -> AsyncIterator[tuple[RawTextProvider, KimiServer]]:
    async with KimiServer(script, check=False) as server:
        options = {"api_key": server.api_key, "base_url": server.base_url, "max_retries": 0} | options
        async with RawTextProvider(Kimi(MODEL, **options), parser, pipeline) as provider:
            yield provider, server


async def frames_of(
    provider: ChatProvider, history: Sequence[Message] | None = None, **kwargs: Any
) -> list[StreamFrame]:
    stream = await provider.generate("Be brief.", [TOOL], history or [Message.user("Oslo?")], **kwargs)
    try:
        assert has_batches(stream)
        return [frame async for frames in stream.batches() for frame in frames]
    finally:
        await stream.aclose()


def end_of(frames: Sequence[StreamFrame]) -> End:
    assert isinstance(frames[-1], End)
    return frames[-1]


both = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
all_ways = pytest.mark.parametrize("pipeline", [None, as_text, as_messages], ids=["chat", "text", "messages"])


@both
@all_ways
async def test_text_becomes_reasoning_text_and_calls(pipeline: Piped | None, stream: bool):
    async with raw([say(ANSWER)], pipeline=pipeline, stream=stream) as (provider, _):
        frames = await frames_of(provider)
    end = end_of(frames)
    assert end.message.reasoning == "The user wants weather."
    assert end.message.text == "Let me look."
    assert [(call.id, call.name, call.args) for call in end.message.tool_calls or ()] == [
        ("get_weather_0", "get_weather", {"city": "Oslo"})
    ]
    assert end.finish_reason == "tool_calls"
    assert end.usage is not None
    assert end.usage.output > 0
    assert "".join(frame.text for frame in frames if isinstance(frame, Reasoning)) == end.message.reasoning
    assert "".join(frame.text for frame in frames if isinstance(frame, Append)) == end.message.text
    assert [frame for frame in frames if isinstance(frame, ToolCallDelta)] == [
        ToolCallDelta(0, "get_weather_0", "get_weather", '{"city": "Oslo"}')
    ]
    assert [frame for frame in frames if isinstance(frame, ToolCall)] == [*(end.message.tool_calls or ())]


async def test_without_a_pipeline_messages_and_functions_are_sent_as_ever():
    async with raw([say("Hi.")]) as (provider, server):
        await frames_of(provider)
    [request] = server.requests
    assert [message["role"] for message in request.body["messages"]] == ["system", "user"]
    assert request.body["tools"][0]["function"]["name"] == "get_weather"
    assert server.calls[0].path == "/chat/completions"


async def test_a_pipeline_that_gives_a_text_asks_for_a_text_completion():
    async with raw([say("Hi.")], pipeline=as_text) as (provider, server):
        await frames_of(provider, generation_overrides={"temperature": 0.5, "tool_choice": "none"})
    assert server.calls[0].path == "/completions"
    assert server.requests[0].body == {
        "prompt": "<system>Be brief.\n<user>Oslo?\n[get_weather]<assistant>",
        "model": MODEL,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 4096,
        "temperature": 0.5,
        "stop": ["<|im_end|>"],
    }


async def test_a_pipeline_that_gives_messages_asks_for_a_chat_completion():
    async with raw([say("Hi.")], pipeline=as_messages) as (provider, server):
        await frames_of(provider, generation_overrides={"max_tokens": 7})
    assert server.calls[0].path == "/chat/completions"
    assert server.requests[0].body == {
        "messages": [
            {"role": "system", "content": "BE BRIEF."},
            {"role": "user", "content": "OSLO?"},
            {"role": "system", "content": "get_weather"},
        ],
        "model": MODEL,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
    }


async def test_the_limit_of_an_answer_goes_under_both_of_its_names():
    async with raw([say("a"), say("b")]) as (provider, server):
        await frames_of(provider, generation_overrides={"max_completion_tokens": 7, "extra_body": {"seed": 1}})
        await frames_of(provider)
    first, second = (request.body for request in server.requests)
    assert (first["max_completion_tokens"], first["max_tokens"], first["seed"]) == (7, 7, 1)
    assert "max_tokens" not in second


async def test_a_prompt_pipeline_is_a_pipeline():
    pipeline = PromptPipeline().conversation_fmt(user_prefix="[INST] ", user_suffix=" [/INST]", assistant_prefix="")
    async with raw([say("Hi.")], pipeline=pipeline) as (provider, server):
        assert await Agent(provider).chat_round_str("Oslo?") == "Hi."
    assert server.requests[0].body["prompt"] == "[INST] Oslo? [/INST]"


@pytest.mark.parametrize(
    ("pipeline", "tells"),
    [
        (lambda messages, tools: "Oslo?", 1),
        (lambda messages, tools: [{"role": "user", "content": "Oslo?"}], 1),
        (as_text, 0),
    ],
    ids=["text", "messages", "with functions"],
)
async def test_a_pipeline_that_forgets_the_functions_is_told_of_once(pipeline: Piped, tells: int):
    async with raw([say("a"), say("b"), say("c")], pipeline=pipeline) as (provider, _):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            await (await provider.generate("", [], [Message.user("Oslo?")])).aclose()
            assert not told
            await frames_of(provider)
            await frames_of(provider)
    assert ["get_weather" in str(warning.message) for warning in told] == [True] * tells


@pytest.mark.parametrize(("model", "limit"), [("my/qwen3", 4096), ("moonshot-v1-8k", 1024)])
def test_an_answer_to_a_text_takes_a_part_of_the_window(model: str, limit: int):
    _, body = prompt_request(model_info(model), "x", {}, stream=False)
    assert json.loads(body)["max_tokens"] == limit


async def test_what_was_asked_for_before_is_sent_with_a_text_too():
    async with KimiServer([say("a")], check=False) as server:
        kimi = Kimi(MODEL, api_key=server.api_key, base_url=server.base_url).with_generation_kwargs(
            max_tokens=9, stop="X", extra_body={"skip_special_tokens": False}
        )
        async with RawTextProvider(kimi, Qwen3Parser, as_text) as provider:
            await frames_of(provider)
    body = server.requests[0].body
    assert (body["max_tokens"], body["stop"], body["skip_special_tokens"]) == (9, "X", False)
    assert "extra_body" not in body


async def test_what_a_text_completion_does_not_have_is_refused():
    async with raw([], pipeline=as_text) as (provider, server):
        with pytest.raises(InvalidRequestError, match="reasoning_effort"):
            await frames_of(provider, generation_overrides={"reasoning_effort": "high"})
        with pytest.raises(TypeError, match="nonsense"):
            await frames_of(provider, generation_overrides={"nonsense": 1})
    assert server.requests == []


async def test_an_empty_prompt_is_refused():
    async with raw([], pipeline=lambda messages, tools: "") as (provider, _):
        with pytest.raises(InvalidRequestError, match="prompt"):
            await frames_of(provider)


async def test_a_pipeline_gets_a_history_that_is_whole():
    open_call = Message.assistant(tool_calls=[ToolCall.from_function("f", call_id_="f_0")])
    seen: list[Message] = []

    def pipeline(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        seen.extend(messages)
        return as_text(messages, tools)

    async with raw([say("a")], pipeline=pipeline) as (provider, _):
        await frames_of(provider, [Message.user("a"), open_call])
    assert [message.role for message in seen] == ["system", "user", "assistant", "tool"]


def test_a_pipeline_needs_a_provider_that_completes_prompts():
    with pytest.raises(TypeError, match="completes prompts"):
        RawTextProvider(ScriptedKimi(), Qwen3Parser, as_text)


async def test_any_provider_will_do_without_a_pipeline():
    provider = RawTextProvider(ScriptedKimi([say(ANSWER)]), Qwen3Parser)
    assert isinstance(provider, ChatProvider)
    assert (provider.name, provider.model_name, provider.context_window) == ("kimi", "kimi-k3", 262_144)
    result = await generate(provider, "", [TOOL], [Message.user("Oslo?")])
    assert result.finish_reason == "tool_calls"
    assert result.message.text == "Let me look."


# ==== ids ====


def history_with(*ids: str) -> list[Message]:
    calls = [ToolCall.from_function("f", call_id_=call_id) for call_id in ids]
    results = [Message.tool("ok", tool_call_id=call_id) for call_id in ids]
    return [Message.user("a"), Message.assistant(tool_calls=calls), *results, Message.user("b")]


WITH_ID = CALL.replace('"name"', '"id": "call_1", "name"')
K2_CALL = "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"


@pytest.mark.parametrize(
    ("parser", "answer", "before", "expected"),
    [
        (KimiK2Parser, K2_CALL, (), ["functions.f:0"]),
        (KimiK2Parser, K2_CALL * 2, ("functions.f:0", "functions.g:1"), ["functions.f:2", "functions.f:3"]),
        (KimiK2Parser, K2_CALL, ("functions.f:7",), ["functions.f:8"]),
        (Qwen3Parser, CALL, ("a", "b"), ["get_weather_2"]),
        (Qwen3Parser, CALL, ("get_weather_4",), ["get_weather_5"]),
        (MistralParser, '[TOOL_CALLS][{"name": "f", "arguments": {}}]', ("000000004",), ["000000005"]),
        (Qwen3Parser, WITH_ID, (), ["call_1"]),
        (Qwen3Parser, WITH_ID * 2, ("call_1",), ["get_weather_2", "get_weather_3"]),
    ],
)
async def test_ids_count_over_the_history(parser: Any, answer: str, before: Sequence[str], expected: list[str]):
    async with raw([say(answer)], parser) as (provider, _):
        end = end_of(await frames_of(provider, history_with(*before) if before else None))
    assert [call.id for call in end.message.tool_calls or ()] == expected


# ==== ends ====


async def test_an_answer_that_was_cut_off_has_calls_that_are_not_run():
    async with raw([Reply(ANSWER, finish_reason="length")]) as (provider, _):
        frames = await frames_of(provider)
    end = end_of(frames)
    assert end.finish_reason == "length"
    assert len(end.truncated_calls) == 1
    assert not [frame for frame in frames if isinstance(frame, ToolCall)]


CUT_OFF = ANSWER.partition('slo"}')[0]
"""In the middle of the arguments of its call."""


@pytest.mark.parametrize(
    ("reason", "stream"), [("length", True), ("length", False), ("stop", True), ("stop", False), (None, True)]
)
async def test_a_call_that_was_cut_off_is_text_and_is_told_of(reason: str | None, stream: bool):
    reply = Reply(CUT_OFF, finish_reason=reason, delivery=Delivery(finish=reason is not None))
    async with raw([reply], stream=stream) as (provider, _):
        answer = await provider.generate("", [TOOL], [Message.user("Oslo?")])
        end = end_of([frame async for frames in answer.batches() for frame in frames])
    assert end.message.text == "Let me look.\n" + CUT_OFF.partition("Let me look.\n")[2]
    assert (end.message.tool_calls, end.finish_reason, len(answer.problems)) == (None, reason, 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(CUT_OFF, "length"), (CUT_OFF, "stop"), (CALL, "length"), (CALL.removesuffix("\n</tool_call>"), "length")],
)
async def test_an_agent_runs_no_call_that_was_cut_off(answer: str, reason: str):
    async with raw([Reply(answer, finish_reason=reason), say("I give up.")]) as (provider, _):
        agent = Weather(provider)
        said = [message.text async for message in agent.full_round("Oslo?")]
    assert "4 degrees in Oslo" not in said


async def test_the_stream_tells_of_malformed_calls():
    async with raw([say("<tool_call>{oops</tool_call>")], partial(Qwen3Parser, thinking=False)) as (provider, _):
        stream = await provider.generate("", [], [Message.user("a")])
        text = "".join([part.text async for part in stream])  # type: ignore[union-attr]
        assert text == "<tool_call>{oops</tool_call>"
        assert len(stream.problems) == 1
        assert (stream.finish_reason, stream.id) == ("stop", "chatcmpl-1")
        assert stream.trace_id == "trace-1"
        assert stream.usage is not None


async def test_reasoning_and_calls_that_the_server_has_read_are_kept():
    reply = Reply("Yes." + CALL, reasoning="Hm.", tool_calls=[Call("native", "{}", "x_1")])
    async with raw([reply], DeepSeekR1Parser) as (provider, _):
        end = end_of(await frames_of(provider))
    assert (end.message.reasoning, end.message.text) == ("Hm.", "Yes." + CALL)
    async with raw([reply]) as (provider, _):
        end = end_of(frames := await frames_of(provider))
    assert [call.name for call in end.message.tool_calls or ()] == ["get_weather", "native"]
    assert sorted({frame.index for frame in frames if isinstance(frame, ToolCallDelta)}) == [0, 1]


@pytest.mark.parametrize("pipeline", [None, as_text], ids=["chat", "text"])
async def test_a_broken_connection_leaves_what_was_read(pipeline: Piped | None):
    delivery = Delivery(stop_after=2500, stop="reset")
    reply = Reply("<think>Hm.</think>" + "word " * 500, chunk_size=5, delivery=delivery)
    async with raw([reply], pipeline=pipeline) as (provider, _):
        with pytest.raises(StreamInterruptedError) as caught:
            await frames_of(provider)
    assert caught.value.partial.reasoning == "Hm."
    assert caught.value.partial.text.startswith("word")


@pytest.mark.parametrize(
    ("written", "reasoning", "text"),
    [
        ("Let me look. <tool", None, "Let me look. <tool"),
        ("<think>Hm.</think>Let me look.\n<tool_call>{", "Hm.", "Let me look.\n<tool_call>{"),
        ("Nobody knows yet whether this is reasoning.", None, "Nobody knows yet whether this is reasoning."),
        ("<think>Hm. </thi", "Hm. </thi", ""),
    ],
)
async def test_what_the_parser_held_back_is_in_what_is_left(written: str, reasoning: str | None, text: str):
    reply = Reply(written, delivery=Delivery(finish=False, done=False))
    async with raw([reply]) as (provider, _):
        with pytest.raises(StreamInterruptedError) as caught:
            await frames_of(provider)
    assert (caught.value.partial.reasoning, caught.value.partial.text) == (reasoning, text)


def too_long(type: str, message: str) -> RawBody:
    body = {"object": "error", "message": message, "type": type, "code": 400}
    return RawBody(json.dumps(body).encode(), "application/json", 400)


def silent(gate: Gate) -> HangUp:
    return HangUp("stall")


def silent_half_way(gate: Gate) -> Reply:
    return Reply("word " * 50, delivery=Delivery(gate=gate))


hangs = pytest.mark.parametrize("hanging", [silent, silent_half_way])
streaming = partial(Qwen3Parser, thinking=False)


@hangs
@pytest.mark.parametrize("pipeline", [None, as_text], ids=["chat", "text"])
async def test_a_server_that_hangs_is_given_up(pipeline: Piped | None, hanging: Callable[[Gate], Any]):
    options = {"timeout": Timeouts(first_byte=0.05, between_chunks=0.05), "max_concurrency": 1}
    async with raw([hanging(Gate(10)), say("next")], streaming, pipeline, **options) as (provider, _):
        with pytest.raises((APITimeoutError, StreamInterruptedError)) as caught:
            await frames_of(provider)
        assert end_of(await frames_of(provider)).message.text == "next"
    if hanging is silent_half_way:
        assert isinstance(caught.value, StreamInterruptedError)
        assert caught.value.partial.text.startswith("word word")


@hangs
@pytest.mark.parametrize("pipeline", [None, as_text], ids=["chat", "text"])
async def test_an_answer_that_is_cancelled_gives_its_connection_back(
    pipeline: Piped | None, hanging: Callable[[Gate], Any]
):
    gate = Gate(10)
    async with raw([hanging(gate), say("next")], streaming, pipeline, max_concurrency=1) as (provider, server):
        asking = asyncio.create_task(frames_of(provider))
        await (gate.reached() if hanging is silent_half_way else server.until(lambda: server.requests))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.until(lambda: server.connections == 0)
        assert end_of(await frames_of(provider)).message.text == "next"


@pytest.mark.parametrize("pipeline", [None, as_text], ids=["chat", "text"])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Failure(401, "invalid_authentication_error", "no"), AuthenticationError),
        (Failure(500, "server_error", "oops"), ServerError),
        (RawBody(b"<html>", "text/html"), StreamProtocolError),
        (say(""), APIEmptyResponseError),
        (say("<|im_end|>"), APIEmptyResponseError),
        (
            too_long(
                "BadRequestError", "The input (5000 tokens) is longer than the model's context length (4096 tokens)."
            ),
            ContextLengthError,
        ),
        (too_long("exceed_context_size_error", "see n_ctx"), ContextLengthError),
    ],
)
async def test_failures_are_errors_of_the_tree(pipeline: Piped | None, answer: Any, error: type[Exception]):
    async with raw([answer], pipeline=pipeline) as (provider, _):
        with pytest.raises(error):
            await generate(provider, "", [], [Message.user("a")])


async def test_a_text_completion_is_asked_for_again_where_that_can_help():
    events: list[Any] = []
    script = [Failure(500, "server_error", "busy", retry_after=0), say("ok")]
    async with raw(script, pipeline=as_text, max_retries=1) as (provider, server):
        stream = await provider.generate("", [], [Message.user("a")], on_event=events.append)
        assert [part.text async for part in stream] == ["ok"]  # type: ignore[union-attr]
        assert len(server.requests) == 2
    assert [type(event) for event in events] == [RequestSent, RequestRetried]
    assert json.loads(events[0].body)["prompt"] == as_text([Message.user("a")])


async def test_a_stream_that_is_closed_half_way_lets_go_of_its_connection():
    async with raw([Reply("word " * 1000, chunk_size=5)], pipeline=as_text) as (provider, server):
        stream = await provider.generate("", [], [Message.user("a")])
        async with stream:
            pass
        await stream.aclose()
        await provider.aclose()
        await server.until(lambda: server.connections == 0)


# ==== an agent ====


class Weather(Agent):
    @ai_function()
    def get_weather(self, city: str) -> str:
        """The weather in a city."""
        return f"4 degrees in {city}"


@both
@all_ways
async def test_an_agent_runs_on_raw_text(pipeline: Piped | None, stream: bool):
    async with raw([say(ANSWER), say("<think>\nOk.\n</think>\n\nFour degrees.")], pipeline=pipeline, stream=stream) as (
        provider,
        server,
    ):
        agent = Weather(provider, "Be brief.")
        messages = [message async for message in agent.full_round("Oslo?")]
        assert [message.role for message in messages] == ["assistant", "tool", "assistant"]
        assert messages[1].text == "4 degrees in Oslo"
        assert messages[1].tool_call_id == "get_weather_0"
        assert (messages[2].reasoning, messages[2].text) == ("Ok.", "Four degrees.")
        assert agent.usage.total > 0
    assert len(server.requests) == 2
    assert "4 degrees in Oslo" in server.requests[1].raw.decode() or "4 DEGREES" in server.requests[1].raw.decode()


@both
async def test_an_agent_streams_raw_text(stream: bool):
    script = [say(ANSWER), say("Four degrees.")]
    async with raw(script, partial(Qwen3Parser, thinking=False), as_text, stream=stream) as (provider, _):
        agent = Weather(provider)
        said: list[str] = []
        async for message in agent.full_round_stream("Oslo?"):
            said.append("".join([piece async for piece in message]))
    assert said == ["Let me look.", "4 degrees in Oslo", "Four degrees."]


async def test_an_agent_closes_the_provider_that_is_asked():
    async with KimiServer([say("Hi.")], check=False) as server:
        kimi = Kimi(MODEL, api_key=server.api_key, base_url=server.base_url)
        async with Agent(RawTextProvider(kimi, Qwen3Parser)) as agent:
            assert await agent.chat_round_str("Hello!") == "Hi."
        await server.until(lambda: server.connections == 0)


# ==== a prompt with functions ====

OSLO = CALL
BERGEN = OSLO.replace('"Oslo"', '"Bergen – på norsk", "days": [1, 2.5, null]')


@pytest.fixture(scope="module")
def qwen3() -> PromptPipeline[str]:
    """The pipeline that the page and the example have."""
    return run_path(str(QWEN3))["qwen3"]


@pytest.mark.parametrize(
    "written",
    [
        f"<think>\nThe user wants\nweather.\n</think>\n\nLet me look.\n{OSLO}",
        f"<think>\nHm.\n</think>\n\n{OSLO}",
        f"Let me look.\n\nNow.\n{OSLO}\n{BERGEN}",
        f"{BERGEN}\n{OSLO}",
    ],
)
async def test_the_next_prompt_goes_on_behind_what_the_model_wrote(qwen3: PromptPipeline[str], written: str):
    async with raw([say(written + "<|im_end|>"), say("Four degrees.")], pipeline=qwen3) as (provider, server):
        agent = Weather(provider, "Be brief.")
        results = [message.text async for message in agent.full_round("Oslo?") if message.role == "tool"]
    first, second = (request.body["prompt"] for request in server.requests)
    told = "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)
    assert second == f"{first}{written}<|im_end|>\n<|im_start|>user\n{told}<|im_end|>\n<|im_start|>assistant\n"
    assert len(results) == written.count("<tool_call>")


async def test_the_prompt_declares_the_functions_behind_the_system_prompt(qwen3: PromptPipeline[str]):
    async with raw([say("Hi."), say("Hi.")], pipeline=qwen3) as (provider, server):
        await Weather(provider, "Be brief.").chat_round_str("Hello!")
        await Agent(provider, "Be brief.").chat_round_str("Hello!")
    [declaring, plain] = [request.body["prompt"] for request in server.requests]
    question = "<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert plain == "<|im_start|>system\nBe brief." + question
    assert declaring.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call")
    assert declaring.endswith("</tool_call>" + question)
    schema = json.loads(declaring.partition("<tools>\n")[2].partition("\n</tools>")[0])
    assert schema["function"]["name"] == "get_weather"
    assert schema["function"]["parameters"]["required"] == ["city"]


async def test_reasoning_about_an_earlier_question_is_in_no_prompt(qwen3: PromptPipeline[str]):
    script = [say(f"<think>\nHm.\n</think>\n\n{OSLO}"), say("<think>\nOk.\n</think>\n\nFour."), say("Yes.")]
    async with raw(script, pipeline=qwen3) as (provider, server):
        agent = Weather(provider)
        for question in ("Oslo?", "Sure?"):
            async for _ in agent.full_round(question):
                pass
    last = server.requests[-1].body["prompt"]
    assert "<think>" not in last
    assert f"<|im_start|>assistant\n{OSLO}<|im_end|>" in last
    assert "<|im_start|>assistant\nFour.<|im_end|>" in last


def test_a_prompt_for_qwen3_needs_no_system_prompt(qwen3: PromptPipeline[str]):
    assert qwen3([], [TOOL]).startswith("<|im_start|>system\n# Tools")
    assert qwen3([Message.user("a")]) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_the_page_shows_the_pipeline_of_the_example():
    assert QWEN3.read_text("utf-8").partition('"""\n\n')[2] in (ROOT / "docs" / "selfhosted.md").read_text("utf-8")

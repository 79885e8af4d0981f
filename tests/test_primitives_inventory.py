"""The primitives by the list: what a provider sends, what it reads, and what is hard on streams.

Each test is one line of the list that no other file has.
"""

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from kimi_agent import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ContentFilterError,
    ImageURLPart,
    Kimi,
    Message,
    QuotaExceededError,
    RateLimitError,
    SimpleToolset,
    TextPart,
    ThinkPart,
    Tool,
    ToolCall,
    ToolCallPart,
    generate,
    step,
)
from kimi_agent.kimi.schema import to_mfjs
from kimi_agent.kimi.status import error_in, is_retryable
from kimi_agent.testing import Delivery, Failure, Gate, KimiServer, Recorded, Reply, ScriptedKimi, say

QUESTION = [Message.user("Go.")]
PICTURE = ImageURLPart(image_url=ImageURLPart.ImageURL(url="data:image/png;base64,aaaa"))
PICTURE_SENT = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
ADD = Tool(name="add", description="Add.", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})


def call(id: str = "c0", arguments: str | None = "{}", name: str = "add") -> ToolCall:
    return ToolCall(id=id, function=ToolCall.FunctionBody(name=name, arguments=arguments))


def call_sent(id: str = "c0", arguments: str = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}}


def text_sent(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def client(server: KimiServer, model: str = "nobody-knows", **options: Any) -> Kimi:
    return Kimi(model, api_key=server.api_key, base_url=server.base_url, **options)


async def body_sent(kimi: Kimi, server: KimiServer, *args: Any, **overrides: Any) -> dict[str, Any]:
    system, tools, history = args or ("", [], QUESTION)
    await (await kimi.generate(system, tools, history, generation_overrides=overrides or None)).aclose()  # type: ignore[arg-type]
    return dict(server.requests[-1].body)


# ==== conversations on the wire ====

CONVERSATIONS: dict[str, tuple[str, list[Message], list[dict[str, Any]]]] = {
    "several turns": (
        "",
        [Message.user("a"), Message.assistant("b"), Message.user("c")],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
    ),
    "several turns after a system prompt": (
        "s",
        [Message.user("a"), Message.assistant("b"), Message.user("c")],
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
    ),
    "text and a picture": (
        "",
        [Message.user(["What is it?", PICTURE])],
        [{"role": "user", "content": [text_sent("What is it?"), PICTURE_SENT]}],
    ),
    "a call and its result": (
        "",
        [*QUESTION, Message.assistant("Adding.", tool_calls=[call("c0", '{"a": 1}')]), Message.tool("5", "c0")],
        [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": "Adding.", "tool_calls": [call_sent("c0", '{"a": 1}')]},
            {"role": "tool", "content": "5", "tool_call_id": "c0"},
        ],
    ),
    "two calls with results of two parts": (
        "",
        [
            *QUESTION,
            Message.assistant(tool_calls=[call("c0"), call("c1")]),
            Message.tool(["note", "5"], "c0"),
            Message.tool(["see", PICTURE], "c1"),
        ],
        [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "tool_calls": [call_sent("c0"), call_sent("c1")]},
            {"role": "tool", "content": [text_sent("note"), text_sent("5")], "tool_call_id": "c0"},
            {"role": "tool", "content": [text_sent("see"), PICTURE_SENT], "tool_call_id": "c1"},
        ],
    ),
    "a call with nothing but reasoning": (
        "",
        [*QUESTION, Message.assistant(ThinkPart(think="hm"), tool_calls=[call()]), Message.tool("5", "c0")],
        [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "reasoning_content": "hm", "tool_calls": [call_sent()]},
            {"role": "tool", "content": "5", "tool_call_id": "c0"},
        ],
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_a_conversation_is_sent_as_it_is(name: str) -> None:
    system, history, expected = CONVERSATIONS[name]
    async with KimiServer(lambda _: say("x")) as server, client(server) as kimi:
        assert (await body_sent(kimi, server, system, [ADD], history))["messages"] == expected


# ==== what a request asks for ====

LIMITS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]] = {
    "nobody says a limit": ([], {}, {}),
    "the old name": (
        [{"temperature": 0.7, "max_tokens": 2048}],
        {},
        {"temperature": 0.7, "max_completion_tokens": 2048},
    ),
    "the old name says none": ([{"max_completion_tokens": 9}, {"max_tokens": None}], {}, {}),
    "the new name says none beside the old one": ([{"max_tokens": 2048, "max_completion_tokens": None}], {}, {}),
    "the old name for one request": ([{"max_completion_tokens": 9}], {"max_tokens": 5}, {"max_completion_tokens": 5}),
    "none for one request": ([{"max_completion_tokens": 9}], {"max_completion_tokens": None}, {}),
}


@pytest.mark.parametrize("name", LIMITS)
async def test_a_limit_is_sent_under_its_new_name(name: str) -> None:
    said, overrides, expected = LIMITS[name]
    async with KimiServer(lambda _: say("x"), check=False) as server, client(server) as kimi:
        for kwargs in said:
            kimi = kimi.with_generation_kwargs(**kwargs)
        known = {"model", "messages", "stream", "stream_options"}
        body = await body_sent(kimi, server, **overrides)
        assert {key: value for key, value in body.items() if key not in known} == expected


async def test_an_effort_outlives_other_fields_of_the_body() -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server, "kimi-k2.6") as kimi:
        changed = kimi.with_thinking("high").with_generation_kwargs(extra_body={"a": 1})
        assert (await body_sent(changed, server))["thinking"] == {"type": "enabled"}
        assert changed.thinking_effort == "high"


@pytest.mark.parametrize("bodies", [[{"thinking": {}}], [{"thinking": {}}, {"a": 1}], [{"a": 1}, {"thinking": {}}]])
async def test_thinking_that_says_nothing_changes_nothing(bodies: list[dict[str, Any]]) -> None:
    async with KimiServer(lambda _: say("x"), check=False) as server, client(server, "kimi-k2.6") as kimi:
        thinking = kimi.with_thinking("off")
        for body in bodies:
            thinking = thinking.with_extra_body(body)
        assert (await body_sent(thinking, server))["thinking"] == {"type": "disabled"}


async def test_thinking_is_first_said_in_part_and_then_filled_in() -> None:
    async with KimiServer(lambda _: say("x"), check=False) as server, client(server, "kimi-k2.6") as kimi:
        seeded = kimi.with_extra_body({"thinking": {}}).with_extra_body({"thinking": {"keep": "all"}})
        filled = seeded.with_extra_body({"thinking": {"type": "enabled"}})
        assert (await body_sent(filled, server))["thinking"] == {"keep": "all", "type": "enabled"}


# ==== what is read ====


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reasoning", ["", None, "hm"])
async def test_empty_reasoning_is_kept_with_and_without_a_stream(stream: bool, reasoning: str | None) -> None:
    reply = Reply("Four.", reasoning)
    async with KimiServer([reply]) as server, client(server, stream=stream) as kimi:
        result = await generate(kimi, "", [], QUESTION)
    assert result.message.reasoning == reasoning


@pytest.mark.parametrize("stream", [True, False])
async def test_the_trace_is_known_with_and_without_a_stream(stream: bool) -> None:
    told: list[Any] = []
    async with KimiServer([say("x")]) as server, client(server, stream=stream) as kimi:
        result = await step(kimi, "", SimpleToolset(), QUESTION, on_trace_id=told.append)
    assert told == [result.trace_id] == ["trace-1"]


async def test_the_trace_is_told_before_the_answer_is_whole() -> None:
    gate, told = Gate(before=3), list[Any]()
    reply = Reply("A long answer in many pieces.", chunk_size=4, delivery=Delivery(gate=gate))

    def heard(trace: str | None) -> None:
        told.append(trace)
        gate.open()

    async with KimiServer([reply]) as server, client(server) as kimi:
        await generate(kimi, "", [], QUESTION, on_trace_id=heard)
    assert told == ["trace-1"]


async def test_an_answer_without_a_trace_has_none() -> None:
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    answer = httpx.MockTransport(
        lambda _: httpx.Response(200, content=body, headers={"content-type": "text/event-stream"})
    )
    told: list[Any] = []
    async with httpx.AsyncClient(transport=answer) as http:
        kimi = Kimi(api_key="sk-test", base_url="http://kimi.test/v1", http_client=http)
        result = await generate(kimi, "", [], QUESTION, on_trace_id=told.append)
    assert (told, result.trace_id) == ([None], None)


FINISHES = [("stop", False), ("tool_calls", False), ("length", True), ("content_filter", True), ("strange", False)]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("reason", "cut_off"), FINISHES)
async def test_why_an_answer_ended_is_known(reason: str, cut_off: bool, stream: bool) -> None:
    async with KimiServer([Reply("x", finish_reason=reason)]) as server, client(server, stream=stream) as kimi:
        result = await generate(kimi, "", [], QUESTION)
        stepped = await step(ScriptedKimi([Reply("x", finish_reason=reason)]), "", SimpleToolset(), QUESTION)
    assert (result.finish_reason, result.is_cut_off) == (reason, cut_off)
    assert stepped.finish_reason == reason


# ==== errors ====

VAGUE_WORDS = [
    "Request timed out.",
    "The read operation timed out",
    "Gateway timeout while connecting to the network",
    "deadline exceeded",
    "Connection error.",
    "Network is unreachable",
    "Connection reset by peer",
    "connection refused",
    "server disconnected",
    "Your session has been reset",
    "connection closed by policy",
    "invalid model",
    "",
]


@pytest.mark.parametrize("words", VAGUE_WORDS)
def test_an_error_that_the_server_tells_of_is_never_taken_for_one_of_the_network(words: str) -> None:
    error = error_in({"error": {"message": words, "type": "strange"}})
    assert isinstance(error, APIStatusError)
    assert not isinstance(error, APIConnectionError | APITimeoutError)


@pytest.mark.parametrize(
    ("failure", "expected", "asked"),
    [
        (Failure(429, "exceeded_current_quota_error", "exceeded your current quota"), QuotaExceededError, 1),
        (Failure(429, "rate_limit_reached_error", "max RPM: 3"), RateLimitError, 3),
        (Failure(429, "engine_overloaded_error", "overloaded"), RateLimitError, 3),
        (Failure(400, "content_filter", "high risk"), ContentFilterError, 1),
    ],
    ids=lambda value: getattr(value, "type", None),
)
async def test_only_what_may_pass_is_asked_again(failure: Failure, expected: type[APIStatusError], asked: int) -> None:
    async with KimiServer(lambda _: failure) as server, client(server, max_retries=2) as kimi:
        with pytest.raises(expected) as caught:
            await step(kimi, "", SimpleToolset(), QUESTION)
        assert len(server.requests) == asked
    assert is_retryable(caught.value) is (asked > 1)
    assert caught.value.trace_id


async def test_an_id_that_kimi_would_refuse_is_sent_in_plain_letters_with_its_result() -> None:
    history = [*QUESTION, Message.assistant(tool_calls=[call("Read:9/天气")]), Message.tool("5", "Read:9/天气")]
    async with KimiServer([say("x")]) as server, client(server, "kimi-k3") as kimi:
        messages = (await body_sent(kimi, server, "", [ADD], history))["messages"]
    sent = messages[1]["tool_calls"][0]["id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", sent)
    assert messages[2]["tool_call_id"] == sent


# ==== schemas ====

VALUES = [
    (["a", "b"], "string"),
    ([1, 2], "integer"),
    ([1, 2.5], "number"),
    ([True, False], "boolean"),
    ([None], "null"),
]


@pytest.mark.parametrize(("values", "expected"), VALUES, ids=repr)
def test_a_property_of_nothing_but_values_gets_their_type(values: list[Any], expected: str) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": values}, "b": {"const": values[0]}}}
    before = json.dumps(schema)
    converted = to_mfjs(schema)["properties"]
    assert converted["a"]["type"] == expected
    assert converted["b"]["type"] in (expected, "integer")
    assert json.dumps(schema) == before


STRUCTURES = [
    ({"properties": {"x": {"type": "string"}}}, "object"),
    ({"required": ["x"], "properties": {"x": {"type": "string"}}}, "object"),
    ({"additionalProperties": {"type": "string"}}, "object"),
    ({"items": {"type": "string"}}, "array"),
    ({"minItems": 1}, "array"),
    ({"minLength": 1}, "string"),
    ({"pattern": "a"}, "string"),
    ({"minimum": 1}, "number"),
]


@pytest.mark.parametrize(("schema", "expected"), STRUCTURES, ids=repr)
def test_a_property_without_a_type_takes_what_its_keywords_are_for(schema: dict[str, Any], expected: str) -> None:
    converted = to_mfjs({"type": "object", "properties": {"a": schema}})["properties"]["a"]
    shapes = [branch.get("type") for branch in converted.get("anyOf", [converted])]
    assert expected in shapes or any(isinstance(shape, list) and expected in shape for shape in shapes)


# ==== folding ====


class Stream:
    """A stream with parts, an id and a cost."""

    id = "answer-1"
    usage = None

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[Any]:
        for part in self._parts:
            yield part


class Provider:
    """Answers with given parts."""

    name = model_name = "another"
    context_window = 1000

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    async def generate(self, system_prompt: str, tools: Sequence[Tool], history: Sequence[Message]) -> Any:
        return Stream(self._parts)


async def test_twelve_parts_are_three_of_content_and_two_calls() -> None:
    parts = [
        TextPart(text="Hello, "),
        TextPart(text="world"),
        TextPart(text="!"),
        PICTURE,
        TextPart(text="Another"),
        TextPart(text=" text"),
        TextPart(text=""),
        call("c0", None),
        ToolCallPart(arguments_part="{"),
        ToolCallPart(arguments_part='"a": 1'),
        ToolCallPart(arguments_part="}"),
        ToolCallPart(arguments_part=None),
    ]
    told: list[Any] = []
    result = await generate(Provider(*parts), "", [], QUESTION, on_message_part=told.append, on_tool_call=told.append)  # type: ignore[arg-type]
    assert result.message == Message.assistant(
        ["Hello, world!", PICTURE, "Another text"], tool_calls=[call("c0", '{"a": 1}')]
    )
    assert told == [*parts, call("c0", '{"a": 1}')]


async def test_ten_thousand_parts_of_text_are_one() -> None:
    result = await generate(Provider(*[TextPart(text="天")] * 10_000), "", [], QUESTION)  # type: ignore[arg-type]
    assert result.message == Message.assistant("天" * 10_000)


@pytest.mark.parametrize("by_parts", [True, False])
async def test_a_megabyte_of_arguments_in_ten_thousand_pieces_reaches_its_tool_whole(by_parts: bool) -> None:
    async def measure(text: str) -> int:
        """Measure."""
        return len(text)

    pieces = ["x" * 100] * 10_000
    if by_parts:
        rest = [ToolCallPart(arguments_part=piece) for piece in [*pieces, '"}']]
        provider: Any = Provider(call("c0", '{"text": "', "measure"), *rest)
    else:
        provider = ScriptedKimi([in_pieces(['{"text": "', *pieces, '"}'])])
    result = await step(provider, "", SimpleToolset([measure]), QUESTION)
    assert [r.return_value.output for r in await result.tool_results()] == ["1000000"]


def in_pieces(arguments: list[str]) -> Recorded:
    """One call whose arguments come in pieces."""

    def chunk(reason: str | None = None, **delta: Any) -> dict[str, Any]:
        return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    head = {"index": 0, "id": "c0", "function": {"name": "measure", "arguments": ""}}
    rest = [chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in arguments]
    return Recorded([chunk(tool_calls=[head]), *rest, chunk("tool_calls")], Delivery(whole=True))

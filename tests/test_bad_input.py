"""Whatever a server sends, there is the right answer or an error of the tree, soon, and nothing is left open."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from kimi_agent.errors import (
    APIConnectionError,
    APIEmptyResponseError,
    APIStatusError,
    AuthenticationError,
    ChatProviderError,
    ContentFilterError,
    NotFoundError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
    StreamProtocolError,
    ToolArgumentsError,
)
from kimi_agent.generate import GenerateResult, generate
from kimi_agent.kimi import answer as answer_module
from kimi_agent.kimi import http
from kimi_agent.kimi.client import Kimi
from kimi_agent.message import Message, TokenUsage
from kimi_agent.testing import Delivery, Failure, KimiServer, RawBody, Recorded, ScriptSource, say

QUESTION = [Message.user("Hello")]
JSON = "application/json"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def kimi_with(script: ScriptSource | None, **options: Any) -> AsyncIterator[tuple[Kimi, KimiServer]]:
    """A server and a client that asks it once. In the end neither a socket nor a task is left of them."""
    before = asyncio.all_tasks()
    async with KimiServer(script) as server:
        options = {"api_key": server.api_key, "base_url": server.base_url, "max_retries": 0, **options}
        async with Kimi(**options) as kimi:
            async with asyncio.timeout(20):
                yield kimi, server
        async with asyncio.timeout(5):
            await server.until(lambda: server.connections == 0)
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0)


async def result(raw: Any, **options: Any) -> GenerateResult:
    async with kimi_with([raw], **options) as (kimi, _):
        return await generate(kimi, "", [], QUESTION)


async def error_of(raw: Any, **options: Any) -> ChatProviderError:
    with pytest.raises(ChatProviderError) as caught:
        await result(raw, **options)
    return caught.value


async def outcome(raw: Any, **options: Any) -> str | type[ChatProviderError]:
    """The text of the answer, or the class of the error. Anything else that is raised goes through."""
    try:
        return (await result(raw, **options)).message.text
    except ChatProviderError as error:
        return type(error)


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def events(*data: Any) -> bytes:
    texts = [item if isinstance(item, str) else json.dumps(item) for item in data]
    return "".join([f"data: {text}\n\n" for text in texts]).encode()


def sent(*data: Any) -> RawBody:
    return RawBody(events(*data))


HI = chunk("stop", content="Hi")
WHOLE = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}).encode()


# ==== the wrong address ====


async def test_a_base_url_without_v1_is_not_found_and_the_error_says_what_is_missing() -> None:
    async with kimi_with([say("Hi")]) as (_, server):
        wrong = server.base_url.removesuffix("/v1")
        async with Kimi(api_key=server.api_key, base_url=wrong) as kimi:
            with pytest.raises(NotFoundError):
                await generate(kimi, "", [], QUESTION)


@pytest.mark.parametrize("status", [404, 405])
async def test_a_page_that_is_not_there_says_what_a_base_url_ends_with(status: int) -> None:
    error = await error_of(RawBody(b"<html>nothing here</html>", "text/html", status))
    assert "ends with /v1" in str(error)


async def test_a_path_that_is_not_there_says_so_in_json_too() -> None:
    error = await error_of(RawBody(b'{"code": 5, "error": "url.not_found", "message": "not found"}', JSON, 404))
    assert "ends with /v1" in str(error)


@pytest.mark.parametrize(
    "base_url",
    ["nonsense", "http://", "http://[::1", "http://localhost:99999/v1", "http://127.0.0.1:1/v1", "file:///etc", "/v1"],
)
async def test_an_address_where_nobody_is_is_an_error_that_names_it(base_url: str) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(ChatProviderError, match=r"base URL|no connection"):
        async with Kimi(api_key="sk-x", base_url=base_url, max_retries=0) as kimi:
            await generate(kimi, "", [], QUESTION)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_error_says_where_to(status: int) -> None:
    moved = RawBody(b"", "text/plain", status, headers={"location": "https://elsewhere.test/v1"})
    error = await error_of(moved)
    assert isinstance(error, APIStatusError)
    assert "https://elsewhere.test/v1" in str(error)


async def test_a_client_that_follows_redirects_does_not_take_a_request_elsewhere() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://elsewhere.test/v1/chat/completions"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle), follow_redirects=True) as client:
        kimi = Kimi(api_key="sk-x", base_url="https://kimi.test/v1", http_client=client)
        with pytest.raises(APIStatusError, match=r"elsewhere\.test"):
            await generate(kimi, "", [], QUESTION)
    assert asked == ["kimi.test"]


# ==== something else than an answer ====

HTML = b"<!doctype html><html><h1>Please log in</h1></html>"

NO_ANSWER: list[tuple[RawBody, type[ChatProviderError]]] = [
    (RawBody(HTML, "text/html"), StreamProtocolError),
    (RawBody(HTML, "text/html; charset=utf-8"), StreamProtocolError),
    (RawBody(HTML, JSON), StreamProtocolError),
    (RawBody(HTML), StreamProtocolError),
    (RawBody(HTML, "text/html", 400), APIStatusError),
    (RawBody(HTML, "text/html", 401), AuthenticationError),
    (RawBody(HTML, "text/html", 502), ServerError),
    (RawBody(HTML, JSON, 504), ServerError),
    (RawBody(b'{"error": {"message": "high risk", "type": "content_filter"}}', JSON), ContentFilterError),
    (RawBody(b'{"error": {"message": "x", "type": "exceeded_current_quota_error"}}', JSON), QuotaExceededError),
    (RawBody(b'{"error": "in one word"}', JSON), ServerError),
    (RawBody(b'{"detail": "Not found"}', JSON), StreamProtocolError),
    (RawBody(b"{}", JSON), StreamProtocolError),
    (RawBody(b"null", JSON), StreamProtocolError),
    (RawBody(b"", JSON), StreamInterruptedError),
    (RawBody(b"[" * 100_000, JSON), StreamProtocolError),
    (RawBody(b"\x00\xff\xfe", JSON), StreamProtocolError),
    (RawBody(WHOLE[:-5], JSON), StreamProtocolError),
    (RawBody(b"\x00" * 1000), StreamInterruptedError),
    (RawBody(b"\x89PNG\r\n\x1a\n\r\n\r\n"), StreamInterruptedError),
    (RawBody(b'data: {"error": {"message": "x", "type": "rate_limit_reached_error"}}\n\n'), RateLimitError),
    (RawBody(b'event: error\ndata: {"message": "x", "type": "rate_limit_reached_error"}\n\n'), RateLimitError),
    (RawBody(b'event: error\ndata: {"code": 500}\n\n'), ServerError),
    (RawBody(b"event: error\ndata: overloaded\n\n"), StreamProtocolError),
    (RawBody(b"event: error\n\n"), StreamInterruptedError),
    (RawBody(b"", status=204), ChatProviderError),
    (RawBody(b"", status=418), APIStatusError),
]


@pytest.mark.parametrize(("raw", "expected"), NO_ANSWER, ids=lambda value: repr(getattr(value, "body", ""))[:50])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_no_answer_is_an_error(raw: RawBody, expected: type[ChatProviderError], stream: bool) -> None:
    error = await error_of(raw, stream=stream)
    assert isinstance(error, expected)
    assert len(str(error)) < 1000


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("content_type", [JSON, "Application/JSON; charset=UTF-8"])
async def test_json_in_place_of_a_stream_is_an_answer(content_type: str, stream: bool) -> None:
    assert await outcome(RawBody(WHOLE, content_type), stream=stream) == "Hi"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stream_in_place_of_json_is_an_answer(stream: bool) -> None:
    assert await outcome(sent(HI, "[DONE]"), stream=stream) == "Hi"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/octet-stream", "text/json", "application/x-ndjson"]
)
async def test_json_under_another_name_is_an_answer(content_type: str) -> None:
    assert await outcome(RawBody(WHOLE, content_type), stream=False) == "Hi"


# ==== bodies that do not arrive ====

PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", PACKERS)
async def test_a_packed_answer_is_unpacked(encoding: str) -> None:
    packed = PACKERS[encoding](events(HI, "[DONE]"))
    assert await outcome(RawBody(packed, headers={"content-encoding": encoding})) == "Hi"


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("content_type", ["text/event-stream", JSON])
async def test_a_packed_answer_that_is_broken_half_way_is_an_interruption(encoding: str, content_type: str) -> None:
    text = "".join(chr(65 + number * 7 % 59) for number in range(5000))
    packed = PACKERS[encoding](events(chunk(content=text), chunk("stop"), "[DONE]"))
    half = len(packed) // 2
    for body in (packed[:half], packed[:half] + b"\xff" * half, b"\xff" * half):
        error = await error_of(RawBody(body, content_type, headers={"content-encoding": encoding}))
        assert isinstance(error, StreamInterruptedError | StreamProtocolError)


@pytest.mark.parametrize("status", [200, 400, 429, 500])
@pytest.mark.parametrize("content_type", ["text/event-stream", JSON])
async def test_less_than_the_content_length_promises_is_a_broken_connection(status: int, content_type: str) -> None:
    body = events(chunk(content="Par"), chunk("stop")) if content_type != JSON else WHOLE
    short = Delivery(whole=True, stop_after=len(body) // 2)
    error = await error_of(RawBody(body, content_type, status, short))
    assert isinstance(error, APIConnectionError)
    assert isinstance(error, StreamInterruptedError) is (status == 200)


async def test_an_error_whose_body_is_packed_is_unpacked_or_a_broken_connection() -> None:
    packed = gzip.compress(b'{"error": {"message": "Hello", "type": "server_error"}}')
    whole = RawBody(packed, JSON, 500, headers={"content-encoding": "gzip"})
    broken = RawBody(packed[:20] + b"\xff" * 20, JSON, 500, headers={"content-encoding": "gzip"})
    assert "Hello" in str(await error_of(whole))
    assert isinstance(await error_of(broken), APIConnectionError | ServerError)


# ==== large bodies ====

MEGABYTE = 1024 * 1024


async def test_an_answer_of_50_megabytes_is_whole() -> None:
    text = "x" * 1000
    event = events(chunk(content=text))
    count = 50 * MEGABYTE // len(event)
    body = event * count + events(chunk("stop"), "[DONE]")
    before = time.perf_counter()
    answer = await result(RawBody(body, delivery=Delivery(whole=True)))
    assert time.perf_counter() - before < 15, "a body is read in time that grows with it and no faster"
    assert answer.message.text == text * count


@pytest.mark.parametrize("line", [b"data: ", b": ", b""])
@pytest.mark.parametrize("end", [b"", b"\n\n"], ids=["open", "ended"])
async def test_a_line_of_20_megabytes_is_an_error_that_names_the_limit(line: bytes, end: bytes) -> None:
    body = line + b"x" * (20 * MEGABYTE) + end
    error = await error_of(RawBody(body, delivery=Delivery(whole=True)))
    assert isinstance(error, StreamProtocolError)
    assert "16,777,216 bytes" in str(error)


@pytest.mark.parametrize("kind", ["content", "reasoning_content"])
async def test_an_answer_that_never_ends_is_stopped_at_the_limit(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(answer_module, "LARGEST_STREAM", 100_000)
    error = await error_of(sent(*[chunk(**{kind: "x" * 1_000})] * 200))
    assert isinstance(error, StreamProtocolError)
    assert "the answer is larger than 100,000 bytes" in str(error)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_body_without_events_that_is_too_large_is_an_error_that_names_the_limit(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(answer_module, "LARGEST_BODY", 1000)
    error = await error_of(RawBody(WHOLE[:-1] + b" " * 1000 + b"}", JSON), stream=stream)
    assert isinstance(error, StreamProtocolError)
    assert "larger than 1,000 bytes" in str(error)


async def test_an_answer_of_another_endpoint_that_is_too_large_is_an_error_that_names_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "LARGEST_DOWNLOAD", 1000)
    async with kimi_with([]) as (kimi, server):
        server.failures["/models"] = [RawBody(b" " * 1001, JSON)]
        with pytest.raises(StreamProtocolError, match="larger than 1,000 bytes"):
            await kimi.models()


async def test_a_body_that_grows_when_it_is_unpacked_is_stopped_at_the_limit() -> None:
    packed = gzip.compress(b"data: " + b"x" * (50 * MEGABYTE))
    error = await error_of(RawBody(packed, headers={"content-encoding": "gzip"}))
    assert "16,777,216 bytes" in str(error)


async def test_an_error_of_50_megabytes_is_read_as_far_as_it_tells_something() -> None:
    error = await error_of(RawBody(b"x" * (50 * MEGABYTE), "text/plain", 500))
    assert isinstance(error, ServerError)
    assert len(str(error)) < 1000


# ==== bytes ====


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\xffb", "a�b"),
        (b"\xc3", "�"),
        ("\ufeffa".encode(), "\ufeffa"),
        (b"a\x00b", "a\x00b"),
        (rb"a\u0000b", "a\x00b"),
        (rb"\ud83c", "\ud83c"),
        ("a\u2028b\u0085c".encode(), "a\u2028b\u0085c"),
        (b"a\tb", "a\tb"),
    ],
)
async def test_strange_characters_of_a_text_stay_or_are_replaced(raw: bytes, text: str) -> None:
    assert await outcome(RawBody(events(chunk("stop", content="X")).replace(b"X", raw))) == text


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=repr)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_any_line_ends_and_a_byte_order_mark_are_read(end: bytes, mark: bytes, bytewise: bool) -> None:
    body = mark + events(chunk(content="H"), chunk("stop", content="i"), "[DONE]").replace(b"\n", end)
    delivery = Delivery(cuts=range(len(body))) if bytewise else Delivery(whole=True)
    assert await outcome(RawBody(body, delivery=delivery)) == "Hi"


async def test_a_crlf_cut_in_two_is_one_line_end() -> None:
    body = events(chunk(content="H"), chunk("stop", content="i"), "[DONE]").replace(b"\n", b"\r\n")
    cuts = [place + 1 for place in range(len(body)) if body[place : place + 2] == b"\r\n"]
    assert await outcome(RawBody(body, delivery=Delivery(cuts=cuts))) == "Hi"


@pytest.mark.parametrize(
    "between", [b"\x00", b"\x00\n\n", b"\n\x00\n", b"data: \x00\n\n", b"data\x00: x\n\n"], ids=repr
)
async def test_nul_bytes_between_events_are_skipped_or_an_error(between: bytes) -> None:
    body = events(chunk(content="H")) + between + events(chunk("stop", content="i"), "[DONE]")
    assert await outcome(RawBody(body)) in ("Hi", "H", StreamProtocolError, StreamInterruptedError)


# ==== JSON ====

DEEP = 100_000


async def test_brackets_nested_too_deeply_in_a_chunk_are_an_error() -> None:
    for nest in ("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP):
        for event in (nest, f'{{"choices": {nest}}}', f'{{"choices": [], "x": {nest}}}', f'{{"error": {nest}}}'):
            assert isinstance(await error_of(sent(event, HI)), StreamProtocolError)


async def test_brackets_nested_too_deeply_in_arguments_are_told_to_the_model() -> None:
    arguments = '{"a":' + "[" * DEEP + "]" * DEEP + "}"
    call = {"index": 0, "id": "f_0", "function": {"name": "f", "arguments": arguments}}
    (made,) = (await result(sent(chunk("tool_calls", tool_calls=[call])))).message.tool_calls or ()
    assert made.arguments == arguments
    with pytest.raises(ToolArgumentsError):
        _ = made.args


NO_DELTA: list[Any] = [
    {"choices": []},
    {"choices": None},
    {},
    {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
    {"choices": [{"index": 0, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}}]},
    {"choices": [{}]},
    chunk(role="assistant"),
    chunk(content=None, tool_calls=None, reasoning_content=None),
    chunk(content="", tool_calls=[]),
    {"choices": [{"index": 1, "delta": {"content": "of another choice"}}]},
    {"error": None},
    {"error": {}},
    {"id": None, "usage": None},
]


@pytest.mark.parametrize("empty", NO_DELTA, ids=repr)
async def test_a_chunk_without_a_delta_says_nothing(empty: Any) -> None:
    answer = await result(sent(empty, chunk(content="H"), empty, chunk(content="i"), empty, chunk("stop"), empty))
    assert (answer.message, answer.finish_reason) == (Message.assistant("Hi"), "stop")


NO_CHUNK: list[Any] = [
    {"choices": "x"},
    {"choices": 5},
    {"choices": {"0": {}}},
    {"choices": [None]},
    {"choices": ["x"]},
    {"choices": [[]]},
    {"choices": [{"delta": "x"}]},
    {"choices": [{"delta": ["x"]}]},
    {"choices": [{"delta": {"content": 5}}]},
    {"choices": [{"delta": {"content": ["x"]}}]},
    {"choices": [{"delta": {"reasoning_content": {"a": 1}}}]},
    {"choices": [{"delta": {"reasoning_details": [1]}}]},
    {"choices": [{"delta": {"reasoning_details": 5}}]},
    {"choices": [{"delta": {"tool_calls": "x"}}]},
    {"choices": [{"delta": {"tool_calls": 5}}]},
    {"choices": [{"delta": {"tool_calls": [None]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": "x"}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0.5, "function": {"name": "f", "arguments": "{}"}}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": [0], "function": {"name": "f", "arguments": "{}"}}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]},
    {"choices": [{"delta": {"content": "x"}, "logprobs": "x"}]},
    {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": 5}}]},
]


@pytest.mark.parametrize("wrong", NO_CHUNK, ids=repr)
async def test_a_chunk_of_another_shape_is_an_error(wrong: Any) -> None:
    assert isinstance(await error_of(sent(wrong, chunk("stop"), "[DONE]")), StreamProtocolError)


@pytest.mark.parametrize("index", [0, 7, -1, "0", "first", "", True, 2**70])
async def test_any_index_keeps_a_call_together(index: Any) -> None:
    first = {"index": index, "id": "f_0", "function": {"name": "f", "arguments": '{"a":'}}
    rest = {"index": index, "function": {"arguments": "1}"}}
    answer = await result(sent(chunk(tool_calls=[first]), chunk("tool_calls", tool_calls=[rest])))
    assert [(call.id, call.args) for call in answer.message.tool_calls or ()] == [("f_0", {"a": 1})]


@pytest.mark.parametrize("index", ["0", "first", -1, 1.0, None])
async def test_a_choice_of_any_index_is_an_answer_or_an_error(index: Any) -> None:
    choice = {"index": index, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    assert await outcome(sent({"choices": [choice]}, "[DONE]")) in ("Hi", APIEmptyResponseError)


USAGES: list[tuple[Any, tuple[int, int, int] | None]] = [
    # usage, and its prompt tokens that were not cached, completion tokens, cached prompt tokens
    (None, None),
    ({}, None),
    ({"prompt_tokens": 5}, (5, 0, 0)),
    ({"completion_tokens": 7}, (0, 7, 0)),
    ({"prompt_tokens": None, "completion_tokens": 7}, (0, 7, 0)),
    ({"prompt_tokens": -5, "completion_tokens": 7}, (0, 7, 0)),
    ({"prompt_tokens": 5.9, "completion_tokens": 7.0}, (5, 7, 0)),
    ({"prompt_tokens": "5", "completion_tokens": 7}, (0, 7, 0)),
    ({"prompt_tokens": 10**400, "completion_tokens": float("inf")}, (0, 0, 0)),
    ({"prompt_tokens": float("nan"), "completion_tokens": 7}, (0, 7, 0)),
    ({"prompt_tokens": [5], "completion_tokens": {"a": 7}}, (0, 0, 0)),
    ({"prompt_tokens": 5, "cached_tokens": 9}, (0, 0, 5)),
    ({"prompt_tokens": 5, "cached_tokens": -1}, (5, 0, 0)),
    ({"prompt_tokens": 5, "cached_tokens": "2"}, (5, 0, 0)),
    ({"prompt_tokens": 5, "prompt_tokens_details": None}, (5, 0, 0)),
    ({"prompt_tokens": 5, "prompt_tokens_details": [3]}, (5, 0, 0)),
    ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}, (2, 0, 3)),
    ({"total_tokens": 12}, (0, 0, 0)),
]


@pytest.mark.parametrize(("usage", "tokens"), USAGES, ids=lambda value: repr(value)[:60])
@pytest.mark.parametrize("place", ["in the choice", "beside it", "behind it"])
async def test_any_usage_is_counted_as_far_as_it_makes_sense(
    usage: Any, tokens: tuple[int, int, int] | None, place: str
) -> None:
    end = chunk("stop", content="Hi")
    end["choices"][0] |= {"usage": usage} if place == "in the choice" else {}
    end |= {"usage": usage} if place == "beside it" else {}
    behind = [{"choices": [], "usage": usage}] if place == "behind it" else []
    expected = tokens and TokenUsage(input_other=tokens[0], output=tokens[1], input_cache_read=tokens[2])
    assert (await result(sent(end, *behind))).usage == expected


@pytest.mark.parametrize("usage", ["free", 5, [1], True])
async def test_a_usage_of_another_shape_is_an_answer_or_an_error(usage: Any) -> None:
    assert await outcome(sent({**HI, "usage": usage})) in ("Hi", StreamProtocolError)


async def test_logprobs_are_kept_as_far_as_they_came() -> None:
    def with_logprobs(text: str, logprobs: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": logprobs}]}

    entries = [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []} for text in "Hi"]
    raw = sent(
        with_logprobs("H", {"content": entries[:1]}),
        with_logprobs("", None),
        with_logprobs("", {"content": None}),
        with_logprobs("i", {"content": entries[1:]}),
        chunk("stop"),
    )
    async with kimi_with([raw]) as (kimi, _):
        stream = await kimi.generate("", [], QUESTION)
        assert [frame async for frames in stream.batches() for frame in frames]
        await stream.aclose()
        assert stream.logprobs == entries


# ==== the end ====


@pytest.mark.parametrize(
    "end",
    [
        ["[DONE]"],
        ["[DONE]", "[DONE]"],
        ["[DONE]", chunk(content="no")],
        ["[DONE]", "nonsense"],
        ["[DONE]", {"error": {"message": "no"}}],
        [chunk("stop")],
        [chunk("stop"), chunk("stop"), "[DONE]"],
        [chunk("stop"), {"choices": [], "usage": None}],
    ],
    ids=repr,
)
@pytest.mark.parametrize("delivery", [Delivery(), Delivery(whole=True)], ids=["chunked", "whole"])
async def test_what_comes_after_the_end_changes_nothing(end: list[Any], delivery: Delivery) -> None:
    raw = RawBody(events(chunk(content="Hi"), *end), delivery=delivery)
    assert await outcome(raw) == "Hi"


@pytest.mark.parametrize(
    "done",
    [
        "data:[DONE]",
        "data: [DONE]",
        "event: message\ndata: [DONE]",
        ": x\ndata: [DONE]",
        "data: [DONE] ",
    ],
)
@pytest.mark.parametrize("blank", ["", "\n", "\n\n"], ids=repr)
async def test_done_may_be_written_in_any_way(done: str, blank: str) -> None:
    assert await outcome(RawBody(events(chunk(content="Hi")) + (done + blank).encode())) == "Hi"


@pytest.mark.parametrize(
    "last", ["", ": bye\n\n", "data: {\n\n", 'data: {"choices": [{"delta": {"content": "', "data: [DON\n\n"]
)
async def test_without_an_end_there_is_no_success(last: str) -> None:
    error = await error_of(RawBody(events(chunk(content="Par")) + last.encode()))
    assert isinstance(error, StreamInterruptedError | StreamProtocolError)


# ==== answers that are not streamed ====


def completion(finish_reason: str = "stop", **message: Any) -> RawBody:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 5}}
    return RawBody(json.dumps(body, indent=1).encode(), JSON)


CALL = {"index": 0, "id": "f_0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
OTHER = {"index": 1, "id": "g_1", "type": "function", "function": {"name": "g", "arguments": "{}"}}


@pytest.mark.parametrize("content", ["", None, "absent"])
async def test_calls_come_without_content_in_any_form(content: str | None) -> None:
    message = {} if content == "absent" else {"content": content}
    answer = await result(completion("tool_calls", **message, tool_calls=[CALL, OTHER]), stream=False)
    assert [(call.id, call.name, call.args) for call in answer.message.tool_calls or ()] == [
        ("f_0", "f", {"a": 1}),
        ("g_1", "g", {}),
    ]
    assert (answer.message.text, answer.finish_reason, answer.usage) == (
        "",
        "tool_calls",
        TokenUsage(input_other=5, output=0),
    )


async def test_calls_without_an_index_are_told_apart_by_their_place() -> None:
    calls = [{name: value for name, value in call.items() if name != "index"} for call in (CALL, OTHER)]
    answer = await result(completion("stop", content=None, tool_calls=calls), stream=False)
    assert [call.id for call in answer.message.tool_calls or ()] == ["f_0", "g_1"]


@pytest.mark.parametrize("content", ["", None, "absent"])
@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_no_content_is_an_empty_answer_unless_it_was_cut_off(content: str | None, reason: str) -> None:
    raw = completion(reason, **({} if content == "absent" else {"content": content}))
    assert await outcome(raw, stream=False) == (APIEmptyResponseError if reason == "stop" else "")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_the_reasoning_of_a_whole_answer_is_kept(key: str) -> None:
    message = (await result(completion(content="Hi", **{key: "Hm"}), stream=False)).message
    assert (message.text, message.reasoning) == ("Hi", "Hm")


@pytest.mark.parametrize("choices", [[], None, [None], "x", [{}], [{"message": None}], [{"message": "x"}]], ids=repr)
async def test_a_whole_answer_without_a_message_is_an_error(choices: Any) -> None:
    raw = RawBody(json.dumps({"id": "x", "choices": choices}).encode(), JSON)
    assert isinstance(await error_of(raw, stream=False), ChatProviderError)


async def test_what_is_asked_for_without_a_stream_says_so() -> None:
    async with kimi_with([say("Hi")], stream=False) as (kimi, server):
        assert (await generate(kimi, "", [], QUESTION)).message.text == "Hi"
        assert server.requests[0].body["stream"] is False
        assert "stream_options" not in server.requests[0].body


# ==== reasoning by any name ====

HM: dict[str, Any] = {
    "reasoning_content": "Hm",
    "reasoning": "Hm",
    "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}],
}


@pytest.mark.parametrize("key", HM)
@pytest.mark.parametrize("copied", [False, True], ids=["same client", "copy"])
async def test_reasoning_is_sent_back_under_the_name_under_which_it_came(key: str, copied: bool) -> None:
    script = [Recorded([chunk(**{key: HM[key]}), chunk("stop", content="Hi")]), say("Bye")]
    async with kimi_with(script) as (kimi, server):
        first = (await generate(kimi, "", [], QUESTION)).message
        again = kimi.with_generation_kwargs(max_completion_tokens=9) if copied else kimi
        await generate(again, "", [], [*QUESTION, first, *QUESTION])
        _, sent_back, _ = server.requests[1].body["messages"]
    assert first.reasoning == "Hm"
    assert {name: sent_back[name] for name in HM if name in sent_back} == {key: HM[key]}


async def test_what_a_copy_learns_its_client_knows() -> None:
    script = [Recorded([chunk(reasoning="Hm"), chunk("stop", content="Hi")]), say("Bye")]
    async with kimi_with(script) as (kimi, server):
        first = (await generate(kimi.with_generation_kwargs(max_completion_tokens=9), "", [], QUESTION)).message
        await generate(kimi, "", [], [*QUESTION, first, *QUESTION])
        assert server.requests[1].body["messages"][1]["reasoning"] == "Hm"


@pytest.mark.parametrize(
    "names",
    [
        ("reasoning", "reasoning_details"),
        ("reasoning_content", "reasoning"),
        ("reasoning_content", "reasoning_details"),
    ],
    ids="+".join,
)
async def test_reasoning_under_two_names_at_once_is_not_doubled(names: tuple[str, str]) -> None:
    twice = {name: HM[name] for name in names}
    script = [Recorded([chunk(**twice), chunk(**twice), chunk("stop", content="Hi")]), say("Bye")]
    async with kimi_with(script) as (kimi, server):
        first = (await generate(kimi, "", [], QUESTION)).message
        await generate(kimi, "", [], [*QUESTION, first, *QUESTION])
        sent_back = server.requests[1].body["messages"][1]
    assert first.reasoning == "HmHm"
    assert [name for name in HM if name in sent_back] == [names[0]]


@pytest.mark.parametrize(
    "before",
    [chunk(content="Let me see. "), chunk(reasoning_content="", content="")],
    ids=["text first", "an empty piece under Kimi's name first"],
)
async def test_the_name_is_remembered_wherever_in_the_answer_the_reasoning_comes(before: Any) -> None:
    script = [Recorded([before, chunk(reasoning="Hm"), chunk("stop", content="Hi")]), say("Bye")]
    async with kimi_with(script) as (kimi, server):
        first = (await generate(kimi, "", [], QUESTION)).message
        assert first.reasoning == "Hm"
        await generate(kimi, "", [], [*QUESTION, first, *QUESTION])
        assert server.requests[1].body["messages"][1]["reasoning"] == "Hm"


# ==== the other endpoints ====

NO_JSON: list[RawBody] = [
    RawBody(b"", JSON),
    RawBody(HTML, "text/html"),
    RawBody(b"null", JSON),
    RawBody(b"[]", JSON),
    RawBody(b"{}", JSON),
    RawBody(b'{"data": null}', JSON),
    RawBody(b'{"data": "x"}', JSON),
    RawBody(b'{"data": 5}', JSON),
    RawBody(b'{"error": {"message": "x"}}', JSON),
    RawBody(b"[" * DEEP, JSON),
    RawBody(b"\xff\x00", JSON),
    RawBody(b'{"data": {}}', JSON, delivery=Delivery(whole=True, stop_after=3)),
    RawBody(b"\xff" * 50, JSON, headers={"content-encoding": "gzip"}),
    RawBody(b"", "text/plain", 302, headers={"location": "https://elsewhere.test"}),
]


@pytest.mark.parametrize("raw", NO_JSON, ids=lambda raw: repr(raw.body)[:40])
async def test_other_endpoints_that_answer_with_something_else_are_an_error(raw: RawBody) -> None:
    paths = ("/models", "/users/me/balance", "/tokenizers/estimate-token-count")
    async with kimi_with([]) as (kimi, server):
        server.failures = {path: [raw] for path in paths}
        for ask in (kimi.models(), kimi.balance(), kimi.estimate_tokens(QUESTION)):
            with pytest.raises(ChatProviderError):
                await ask


@pytest.mark.parametrize(
    "number",
    [
        "null",
        '"x"',
        "[5]",
        '""',
        "NaN",
        "1e400",
        '"inf"',
        "1" + "0" * 400,
    ],
    ids=lambda value: str(value)[:10],
)
async def test_a_count_of_tokens_that_is_no_number_is_an_error(number: str) -> None:
    raw = RawBody(b'{"data": {"total_tokens": %s}}' % number.encode(), JSON)
    async with kimi_with([]) as (kimi, server):
        server.failures["/tokenizers/estimate-token-count"] = [raw]
        with pytest.raises(ChatProviderError):
            await kimi.estimate_tokens(QUESTION)


async def test_a_refusal_of_another_endpoint_is_the_error_that_it_is() -> None:
    async with kimi_with([]) as (kimi, server):
        server.failures["/models"] = [Failure(429, "exceeded_current_quota_error", "recharge")]
        with pytest.raises(QuotaExceededError, match="recharge"):
            await kimi.models()

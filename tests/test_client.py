"""`Kimi` over real HTTP: keys, answers that end well, answers that do not, and connections that are let go."""

import asyncio
import gzip
import json
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from kimi_agent.agent import Agent
from kimi_agent.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ChatProviderError,
    ContentFilterError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
    StreamProtocolError,
)
from kimi_agent.events import Append, End, RequestSent, StreamFrame
from kimi_agent.generate import generate
from kimi_agent.kimi import answer as answer_module
from kimi_agent.kimi.answer import KimiStreamedMessage
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.patience import Timeouts
from kimi_agent.message import Message, TextPart, ThinkPart, TokenUsage, ToolCall, ToolCallPart
from kimi_agent.provider import ChatProvider
from kimi_agent.testing import (
    Call,
    Delivery,
    Failure,
    Gate,
    KimiServer,
    RawBody,
    Recorded,
    Reply,
    ScriptedKimi,
    ScriptSource,
    say,
)

KEY = "sk-do-not-tell-0123456789"
QUESTION = [Message.user("Which is warmer?")]
ENVIRONMENT = ("KIMI_API_KEY", "MOONSHOT_API_KEY", "KIMI_BASE_URL", "MOONSHOT_BASE_URL")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT, "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def kimi_with(
    script: ScriptSource | None, *, check: bool = True, **options: Any
) -> AsyncIterator[tuple[Kimi, KimiServer]]:
    """A server, and a client of it that asks once unless told otherwise."""
    async with KimiServer(script, check=check) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, **{"max_retries": 0, **options}) as kimi:
            yield kimi, server


async def ask(kimi: Kimi, **options: Any) -> KimiStreamedMessage:
    return await kimi.generate("", [], QUESTION, **options)


async def read(stream: KimiStreamedMessage) -> list[StreamFrame]:
    try:
        return [frame async for frames in stream.batches() for frame in frames]
    finally:
        await stream.aclose()


async def answer(kimi: Kimi) -> End:
    end = (await read(await ask(kimi)))[-1]
    assert isinstance(end, End)
    return end


async def until_error(
    asked: KimiStreamedMessage | Awaitable[KimiStreamedMessage],
) -> tuple[list[StreamFrame], ChatProviderError]:
    """The frames of an answer that fails, and why it failed: before its first frame, or on the way."""
    frames: list[StreamFrame] = []
    async with AsyncExitStack() as stack:
        with pytest.raises(ChatProviderError) as caught:
            stream = await asked if isinstance(asked, Awaitable) else asked
            stack.push_async_callback(stream.aclose)
            async for batch in stream.batches():
                assert batch
                frames += batch
    return frames, caught.value


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def events(*data: Any) -> bytes:
    texts = [item if isinstance(item, str) else json.dumps(item) for item in data]
    return "".join([f"data: {text}\n\n" for text in texts]).encode()


def mocked(response: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(response))


class Pieces(httpx.AsyncByteStream):
    """A body that comes in these pieces; an exception among them is raised, an awaitable is awaited."""

    def __init__(self, *pieces: bytes | Exception | Awaitable[Any]) -> None:
        self._pieces = pieces
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                yield piece
            else:
                await piece

    async def aclose(self) -> None:
        self.closed = True


@asynccontextmanager
async def answering(stream: Pieces, content_type: str = "text/event-stream", **headers: str) -> AsyncIterator[Kimi]:
    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=stream, headers={"content-type": content_type, **headers})

    async with mocked(respond) as client:
        yield Kimi(api_key=KEY, base_url="https://kimi.test/v1", http_client=client, max_retries=0)
    assert stream.closed


# ==== keys and base URLs ====


async def request_of(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> httpx.Request:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=events(chunk("stop", content="x")))

    async with mocked(respond) as client:
        await answer(Kimi(http_client=client, **arguments))
    return seen[0]


@pytest.mark.parametrize(
    ("arguments", "environment", "key", "url"),
    [
        ({"api_key": "arg"}, {}, "arg", "https://api.moonshot.ai/v1"),
        ({"api_key": "arg"}, {"KIMI_API_KEY": "kimi", "MOONSHOT_API_KEY": "moon"}, "arg", "https://api.moonshot.ai/v1"),
        ({}, {"KIMI_API_KEY": "kimi", "MOONSHOT_API_KEY": "moon"}, "kimi", "https://api.moonshot.ai/v1"),
        ({}, {"KIMI_API_KEY": " ", "MOONSHOT_API_KEY": "moon\n"}, "moon", "https://api.moonshot.ai/v1"),
        ({"api_key": ""}, {"MOONSHOT_API_KEY": "moon"}, "moon", "https://api.moonshot.ai/v1"),
        ({"api_key": "a", "base_url": "http://arg/v1"}, {"KIMI_BASE_URL": "http://kimi"}, "a", "http://arg/v1"),
        ({"api_key": "a"}, {"KIMI_BASE_URL": "http://kimi", "MOONSHOT_BASE_URL": "http://moon"}, "a", "http://kimi"),
        ({"api_key": "a"}, {"KIMI_BASE_URL": "", "MOONSHOT_BASE_URL": "http://moon/v1/"}, "a", "http://moon/v1"),
        ({"api_key": "a"}, {"OPENAI_API_KEY": "b", "OPENAI_BASE_URL": "http://x"}, "a", "https://api.moonshot.ai/v1"),
    ],
)
async def test_argument_goes_before_kimi_before_moonshot_before_the_default(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str], environment: dict[str, str], key: str, url: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    request = await request_of(monkeypatch, **arguments)
    assert request.headers["authorization"] == f"Bearer {key}"
    assert str(request.url) == f"{url}/chat/completions"


def test_without_a_key_the_error_says_how_to_give_one() -> None:
    with pytest.raises(ChatProviderError, match="api_key= or set KIMI_API_KEY or MOONSHOT_API_KEY"):
        Kimi()


@pytest.mark.parametrize(
    "key", ["sk-secret\nsk-other", "sk-secret sk", "sk-secret-ключ", "sk-secret\x00", "“sk-secret”"]
)
def test_a_key_with_characters_that_no_key_has_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ChatProviderError, match="characters that no key has") as caught:
        Kimi(api_key=key)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_blanks_around_a_key_are_no_part_of_it() -> None:
    assert Kimi(api_key=f" {KEY}\n")


def test_the_client_does_not_tell_the_key() -> None:
    kimi = Kimi(api_key=KEY, base_url="https://kimi.test/v1")
    assert repr(kimi) == "Kimi('kimi-k3', base_url='https://kimi.test/v1')"
    assert KEY not in str(vars(kimi))


@pytest.mark.parametrize("base_url", ["http://localhost:99999/v1", "http://xn--a/", "http://127.0.0.1:1/\ud800"])
async def test_a_base_url_that_is_none_is_an_error_of_the_tree(base_url: str) -> None:
    with pytest.raises(ChatProviderError):
        await Kimi(api_key="sk-x", base_url=base_url, max_retries=0).generate("", [], [Message.user("x")])


async def test_requests_that_are_cancelled_twice_leave_no_socket_behind() -> None:
    async with KimiServer(lambda body: say("hello " * 50)) as server:
        kimi = Kimi(api_key=server.api_key, base_url=server.base_url)
        for moment in range(60):
            task = asyncio.create_task(generate(kimi, "", [], [Message.user("x")]))
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        async with asyncio.timeout(10):
            await server.until(lambda: server.connections <= 1)
        await kimi.aclose()


async def test_a_server_that_repeats_the_key_does_not_leak_it() -> None:
    def repeat(request: httpx.Request) -> httpx.Response:
        said = f"Incorrect API key provided: {request.headers['authorization']}"
        return httpx.Response(401, json={"error": {"message": said, "type": "invalid_authentication_error"}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(repeat)) as client:
        with pytest.raises(AuthenticationError) as caught:
            await Kimi(api_key="sk-secret", http_client=client).generate("", [], [Message.user("x")])
    assert "sk-secret" not in str(caught.value) + repr(caught.value.body)


SLASHED = "sk-nu/do+not\\tell"
REPEATED = {
    "as it is": r"bad key sk-nu/do+not\\tell",
    "as PHP escapes it": r"bad key sk-nu\/do+not\\tell",
    "by its numbers": r"bad key \u0073k-nu\u002Fdo\u002bnot\u005Ctell",
    "as JSON in JSON": r"{\"said\": \"bad key sk-nu\\\/do\\u002bnot\\\\tell\"}",
    "after a backslash": r"bad key \\sk-nu\/do+not\\tell",
}


@pytest.mark.parametrize("repeated", REPEATED.values(), ids=REPEATED)
@pytest.mark.parametrize(
    ("status", "content_type", "frame"),
    [
        (401, "application/json", '{"error": {"message": "%s", "code": "%s", "more": [{"%s": 1}]}}'),
        (401, "application/json", '{"object": "error", "message": "%s", "type": "%s", "said": "%s"}'),
        (401, "text/html", "<html>%s %s %s</html>"),
        (200, "application/json", '{"error": {"message": "%s", "code": "%s", "type": "%s"}}'),
        (200, "text/event-stream", 'data: {"error": {"message": "%s", "code": "%s", "type": "%s"}}\n\n'),
        (200, "text/event-stream", 'event: error\ndata: {"message": "%s", "code": "%s", "type": "%s"}\n\n'),
        (200, "text/event-stream", "data: %s %s %s\n\n"),
    ],
)
async def test_a_key_that_a_server_repeats_is_not_told_however_it_is_escaped(
    status: int, content_type: str, frame: str, repeated: str
) -> None:
    body = (frame % (repeated, repeated, repeated)).encode()
    answer = httpx.Response(status, content=body, headers={"content-type": content_type})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as client:
        kimi = Kimi(api_key=SLASHED, base_url="https://kimi.test/v1", http_client=client, max_retries=0)
        with pytest.raises(ChatProviderError) as caught:
            await ask(kimi)
    told = str(caught.value) + repr(vars(caught.value))
    assert "(the API key)" in told
    assert not re.search(r"sk-nu|not.*tell", told)
    if "json" in content_type:
        assert not isinstance(getattr(caught.value, "body", None), str)


async def test_an_error_whose_body_never_ends_is_read_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)

    transport = httpx.MockTransport(lambda request: httpx.Response(500, stream=Endless()))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(ServerError):
            await Kimi(api_key="sk-x", http_client=client).generate("", [], [Message.user("x")])


async def test_no_error_tells_the_key() -> None:
    async with KimiServer(check=True) as server, Kimi(api_key=KEY, base_url=server.base_url) as kimi:
        with pytest.raises(AuthenticationError) as caught:
            await ask(kimi)
    error = caught.value
    shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    assert KEY not in "".join(shown)


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("kimi-k3", 1_048_576),
        ("kimi-k3-0905", 1_048_576),
        ("k3-256k", 262_144),
        ("kimi-k2.5", 262_144),
        ("nobody-knows", 262_144),
    ],
)
def test_the_window_belongs_to_the_model(model: str, window: int) -> None:
    assert Kimi(model, api_key=KEY).context_window == window


# ==== what is sent ====


async def test_the_request_is_told_before_it_goes_out_without_the_key() -> None:
    told: list[Any] = []
    async with kimi_with([say("Oslo.")]) as (kimi, server):
        await read(await ask(kimi, on_event=lambda event: told.append((event, len(server.requests)))))
        ((sent, before),) = told
        assert isinstance(sent, RequestSent)
        assert before == 0
        assert sent.body.encode() == server.requests[0].raw
        assert server.api_key not in sent.body


async def test_an_async_listener_is_awaited() -> None:
    told: list[Any] = []

    async def listen(event: Any) -> None:
        await asyncio.sleep(0)
        told.append(event)

    async with kimi_with([say("Oslo.")]) as (kimi, _):
        stream = await ask(kimi, on_event=listen)
        assert len(told) == 1
        await stream.aclose()


async def test_a_request_asks_for_a_stream_with_usage_and_for_the_models_own_limit() -> None:
    async with kimi_with([say("Oslo.")]) as (kimi, server):
        await answer(kimi)
        assert server.requests[0].body == {
            "messages": [{"role": "user", "content": "Which is warmer?"}],
            "model": "kimi-k3",
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": 131_072,
        }


# ==== answers ====


async def test_an_answer_has_its_frames_its_usage_and_its_ids() -> None:
    usage = TokenUsage(input_other=5, output=7, input_cache_read=256)
    calls = (Call("f", '{"a": 1}'), Call("g", "{}"))
    async with kimi_with([Reply("Look.", "hm", calls, usage=usage, chunk_size=3)]) as (kimi, _):
        stream = await ask(kimi)
        assert stream.trace_id == "trace-1"
        end = (await read(stream))[-1]
    assert isinstance(end, End)
    assert end.message.content == (ThinkPart(think="hm"), TextPart(text="Look."))
    assert [(c.id, c.name, c.arguments) for c in end.message.tool_calls or ()] == [
        ("f_0", "f", '{"a": 1}'),
        ("g_1", "g", "{}"),
    ]
    assert (stream.id, stream.usage, stream.finish_reason) == ("chatcmpl-1", usage, "tool_calls")
    assert (end.usage, end.finish_reason) == (usage, "tool_calls")


async def test_iterating_an_answer_gives_its_parts() -> None:
    async with kimi_with([Reply("Hi", "hm", (Call("f", "{}"),))]) as (kimi, _):
        stream = await ask(kimi)
        parts = [part async for part in stream]
        await stream.aclose()
    assert parts == [
        ThinkPart(think="hm"),
        TextPart(text="Hi"),
        ToolCall(id="f_0", function=ToolCall.FunctionBody(name="f")),
        ToolCallPart(arguments_part="{}", index=0),
    ]


async def test_one_body_is_one_batch_of_frames() -> None:
    async with kimi_with([Reply("Hello", chunk_size=1, delivery=Delivery(whole=True))]) as (kimi, _):
        stream = await ask(kimi)
        batches = [batch async for batch in stream.batches()]
        await stream.aclose()
    assert [frame.text for frame in batches[0] if isinstance(frame, Append)] == list("Hello")
    assert [type(frame) for frame in batches[-1]] == [End]


async def test_frames_come_before_the_answer_is_whole() -> None:
    gate = Gate(before=3)
    async with kimi_with([Reply("Hello", chunk_size=1, delivery=Delivery(gate=gate))]) as (kimi, _):
        stream = await ask(kimi)
        batches = stream.batches()
        first = await anext(batches)
        await gate.reached()
        assert first == [Append("H")]
        gate.open()
        assert isinstance([frame async for frames in batches for frame in frames][-1], End)
        await stream.aclose()


async def test_the_request_id_of_the_open_platform_is_the_trace_id_where_there_is_no_other() -> None:
    body = Pieces(events(chunk("stop", content="x")))
    async with answering(body, **{"Msh-Request-Id": "r-1"}) as kimi:
        stream = await ask(kimi)
        assert stream.trace_id == "r-1"
        await stream.aclose()


async def test_done_without_a_finish_reason_is_success() -> None:
    async with kimi_with([Reply("Hi", delivery=Delivery(finish=False))]) as (kimi, _):
        end = await answer(kimi)
    assert (end.message.text, end.finish_reason) == ("Hi", None)


async def test_a_finish_reason_without_done_is_success() -> None:
    async with kimi_with([Reply("Hi", delivery=Delivery(done=False))]) as (kimi, _):
        end = await answer(kimi)
    assert (end.message.text, end.finish_reason) == ("Hi", "stop")
    assert end.usage is not None


async def test_what_comes_after_done_is_not_read() -> None:
    body = events(chunk("stop", content="x"), "[DONE]", chunk(content="no"), "garbage")
    async with answering(Pieces(body)) as kimi:
        assert (await answer(kimi)).message.text == "x"


async def test_a_finish_reason_on_a_socket_that_stays_open_is_success_after_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_module, "END_GRACE", 0.05)
    never = asyncio.Event()
    body = Pieces(events(chunk(content="x")), events(chunk("stop")), events({"choices": []}), never.wait())
    async with answering(body) as kimi:
        end = await asyncio.wait_for(answer(kimi), 5)
    assert (end.message.text, end.finish_reason) == ("x", "stop")


async def test_the_grace_is_for_the_whole_rest_and_not_for_each_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that sends comments for ever keeps nobody waiting."""
    monkeypatch.setattr(answer_module, "END_GRACE", 0.05)

    class Chatty(Pieces):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield events(chunk("stop", content="x"))
            while True:
                await asyncio.sleep(0.001)
                yield b": still here\n\n"

    async with answering(Chatty()) as kimi:
        assert (await asyncio.wait_for(answer(kimi), 5)).message.text == "x"


@pytest.mark.parametrize("failure", [httpx.ReadError("reset"), httpx.ReadTimeout(""), httpx.RemoteProtocolError("cut")])
async def test_a_connection_that_breaks_after_the_finish_reason_harms_nothing(failure: Exception) -> None:
    async with answering(Pieces(events(chunk("stop", content="x")), failure)) as kimi:
        assert (await answer(kimi)).message.text == "x"


async def test_usage_after_the_finish_reason_is_waited_for() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    async with answering(Pieces(events(chunk("stop", content="x")), events(usage, "[DONE]"))) as kimi:
        assert (await answer(kimi)).usage == TokenUsage(input_other=5, output=2)


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_a_whole_completion_instead_of_a_stream_is_an_answer(content_type: str) -> None:
    message = {"role": "assistant", "content": "Hi", "reasoning_content": ""}
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        },
        indent=2,
    ).encode()
    async with answering(Pieces(*[body[place : place + 7] for place in range(0, len(body), 7)]), content_type) as kimi:
        end = await answer(kimi)
    assert (end.message.text, end.message.reasoning) == ("Hi", "")
    assert end.usage == TokenUsage(input_other=5, output=2)


async def test_a_request_that_is_not_streamed_is_answered_too() -> None:
    async with kimi_with([say("Hi")]) as (kimi, _):
        stream = await ask(kimi, generation_overrides={"extra_body": {"stream": False}})
        end = (await read(stream))[-1]
    assert isinstance(end, End)
    assert end.message.text == "Hi"


async def test_an_answer_that_is_packed_is_unpacked() -> None:
    packed = gzip.compress(events(chunk("stop", content="天气")))
    pieces = [packed[place : place + 5] for place in range(0, len(packed), 5)]
    async with answering(Pieces(*pieces), **{"content-encoding": "gzip"}) as kimi:
        assert (await answer(kimi)).message.text == "天气"


async def test_a_mocked_response_that_is_read_already_is_an_answer() -> None:
    async with mocked(lambda _: httpx.Response(200, content=events(chunk("stop", content="x")))) as client:
        assert (await answer(Kimi(api_key=KEY, http_client=client))).message.text == "x"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=repr)
async def test_strange_line_ends_comments_and_a_byte_order_mark_are_read(end: str) -> None:
    lines = [
        ": hi",
        "",
        "",
        "event: message",
        "data:" + json.dumps(chunk("stop", content="a\u2028b"), ensure_ascii=False),
    ]
    body = "\ufeff" + end.join([*lines, "", ": bye", ""])
    async with kimi_with([RawBody(body.encode())]) as (kimi, _):
        assert (await answer(kimi)).message.text == "a\u2028b"


async def test_utf8_that_is_broken_is_replaced_and_the_answer_goes_on() -> None:
    raw = events(chunk(content="aXb"), chunk("stop", content="!")).replace(b"X", b"\xff")
    async with kimi_with([RawBody(raw)]) as (kimi, _):
        assert (await answer(kimi)).message.text == "a\ufffdb!"


async def test_a_character_cut_in_two_escapes_is_one_character() -> None:
    raw = b"".join([events(chunk(content=half)) for half in ("\ud83c", "\udf26")]) + events(chunk("stop"))
    assert b"\\ud83c" in raw
    async with kimi_with([RawBody(raw)]) as (kimi, _):
        assert (await answer(kimi)).message.text == "🌦"


# ==== answers that are errors ====


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure(401, "invalid_authentication_error", "no"), AuthenticationError),
        (Failure(429, "rate_limit_reached_error", "slow down", retry_after=7), RateLimitError),
        (Failure(500, "server_error", "oops"), ServerError),
    ],
)
async def test_a_refusal_is_an_error_with_its_fields_and_asked_once(
    failure: Failure, expected: type[APIStatusError]
) -> None:
    async with kimi_with([failure]) as (kimi, server):
        with pytest.raises(expected) as caught:
            await ask(kimi)
        assert len(server.requests) == 1
    error = caught.value
    assert (error.status_code, error.type, error.body) == (failure.status, failure.type, failure.body)
    assert (error.request_id, error.trace_id, error.retry_after) == ("request-1", "trace-1", failure.retry_after)


async def test_html_of_a_gateway_is_a_server_error_that_can_be_read() -> None:
    html = RawBody(b"<html><h1>504 Gateway Time-out</h1></html>", "text/html", 504)
    async with kimi_with([html]) as (kimi, _):
        with pytest.raises(ServerError, match="504 Gateway Time-out"):
            await ask(kimi)


@pytest.mark.parametrize(
    "body",
    [
        RawBody(b"<html>Please log in</html>", "text/html; charset=utf-8"),
        RawBody(b"<html>Please log in</html>", "application/json"),
        RawBody(b'{"detail": "Please log in"}', "application/json"),
        RawBody(b'["Please log in"]', "application/json"),
        RawBody(b"data: Please log in\n\n"),
        RawBody(b'data: ["Please log in"]\n\n'),
        RawBody(b'data: {"choices": "Please log in"}\n\n'),
        RawBody(b'data: {"choices": [{"delta": {"content": "Please log in"}}]\n\n'),
    ],
    ids=lambda raw: repr(raw.body),
)
async def test_success_with_something_else_than_an_answer_is_a_protocol_error(body: RawBody) -> None:
    async with kimi_with([body]) as (kimi, _):
        _, error = await until_error(ask(kimi))
    assert isinstance(error, StreamProtocolError)
    assert "Please log in" in str(error)


@pytest.mark.parametrize(
    "raw", [b"data: null\n\n", b"data: 5\n\n", b'data: "x"\n\n', b"data: {\n\n", b"data: " + b"[" * 5000 + b"\n\n"]
)
async def test_garbage_in_a_stream_is_a_protocol_error_after_the_frames_before_it(raw: bytes) -> None:
    async with kimi_with([RawBody(events(chunk(content="Par")) + raw)]) as (kimi, _):
        frames, error = await until_error(ask(kimi))
    assert frames == [Append("Par")]
    assert error.__class__ is StreamProtocolError


async def test_a_bare_data_field_says_nothing() -> None:
    async with kimi_with([RawBody(b"data\n\ndata:\n\n" + events(chunk("stop", content="x")))]) as (kimi, _):
        assert (await answer(kimi)).message.text == "x"


@pytest.mark.parametrize("delivery", [Delivery(), Delivery(whole=True)], ids=["chunked", "whole"])
@pytest.mark.parametrize(
    ("error", "expected", "status"),
    [
        ({"message": "Stream failed", "type": "server_error", "code": "stream_failure"}, ServerError, 500),
        ({"message": "high risk", "type": "content_filter"}, ContentFilterError, 400),
        ({"message": "slow down", "type": "rate_limit_reached_error"}, RateLimitError, 429),
        ({"message": "what?"}, ServerError, 500),
        ("in one word", ServerError, 500),
    ],
    ids=repr,
)
async def test_an_error_inside_a_stream_comes_after_the_frames_before_it(
    delivery: Delivery, error: Any, expected: type[APIStatusError], status: int
) -> None:
    chunks = [chunk(content="Par"), chunk(content="tial"), {"error": error}, chunk("stop", content="no")]
    async with kimi_with([Recorded(chunks, delivery)]) as (kimi, _):
        frames, failed = await until_error(ask(kimi))
    assert frames == [Append("Par"), Append("tial")]
    assert isinstance(failed, APIStatusError)
    assert (failed.__class__, failed.status_code, failed.trace_id) == (expected, status, "trace-1")
    assert (error if isinstance(error, str) else error["message"]) in str(failed)
    assert failed.body == {"error": error}


@pytest.mark.parametrize(
    "raw",
    [
        b'event: error\ndata: {"error": {"message": "boom", "type": "server_error"}}\n\n',
        b'event: error\ndata: {"message": "boom", "type": "server_error"}\n\n',
        b'event: error\ndata: {"error": null, "message": "boom", "type": "server_error"}\n\n',
    ],
)
async def test_an_event_of_type_error_is_an_error(raw: bytes) -> None:
    async with kimi_with([RawBody(events(chunk(content="x")) + raw + events(chunk("stop")))]) as (kimi, _):
        frames, error = await until_error(ask(kimi))
    assert frames == [Append("x")]
    assert error.__class__ is ServerError
    assert "boom" in str(error)


async def test_a_chunk_whose_error_is_null_is_a_chunk() -> None:
    async with kimi_with([Recorded([chunk("stop", content="x") | {"error": None}])]) as (kimi, _):
        assert (await answer(kimi)).message.text == "x"


async def test_an_error_object_with_success_is_an_error() -> None:
    body = RawBody(b'{"error": {"message": "high risk", "type": "content_filter"}}', "application/json")
    async with kimi_with([body]) as (kimi, _):
        _, error = await until_error(ask(kimi))
    assert error.__class__ is ContentFilterError


async def test_a_failed_stream_goes_on_failing() -> None:
    async with kimi_with([Recorded([chunk(content="x"), {"error": {"message": "boom"}}])]) as (kimi, _):
        stream = await ask(kimi)
        _, first = await until_error(stream)
        _, second = await until_error(stream)
    assert first is second


# ==== answers that break off ====


def hello(**delivery: Any) -> Reply:
    return Reply("Hello, ", chunk_size=1, delivery=Delivery(**delivery))


@pytest.mark.parametrize("stop", ["end", "close", "reset"])
async def test_an_answer_cut_off_anywhere_before_its_end_is_interrupted(stop: Any) -> None:
    seen: set[str] = set()
    for size in range(0, 1500, 61):
        async with kimi_with([hello(stop_after=size, stop=stop, finish=False, done=False)]) as (kimi, _):
            frames, error = await until_error(ask(kimi))
        assert isinstance(error, StreamInterruptedError), size
        came = "".join(frame.text for frame in frames if isinstance(frame, Append))
        assert error.partial == Message.assistant(came)
        assert "Hello, ".startswith(came)
        seen.add(came)
    assert {"", "Hello, "} < seen or stop == "reset"  # a reset may take back what was sent before it


@pytest.mark.parametrize("stop", ["end", "close"])
async def test_an_answer_cut_off_anywhere_after_its_finish_reason_is_whole(stop: Any) -> None:
    body = events(chunk("stop", content="Hi"))
    rest = events({"choices": [], "usage": {"prompt_tokens": 5}}, "[DONE]")
    for size in range(len(rest) + 1):
        delivery = Delivery(cuts=[len(body)], stop_after=len(body) + size, stop=stop)
        async with kimi_with([RawBody(body + rest, delivery=delivery)]) as (kimi, _):
            assert (await answer(kimi)).message.text == "Hi", size


async def test_half_an_event_at_the_end_is_no_success() -> None:
    body = events(chunk(content="Par")) + events(chunk("stop"))[:-20]
    async with kimi_with([RawBody(body)]) as (kimi, _):
        frames, error = await until_error(ask(kimi))
    assert frames == [Append("Par")]
    assert isinstance(error, StreamInterruptedError)
    assert error.partial == Message.assistant("Par")


@pytest.mark.parametrize("body", [b"", b": nothing\n\n", b"\n\n\n"])
@pytest.mark.parametrize("content_type", ["text/event-stream", "text/plain"])
async def test_an_empty_body_is_an_interrupted_answer(body: bytes, content_type: str) -> None:
    async with kimi_with([RawBody(body, content_type)]) as (kimi, _):
        _, error = await until_error(ask(kimi))
    assert isinstance(error, StreamInterruptedError)
    assert error.partial == Message.assistant()


@pytest.mark.parametrize(
    "failure",
    [httpx.ReadError(""), httpx.RemoteProtocolError("cut"), httpx.ReadTimeout(""), OSError("gone")],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_breaks_an_answer_is_an_interruption_with_what_came(failure: Exception) -> None:
    async with answering(Pieces(events(chunk(content="Par")), failure)) as kimi:
        frames, error = await until_error(ask(kimi))
    assert frames == [Append("Par")]
    assert isinstance(error, StreamInterruptedError)
    assert error.partial == Message.assistant("Par")
    assert type(failure).__name__ in str(error)


async def test_an_answer_that_cannot_be_unpacked_is_an_interruption() -> None:
    broken = gzip.compress(events(chunk("stop", content="x")))[:10] + b"\xff" * 50
    async with answering(Pieces(broken), **{"content-encoding": "gzip"}) as kimi:
        _, error = await until_error(ask(kimi))
    assert isinstance(error, StreamInterruptedError)


async def test_half_a_packed_answer_is_an_interruption() -> None:
    packed = gzip.compress(events(chunk("stop", content="x" * 1000)))
    async with answering(Pieces(packed[:-30]), **{"content-encoding": "gzip"}) as kimi:
        _, error = await until_error(ask(kimi))
    assert isinstance(error, StreamInterruptedError)


async def test_silence_in_the_middle_of_an_answer_is_an_interruption() -> None:
    gate = Gate(before=2)
    async with kimi_with([hello(gate=gate)], timeout=Timeouts(between_chunks=0.1)) as (kimi, _):
        frames, error = await until_error(ask(kimi))
    assert frames == [Append("H")]
    assert isinstance(error, StreamInterruptedError)
    assert "silent" in str(error)


async def test_silence_before_the_answer_is_a_timeout() -> None:
    async def never(_: Any) -> Any:
        await asyncio.Event().wait()

    async with kimi_with(never, timeout=Timeouts(first_byte=0.1)) as (kimi, _):
        with pytest.raises(APITimeoutError):
            await ask(kimi)


async def test_a_connection_that_is_closed_before_the_answer_is_a_connection_error() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Kimi(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1") as kimi:
            with pytest.raises(APIConnectionError) as caught:
                await ask(kimi)
    assert caught.value.__class__ is APIConnectionError


async def test_what_is_no_http_is_a_connection_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.test ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Kimi(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1") as kimi:
            with pytest.raises(APIConnectionError):
                await ask(kimi)


async def test_a_wrong_path_in_the_base_url_is_not_found() -> None:
    async with KimiServer() as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url + "/v1") as kimi:
            with pytest.raises(APIStatusError) as caught:
                await ask(kimi)
    assert caught.value.status_code == 404


# ==== connections ====


async def test_an_answer_read_to_its_end_leaves_its_connection_for_the_next_one() -> None:
    async with kimi_with([say("a"), say("b")]) as (kimi, server):
        await answer(kimi)
        await answer(kimi)
        assert server.connections == 1
        await kimi.aclose()
        await server.until(lambda: server.connections == 0)


async def test_closing_an_answer_early_closes_its_connection() -> None:
    gate = Gate(before=2)
    async with kimi_with([hello(gate=gate)]) as (kimi, server):
        stream = await ask(kimi)
        assert await anext(stream.batches()) == [Append("H")]
        await stream.aclose()
        await stream.aclose()
        await server.until(lambda: server.connections == 0)


async def test_an_answer_that_is_closed_and_read_on_is_interrupted() -> None:
    gate = Gate(before=2)
    async with kimi_with([hello(gate=gate)]) as (kimi, _):
        stream = await ask(kimi)
        await anext(stream.batches())
        await stream.aclose()
        _, error = await until_error(stream)
    assert isinstance(error, StreamInterruptedError)
    assert error.partial.text == "H"


async def test_an_answer_that_is_closed_unread_closes_its_connection() -> None:
    gate = Gate(before=2)
    async with kimi_with([hello(gate=gate)]) as (kimi, server):
        stream = await ask(kimi)
        await stream.aclose()
        await server.until(lambda: server.connections == 0)
        _, error = await until_error(stream)
    assert isinstance(error, StreamInterruptedError)


async def test_a_cancelled_request_closes_its_connection() -> None:
    async def never(_: Any) -> Any:
        await asyncio.Event().wait()

    async with kimi_with(never) as (kimi, server):
        task = asyncio.create_task(ask(kimi))
        await server.until(lambda: server.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.connections == 0)


async def test_a_cancelled_read_leaves_an_answer_that_can_be_closed() -> None:
    async with kimi_with([hello(gate=Gate(before=2))]) as (kimi, server):
        stream = await ask(kimi)
        batches = stream.batches()
        assert await anext(batches) == [Append("H")]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(batches), 0.01)
        await stream.aclose()
        await server.until(lambda: server.connections == 0)


async def test_a_refused_request_leaves_its_connection_for_the_next_one() -> None:
    async with kimi_with([Failure(500, "server_error", "oops"), say("b")]) as (kimi, server):
        with pytest.raises(ServerError):
            await ask(kimi)
        await answer(kimi)
        assert server.connections == 1


async def test_requests_of_one_client_run_at_the_same_time() -> None:
    arrived: list[str] = []
    all_here = asyncio.Event()

    async def together(body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        arrived.append(text)
        if len(arrived) == 20:
            all_here.set()
        await all_here.wait()
        return Reply(f"to {text}", chunk_size=1)

    async def one(kimi: Kimi, text: str) -> str:
        frames = await read(await kimi.generate("", [], [Message.user(text)]))
        end = frames[-1]
        assert isinstance(end, End)
        return end.message.text

    async with kimi_with(together) as (kimi, _):
        answers = await asyncio.gather(*[one(kimi, str(number)) for number in range(20)])
    assert answers == [f"to {number}" for number in range(20)]


async def test_who_shares_a_client_leaves_it_open_until_the_last_one_leaves() -> None:
    async with KimiServer(lambda _: say("Hi")) as server:
        kimi = Kimi(api_key=server.api_key, base_url=server.base_url)
        async with AsyncExitStack() as outer:
            assert await outer.enter_async_context(kimi) is kimi
            async with kimi:
                await answer(kimi)
            assert server.connections == 1
            await answer(kimi)
        await server.until(lambda: server.connections == 0)


async def test_a_closed_client_opens_again() -> None:
    async with kimi_with(lambda _: say("Hi")) as (kimi, server):
        await answer(kimi)
        await kimi.aclose()
        await kimi.aclose()
        await server.until(lambda: server.connections == 0)
        await answer(kimi)


def test_one_client_serves_two_event_loops_in_a_row() -> None:
    def respond(_: Any) -> Reply:
        return say("Hi")

    kimis: list[Kimi] = []

    async def once() -> str:
        async with KimiServer(respond) as server:
            if not kimis:
                kimis.append(Kimi(api_key=server.api_key, base_url=server.base_url))
            kimi = kimis[0]
            kimi._http.base_url = server.base_url
            async with kimi:
                return (await answer(kimi)).message.text

    assert [asyncio.run(once()), asyncio.run(once())] == ["Hi", "Hi"]


# ==== what an agent adds ====


async def test_an_agent_sends_a_cache_key_of_its_own_unless_somebody_says_another() -> None:
    async with kimi_with(lambda body: say("x")) as (kimi, server):
        one, other = Agent(kimi), Agent(kimi)
        mine = Agent(kimi.with_generation_kwargs(prompt_cache_key="mine"))
        for agent in (one, one, other, mine):
            await agent.chat_round("x")
        await one.chat_round("x", prompt_cache_key="this once")
        keys = [request.body["prompt_cache_key"] for request in server.requests]
    assert keys == [one.prompt_cache_key] * 2 + [other.prompt_cache_key, "mine", "this once"]
    assert one.prompt_cache_key != other.prompt_cache_key


async def test_a_saved_conversation_goes_on_under_its_cache_key(tmp_path: Path) -> None:
    async with kimi_with(lambda body: say("x")) as (kimi, server):
        first, again = Agent(kimi), Agent(kimi)
        await first.chat_round("x")
        first.save(tmp_path / "a.json")
        again.load(tmp_path / "a.json")
        await again.chat_round("y")
        first_key, second_key = (request.body["prompt_cache_key"] for request in server.requests)
    assert first_key == second_key


async def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await reader.readuntil(b"\r\n\r\n")
        body = events(chunk("stop", content="through"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + body)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        async with Kimi(api_key=KEY, base_url="http://kimi.test/v1", max_retries=0) as kimi:
            assert (await answer(kimi)).message.text == "through"
    assert asked == [b"POST http://kimi.test/v1/chat/completions HTTP/1.1\r\n"]


async def test_an_agent_near_the_end_of_its_window_asks_for_what_is_left() -> None:
    agent = Agent(ScriptedKimi([say("x")] * 3, context_window=16_000), desired_response_tokens=1_000)
    await agent.chat_round("short")
    await agent.chat_round("word " * 14_500)
    await agent.chat_round("x", max_completion_tokens=50)
    kimi: Any = agent.provider
    limits = [request.overrides.get("max_completion_tokens") for request in kimi.requests]
    assert limits[0] is None
    assert 1_000 <= limits[1] < 2_000
    assert limits[2] == 50


async def test_fields_of_extra_body_add_up_and_the_newest_counts() -> None:
    async with kimi_with([say("x")]) as (kimi, server):
        own = kimi.with_extra_body({"metadata": 1, "seed": 2})
        await ask(own, generation_overrides={"extra_body": {"seed": 3}})
        body = server.requests[0].body
    assert (body["metadata"], body["seed"]) == (1, 3)


async def test_log_probabilities_come_with_the_result() -> None:
    likely = {"token": "Hi", "logprob": -0.1}
    recorded = Recorded(
        [{"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [likely]}}]}, chunk("stop")]
    )
    async with kimi_with([recorded]) as (kimi, _):
        stream = Agent(kimi).chat_round_stream("x", logprobs=True)
        result = await stream.completion()
    assert list(result.logprobs) == [likely]


async def test_a_history_of_dicts_is_a_type_error_that_names_message() -> None:
    kimi = Kimi(api_key=KEY)
    history: Any = [{"role": "user", "content": "x"}]
    for asking in (kimi.generate("", [], history), kimi.estimate_tokens(history)):
        with pytest.raises(TypeError, match=r"made of kimi_agent\.Message, not of builtins\.dict"):
            await asking


def test_with_thinking_keeps_what_was_said_of_keeping() -> None:
    kimi = Kimi("kimi-k2.6", api_key=KEY).with_generation_kwargs(thinking={"type": "enabled", "keep": "all"})
    assert kimi.with_thinking("off").generation_kwargs == {"thinking": {"type": "disabled", "keep": "all"}}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"model": 5}, "model is the name of a model, such as 'kimi-k3'; not 5"),
        ({"api_key": 5}, "api_key is text, or None; not of the type int"),
        ({"base_url": 5}, "base_url is text, or None; not 5"),
        ({"timeout": "5"}, "timeout is a number of seconds, Timeouts(...), or None for ever; not '5'"),
        ({"timeout": (1, 2)}, "timeout is a number of seconds, Timeouts(...), or None for ever; not (1, 2)"),
        ({"max_retries": "3"}, "max_retries is a number; not '3'"),
        ({"max_retry_time": None}, "max_retry_time is a number of seconds; not None"),
        ({"max_concurrency": "3"}, "max_concurrency is a number, or None for no limit; not '3'"),
    ],
)
def test_an_argument_of_another_kind_is_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError) as caught:
        Kimi(**{"api_key": KEY, **options})
    assert str(caught.value) == complaint


@pytest.mark.parametrize("name", ["connect", "first_byte", "between_chunks"])
def test_a_timeout_is_a_number(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} is a number of seconds above 0, or None; not '5'$"):
        Timeouts(**{name: "5"})


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": KEY + " x"},
        {"timeout": -1},
        {"max_retries": -1},
        {"base_url": "x"},
        {"api_key": KEY.encode()},
    ],
)
def test_an_error_of_the_constructor_does_not_show_the_key_in_its_variables(options: dict[str, Any]) -> None:
    try:
        Kimi(**{"api_key": KEY, **options})
    except (ChatProviderError, TypeError, ValueError) as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        own = [frame for frame in shown.stack if "kimi_agent" in frame.filename and "tests" not in frame.filename]
        assert own
        assert not any(KEY in value for frame in own for value in (frame.locals or {}).values())
    else:
        pytest.fail("it was taken")


@pytest.mark.parametrize("raw", [RawBody(b"<html>sk-test</html>", "text/html"), RawBody(b"data: sk-test\n\n")])
async def test_a_key_that_comes_back_with_success_is_not_told(raw: RawBody) -> None:
    async with kimi_with([raw]) as (kimi, _):
        with pytest.raises(StreamProtocolError) as caught:
            await ask(kimi)
    assert "sk-test" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "Your account balance is insufficient, please recharge"}, QuotaExceededError),
        ({"message": "no", "code": 401}, AuthenticationError),
        ({"message": "slow", "code": "429"}, RateLimitError),
        ({"message": "x", "type": "insufficient_quota"}, QuotaExceededError),
        ({"message": "x", "code": "odd"}, ServerError),
    ],
)
async def test_an_error_with_success_and_without_a_type_is_known_by_its_code_or_its_words(
    error: dict[str, Any], expected: type[APIStatusError]
) -> None:
    async with kimi_with([RawBody(events({"error": error}))]) as (kimi, _):
        with pytest.raises(expected):
            await ask(kimi)


async def test_an_answer_can_be_closed_by_async_with() -> None:
    async with kimi_with([say("Hi")], max_concurrency=1) as (kimi, server):
        async with await ask(kimi) as stream:
            async for _ in stream.batches():
                break
        await server.until(lambda: not server.connections)


async def test_an_old_name_of_the_limit_goes_before_the_agents_own_limit() -> None:
    words = "word " * 14_500
    for told, asked in (({}, {"max_tokens": 50}), ({"extra_body": {"max_tokens": 50}}, {})):
        kimi = ScriptedKimi([say("x")], context_window=16_000)
        agent = Agent(kimi, desired_response_tokens=1_000)
        request: Any = {**told, **asked}
        await agent.chat_round(words, **request)
        body = kimi.requests[0].body
        assert body.get("max_completion_tokens", body.get("max_tokens")) == 50


async def test_a_call_that_was_left_open_before_is_answered_alike_in_each_request() -> None:
    asking = Message.assistant("t", tool_calls=[ToolCall.from_function("look", call_id_="look_0")])
    async with kimi_with(lambda body: say("x")) as (kimi, server):
        agent = Agent(kimi, chat_history=[Message.user("q"), asking])
        await agent.chat_round("one")
        await agent.chat_round("two")
        first, second = ([m["content"] for m in r.body["messages"] if m["role"] == "tool"] for r in server.requests)
    assert first == second == [agent.texts.interrupted()]
    assert agent.chat_history[:2] == [Message.user("q"), asking]
    assert not any(message.role == "tool" for message in agent.chat_history)


async def test_a_key_that_a_server_repeats_does_not_reach_a_log_with_variables(capsys: Any) -> None:
    from loguru import logger

    told: list[str] = []
    sink = logger.add(told.append, diagnose=True, backtrace=True)
    try:
        for body in (
            events({"error": {"message": "bad key sk-test"}}),
            b"data: sk-test\n\n",
            events({"choices": "sk-test"}),
        ):
            async with kimi_with([RawBody(body)]) as (kimi, _):
                try:
                    await Agent(kimi).chat_round("x")
                except ChatProviderError:
                    logger.exception("failed")
    finally:
        logger.remove(sink)
    assert told
    assert "sk-test" not in "".join(told).replace("api_key", "")


def test_what_a_client_sends_with_each_request_can_be_logged() -> None:
    kimi = Kimi(api_key=KEY, base_url="http://127.0.0.1:1/v1").with_generation_kwargs(temperature=1.0)
    assert kimi.model_parameters == {"base_url": "http://127.0.0.1:1/v1", "temperature": 1.0}
    assert isinstance(kimi, ChatProvider)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://ada:hunter2@127.0.0.1:1/v1", "http://127.0.0.1:1/v1"),
        ("http://127.0.0.1:1/v1?token=hunter2", "http://127.0.0.1:1/v1"),
    ],
)
async def test_what_is_secret_in_a_base_url_is_not_told(url: str, shown: str):
    async with Kimi(api_key="sk-test", base_url=url, max_retries=0) as kimi:
        assert shown in repr(kimi)
        assert kimi.model_parameters["base_url"] == shown
        with pytest.raises(APIConnectionError) as caught:
            await kimi.models()
    assert "hunter2" not in repr(kimi) + str(caught.value)
    assert shown in str(caught.value)


def test_what_is_secret_in_a_url_that_is_none_is_not_told():
    with pytest.raises(ChatProviderError) as caught:
        Kimi(api_key="sk-test", base_url="ftp://ada:hunter2@127.0.0.1/v1")
    assert "hunter2" not in str(caught.value)

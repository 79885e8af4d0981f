"""Every way in which a request fails is one error of the tree, and none of them tells the key."""

import asyncio
import io
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from kimi_agent import errors
from kimi_agent.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatProviderError,
    ContentFilterError,
    ContextLengthError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
)
from kimi_agent.kimi import http
from kimi_agent.kimi.http import HttpTransport
from kimi_agent.kimi.status import ANSWERS, error_in, retry_after, status_error
from kimi_agent.testing import Delivery, Gate, KimiServer, Reply, say

KEY = "sk-do-not-tell-0123456789"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def error_body(message: str, type: str | None = None, **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": type, **more}}).encode()


# ==== answers that are errors ====

HIGH_RISK = "The request was rejected because it was considered high risk"
TOO_LONG = "Your request exceeded model token limit : 262144"
TOO_LONG_ELSEWHERE = (
    "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens.",
    "You passed 5000 input tokens and requested 9 output tokens. However, the model's context length is only 4096",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
)
"""How vLLM, SGLang and llama.cpp say it."""

ROWS: list[tuple[int, str | None, str, type[APIStatusError]]] = [
    (400, "invalid_request_error", "unsupported parameter", BadRequestError),
    (400, "invalid_request_error", "Input token length too long", ContextLengthError),
    (400, "invalid_request_error", TOO_LONG, ContextLengthError),
    (400, None, TOO_LONG, ContextLengthError),
    (400, "exceed_context_size_error", "see n_ctx", ContextLengthError),
    *((400, "BadRequestError", message, ContextLengthError) for message in TOO_LONG_ELSEWHERE),
    (400, None, "what?", BadRequestError),
    (400, "content_filter", HIGH_RISK, ContentFilterError),
    (401, "invalid_authentication_error", "Invalid Authentication", AuthenticationError),
    (401, "incorrect_api_key_error", "Incorrect API key provided", AuthenticationError),
    (401, None, "no", AuthenticationError),
    (401, "invalid_request_error", "no", AuthenticationError),
    (402, None, "no plan", PermissionDeniedError),
    (403, "permission_denied_error", "only available for Coding Agents", PermissionDeniedError),
    (403, None, "no", PermissionDeniedError),
    (404, "resource_not_found_error", "Not found the model X or Permission denied", NotFoundError),
    (404, "invalid_request_error", "no such path", NotFoundError),
    (408, None, "timeout", APIStatusError),
    (409, None, "conflict", APIStatusError),
    (413, None, "too large", RequestTooLargeError),
    (413, "invalid_request_error", "too large", RequestTooLargeError),
    (422, None, "validation", BadRequestError),
    (429, "engine_overloaded_error", "The engine is currently overloaded", RateLimitError),
    (429, "rate_limit_reached_error", "max RPM: 3, please try again after 1 seconds", RateLimitError),
    (429, "rate_limit_reached_error", "token quota per minute", RateLimitError),
    (429, "exceeded_current_quota_error", "exceeded your current token quota", QuotaExceededError),
    (429, None, "token quota per minute", RateLimitError),
    (429, None, "please check your account balance", QuotaExceededError),
    (429, None, "Insufficient balance", QuotaExceededError),
    (429, "invalid_request_error", "please recharge", QuotaExceededError),
    (499, "client_closed_request", "bye", APIStatusError),
    (500, "server_error", "oops", ServerError),
    (500, "unexpected_output", "oops", ServerError),
    (502, None, "bad gateway", ServerError),
    (503, "server_unavailable", "busy", ServerError),
    (504, None, "timeout", ServerError),
    (529, None, "busy", ServerError),
    (500, "invalid_request_error", "oops", ServerError),
    (302, None, "elsewhere", APIStatusError),
]


@pytest.mark.parametrize(("status", "type", "message", "expected"), ROWS, ids=lambda value: str(value)[:40])
def test_an_error_has_the_class_of_its_meaning(
    status: int, type: str | None, message: str, expected: type[APIStatusError]
) -> None:
    headers = {"msh-request-id": "r-1", "x-trace-id": "t-1", "retry-after": "7"}
    body = error_body(message, type, code="c")
    error = status_error(status, body, headers)
    assert error.__class__ is expected
    assert message in str(error)
    assert str(status) in str(error)
    assert (error.status_code, error.type, error.code) == (status, type, "c")
    assert (error.request_id, error.trace_id, error.retry_after) == ("r-1", "t-1", 7.0)
    assert error.body == json.loads(body)


def test_every_error_of_the_table_says_its_status_and_is_told_apart_by_its_type_alone_inside_a_stream() -> None:
    for rule in ANSWERS:
        if rule.type is not None:
            error = error_in({"error": {"message": "x", "type": rule.type}})
            assert error is not None
            assert (error.__class__, error.status_code) == (rule.error, rule.status)


def test_an_error_of_an_unknown_type_inside_a_stream_is_the_servers() -> None:
    assert error_in({"error": {"message": "x", "type": "new_error"}}).__class__ is ServerError


@pytest.mark.parametrize("decoded", [None, [], "error", {}, {"error": None}, {"error": {}}, {"choices": []}])
def test_what_tells_of_no_error_is_none(decoded: Any) -> None:
    assert error_in(decoded) is None


def test_a_body_that_is_an_error_itself_is_read_like_one_that_has_one() -> None:
    flat = {"object": "error", "message": "no such thing", "type": "BadRequestError", "param": None, "code": 400}
    error = status_error(400, json.dumps(flat).encode(), {})
    assert (error.__class__, str(error)) == (BadRequestError, "no such thing (400 BadRequestError)")
    assert (error.type, error.code, error.body) == ("BadRequestError", "400", flat)
    inside = error_in(flat | {"message": TOO_LONG_ELSEWHERE[3]})
    assert (inside.__class__, inside and inside.status_code) == (ContextLengthError, 400)


def test_an_unknown_path_is_told_from_an_unknown_model() -> None:
    assert "Check the base URL" in str(status_error(404, b'{"detail":"Not Found"}', {}))
    unknown = {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}
    assert "base URL" not in str(status_error(404, json.dumps(unknown).encode(), {}))


def test_an_authentication_error_speaks_of_the_two_platforms() -> None:
    assert "separate" in str(status_error(401, error_body("no", "invalid_authentication_error"), {}))


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body><h1>504 Gateway Time-out</h1></body></html>",
        b"upstream timeout",
        b"",
        b"\xff\xfe broken \x00",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"error": null}',
        b'{"error": "in one word"}',
        b'{"error": ["a", "list"]}',
        b'{"error": {"message": null}}',
        b'{"error": {"message": {"deep": 1}, "type": ["a"], "code": {"b": 1}}}',
        b'{"error": {"message": 5, "type": 7, "code": 429}}',
        b'{"detail": "Not found"}',
        b"[" * 5000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_any_body_of_an_error_is_an_error(body: bytes) -> None:
    error = status_error(504, body, {})
    assert error.__class__ is ServerError
    assert "504" in str(error)
    assert len(str(error)) < 1000
    assert isinstance(error.type, str | None)
    assert isinstance(error.code, str | None)


def test_html_and_plain_text_can_be_read_in_the_error() -> None:
    assert "Gateway Time-out" in str(status_error(504, b"<html>\n  Gateway Time-out</html>", {}))
    assert "upstream timeout" in str(status_error(504, b"upstream timeout", {}))
    assert "in one word" in str(status_error(504, b'{"error": "in one word"}', {}))


# ==== Retry-After ====


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5.0), ("0", 0.0), ("1.5", 1.5), ("-3", 0.0), ("", None), ("soon", None), ("nan", None), ("inf", None)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds


@pytest.mark.parametrize("zone", [" GMT", " -0000", "", " +0000"])
def test_retry_after_as_a_date_is_the_time_until_then(zone: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True).removesuffix(" GMT")
    seconds = retry_after({"retry-after": date + zone})
    assert seconds is not None
    assert 3590 < seconds <= 3600


def test_retry_after_a_date_of_the_past_is_now() -> None:
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0


@pytest.mark.parametrize(
    "value", ["Wed, 21 Oct 99999 07:28:00 GMT", "Wed, 21 Oct 2037 07:28:00 +99999999999999", "Wed, 99 Foo"]
)
def test_retry_after_a_date_that_is_none_says_nothing(value: str) -> None:
    assert retry_after({"retry-after": value}) is None


# ==== requests ====


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(handler))


def raising(error: Exception) -> httpx.AsyncClient:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return answering(handler)


async def failure(base_url: str, client: httpx.AsyncClient | None = None) -> ChatProviderError:
    transport = HttpTransport(base_url, KEY, client)
    try:
        with pytest.raises(ChatProviderError) as caught:
            await transport.post("/chat/completions", b"{}")
        return caught.value
    finally:
        await transport.aclose()
        if client is not None:
            await client.aclose()


async def test_a_request_carries_the_key_and_the_body_and_nothing_of_other_providers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"x")

    async with answering(handler) as client:
        response = await HttpTransport("https://kimi.test/v1/", KEY, client).post("/chat/completions", b'{"a":1}')
        await response.aclose()
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://kimi.test/v1/chat/completions")
    assert request.content == b'{"a":1}'
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert not [name for name in request.headers if "openai" in name]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx.ConnectError("refused"), APIConnectionError),
        (httpx.ReadError(""), APIConnectionError),
        (httpx.WriteError(""), APIConnectionError),
        (httpx.RemoteProtocolError("disconnected"), APIConnectionError),
        (httpx.ProxyError("no"), APIConnectionError),
        (httpx.DecodingError("no"), APIConnectionError),
        (httpx.TooManyRedirects("no"), APIConnectionError),
        (OSError("no"), APIConnectionError),
        (httpx.ConnectTimeout(""), APITimeoutError),
        (httpx.ReadTimeout(""), APITimeoutError),
        (httpx.WriteTimeout(""), APITimeoutError),
        (httpx.PoolTimeout(""), APITimeoutError),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_httpx_raises_becomes_an_error_of_the_tree(raised: Exception, expected: type[Exception]) -> None:
    error = await failure("https://kimi.test/v1", raising(raised))
    assert error.__class__ is expected
    assert "https://kimi.test/v1" in str(error)
    assert type(raised).__name__ in str(error)
    assert error.__cause__ is raised


@pytest.mark.parametrize(
    "base_url", ["", "api.moonshot.ai", "http://", "ftp://kimi.test", "http://[::1", "http://ki\x00mi", "//kimi.test"]
)
async def test_a_base_url_that_is_none_is_named(base_url: str) -> None:
    error = await failure(base_url)
    assert error.__class__ is APIConnectionError
    assert "is no base URL" in str(error)


async def test_a_refused_connection_names_the_base_url() -> None:
    error = await failure("http://127.0.0.1:1/v1")
    assert error.__class__ is APIConnectionError
    assert "http://127.0.0.1:1/v1" in str(error)


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:1", "nonsense://x"])
async def test_an_unusable_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert "network settings" in str(await failure("http://127.0.0.1:1/v1"))


async def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(http, "_certificates", http._certificates.__wrapped__)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    assert "network settings" in str(await failure("http://127.0.0.1:1/v1"))


async def test_a_given_client_that_is_closed_is_named() -> None:
    client = raising(OSError())
    await client.aclose()
    assert "http_client" in str(await failure("https://kimi.test/v1", client))


async def test_a_given_client_is_never_closed() -> None:
    async with answering(lambda _: httpx.Response(200, content=b"x")) as client:
        transport = HttpTransport("https://kimi.test/v1", KEY, client)
        transport.enter()
        response = await transport.post("/x", b"{}")
        assert await response.read() == b"x"
        assert await response.read() is None
        await transport.leave()
        assert not client.is_closed


async def test_an_error_whose_body_breaks_off_is_a_connection_error() -> None:
    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b'{"error"'
            raise httpx.ReadError("reset")

    error = await failure("https://kimi.test/v1", answering(lambda _: httpx.Response(500, stream=Broken())))
    assert error.__class__ is APIConnectionError


async def test_any_other_success_than_200_is_an_error() -> None:
    error = await failure("https://kimi.test/v1", answering(lambda _: httpx.Response(204)))
    assert isinstance(error, APIStatusError)
    assert error.status_code == 204


# ==== the key ====


def everything_about(error: BaseException) -> str:
    """The error as people and log tools print it, with the local variables of every frame."""
    plain = "".join(traceback.format_exception(error))
    sink = io.StringIO()
    handler = logger.add(sink, diagnose=True, backtrace=True, format="{message}")
    logger.opt(exception=error).error("failed")
    logger.remove(handler)
    shown = [str(error), repr(error), repr(error.args), repr(vars(error)), plain, sink.getvalue()]
    return "\n".join([*shown, *variables_of(error)])


def variables_of(error: BaseException | None) -> Iterator[str]:
    """The local variables of every frame of the package and of httpx, here and in the causes."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                with suppress(Exception):  # an object that was given up half-made has no repr
                    yield repr(value)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("base_url", ["nonsense", "http://[::1", "http://127.0.0.1:1/v1"])
async def test_an_error_before_the_request_does_not_tell_the_key(base_url: str) -> None:
    error = await failure(base_url)
    told = everything_about(error)  # which may have this line in it, and the values of its names
    assert "failed" in told
    assert KEY not in told


async def test_an_error_of_the_server_does_not_tell_the_key() -> None:
    async with KimiServer() as server:
        error = await failure(server.base_url)
        told = everything_about(error)
        assert error.__class__ is AuthenticationError
        assert KEY not in told


async def test_a_broken_connection_does_not_tell_the_key() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(f"http://127.0.0.1:{port}/v1")
    told = everything_about(error)
    assert error.__class__ is APIConnectionError
    assert KEY not in told


def test_the_transport_does_not_tell_the_key() -> None:
    transport = HttpTransport("https://kimi.test", KEY)
    assert KEY not in repr(transport)
    assert KEY not in repr(vars(transport))


# ==== pools ====


BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()


async def asked(transport: HttpTransport, server: KimiServer) -> None:
    response = await transport.post("/chat/completions", BODY)
    while await response.read() is not None:
        pass
    await response.aclose()


async def test_a_connection_is_used_again() -> None:
    async with KimiServer(lambda _: say("Hi")) as server:
        transport = HttpTransport(server.base_url, server.api_key)
        await asked(transport, server)
        await asked(transport, server)
        assert server.connections == 1
        await transport.aclose()
        await server.until(lambda: server.connections == 0)


async def test_the_last_one_who_leaves_closes_the_pool_and_it_opens_again() -> None:
    async with KimiServer(lambda _: say("Hi")) as server:
        transport = HttpTransport(server.base_url, server.api_key)
        transport.enter()
        transport.enter()
        await asked(transport, server)
        await transport.leave()
        assert server.connections == 1
        await transport.leave()
        await server.until(lambda: server.connections == 0)
        await asked(transport, server)
        assert server.connections == 1
        await transport.aclose()


@pytest.mark.parametrize("turns", range(6))
async def test_an_answer_whose_reader_is_cancelled_twice_leaves_no_socket_open(turns: int) -> None:
    """The second cancel comes that many turns of the event loop later, while httpx closes after the first one."""
    gate = Gate(2)

    async def read() -> None:
        while await response.read() is not None:
            reading.set()

    async with KimiServer(lambda _: Reply("Four degrees.", delivery=Delivery(gate=gate))) as server:
        transport, reading = HttpTransport(server.base_url, server.api_key), asyncio.Event()
        response = await transport.post("/chat/completions", BODY)
        reader = asyncio.create_task(read())
        await gate.reached()
        await reading.wait()
        await turns_of_the_loop(10)  # now it waits for what the gate holds
        reader.cancel()
        await turns_of_the_loop(turns)
        reader.cancel()
        await asyncio.wait([reader])
        await response.aclose()
        async with asyncio.timeout(5):
            await server.until(lambda: server.connections == 0)
        await transport.aclose()


async def turns_of_the_loop(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_closing_what_was_never_used_does_nothing() -> None:
    transport = HttpTransport("https://kimi.test", KEY)
    await transport.aclose()
    await transport.leave()
    await transport.aclose()


def test_the_pools_of_ended_event_loops_are_let_go() -> None:
    async def once() -> asyncio.AbstractEventLoop:
        with pytest.raises(APIConnectionError):
            await transport.post("/x", b"{}")
        return asyncio.get_running_loop()

    transport = HttpTransport("http://127.0.0.1:1/v1", KEY)
    loops = [asyncio.run(once()), asyncio.run(once())]
    assert list(transport._pools) == loops[1:]


def test_the_tree_of_errors_has_no_other_status_errors() -> None:
    """Whoever adds a class to the tree has to say which answer it is."""
    known = {rule.error for rule in ANSWERS} - {APIStatusError} | {ContextLengthError}
    tree = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, APIStatusError) and value is not APIStatusError
    }
    assert known == tree

"""What the platform answers beside chat: balance, tokens, files and formulas; and a key that nobody is told."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from kimi_agent.errors import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    ChatProviderError,
    FunctionSpecError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    StreamProtocolError,
)
from kimi_agent.events import RequestRetried
from kimi_agent.generate import generate
from kimi_agent.kimi import files as files_module
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.endpoints import Balance
from kimi_agent.kimi.files import KimiFile
from kimi_agent.message import ImageURLPart, MediaURL, Message, TextPart, ToolCall, VideoURLPart
from kimi_agent.testing import Failure, Formula, HangUp, KimiServer, RawBody, StoredFile, say
from kimi_agent.tools.base import Tool, ToolsPart

KEY = "sk-do-not-tell-0123456789"
USER = Message.user("Hi")
BALANCE, TOKENS, DATE = "/users/me/balance", "/tokenizers/estimate-token-count", "moonshot/date:latest"


@asynccontextmanager
async def kimi_with(**options: Any) -> AsyncIterator[tuple[Kimi, KimiServer]]:
    async with KimiServer(lambda _: say("x")) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, **{"max_retries": 0, **options}) as kimi:
            yield kimi, server


def answered(body: Any) -> RawBody:
    return RawBody(body if isinstance(body, bytes) else json.dumps(body).encode(), "application/json")


@asynccontextmanager
async def mocked(respond: Callable[[httpx.Request], httpx.Response], **options: Any) -> AsyncIterator[Kimi]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        yield Kimi(api_key=KEY, base_url="https://kimi.test/v1", http_client=client, max_retries=0, **options)


# ==== the balance ====


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"available_balance": 49.5, "voucher_balance": 46.5, "cash_balance": 3}, Balance(49.5, 46.5, 3.0)),
        ({"available_balance": 0, "voucher_balance": 0, "cash_balance": -1.25}, Balance(0.0, 0.0, -1.25)),
        ({"available_balance": "4.5", "voucher_balance": "0", "cash_balance": "4.50"}, Balance(4.5, 0.0, 4.5)),
        ({"available_balance": 1, "voucher_balance": 1, "cash_balance": 0, "more": None}, Balance(1.0, 1.0, 0.0)),
    ],
)
async def test_the_balance_is_told_in_three_numbers(data: dict[str, Any], expected: Balance) -> None:
    async with kimi_with() as (kimi, server):
        server.balance = data
        assert await kimi.balance() == expected
        assert [(each.method, each.path) for each in server.calls] == [("GET", BALANCE)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "Check the base URL"),
        (b"", "no JSON object"),
        ([], "no JSON object"),
        ({}, "no data"),
        ({"data": None}, "no data"),
        ({"data": {"available_balance": 1}}, "no number voucher_balance"),
        ({"data": {"available_balance": None, "voucher_balance": 1, "cash_balance": 1}}, "no number available_balance"),
        ({"data": {"available_balance": "much", "voucher_balance": 1, "cash_balance": 1}}, "available_balance"),
    ],
)
async def test_a_balance_that_makes_no_sense_is_a_protocol_error(body: Any, words: str) -> None:
    async with kimi_with() as (kimi, server):
        server.failures[BALANCE] = [answered(body)]
        with pytest.raises(StreamProtocolError, match=words) as caught:
            await kimi.balance()
        assert BALANCE in str(caught.value)


async def test_a_balance_that_failed_with_success_is_an_error_with_its_reason() -> None:
    async with kimi_with() as (kimi, server):
        server.failures[BALANCE] = [answered({"status": False, "scode": "0x5", "message": "not today"})]
        with pytest.raises(ChatProviderError, match="not today"):
            await kimi.balance()


# ==== tokens ====


async def test_the_server_counts_the_tokens_of_messages() -> None:
    async with kimi_with() as (kimi, server):
        counted = await kimi.estimate_tokens([USER], system_prompt="Be terse.")
        assert type(counted) is int
        assert counted > 0
        (sent,) = server.calls
        assert (sent.method, sent.path) == ("POST", TOKENS)
        assert json.loads(sent.body) == {
            "model": "kimi-k3",
            "messages": [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hi"}],
        }


async def test_messages_are_counted_as_they_would_be_sent() -> None:
    called = Message.assistant(tool_calls=[ToolCall(id="a.b", function=ToolCall.FunctionBody(name="now"))])
    history = [USER, called, Message.assistant(""), USER]
    before = list(history)
    async with kimi_with() as (kimi, server):
        await kimi.estimate_tokens(history)
        await generate(kimi, "", [], history)
        assert json.loads(server.calls[0].body)["messages"] == server.requests[0].body["messages"]
    assert history == before


@pytest.mark.parametrize("data", [None, {}, {"total_tokens": None}, {"total_tokens": "many"}, {"total_tokens": [3]}])
async def test_a_count_that_is_none_is_a_protocol_error(data: Any) -> None:
    async with kimi_with() as (kimi, server):
        server.failures[TOKENS] = [answered({"data": data})]
        with pytest.raises(StreamProtocolError):
            await kimi.estimate_tokens([USER])


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b'"nan"'])
async def test_a_count_that_is_no_finite_number_is_a_protocol_error(number: bytes) -> None:
    async with kimi_with() as (kimi, server):
        server.failures[TOKENS] = [answered(b'{"data": {"total_tokens": ' + number + b"}}")]
        with pytest.raises(StreamProtocolError):
            await kimi.estimate_tokens([USER])


# ==== files ====


@pytest.mark.parametrize("as_path", [str, Path])
@pytest.mark.parametrize("purpose", ["file-extract", "batch"])
async def test_a_file_is_uploaded_under_its_name_and_with_its_type(tmp_path: Path, as_path: Any, purpose: Any) -> None:
    (tmp_path / "rapport é.pdf").write_bytes(b"%PDF\r\n--x\x00")
    async with kimi_with() as (kimi, server):
        file = await kimi.files.upload(as_path(tmp_path / "rapport é.pdf"), purpose=purpose)
        assert server.files == {file.id: StoredFile(purpose, "rapport é.pdf", "application/pdf", b"%PDF\r\n--x\x00")}
        assert (file.filename, file.purpose, file.size, file.status) == ("rapport é.pdf", purpose, 10, "ok")
        assert file.created is not None
        assert file.created.tzinfo is UTC


@pytest.mark.parametrize(("filename", "stored"), [(None, "image.png"), ("a.heic", "a.heic")])
async def test_an_uploaded_picture_is_a_part_that_kimi_takes(filename: str | None, stored: str) -> None:
    async with kimi_with() as (kimi, server):
        part = await kimi.files.upload_image(b"pixels", filename=filename)
        ((file_id, file),) = server.files.items()
        assert part == ImageURLPart(image_url=MediaURL(url=f"ms://{file_id}"))
        assert (file.purpose, file.filename, file.content) == ("image", stored, b"pixels")
        assert file.content_type.startswith("image/")
        await generate(kimi, "", [], [Message.user([part, "What is this?"])])


async def test_an_uploaded_film_is_a_part_that_kimi_takes(tmp_path: Path) -> None:
    (tmp_path / "film.webm").write_bytes(b"frames")
    async with kimi_with() as (kimi, server):
        parts = [await kimi.files.upload_video(each) for each in (b"frames", tmp_path / "film.webm")]
        assert parts == [VideoURLPart(video_url=MediaURL(url=f"ms://{file_id}")) for file_id in server.files]
        found = [(file.purpose, file.filename, file.content_type) for file in server.files.values()]
        assert found == [("video", "video.mp4", "video/mp4"), ("video", "film.webm", "video/webm")]
        await generate(kimi, "", [], [Message.user([*parts, TextPart(text="Which one?")])])


async def test_a_film_may_be_bytes_with_their_type() -> None:
    async with kimi_with() as (kimi, server):
        part = await kimi.files.upload_video(data=b"frames", mime_type="video/webm")
        ((file_id, file),) = server.files.items()
        assert part.video_url.url == f"ms://{file_id}"
        assert (file.purpose, file.filename, file.content_type) == ("video", "video.webm", "video/webm")


@pytest.mark.parametrize(
    "film",
    [{}, {"data": b"x"}, {"data": b"x", "mime_type": "image/png"}, {"data": b"x", "mime_type": "video/nonsense"}],
)
async def test_bytes_that_are_no_film_are_refused_before_they_are_sent(film: dict[str, Any]) -> None:
    async with kimi_with() as (kimi, server):
        with pytest.raises(InvalidRequestError, match=film.get("mime_type", "data= and mime_type=")):
            await kimi.files.upload_video(**film)
        assert server.calls == []


async def test_files_are_listed_got_read_and_deleted() -> None:
    async with kimi_with() as (kimi, server):
        assert await kimi.files.list() == []
        assert await kimi.files.extract("天气 4°".encode(), filename="a.txt") == "天气 4°"
        (file,) = await kimi.files.list()
        assert await kimi.files.get(file.id) == file
        assert await kimi.files.content(file.id) == "天气 4°"
        await kimi.files.delete(file.id)
        assert await kimi.files.list() == []
        assert server.files == {}


@pytest.mark.parametrize("action", ["get", "delete", "content"])
@pytest.mark.parametrize("file_id", ["file-9", "a/b", "../models", "a?b=c", "天"])
async def test_a_file_that_is_not_there_is_not_found_whatever_its_id(action: str, file_id: str) -> None:
    async with kimi_with() as (kimi, server):
        with pytest.raises(NotFoundError):
            await getattr(kimi.files, action)(file_id)
        assert server.calls[0].path.startswith("/files/")


async def test_a_picture_has_no_text() -> None:
    async with kimi_with() as (kimi, _):
        file = await kimi.files.upload(b"pixels", purpose="image", filename="a.png")
        with pytest.raises(BadRequestError):
            await kimi.files.content(file.id)


async def test_a_file_that_kimi_does_not_keep_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files_module, "LARGEST_FILE", 10)
    (tmp_path / "empty.txt").touch()
    async with kimi_with() as (kimi, server):
        for file, name, words in (
            (b"x" * 11, "a.txt", "a.txt has 11 bytes; Kimi takes 1 to 10"),
            (b"", "a.txt", "a.txt has 0 bytes"),
            (tmp_path / "empty.txt", None, "empty.txt has 0 bytes"),
            (b"x", None, "filename="),
        ):
            with pytest.raises(InvalidRequestError, match=words):
                await kimi.files.upload(file, purpose="file-extract", filename=name)
        with pytest.raises(OSError):
            await kimi.files.upload(tmp_path / "nowhere", purpose="image")
        assert server.calls == []


async def test_an_upload_that_may_have_arrived_is_not_sent_again() -> None:
    async with kimi_with(max_retries=3) as (kimi, server):
        server.failures["/files"] = [HangUp(), HangUp()]
        with pytest.raises(APIConnectionError):
            await kimi.files.upload(b"x", purpose="image", filename="a.png")
        assert len(server.calls) == 1


async def test_an_upload_that_was_refused_for_now_is_sent_again() -> None:
    async with kimi_with(max_retries=3) as (kimi, server):
        server.failures["/files"] = [Failure(429, "engine_overloaded_error", "busy"), Failure(429, None, "wait")]
        await kimi.files.upload(b"x", purpose="image", filename="a.png")
        assert len(server.calls) == 3
        assert len(server.files) == 1


@pytest.mark.parametrize("failure", [Failure(504, None, "late"), Failure(500, "server_error", "oops"), HangUp()])
async def test_an_upload_that_may_have_come_through_is_not_sent_again(failure: Any) -> None:
    async with kimi_with(max_retries=3) as (kimi, server):
        server.failures["/files"] = [failure]
        with pytest.raises(ChatProviderError):
            await kimi.files.upload(b"x", purpose="image", filename="a.png")
        assert len(server.calls) == 1


@pytest.mark.parametrize("filename", ["a.pdf", "a.svg", "a"])
async def test_what_is_no_picture_is_not_uploaded_as_one(filename: str) -> None:
    async with kimi_with() as (kimi, server):
        with pytest.raises(InvalidRequestError, match="does not see"):
            await kimi.files.upload_image(b"x", filename=filename)
        assert not server.calls


@pytest.mark.parametrize("entry", [None, 4, {}, {"id": 4}, {"filename": "a"}])
async def test_what_is_no_file_is_a_protocol_error(entry: Any) -> None:
    async with kimi_with() as (kimi, server):
        server.failures["/files"] = [answered({"data": [entry]})]
        with pytest.raises(StreamProtocolError, match="something else than a file"):
            await kimi.files.list()


async def test_a_file_of_which_little_is_told_is_a_file() -> None:
    async with kimi_with() as (kimi, server):
        odd = {"id": "b", "bytes": "many", "created_at": "yesterday", "filename": None, "status": "ready"}
        server.failures["/files"] = [answered({"data": [{"id": "a", "created_at": 0}, odd]})]
        assert await kimi.files.list() == [
            KimiFile("a", "", "", 0, datetime(1970, 1, 1, tzinfo=UTC), ""),
            KimiFile("b", "", "", 0, None, "ready"),
        ]


@pytest.mark.parametrize("created", [1_790_000_000_000, 10**20])
async def test_a_time_that_is_none_is_not_known(created: int) -> None:
    async with kimi_with() as (kimi, server):
        server.failures["/files"] = [answered({"data": [{"id": "a", "created_at": created}]})]
        assert len(await kimi.files.list()) == 1


# ==== formulas ====

PARAMETERS = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
NOW = {"type": "function", "function": {"name": "date_now", "description": "The time.", "parameters": PARAMETERS}}


async def test_the_tools_of_a_formula_can_be_given_to_the_model() -> None:
    async with kimi_with() as (kimi, server):
        bare = {"type": "function", "function": {"name": "date_utc"}}
        server.formulas = {DATE: Formula([NOW, bare], lambda name, arguments: "")}
        tools = await kimi.formulas.tools(DATE)
        assert tools == [
            Tool(name="date_now", description="The time.", parameters=PARAMETERS),
            Tool(name="date_utc", description="", parameters={"type": "object", "properties": {}}),
        ]
        assert server.calls[0].path == f"/formulas/{DATE}/tools"
        await generate(kimi, "", tools, [USER])
        await generate(kimi, "", [], [Message.system(ToolsPart(tools=tuple(tools))), USER])


@pytest.mark.parametrize(
    ("output", "encrypted"), [("12:00", False), ("", False), ("12:00", True), ("----MOONSHOT ENCRYPTED----天", True)]
)
async def test_a_formula_gets_the_arguments_as_the_model_wrote_them(output: str, encrypted: bool) -> None:
    async with kimi_with() as (kimi, server):
        ran: list[tuple[str, str]] = []
        server.formulas = {DATE: Formula([NOW], lambda *given: ran.append(given) or output, encrypted=encrypted)}
        assert await kimi.formulas.run(DATE, "date_now", '{"zone": "Osl') == output
        assert ran == [("date_now", '{"zone": "Osl')]
        (sent,) = server.calls
        assert (sent.method, sent.path) == ("POST", f"/formulas/{DATE}/fibers")
        assert json.loads(sent.body) == {"name": "date_now", "arguments": '{"zone": "Osl'}


async def test_an_output_that_is_no_text_is_given_as_json() -> None:
    async with kimi_with() as (kimi, server):
        server.failures[f"/formulas/{DATE}/fibers"] = [answered({"context": {"output": {"t": [4, "天"]}}})]
        assert await kimi.formulas.run(DATE, "date_now", "{}") == '{"t":[4,"天"]}'


async def test_a_formula_that_fails_is_an_error_with_its_reason() -> None:
    def fail(name: str, arguments: str) -> str:
        raise RuntimeError("no such zone")

    async with kimi_with() as (kimi, server):
        server.formulas = {DATE: Formula([NOW], fail)}
        with pytest.raises(ChatProviderError, match="no such zone"):
            await kimi.formulas.run(DATE, "date_now", "{}")


async def test_the_error_of_a_formula_names_the_formula() -> None:
    async with kimi_with() as (kimi, server):
        server.failures[f"/formulas/{DATE}/fibers"] = [answered({"status": "failed", "error": "no such zone"})]
        with pytest.raises(ChatProviderError, match=DATE):
            await kimi.formulas.run(DATE, "date_now", "{}")


@pytest.mark.parametrize("body", [{}, {"status": "failed"}, {"context": None}, {"context": []}, {"context": {}}])
async def test_a_formula_without_an_output_is_an_error_that_names_it(body: Any) -> None:
    async with kimi_with() as (kimi, server):
        server.failures[f"/formulas/{DATE}/fibers"] = [answered(body)]
        with pytest.raises(ChatProviderError, match=f"{DATE} failed"):
            await kimi.formulas.run(DATE, "date_now", "{}")


async def test_a_formula_that_may_have_run_is_not_run_again() -> None:
    async with kimi_with(max_retries=3) as (kimi, server):
        server.failures[f"/formulas/{DATE}/fibers"] = [HangUp()]
        with pytest.raises(APIConnectionError):
            await kimi.formulas.run(DATE, "date_now", "{}")
        assert len(server.calls) == 1


async def test_a_formula_that_is_not_there_is_not_found() -> None:
    async with kimi_with() as (kimi, _):
        with pytest.raises(NotFoundError):
            await kimi.formulas.tools("moonshot/nothing:latest")
        with pytest.raises(NotFoundError):
            await kimi.formulas.run("moonshot/nothing:latest", "a", "{}")


@pytest.mark.parametrize("tools", [None, {}, [None], [{}], [{"function": {}}], [{"function": {"name": 4}}]])
async def test_what_are_no_tools_is_a_protocol_error(tools: Any) -> None:
    async with kimi_with() as (kimi, server):
        server.failures[f"/formulas/{DATE}/tools"] = [answered({"tools": tools})]
        with pytest.raises(StreamProtocolError):
            await kimi.formulas.tools(DATE)


async def test_parameters_that_are_no_object_are_a_protocol_error() -> None:
    async with kimi_with() as (kimi, server):
        server.failures[f"/formulas/{DATE}/tools"] = [
            answered({"tools": [{"function": {"name": "now", "parameters": [4]}}]})
        ]
        with pytest.raises((StreamProtocolError, FunctionSpecError)):
            await kimi.formulas.tools(DATE)


# ==== all of them ====

Ask = Callable[[Kimi], Awaitable[Any]]
EVERY: dict[str, tuple[str, Ask]] = {
    "models": ("/models", lambda kimi: kimi.models()),
    "balance": (BALANCE, lambda kimi: kimi.balance()),
    "tokens": (TOKENS, lambda kimi: kimi.estimate_tokens([USER])),
    "upload": ("/files", lambda kimi: kimi.files.upload(b"x", purpose="image", filename="a.png")),
    "list": ("/files", lambda kimi: kimi.files.list()),
    "get": ("/files/file-1", lambda kimi: kimi.files.get("file-1")),
    "delete": ("/files/file-1", lambda kimi: kimi.files.delete("file-1")),
    "content": ("/files/file-1/content", lambda kimi: kimi.files.content("file-1")),
    "tools": (f"/formulas/{DATE}/tools", lambda kimi: kimi.formulas.tools(DATE)),
    "run": (f"/formulas/{DATE}/fibers", lambda kimi: kimi.formulas.run(DATE, "date_now", "{}")),
    "chat": ("/chat/completions", lambda kimi: generate(kimi, "", [], [USER])),
}


@pytest.mark.parametrize(("path", "ask"), EVERY.values(), ids=EVERY)
async def test_an_endpoint_that_is_busy_is_asked_again(path: str, ask: Ask) -> None:
    async with kimi_with(max_retries=1) as (kimi, server):
        server.files["file-1"] = StoredFile("file-extract", "a.txt", "text/plain", b"x")
        server.formulas = {DATE: Formula([NOW], lambda name, arguments: "4")}
        server.failures[path] = [Failure(429, "rate_limit_reached_error", "busy")]
        await ask(kimi)
        assert [each.path for each in server.calls] == [path, path]


@pytest.mark.parametrize(("path", "ask"), EVERY.values(), ids=EVERY)
async def test_an_endpoint_that_stays_busy_is_an_error_of_the_tree(path: str, ask: Ask) -> None:
    async with kimi_with() as (kimi, server):
        server.failures[path] = [Failure(429, "rate_limit_reached_error", "busy")]
        with pytest.raises(RateLimitError):
            await ask(kimi)


def told(error: BaseException) -> str:
    """Everything of an error that a log or a report may show."""
    chain = [error, *filter(None, (error.__cause__, error.__context__))]
    texts = [text for each in chain for text in (str(each), repr(each), repr(vars(each)))]
    return "".join([*texts, *traceback.TracebackException.from_exception(error, capture_locals=True).format()])


@pytest.mark.parametrize(("path", "ask"), EVERY.values(), ids=EVERY)
async def test_a_key_that_is_refused_is_told_nowhere_and_keys_of_platforms_are_separate(
    path: str, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with KimiServer() as server, Kimi(api_key=KEY, base_url=server.base_url) as kimi:
        with pytest.raises(
            AuthenticationError, match=r"api\.moonshot\.ai, of api\.moonshot\.cn.* are separate"
        ) as caught:
            await ask(kimi)
        assert [each.path for each in server.calls] == [path]
        assert KEY not in told(caught.value) + caplog.text
        assert KEY not in repr(kimi) + repr(vars(kimi)) + repr(kimi.files) + repr(kimi.formulas)


def repeating(status: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    """A host that says back what it was told."""

    def respond(request: httpx.Request) -> httpx.Response:
        error = {"message": f"bad {request.headers['authorization']}", "type": "invalid_authentication_error"}
        return httpx.Response(status, json={"error": error}, headers=headers)

    return respond


ASKS = {name: ask for name, (_, ask) in EVERY.items() if name not in ("content", "delete")}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
async def test_a_host_that_repeats_the_key_does_not_leak_it(ask: Ask) -> None:
    async with mocked(repeating(401)) as kimi:
        with pytest.raises(AuthenticationError) as caught:
            await ask(kimi)
    assert KEY not in str(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize("ask", [pytest.param(ask, id=name) for name, ask in ASKS.items()])
async def test_a_host_that_repeats_the_key_with_success_does_not_leak_it(ask: Ask) -> None:
    async with mocked(repeating(200)) as kimi:
        with pytest.raises(ChatProviderError) as caught:
            await ask(kimi)
    assert KEY not in str(caught.value) + repr(vars(caught.value))


async def test_no_event_tells_the_key() -> None:
    events: list[Any] = []

    async with mocked(repeating(429), max_retry_time=60.0) as kimi:
        with pytest.raises(ChatProviderError):
            await kimi.generate("", [], [USER], on_event=events.append)
    async with KimiServer([Failure(503, None, "busy"), say("x")]) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=1) as kimi:
            await (await kimi.generate("", [], [USER], on_event=events.append)).aclose()
        assert any(isinstance(event, RequestRetried) for event in events)
        assert KEY not in repr(events)
        assert server.api_key not in repr(events)


async def test_a_client_of_ones_own_carries_every_request_and_stays_open() -> None:
    seen: list[str] = []

    async def note(request: httpx.Request) -> None:
        seen.append(f"{request.method} {request.url.path}")

    async with KimiServer([say("x")]) as server, httpx.AsyncClient(event_hooks={"request": [note]}) as client:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, http_client=client) as kimi:
            await generate(kimi.with_thinking("low"), "", [], [USER])
            await kimi.balance()
            await kimi.models()
            await kimi.files.upload(b"x", purpose="image", filename="a.png")
        assert not client.is_closed
    assert seen == ["POST /v1/chat/completions", "GET /v1/users/me/balance", "GET /v1/models", "POST /v1/files"]

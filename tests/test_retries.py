"""What is asked again, how often and when, and who waits for whom. The time of the waits is a `Clock`'s."""

import asyncio
import gc
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from types import coroutine
from typing import Any, TypeAlias

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent import Agent, AIFunction
from kimi_agent.errors import (
    APIConnectionError,
    APIEmptyResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatProviderError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    StreamInterruptedError,
    StreamProtocolError,
)
from kimi_agent.events import End, RequestRetried, RequestSent
from kimi_agent.generate import generate
from kimi_agent.kimi import http, patience
from kimi_agent.kimi.answer import KimiStreamedMessage
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.patience import Retries, Timeouts
from kimi_agent.message import Message
from kimi_agent.testing import (
    Delivery,
    Failure,
    Fault,
    Gate,
    HangUp,
    KimiServer,
    RawBody,
    Reply,
    ScriptSource,
    call,
    say,
)

OVERLOADED = Failure(429, "engine_overloaded_error", "The engine is currently overloaded")
BUSY = Failure(503, "server_unavailable", "busy")
FOREVER = 1_000_000
"""More retries than any test waits for."""
Interrupt: TypeAlias = Callable[[Coroutine[Any, Any, Any], int], Awaitable[None]]
"""Runs a request and cancels it, by a number, somewhere on its way."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Clock:
    """The time of the retry layer, and its `asyncio`. It goes on with each sleep; stopped, only `advance` moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.stopped = False
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, delay: float) -> None:
        self.slept.append(delay)
        if not self.stopped:
            self.now += delay
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + delay, woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake those whose sleep it ends."""
        self.now += seconds
        for moment, woken in self._sleepers:
            if moment <= self.now and not woken.done():
                woken.set_result(None)

    async def until_asleep(self, number: int) -> None:
        """Wait until so many sleep."""
        while sum(not woken.done() for _, woken in self._sleepers) != number:
            await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(http, "asyncio", clock)
    monkeypatch.setattr(http, "monotonic", clock.monotonic)
    return clock


@asynccontextmanager
async def kimi_with(
    script: ScriptSource | None, *, delivery: Delivery | None = None, **options: Any
) -> AsyncIterator[tuple[Kimi, KimiServer]]:
    """A server and a client of it. In the end neither a socket nor a task is left of them."""
    before = asyncio.all_tasks()
    async with KimiServer(script, delivery=delivery) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, **options) as kimi:
            yield kimi, server
        async with asyncio.timeout(5):
            await server.until(lambda: server.connections == 0)
    await until_no_task_but(before)


async def until_no_task_but(known: set[asyncio.Task[Any]]) -> None:
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - known:
            await asyncio.sleep(0)


@asynccontextmanager
async def talking(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> AsyncIterator[str]:
    """The base URL of a server that says to each connection what `talk` writes, until the client hangs up."""

    tasks: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has hung up
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*filter(None, tasks))


async def ask(kimi: Kimi, text: str = "Hello", **options: Any) -> KimiStreamedMessage:
    return await kimi.generate("", [], [Message.user(text)], **options)


async def end_of(stream: KimiStreamedMessage) -> End:
    try:
        end = [frame async for frames in stream.batches() for frame in frames][-1]
        assert isinstance(end, End)
        return end
    finally:
        await stream.aclose()


async def answered(kimi: Kimi, text: str = "Hello", **options: Any) -> str:
    return (await end_of(await ask(kimi, text, **options))).message.text


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def events(*data: Any) -> bytes:
    texts = [item if isinstance(item, str) else json.dumps(item) for item in data]
    return "".join([f"data: {text}\n\n" for text in texts]).encode()


# ==== which errors are retried ====


def html(status: int) -> RawBody:
    return RawBody(f"<html><h1>{status}</h1></html>".encode(), "text/html", status)


def flat(status: int, message: str) -> RawBody:
    """What a gateway makes of an error: its text alone."""
    return RawBody(message.encode(), "text/plain", status)


RETRIED: list[tuple[Fault, type[ChatProviderError]]] = [
    (Failure(408, None, "timeout"), APIStatusError),
    (Failure(409, None, "conflict"), APIStatusError),
    (OVERLOADED, RateLimitError),
    (Failure(429, "rate_limit_reached_error", "max RPM: 3, please try again after 1 seconds"), RateLimitError),
    (Failure(429, "rate_limit_reached_error", "max organization concurrency: 1"), RateLimitError),
    (Failure(429, "rate_limit_reached_error", "token quota per minute; recharge for a higher tier"), RateLimitError),
    (Failure(429, None, "Your account reached its token quota per minute"), RateLimitError),
    (Failure(429, "invalid_request_error", "too many requests"), RateLimitError),
    (flat(429, "slow down"), RateLimitError),
    (flat(429, ""), RateLimitError),
    (html(429), RateLimitError),
    (Failure(500, "server_error", "oops"), ServerError),
    (Failure(500, "unexpected_output", "oops"), ServerError),
    (Failure(500, None, "oops"), ServerError),
    (Failure(500, "invalid_request_error", "oops"), ServerError),
    (Failure(503, "server_unavailable", "busy"), ServerError),
    (Failure(400, "engine_overloaded_error", "the type says more than the status"), RateLimitError),
    *((html(status), ServerError) for status in (500, 502, 503, 504, 520, 529)),
]

REFUSED: list[tuple[Fault, type[ChatProviderError]]] = [
    (Failure(400, "invalid_request_error", "unsupported parameter"), BadRequestError),
    (Failure(400, "invalid_request_error", "Input token length too long"), ContextLengthError),
    (Failure(400, "invalid_request_error", "Your request exceeded model token limit : 262144"), ContextLengthError),
    (Failure(400, None, "Your request exceeded model token limit : 262144"), ContextLengthError),
    (flat(400, "Your request exceeded model token limit : 262144"), ContextLengthError),
    (Failure(400, "content_filter", "considered high risk"), ContentFilterError),
    (Failure(401, "invalid_authentication_error", "Invalid Authentication"), AuthenticationError),
    (Failure(401, "incorrect_api_key_error", "Incorrect API key provided"), AuthenticationError),
    (html(401), AuthenticationError),
    (Failure(402, None, "no plan"), PermissionDeniedError),
    (Failure(403, "permission_denied_error", "only available for Coding Agents"), PermissionDeniedError),
    (html(403), PermissionDeniedError),
    (Failure(404, "resource_not_found_error", "Not found the model X or Permission denied"), NotFoundError),
    (html(404), NotFoundError),
    (html(413), RequestTooLargeError),
    (Failure(413, "invalid_request_error", "too large"), RequestTooLargeError),
    (Failure(418, None, "short and stout"), APIStatusError),
    (Failure(422, None, "validation"), BadRequestError),
    (Failure(429, "exceeded_current_quota_error", "exceeded your current token quota"), QuotaExceededError),
    (Failure(429, "exceeded_current_quota_error", "please try again after 1 seconds", 1), QuotaExceededError),
    (Failure(429, "exceeded_current_quota_error", "too many requests"), QuotaExceededError),
    (Failure(429, None, "please check your account balance"), QuotaExceededError),
    (Failure(429, "invalid_request_error", "Insufficient balance"), QuotaExceededError),
    (flat(429, "You exceeded your current token quota, please recharge"), QuotaExceededError),
    (Failure(499, "client_closed_request", "bye"), APIStatusError),
    (Failure(500, "content_filter", "the type says more than the status"), ContentFilterError),
    (Failure(503, "exceeded_current_quota_error", "the type says more than the status"), QuotaExceededError),
]


def name_of(value: Any) -> str:
    if isinstance(value, Failure):
        return f"{value.status} {value.type} {value.message[:20]}"
    return f"{value.status} {value.body[:12]!r}" if isinstance(value, RawBody) else value.__name__


@pytest.mark.parametrize(("failure", "kind"), RETRIED, ids=name_of)
@pytest.mark.usefixtures("clock")
async def test_an_error_that_may_pass_is_asked_again_and_the_answer_comes(
    failure: Fault, kind: type[ChatProviderError]
) -> None:
    told: list[RequestRetried | RequestSent] = []
    async with kimi_with([failure, failure, say("Hi")]) as (kimi, server):
        assert await answered(kimi, on_event=told.append) == "Hi"
        assert len(server.requests) == 3
    assert [event.error_type for event in told if isinstance(event, RequestRetried)] == [kind.__name__] * 2


async def test_a_round_with_two_calls_makes_two_requests_and_tells_of_both() -> None:
    async def look(place: str) -> str:
        """Look."""
        return f"{place}: 4"

    told: list[bytes] = []
    calls = Reply(tool_calls=[call("look", place="Oslo"), call("look", place="Bergen")])
    async with kimi_with([calls, say("Four in both.")]) as (kimi, server):
        agent = Agent(kimi, functions=[AIFunction(look)])
        agent.on(RequestSent, lambda event: told.append(event.body.encode()))
        said = [message.text async for message in agent.full_round("How warm?")]
        assert said[1:] == ["Oslo: 4", "Bergen: 4", "Four in both."]
        assert [request.raw for request in server.requests] == told
    assert len(told) == 2


@pytest.mark.parametrize(("failure", "kind"), REFUSED, ids=name_of)
async def test_an_error_that_will_not_pass_is_asked_once(
    clock: Clock, failure: Fault, kind: type[ChatProviderError]
) -> None:
    async with kimi_with([failure, say("Hi")]) as (kimi, server):
        with pytest.raises(ChatProviderError) as caught:
            await ask(kimi)
        assert len(server.requests) == 1
    assert caught.value.__class__ is kind
    assert clock.slept == []


async def test_what_the_model_would_refuse_is_not_even_sent() -> None:
    async with kimi_with([say("Hi")]) as (kimi, server):
        with pytest.raises(InvalidRequestError):
            await ask(kimi, generation_overrides={"temperature": 0.2})
        assert server.requests == []


# ==== which answers are retried ====

ROLE = chunk(role="assistant", content="")
CUT = Delivery(whole=True, stop_after=20)

BROKEN: dict[str, Fault | Reply] = {
    "closed before the headers": HangUp("close"),
    "reset before the headers": HangUp("reset"),
    "closed after the headers": RawBody(events(ROLE), delivery=Delivery(stop_after=0)),
    "reset after the headers": RawBody(events(ROLE), delivery=Delivery(stop_after=0, stop="reset")),
    "closed in the first event": RawBody(events(ROLE), delivery=CUT),
    "closed after the role": RawBody(events(ROLE), delivery=Delivery(stop_after=FOREVER)),
    "ended after the role": RawBody(events(ROLE)),
    "ended after a comment": RawBody(b": keep-alive\n\n"),
    "no body": RawBody(b"", delivery=Delivery(whole=True)),
    "overloaded as the first event": RawBody(events({"error": {"message": "x", "type": "engine_overloaded_error"}})),
    "overloaded after the role": RawBody(events(ROLE, {"error": {"message": "x", "type": "engine_overloaded_error"}})),
    "an event of type error": RawBody(b'event: error\ndata: {"message": "x", "type": "server_error"}\n\n'),
    "an unknown error": RawBody(events({"error": {"message": "x"}})),
    "an error object with success": RawBody(b'{"error": {"type": "server_error"}}', "application/json"),
    "nothing but [DONE]": RawBody(events("[DONE]")),
    "role and [DONE]": RawBody(events(ROLE, "[DONE]")),
    "stop with nothing": Reply(""),
    "calls announced and none there": Reply("", finish_reason="tool_calls"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_an_answer_that_fails_before_its_first_part_is_asked_for_again(clock: Clock, name: str) -> None:
    async with kimi_with([BROKEN[name], say("Hi")], delivery=Delivery(whole=True)) as (kimi, server):
        assert await answered(kimi) == "Hi"
        assert len(server.requests) == 2
    assert clock.slept == [0.0]


@pytest.mark.parametrize("said", [{"reasoning_content": ""}, {"content": " \n"}], ids=repr)
async def test_a_piece_that_says_nothing_is_no_first_part(said: dict[str, str]) -> None:
    nothing = RawBody(events(chunk(**said), chunk("stop"), "[DONE]"))
    async with kimi_with([nothing, say("Hi")]) as (kimi, _):
        assert await answered(kimi) == "Hi"


@pytest.mark.parametrize(
    "empty",
    [
        {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
        for content in ("", None, "  \n")
    ],
    ids=repr,
)
async def test_an_empty_answer_that_is_not_streamed_is_asked_for_again(empty: Any) -> None:
    raw = RawBody(json.dumps(empty).encode(), "application/json")
    async with kimi_with([raw, say("Hi")], stream=False) as (kimi, server):
        assert await answered(kimi) == "Hi"
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        ("content_filter", ContentFilterError),
        ("exceeded_current_quota_error", QuotaExceededError),
        ("invalid_request_error", BadRequestError),
        ("client_closed_request", APIStatusError),
    ],
)
@pytest.mark.parametrize("before", [[], [ROLE]], ids=["first", "after the role"])
async def test_an_error_as_the_first_event_that_will_not_pass_is_asked_once(
    before: list[Any], type: str, kind: type[ChatProviderError]
) -> None:
    refusal = RawBody(events(*before, {"error": {"message": "no", "type": type}}))
    async with kimi_with([refusal, say("Hi")]) as (kimi, server):
        with pytest.raises(ChatProviderError) as caught:
            await ask(kimi)
        assert len(server.requests) == 1
    assert caught.value.__class__ is kind


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_empty_answer_that_was_cut_off_is_an_answer(reason: str, stream: bool) -> None:
    async with kimi_with([Reply("", finish_reason=reason), say("Hi")], stream=stream) as (kimi, server):
        end = await end_of(await ask(kimi))
        assert (end.finish_reason, end.message.text) == (reason, "")
        assert len(server.requests) == 1


async def test_nothing_to_add_to_a_partial_answer_is_an_answer() -> None:
    history = [Message.user("Hello"), Message(role="assistant", content="Hi", partial=True)]
    async with kimi_with([Reply(""), say("no")]) as (kimi, server):
        assert (await end_of(await kimi.generate("", [], history))).finish_reason == "stop"
        assert len(server.requests) == 1


async def test_an_answer_that_stays_empty_is_an_error_after_all_attempts() -> None:
    async with kimi_with(lambda _: Reply(""), max_retries=2) as (kimi, server):
        with pytest.raises(APIEmptyResponseError, match="neither text nor calls"):
            await ask(kimi)
        assert len(server.requests) == 3


@pytest.mark.parametrize("garbage", [RawBody(b"<html>Log in</html>", "text/html"), RawBody(events("Log in"))])
async def test_what_is_no_answer_is_asked_for_once(garbage: RawBody) -> None:
    async with kimi_with([garbage, say("Hi")]) as (kimi, server):
        with pytest.raises(StreamProtocolError):
            await ask(kimi)
        assert len(server.requests) == 1


@pytest.mark.parametrize("stop", ["end", "close", "reset"])
async def test_an_answer_that_breaks_after_its_first_part_is_not_asked_for_again(stop: Any) -> None:
    gate = Gate(before=3)
    cut = Delivery(stop_after=FOREVER, stop=stop, finish=False, done=False, gate=gate)
    async with kimi_with([Reply("Hello", chunk_size=1, delivery=cut), say("no")]) as (kimi, server):
        stream = await ask(kimi)
        with pytest.raises(StreamInterruptedError) as caught:
            async for _ in stream.batches():
                gate.open()
        await stream.aclose()
        assert len(server.requests) == 1
    came = caught.value.partial.text
    assert came
    assert "Hello".startswith(came)


async def test_an_error_after_the_first_part_is_not_retried() -> None:
    overloaded = {"error": {"message": "x", "type": "engine_overloaded_error"}}
    async with kimi_with([RawBody(events(chunk(content="Par"), overloaded)), say("no")]) as (kimi, server):
        stream = await ask(kimi)
        with pytest.raises(RateLimitError):
            await end_of(stream)
        assert len(server.requests) == 1


# ==== how often ====


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_max_retries_bounds_the_attempts(most: int) -> None:
    async with kimi_with(lambda _: BUSY, max_retries=most) as (kimi, server):
        with pytest.raises(ServerError, match="busy"):
            await ask(kimi)
        assert len(server.requests) == most + 1


async def test_a_refused_connection_is_tried_as_often_as_everything_else() -> None:
    told: list[Any] = []
    kimi = Kimi(api_key="sk-x", base_url="http://127.0.0.1:1/v1", max_retries=3)
    with pytest.raises(APIConnectionError):
        await ask(kimi, on_event=told.append)
    await kimi.aclose()
    assert [event.attempt for event in told if isinstance(event, RequestRetried)] == [1, 2, 3]


async def test_max_retry_time_bounds_the_attempts(clock: Clock) -> None:
    slow = Failure(429, "rate_limit_reached_error", "slow down", 10)
    async with kimi_with(lambda _: slow, max_retries=FOREVER, max_retry_time=35) as (kimi, server):
        with pytest.raises(RateLimitError):
            await ask(kimi)
        assert len(server.requests) == 4  # at 0, 10, 20 and 30 seconds
    assert sum(clock.slept) == 30


async def test_waiting_for_a_place_uses_up_no_time_for_retries(clock: Clock) -> None:
    gate = Gate(before=3)
    script = [Reply("long", chunk_size=1, delivery=Delivery(gate=gate)), BUSY, say("Hi")]
    async with kimi_with(script, max_concurrency=1, max_retry_time=10) as (kimi, _):
        stream = await ask(kimi)
        second = asyncio.create_task(answered(kimi))
        await until_waiting_for_a_place(kimi, 1)
        clock.now += 100
        gate.open()
        await end_of(stream)
        assert await second == "Hi"


async def test_no_attempt_begins_after_max_retry_time_for_the_hint_of_another(clock: Clock) -> None:
    clock.stopped = True
    slow = Failure(429, "rate_limit_reached_error", "slow down", 50)
    async with kimi_with([BUSY, slow, say("late")], max_retry_time=5) as (kimi, _):
        first = asyncio.create_task(answered(kimi))
        await clock.until_asleep(1)
        with pytest.raises(RateLimitError):
            await ask(kimi)
        clock.advance(0)
        for _ in range(100):
            await asyncio.sleep(0)
        clock.advance(60)
        with pytest.raises(ChatProviderError):
            await first


@pytest.mark.parametrize("numbers", [{"max_retries": -1}, {"max_retry_time": -1}, {"max_retry_time": float("nan")}])
def test_less_than_nothing_is_no_bound(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Kimi(api_key="sk-x", **numbers)


# ==== after how long ====

FAILED = ServerError(503, "busy")


@given(st.integers(1, 100_000), st.integers())
def test_the_delay_is_random_between_nothing_and_a_limit_that_doubles_up_to_half_a_minute(
    attempt: int, seed: int
) -> None:
    asked: list[tuple[float, float]] = []
    source = random.Random(seed)

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return source.uniform(low, high)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "FIRST_DELAY", 0.5)
        patch.setattr(patience, "uniform", uniform)
        delay = Retries(FOREVER).delay_after(FAILED, attempt, 0)
    limit = 30.0 if attempt > 6 else 0.5 * 2 ** (attempt - 1)
    assert asked == [(0, limit)]
    assert delay is not None
    assert 0 <= delay <= limit


@given(st.integers(0, 9), st.integers(1, 20), st.floats(0, 200), st.floats(0, 200))
def test_another_attempt_is_made_within_both_bounds_only(most: int, attempt: int, total: float, elapsed: float) -> None:
    delay = Retries(most, total).delay_after(FAILED, attempt, elapsed)
    if delay is None:
        assert attempt > most or elapsed + 0.5 * 2**attempt > total
    else:
        assert attempt <= most
        assert elapsed + delay <= total


@given(st.floats(0, 1e300), st.integers(1, 50))
def test_what_the_server_says_goes_before_the_random_delay_and_is_no_longer_than_a_minute(
    hint: float, attempt: int
) -> None:
    error = RateLimitError(429, "slow down", retry_after=hint)
    assert Retries(50, float("inf")).delay_after(error, attempt, 0) == min(hint, 60)


async def test_the_waits_of_a_request_grow_exponentially(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(patience, "uniform", lambda low, high: high)
    async with kimi_with(lambda _: BUSY, max_retries=8, max_retry_time=FOREVER) as (kimi, _):
        with pytest.raises(ServerError):
            await ask(kimi)
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 30, 30]


def slow_down(retry_after: int | str | None = None, message: str = "slow down") -> Failure:
    return Failure(429, "rate_limit_reached_error", message, retry_after)


@pytest.mark.parametrize(
    ("failure", "wait"),
    [
        (slow_down(5), 5),
        (slow_down("1.5"), 1.5),
        (slow_down(0), 0),
        (slow_down("-3"), 0),
        (slow_down(100_000), 60),
        (slow_down("1e308"), 60),
        (slow_down("Wed, 21 Oct 2015 07:28:00 GMT"), 0),
        (slow_down(message="please try again after 7 seconds"), 7),
        (slow_down(message="Please Try Again In 2.5s."), 2.5),
        (slow_down(message=f"please try again after {'9' * 400} seconds"), 60),
        (slow_down(3, "please try again after 7 seconds"), 3),
        (slow_down("soon", "please try again after 7 seconds"), 7),
        (Failure(503, "server_unavailable", "busy", 4), 4),
        (Failure(500, "server_error", "please try again after 7 seconds"), 0),
        *((slow_down(nonsense), 0) for nonsense in ("soon", "nan", "inf", "5, 5", "5s", "Wed, 99 Foo", "é")),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, Failure) else str(value),
)
async def test_the_server_says_for_how_long_to_wait(clock: Clock, failure: Failure, wait: float) -> None:
    told: list[Any] = []
    async with kimi_with([failure, say("Hi")]) as (kimi, _):
        assert await answered(kimi, on_event=told.append) == "Hi"
    assert clock.slept == [wait]
    assert [event.delay for event in told if isinstance(event, RequestRetried)] == [wait]


async def test_retry_after_a_date_waits_until_then(clock: Clock) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    async with kimi_with([slow_down(date), say("Hi")]) as (kimi, _):
        assert await answered(kimi) == "Hi"
    assert 20 < clock.slept[0] <= 30


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255)))
def test_any_retry_after_is_a_wait_or_none(value: str) -> None:
    failure = http.status_error(429, b"", {"retry-after": value})
    assert failure.retry_after is None or 0 <= failure.retry_after < float("inf")


# ==== who waits ====


async def test_a_hint_holds_for_every_copy_of_the_client(clock: Clock) -> None:
    clock.stopped = True
    async with kimi_with([slow_down(5), say("Hi"), say("Hi")]) as (kimi, server):
        first = asyncio.create_task(answered(kimi))
        await clock.until_asleep(1)
        second = asyncio.create_task(answered(kimi.with_generation_kwargs(max_completion_tokens=9)))
        third = asyncio.create_task(kimi.balance())
        await clock.until_asleep(3)
        clock.advance(4.9)
        await clock.until_asleep(3)
        assert len(server.calls) == 1
        clock.advance(0.2)
        assert await asyncio.gather(first, second) == ["Hi", "Hi"]
        assert (await third).available == 49.5
        assert len(server.calls) == 4


async def test_who_waits_for_a_hint_waits_on_for_a_longer_one(clock: Clock) -> None:
    clock.stopped = True
    gate = Gate(before=0)
    held = RawBody(
        events({"error": {"message": "x", "type": "engine_overloaded_error"}}),
        delivery=Delivery(gate=gate),
        headers={"retry-after": "20"},
    )
    async with kimi_with([held, slow_down(5), say("Hi"), say("Hi"), say("Hi")]) as (kimi, server):
        first = asyncio.create_task(answered(kimi))
        await gate.reached()
        second = asyncio.create_task(answered(kimi))
        await clock.until_asleep(1)
        third = asyncio.create_task(answered(kimi))
        await clock.until_asleep(2)
        gate.open()
        await clock.until_asleep(3)
        clock.advance(10)
        await clock.until_asleep(3)
        assert len(server.requests) == 2
        clock.advance(10)
        assert await asyncio.gather(first, second, third) == ["Hi"] * 3


async def test_who_gives_up_for_lack_of_time_makes_nobody_wait_anew(clock: Clock) -> None:
    """The hint was heard when it came. Giving up later, because a handler took long, is no news of the server."""
    slow = Failure(429, "rate_limit_reached_error", "slow down", 2)
    async with kimi_with([slow, say("Hi")], max_retry_time=10) as (kimi, server):

        def takes_long(event: Any) -> None:
            if isinstance(event, RequestRetried):
                clock.now += 20

        with pytest.raises(RateLimitError):
            await ask(kimi, on_event=takes_long)
        before = len(clock.slept)
        assert await answered(kimi) == "Hi"
        assert len(clock.slept) == before
        assert len(server.requests) == 2


async def test_another_client_does_not_wait(clock: Clock) -> None:
    async with kimi_with([slow_down(5), say("Hi")], max_retry_time=1) as (kimi, server):
        with pytest.raises(RateLimitError):
            await ask(kimi)
        other = Kimi(api_key=server.api_key, base_url=server.base_url)
        assert await answered(other) == "Hi"
        await other.aclose()
    assert clock.slept == []


async def test_a_hint_that_is_too_long_for_its_request_holds_for_the_next_one(clock: Clock) -> None:
    async with kimi_with([slow_down(5), say("Hi")], max_retry_time=1) as (kimi, _):
        with pytest.raises(RateLimitError):
            await ask(kimi)
        assert await answered(kimi) == "Hi"
    assert clock.slept == [5]


async def test_who_wants_no_retries_waits_for_nothing(clock: Clock) -> None:
    async with kimi_with([slow_down(5), say("Hi")], max_retries=0) as (kimi, _):
        with pytest.raises(RateLimitError):
            await ask(kimi)
        assert await answered(kimi) == "Hi"
    assert clock.slept == []


async def test_a_hint_beside_an_error_that_will_not_pass_holds_for_nobody(clock: Clock) -> None:
    used_up = Failure(429, "exceeded_current_quota_error", "recharge", 5)
    async with kimi_with([used_up, say("Hi")]) as (kimi, _):
        with pytest.raises(QuotaExceededError):
            await ask(kimi)
        assert await answered(kimi) == "Hi"
    assert clock.slept == []


# ==== who is told ====


@pytest.mark.parametrize("is_async", [False, True])
async def test_each_retry_is_told_before_it_is_waited_for(clock: Clock, is_async: bool) -> None:
    told: list[tuple[Any, int]] = []

    def hear(event: Any) -> None:
        told.append((event, len(clock.slept)))

    async def hear_later(event: Any) -> None:
        await asyncio.sleep(0)
        hear(event)

    async with kimi_with([HangUp(), slow_down(7), Reply(""), say("Hi")]) as (kimi, _):
        assert await answered(kimi, on_event=hear_later if is_async else hear) == "Hi"
    (sent, _), *retried = told
    assert isinstance(sent, RequestSent)
    assert [(event.attempt, event.delay, event.error_type, slept) for event, slept in retried] == [
        (1, 0.0, "APIConnectionError", 0),
        (2, 7.0, "RateLimitError", 1),
        (3, 0.0, "APIEmptyResponseError", 2),
    ]
    assert "slow down" in retried[1][0].error


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_agent_tells_of_each_retry(is_async: bool) -> None:
    told: list[Any] = []

    async def hear_later(event: RequestRetried) -> None:
        told.append(event)

    async with kimi_with([BUSY, HangUp(), say("Hi")]) as (kimi, _):
        agent = Agent(kimi)
        agent.on(RequestRetried, hear_later if is_async else told.append)
        assert await agent.chat_round_str("Hello") == "Hi"
    assert [(event.attempt, event.error_type) for event in told] == [(1, "ServerError"), (2, "APIConnectionError")]


async def test_who_waits_for_what_another_request_was_told_is_told_of_it(clock: Clock) -> None:
    told: list[Any] = []
    async with kimi_with([slow_down(5), say("Hi"), say("Hi")], max_retry_time=1) as (kimi, _):
        with pytest.raises(RateLimitError):
            await ask(kimi)
        clock.now += 2
        assert await answered(kimi, on_event=told.append) == "Hi"
        assert await answered(kimi, on_event=told.append) == "Hi"
    (event,) = [event for event in told if isinstance(event, RequestRetried)]
    assert (event.attempt, event.delay, event.error_type) == (0, pytest.approx(3), "RateLimitError")
    assert "slow down" in event.error
    assert clock.slept == [pytest.approx(3)]


# ==== max_concurrency ====


async def until_waiting_for_a_place(kimi: Kimi, number: int) -> None:
    slots: Any = kimi._http._pool()._slots
    while len(slots._waiters or ()) != number:
        await asyncio.sleep(0)


def place_of(kimi: Kimi) -> Any:
    return kimi._http._pool()._slots


async def held_open(kimi: Kimi) -> KimiStreamedMessage:
    """An answer under way that has the place."""
    stream = await ask(kimi)
    assert place_of(kimi).locked()
    return stream


def endless(_: Any = None) -> Reply:
    """An answer whose end never comes."""
    return Reply("Hello", chunk_size=1, delivery=Delivery(gate=Gate(before=3)))


async def test_with_one_place_requests_come_one_at_a_time_in_the_order_in_which_they_were_made() -> None:
    under_way: list[int] = [0]
    order: list[str] = []

    async def count(number: int) -> None:
        under_way[0] -= number == 5  # the last write is [DONE]; before it no client knows that the answer ends

    def respond(body: Any) -> Reply:
        under_way[0] += 1
        assert under_way[0] == 1
        order.append(body["messages"][-1]["content"])
        return Reply("ab", chunk_size=1, delivery=Delivery(gate=count))

    names = [str(number) for number in range(8)]
    async with kimi_with(respond, max_concurrency=1, max_retries=0) as (kimi, _):
        copies = [kimi, kimi.with_generation_kwargs(max_completion_tokens=9), kimi.with_thinking("low")]
        tasks = [asyncio.create_task(answered(copies[place % 3], name)) for place, name in enumerate(names)]
        assert await asyncio.gather(*tasks) == ["ab"] * 8
    assert order == names


async def test_with_three_places_three_answers_are_under_way() -> None:
    async with kimi_with(endless, max_concurrency=3) as (kimi, server):
        streams = [await ask(kimi) for _ in range(3)]
        fourth = asyncio.create_task(ask(kimi))
        await until_waiting_for_a_place(kimi, 1)
        assert len(server.requests) == 3
        for stream in streams:
            await stream.aclose()
        await (await fourth).aclose()


async def read_to_its_end(stream: KimiStreamedMessage) -> None:
    assert [frames async for frames in stream.batches()]


async def closed(stream: KimiStreamedMessage) -> None:
    await stream.aclose()
    await stream.aclose()


async def cancelled_in_the_middle(stream: KimiStreamedMessage) -> None:
    task = asyncio.create_task(end_of(stream))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def read_until_it_fails(stream: KimiStreamedMessage) -> None:
    with pytest.raises(ChatProviderError):
        async for _ in stream.batches():
            pass


async def read_until_it_fails_and_closed(stream: KimiStreamedMessage) -> None:
    await read_until_it_fails(stream)
    await stream.aclose()


WRONG = RawBody(events(chunk(content="Par"), "nonsense"), delivery=Delivery(stop_after=FOREVER))
ENDINGS: list[Any] = [
    (read_to_its_end, say("Hi")),
    (closed, endless()),
    (closed, say("Hi")),
    (cancelled_in_the_middle, endless()),
    (read_until_it_fails_and_closed, WRONG),
    (read_until_it_fails_and_closed, RawBody(events(chunk(content="Par")))),
    (read_until_it_fails_and_closed, RawBody(events(chunk(content="Par")), delivery=Delivery(stop_after=FOREVER))),
    pytest.param(
        read_until_it_fails,
        RawBody(events(chunk(content="Par")), delivery=Delivery(stop_after=FOREVER)),
    ),
]


@pytest.mark.parametrize(("finish", "reply"), ENDINGS)
async def test_the_place_is_free_once_the_answer_has_ended(
    finish: Callable[[KimiStreamedMessage], Awaitable[None]], reply: Any
) -> None:
    async with kimi_with([reply, say("next")], max_concurrency=1) as (kimi, _):
        stream = await held_open(kimi)
        try:
            await finish(stream)
            assert not place_of(kimi).locked()
            assert await answered(kimi) == "next"
        finally:
            await stream.aclose()


async def test_the_place_of_an_answer_that_was_dropped_is_free() -> None:
    async with kimi_with([endless(), say("next")], max_concurrency=1) as (kimi, _):
        stream = await held_open(kimi)
        del stream
        gc.collect()
        assert await answered(kimi) == "next"


async def test_the_connection_of_an_answer_that_was_dropped_is_closed() -> None:
    async with kimi_with([endless()]) as (kimi, server):
        stream = await ask(kimi)
        assert server.connections == 1
        del stream
        gc.collect()
        async with asyncio.timeout(5):
            await server.until(lambda: server.connections == 0)


@pytest.mark.parametrize("failure", [BUSY, HangUp(), Failure(401), Reply("")], ids=lambda value: type(value).__name__)
async def test_the_place_of_a_request_that_failed_is_free(failure: Any) -> None:
    async with kimi_with([failure, say("next")], max_concurrency=1, max_retries=0) as (kimi, _):
        with pytest.raises(ChatProviderError):
            await ask(kimi)
        assert await answered(kimi) == "next"


async def test_nobody_has_the_place_while_the_back_off_lasts(clock: Clock) -> None:
    clock.stopped = True
    async with kimi_with([BUSY, say("other"), say("Hi")], max_concurrency=1) as (kimi, _):
        first = asyncio.create_task(answered(kimi))
        await clock.until_asleep(1)
        assert await answered(kimi) == "other"
        clock.advance(0)
        assert await first == "Hi"


async def test_the_rest_of_the_platform_needs_no_place() -> None:
    async with kimi_with([endless()], max_concurrency=1) as (kimi, _):
        stream = await held_open(kimi)
        async with asyncio.timeout(5):
            assert (await kimi.balance()).available == 49.5
            assert [info.name for info in await kimi.models()] == ["kimi-k3", "kimi-k2.6"]
            assert await kimi.estimate_tokens([Message.user("Hello")]) > 0
        await stream.aclose()


@pytest.mark.parametrize("number", [0, -1])
def test_a_client_has_one_place_at_least(number: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Kimi(api_key="sk-x", max_concurrency=number)


def test_the_place_that_an_event_loop_left_taken_is_free_in_the_next_one() -> None:
    kimi = Kimi(api_key=KimiServer.api_key, base_url="http://127.0.0.1:1/v1", max_concurrency=1)

    async def once() -> str:
        async with KimiServer([say("Hi"), endless()]) as server:
            kimi._http.base_url = server.base_url
            said = await answered(kimi)
            kept.append(await held_open(kimi))
            await kimi.aclose()
            return said

    kept: list[KimiStreamedMessage] = []
    assert [asyncio.run(once()), asyncio.run(once())] == ["Hi", "Hi"]


# ==== cancels ====


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_cancel_while_the_back_off_lasts_leaves_nothing(clock: Clock) -> None:
    clock.stopped = True
    async with kimi_with([BUSY, say("Hi")], max_concurrency=1) as (kimi, server):
        task = asyncio.create_task(answered(kimi))
        await clock.until_asleep(1)
        await cancelled(task)
        assert await answered(kimi) == "Hi"
        assert len(server.requests) == 2


async def test_a_cancel_in_the_queue_for_a_place_leaves_nothing() -> None:
    async with kimi_with([endless(), say("Hi")], max_concurrency=1) as (kimi, server):
        stream = await held_open(kimi)
        tasks = [asyncio.create_task(answered(kimi)) for _ in range(3)]
        await until_waiting_for_a_place(kimi, 3)
        await cancelled(tasks[0])
        await cancelled(tasks[2])
        await stream.aclose()
        assert await tasks[1] == "Hi"
        assert not place_of(kimi).locked()
        assert len(server.requests) == 2


async def test_a_cancel_at_the_moment_in_which_the_place_is_given_passes_it_on() -> None:
    async with kimi_with([endless(), say("Hi")], max_concurrency=1) as (kimi, _):
        stream = await held_open(kimi)
        tasks = [asyncio.create_task(answered(kimi)) for _ in range(2)]
        await until_waiting_for_a_place(kimi, 2)
        place_of(kimi).release()  # as the end of the stream does; the first one is about to wake
        stream._response._on_end = None
        await cancelled(tasks[0])
        assert await tasks[1] == "Hi"
        await stream.aclose()


async def test_a_cancel_while_a_hint_lasts_leaves_nothing(clock: Clock) -> None:
    async with kimi_with([slow_down(5), say("Hi")], max_concurrency=1, max_retry_time=1) as (kimi, server):
        with pytest.raises(RateLimitError):
            await ask(kimi)
        clock.stopped = True
        task = asyncio.create_task(answered(kimi))
        await clock.until_asleep(1)
        await cancelled(task)
        clock.advance(5)
        assert await answered(kimi) == "Hi"
        assert len(server.requests) == 2


@coroutine
def cancelled_at_wait(work: Coroutine[Any, Any, Any], number: int) -> Generator[Any, Any, Any]:
    """Runs `work`, and cancels its task where it waits for the n-th time."""
    raised: BaseException | None = None
    for place in count(1):
        try:
            waited_for = work.throw(raised) if raised else work.send(None)
        except StopIteration as ended:
            return ended.value
        raised = None
        if place == number:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            yield waited_for
        except BaseException as error:
            raised = error


async def at_a_wait(work: Coroutine[Any, Any, Any], number: int) -> None:
    async def cancelled() -> Any:
        return await cancelled_at_wait(work, number)

    task = asyncio.create_task(cancelled())
    await asyncio.wait([task])
    assert task.cancelled() or task.result() == "Hello"


async def at_a_moment(work: Coroutine[Any, Any, Any], number: int) -> None:
    task = asyncio.create_task(work)
    for _ in range(number * 3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.result() == "Hello"


def fails_twice() -> Sequence[Any]:
    return [BUSY, RawBody(events(ROLE)), Reply("Hello", chunk_size=1), *[say("next")] * 4]


INTERRUPTIONS = range(1, 25)
"""More than a request has waits."""


@pytest.mark.parametrize("interrupt", [at_a_wait, at_a_moment])
async def test_a_cancelled_request_leaves_its_place_and_no_task(interrupt: Interrupt) -> None:
    for number in INTERRUPTIONS:
        async with kimi_with(fails_twice(), max_concurrency=1) as (kimi, _):
            await interrupt(answered(kimi), number)
            assert not place_of(kimi).locked(), number
            assert await answered(kimi) in ("Hello", "next"), number


async def test_cancelled_requests_leave_no_socket_but_one_for_the_next_request() -> None:
    for number in INTERRUPTIONS:
        async with kimi_with(fails_twice(), max_concurrency=1) as (kimi, server):
            await at_a_wait(answered(kimi), number)
            await answered(kimi)
            async with asyncio.timeout(0.3):
                await server.until(lambda: server.connections <= 1)


async def test_cancelled_requests_leave_no_connection_in_use() -> None:
    for number in INTERRUPTIONS:
        async with kimi_with(fails_twice(), max_concurrency=1) as (kimi, _):
            await at_a_wait(answered(kimi), number)
            await answered(kimi)
            transport: Any = kimi._http._pool().client._transport
            assert [connection.is_idle() for connection in transport._pool.connections] == [True], number


# ==== timeouts ====


async def test_a_server_that_does_not_answer_in_time_is_asked_again() -> None:
    async def respond(body: Any) -> Reply:
        if len(server.requests) == 1:
            await asyncio.Event().wait()
        return say("Hi")

    async with kimi_with(respond, timeout=Timeouts(first_byte=0.05)) as (kimi, server):
        assert await answered(kimi) == "Hi"
        assert len(server.requests) == 2


async def test_silence_before_the_first_part_is_asked_again() -> None:
    gate = Gate(before=1)
    script = [Reply("Hello", delivery=Delivery(gate=gate)), say("Hi")]
    async with kimi_with(script, timeout=Timeouts(between_chunks=0.05)) as (kimi, server):
        assert await answered(kimi) == "Hi"
        assert len(server.requests) == 2


async def test_a_connection_that_does_not_come_about_in_time_is_a_timeout() -> None:
    with socket.socket() as deaf, socket.socket() as queued:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        queued.setblocking(False)
        queued.connect_ex(deaf.getsockname())  # the queue of connections is full
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        kimi = Kimi(api_key="sk-x", base_url=url, max_retries=0, timeout=Timeouts(connect=0.05))
        with pytest.raises(APITimeoutError, match="ConnectTimeout"):
            await ask(kimi)
        await kimi.aclose()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def repeating(head: bytes, again: bytes) -> Callable[[Any, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    async def talk(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0.01)

    return talk


KEEP_ALIVES = [b": keep-alive\n\n", b"\n", b"data:\n\n", events({"choices": []}), events(ROLE)]


@pytest.mark.parametrize("again", KEEP_ALIVES, ids=repr)
async def test_keep_alives_are_no_answer_however_many_come(again: bytes) -> None:
    async with talking(repeating(HEAD, again)) as url:
        kimi = Kimi(api_key="sk-x", base_url=url, max_retries=0, timeout=0.1)
        async with asyncio.timeout(2):
            with pytest.raises(APITimeoutError):
                await ask(kimi)
        await kimi.aclose()


@pytest.mark.parametrize("again", KEEP_ALIVES, ids=repr)
async def test_keep_alives_in_the_middle_of_an_answer_do_not_hold_it_for_ever(again: bytes) -> None:
    async with talking(repeating(HEAD + events(chunk(content="Par")), again)) as url:
        kimi = Kimi(api_key="sk-x", base_url=url, max_retries=0, timeout=0.1)
        async with asyncio.timeout(2):
            stream = await ask(kimi)
            with pytest.raises(StreamInterruptedError) as caught:
                await end_of(stream)
        await kimi.aclose()
    assert caught.value.partial == Message.assistant("Par")


async def test_keep_alives_do_not_shorten_the_patience_with_a_slow_answer() -> None:
    async def talk(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for text in "abc":
            for _ in range(3):
                writer.write(b": keep-alive\n\n")
                await asyncio.sleep(0.02)
            writer.write(events(chunk(content=text)))
        writer.write(events(chunk("stop"), "[DONE]"))

    async with talking(talk) as url:
        kimi = Kimi(api_key="sk-x", base_url=url, max_retries=0, timeout=Timeouts(between_chunks=0.15))
        assert await answered(kimi) == "abc"
        await kimi.aclose()


@pytest.mark.parametrize(
    ("stream", "head", "again"),
    [
        (True, b"HTTP/1.1 200 OK\r\n", b"x-waiting: 1\r\n"),
        (True, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (False, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", b" "),
    ],
    ids=["headers", "early hints", "blanks before JSON"],
)
async def test_bytes_that_say_nothing_do_not_hold_the_beginning_of_an_answer_for_ever(
    monkeypatch: pytest.MonkeyPatch, stream: bool, head: bytes, again: bytes
) -> None:
    monkeypatch.setattr(http, "WHOLE_ANSWER", 0.1)
    async with talking(repeating(head, again)) as url:
        kimi = Kimi(api_key="sk-x", base_url=url, max_retries=0, timeout=0.1, stream=stream)
        try:
            async with asyncio.timeout(0.5):
                with pytest.raises(APITimeoutError):
                    await ask(kimi)
        finally:
            await kimi.aclose()


async def timeouts_of_a_request(**options: Any) -> dict[str, float | None]:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(httpx.Request("POST", request.url, extensions={"timeout": {**request.extensions["timeout"]}}))
        return httpx.Response(200, content=events(chunk("stop", content="x")))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond), timeout=1) as client:
        await answered(Kimi(api_key="sk-x", base_url="https://kimi.test/v1", http_client=client, **options))
    return {name: seen[0].extensions["timeout"][name] for name in ("connect", "read")}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"connect": 10.0, "read": 120.0}),
        ({"timeout": 0.2}, {"connect": 0.2, "read": 0.2}),
        ({"timeout": 7}, {"connect": 7, "read": 7}),
        ({"timeout": None}, {"connect": None, "read": None}),
        ({"timeout": Timeouts(first_byte=300)}, {"connect": 10.0, "read": 300}),
        ({"timeout": Timeouts(first_byte=None)}, {"connect": 10.0, "read": None}),
        ({"timeout": 7, "stream": False}, {"connect": 7, "read": 900.0}),
        ({"timeout": 1000, "stream": False}, {"connect": 1000, "read": 1000}),
        ({"timeout": None, "stream": False}, {"connect": None, "read": None}),
    ],
    ids=repr,
)
async def test_the_timeouts_of_a_request(options: dict[str, Any], expected: dict[str, float | None]) -> None:
    assert await timeouts_of_a_request(**options) == expected


async def test_one_number_is_the_patience_between_chunks_too() -> None:
    async with kimi_with([endless()], timeout=0.2, max_retries=0) as (kimi, _):
        stream = await ask(kimi)
        with pytest.raises(StreamInterruptedError, match="silent"):
            await end_of(stream)


async def test_for_ever_is_longer_than_a_keep_alive() -> None:
    gate = Gate(before=2)
    body = RawBody(b": x\n\n" * 3 + events(chunk("stop", content="Hi")), delivery=Delivery(cuts=[5, 10], gate=gate))
    async with kimi_with([body], timeout=None) as (kimi, _):
        task = asyncio.create_task(answered(kimi))
        await gate.reached()
        gate.open()
        assert await task == "Hi"


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["connect", "first_byte", "between_chunks"])
def test_a_timeout_is_above_zero(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Timeouts(**{name: seconds})
    with pytest.raises(ValueError, match="above 0"):
        Kimi(api_key="sk-x", timeout=seconds)


async def test_generate_retries_as_an_agent_does() -> None:
    async with kimi_with([BUSY, say("Hi")]) as (kimi, server):
        assert (await generate(kimi, "", [], [Message.user("Hello")])).message.text == "Hi"
        assert len(server.requests) == 2

"""A way on which things go wrong: each fault alone, all of them against an agent, and the same ones for a seed."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, get_args

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent import Agent, KimiAgentError, ai_function
from kimi_agent.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatProviderError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
)
from kimi_agent.generate import generate
from kimi_agent.history import problems
from kimi_agent.kimi import http
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.patience import Timeouts
from kimi_agent.message import Message
from kimi_agent.testing import (
    ChaosFault,
    ChaosTransport,
    KimiServer,
    Reply,
    ScriptedKimi,
    ScriptSource,
    call,
    chaos,
    say,
)

ALL: tuple[ChaosFault, ...] = get_args(ChaosFault)
BODY_FAULTS: tuple[ChaosFault, ...] = (
    "reset_inside",
    "stall",
    "truncate",
    "bit_flip",
    "duplicate_deltas",
    "reorder_deltas",
)
CALLS = Reply("Both.", "Hm", [call("add", a=1, b=2), call("add", a=3, b=4)], chunk_size=6)
QUESTION = Message.user("What is 1 + 2, and 3 + 4?")
CHAT = "https://kimi.test/v1/chat/completions"


@asynccontextmanager
async def chaotic(
    script: ScriptSource | None, *, silence: float = 5.0, max_retries: int = 0, **options: Any
) -> AsyncIterator[tuple[Kimi, ChaosTransport, KimiServer]]:
    """A client, the way, and a server. In the end neither a socket nor a task is left of them."""
    before = asyncio.all_tasks()
    async with KimiServer(script) as server:
        way = ChaosTransport(httpx.AsyncHTTPTransport(verify=False), **options)
        async with httpx.AsyncClient(transport=way) as client:
            yield kimi_over(client, server, silence, max_retries), way, server
        await asyncio.wait_for(server.until(lambda: server.connections == 0), 5)
    assert asyncio.all_tasks() - before == set()


def kimi_over(client: httpx.AsyncClient, server: KimiServer, silence: float, max_retries: int) -> Kimi:
    return Kimi(
        api_key=server.api_key,
        base_url=server.base_url,
        http_client=client,
        max_retries=max_retries,
        timeout=Timeouts(first_byte=silence, between_chunks=silence),
    )


async def outcome(kimi: Kimi) -> Message | ChatProviderError:
    try:
        return (await generate(kimi, "", [], [QUESTION])).message
    except ChatProviderError as error:
        return error


# ==== each fault alone ====

ERRORS: dict[ChaosFault, tuple[type[ChatProviderError], ...]] = {
    "status": (RateLimitError, ServerError),
    "status_retry_after": (RateLimitError, ServerError),
    "reset_before": (APIConnectionError,),
    "reset_inside": (APIConnectionError,),
    "stall": (APITimeoutError, StreamInterruptedError),
    "truncate": (APIConnectionError,),
    "bit_flip": (ChatProviderError,),
    "duplicate_deltas": (),
    "reorder_deltas": (),
}
"""How an answer may end, if it does not come."""


@pytest.mark.parametrize("fault", ALL)
async def test_a_fault_gives_an_error_of_the_tree_or_the_answer(fault: ChaosFault) -> None:
    rounds, silence = (4, 0.1) if fault == "stall" else (12, 5.0)
    async with chaotic([CALLS] * rounds, silence=silence, rate=1.0, faults=[fault], seed=1) as (kimi, way, _):
        for _ in range(rounds):
            result = await outcome(kimi)
            if isinstance(result, ChatProviderError):
                assert isinstance(result, ERRORS[fault]), repr(result)
            else:
                assert fault in ("bit_flip", "truncate") or (result.text, result.reasoning) == ("Both.", "Hm")
    assert way.requests == rounds
    assert way.injected == {fault: rounds} or fault in ("truncate", "bit_flip")
    assert set(way.injected) == {fault}


@pytest.mark.parametrize("fault", ["duplicate_deltas", "reorder_deltas"])
async def test_an_answer_without_calls_passes_unharmed_by_faults_of_calls(fault: ChaosFault) -> None:
    async with chaotic([say("Hi.")], rate=1.0, faults=[fault]) as (kimi, way, _):
        assert await outcome(kimi) == Message.assistant("Hi.")
    assert (way.requests, way.injected) == (1, {})


async def test_a_refusal_has_kimis_body_and_says_when_to_come_back_only_if_told_to() -> None:
    async with chaotic([], rate=1.0, faults=["status"]) as (kimi, _, server):
        errors = [await outcome(kimi) for _ in range(20)]
    assert server.requests == []
    statuses: set[int] = set()
    for error in errors:
        assert isinstance(error, APIStatusError)
        assert error.retry_after is None
        assert error.body["error"]["message"]
        statuses.add(error.status_code)
    assert statuses == {429, 500, 502, 503, 504}
    async with chaotic([], rate=1.0, faults=["status_retry_after"]) as (kimi, _, _):
        later = [await outcome(kimi) for _ in range(20)]
    assert {getattr(error, "status_code", None) for error in later} == {429, 503}
    assert all(getattr(error, "retry_after", 9.0) <= 0.05 for error in later)


async def test_a_client_that_asks_again_gets_through() -> None:
    harmless: list[ChaosFault] = ["status", "status_retry_after", "reset_before"]
    async with chaotic([say("Hi.")] * 20, rate=0.5, faults=harmless, max_retries=20) as (kimi, way, server):
        answers = [await outcome(kimi) for _ in range(20)]
        server.assert_complete()
    assert answers == [Message.assistant("Hi.")] * 20
    assert way.requests == 20 + way.injected.total()
    assert set(way.injected) == set(harmless)


async def test_reordered_and_doubled_deltas_are_those_of_the_answer() -> None:
    async def events(**options: Any) -> list[bytes]:
        async with chaotic([CALLS], **options) as (_, way, server):
            response = await post(way, server.base_url, {"Authorization": f"Bearer {server.api_key}"})
            return (await response.aread()).split(b"\n\n")

    plain = await events(rate=0)
    doubled = await events(rate=1.0, faults=["duplicate_deltas"])
    reordered = await events(rate=1.0, faults=["reorder_deltas"])
    of_calls = [event for event in plain if b'"tool_calls":[' in event]
    assert len(of_calls) > 4
    assert Counter(doubled) - Counter(plain) == Counter(of_calls)
    assert list(dict.fromkeys(doubled)) == list(dict.fromkeys(plain))
    assert Counter(reordered) == Counter(plain)
    assert reordered != plain
    changed = [event for event, was in zip(reordered, plain, strict=True) if event != was]
    assert set(changed) <= set(of_calls)


async def post(
    way: ChaosTransport,
    base_url: str = "https://kimi.test/v1",
    headers: dict[str, str] | None = None,
    **extensions: Any,
) -> httpx.Response:
    """What the transport itself answers a chat request."""
    question = {"role": "user", "content": "Hello."}
    body = {"model": "kimi-k3", "stream": True, "messages": [question]}
    request = httpx.Request(
        "POST", f"{base_url}/chat/completions", json=body, headers=headers, extensions={"timeout": extensions}
    )
    return await way.handle_async_request(request)


# ==== the same seed, the same faults ====


class Recorder(httpx.AsyncBaseTransport):
    """Answers with a long body in small pieces, and counts what is open."""

    def __init__(self, body: bytes = b"data: 0123456789\n\n" * 200, size: int = 100) -> None:
        self.pieces = [body[start : start + size] for start in range(0, len(body), size)]
        self.open = self.opened = 0
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.open += 1
        self.opened += 1
        return httpx.Response(200, stream=Pieces(self), headers={"Content-Length": "3600", "X-Trace-Id": "7"})

    async def aclose(self) -> None:
        self.closed = True


class Pieces(httpx.AsyncByteStream):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._recorder.pieces:
            await asyncio.sleep(0)
            yield piece

    async def aclose(self) -> None:
        """Closes once, and not at all if it is cancelled meanwhile, as httpx does."""
        if not self._closed:
            self._closed = True
            await asyncio.sleep(0)
            self._recorder.open -= 1


async def seen(way: ChaosTransport) -> tuple[object, ...]:
    """What a client sees of one request."""
    came = bytearray()
    try:
        response = await post(way, read=0.0)
        async for piece in response.aiter_raw():
            came += piece
    except httpx.HTTPError as error:
        return type(error), bytes(came)
    return response.status_code, response.headers.get("retry-after"), bytes(came)


async def campaign(seed: int, size: int, rate: float = 0.7) -> tuple[list[tuple[object, ...]], Counter[ChaosFault]]:
    way = ChaosTransport(Recorder(size=size), seed=seed, rate=rate)
    return [await seen(way) for _ in range(60)], way.injected


async def test_the_same_seed_gives_the_same_faults_at_the_same_places_however_the_bytes_come() -> None:
    first, again, other = await campaign(3, 100), await campaign(3, 17), await campaign(4, 100)
    assert first == again
    assert first != other
    assert sum(first[1].values()) > 20


async def test_what_befalls_a_request_does_not_depend_on_the_others() -> None:
    way = ChaosTransport(Recorder(), seed=3, rate=0.7)
    together = await asyncio.gather(*(seen(way) for _ in range(60)))
    assert together == (await campaign(3, 100))[0]


async def test_the_rate_is_the_share_of_requests_that_are_harmed() -> None:
    untouched, none = await campaign(0, 100, rate=0)
    assert set(untouched) == {(200, None, b"data: 0123456789\n\n" * 200)}
    assert none == {}
    _, some = await campaign(0, 100, rate=0.5)
    assert 10 < some.total() < 40


async def test_other_requests_pass_unharmed_and_uncounted() -> None:
    way = ChaosTransport(Recorder(), rate=1.0)
    async with httpx.AsyncClient(transport=way) as client:
        for method, url in [
            ("GET", CHAT),
            ("POST", "https://kimi.test/v1/files"),
            ("GET", "https://kimi.test/v1/models"),
        ]:
            assert (await client.request(method, url)).status_code == 200
    assert (way.requests, way.injected) == (0, {})


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_share_is_a_value_error(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate is a share from 0 to 1, not {rate}"):
        ChaosTransport(Recorder(), rate=rate)


@pytest.mark.parametrize(
    ("faults", "said"), [(["status", "flood"], "'flood'; there are status, "), ([], "faults is empty")]
)
def test_a_fault_that_there_is_not_is_a_value_error(faults: Collection[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ChaosTransport(Recorder(), faults=faults)


# ==== nothing is left behind ====


async def read_all(response: httpx.Response) -> None:
    with suppress(httpx.HTTPError):
        async for _ in response.aiter_raw():
            pass


async def read_all_and_close(response: httpx.Response) -> None:
    await read_all(response)
    await response.aclose()


async def close_unread(response: httpx.Response) -> None:
    await response.aclose()


async def close_after_a_piece(response: httpx.Response) -> None:
    pieces = response.aiter_raw()
    with suppress(httpx.HTTPError, StopAsyncIteration):
        await anext(pieces)
    await response.aclose()
    await pieces.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("consume", [read_all, read_all_and_close, close_unread, close_after_a_piece])
@pytest.mark.parametrize("fault", BODY_FAULTS)
async def test_the_answer_of_the_wrapped_transport_is_always_closed(
    fault: ChaosFault, consume: Callable[[httpx.Response], Awaitable[None]]
) -> None:
    recorder = Recorder()
    way = ChaosTransport(recorder, rate=1.0, faults=[fault])
    for _ in range(8):
        with suppress(httpx.ReadTimeout):
            response = await post(way, read=0.0)
            assert response.headers["x-trace-id"] == "7"
            assert "content-length" not in response.headers
            await consume(response)
            assert recorder.open == 0
    assert recorder.opened


@pytest.mark.parametrize("fault", BODY_FAULTS)
async def test_a_cancel_at_any_moment_closes_the_answer_of_the_wrapped_transport(fault: ChaosFault) -> None:
    recorder = Recorder()
    way = ChaosTransport(recorder, rate=1.0, faults=[fault])
    for turns in range(60):
        reading = asyncio.ensure_future(seen(way))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
        assert recorder.open == 0
    assert recorder.opened > 20


@pytest.mark.parametrize("before", [True, False])
async def test_a_stall_without_a_timeout_lasts_until_the_client_is_closed(before: bool) -> None:
    recorder = Recorder()
    way = ChaosTransport(recorder, rate=1.0, faults=["stall"])
    way.requests = next(n for n in range(100) if (not goes_out(n + 1)) is before)

    async def ask() -> None:
        response = await post(way)
        async for _ in response.aiter_raw():
            pass

    asking = asyncio.ensure_future(ask())
    while not way.injected:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not asking.done()
    await way.aclose()
    with pytest.raises(httpx.ReadError):
        await asking
    assert (recorder.open, recorder.opened, recorder.closed) == (0, not before, True)


def goes_out(number: int) -> bool:
    """Whether a request that stalls reaches the server: then it stalls inside the body."""
    dice = Random(f"0/{number}")
    dice.random()
    dice.choice(["stall"])
    return dice.random() >= 0.5


async def test_a_stall_that_is_cancelled_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LAST_READ", 0.01)
    async with chaotic(lambda body: say("Hi."), rate=1.0, faults=["stall"], silence=60) as (kimi, way, _):
        for number in range(1, 5):
            asking = asyncio.ensure_future(outcome(kimi))
            while way.injected.total() < number:
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking


async def test_entering_and_closing_reach_the_wrapped_transport() -> None:
    for close in (lambda way: way.aclose(), lambda way: way.__aexit__()):
        recorder = Recorder()
        way = ChaosTransport(recorder)
        assert await way.__aenter__() is way
        await close(way)
        assert recorder.closed
    async with httpx.AsyncClient(transport=ChaosTransport(recorder := Recorder())):
        assert not recorder.closed
    assert recorder.closed


# ==== bytes ====


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=5), st.integers(), st.sampled_from(BODY_FAULTS))
def test_what_is_done_to_bytes_does_not_depend_on_their_cuts(
    body: bytes, sizes: list[int], seed: int, fault: ChaosFault
) -> None:
    whole, cut = chaos.HARMS[fault](Random(seed)), chaos.HARMS[fault](Random(seed))
    pieces: list[bytes] = []
    rest = body
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    expected = whole.feed(body) + whole.close()
    came = b"".join(cut.feed(piece) for piece in [*pieces, rest]) + cut.close()
    assert came == expected
    assert cut.struck == whole.struck
    assert whole.struck == (expected != body) or fault in ("reset_inside", "stall")


# ==== an agent on this way ====


class Adder(Agent):
    @ai_function()
    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        await asyncio.sleep(0)
        return a + b


def model(body: dict[str, Any]) -> Reply:
    """Asks for two sums, then tells what they are."""
    last = body["messages"][-1]
    return CALLS if last["role"] == "user" else Reply(f"The sum is {last['content']}.", chunk_size=4)


async def test_whatever_happens_on_the_way_only_errors_of_the_tree_escape_and_the_history_can_be_sent() -> None:
    faults: Counter[ChaosFault] = Counter()
    ends: Counter[str] = Counter()
    async with KimiServer(model) as server:
        async with httpx.AsyncHTTPTransport(verify=False) as network:
            for seed in range(100):
                way = ChaosTransport(network, seed=seed, rate=0.6)
                agent = Adder(kimi_over(httpx.AsyncClient(transport=way), server, 0.02, max_retries=seed % 3))
                ends[await round_of(agent)] += 1
                faults += way.injected
                await check(agent)
        await asyncio.wait_for(server.until(lambda: server.connections == 0), 5)
    assert set(faults) == set(ALL)
    assert ends["answered"] > 20
    assert len(ends) > 3


async def round_of(agent: Agent) -> str:
    """How a round ends. Only errors of the tree are an end."""
    try:
        async for _ in agent.full_round("What is 1 + 2, and 3 + 4?"):
            pass
    except KimiAgentError as error:
        return type(error).__name__
    return "answered"


async def check(agent: Agent) -> None:
    """Its history can be sent, and it can go on."""
    assert problems(agent.chat_history) == []
    agent.provider = ScriptedKimi([say("still here")])
    assert await agent.chat_round_str("And now?") == "still here"


class Broken(httpx.AsyncByteStream):
    """A body that breaks when it is told to."""

    def __init__(self) -> None:
        self.breaks = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self.breaks.wait()
        raise httpx.ReadError("the connection was reset")
        yield b""


async def test_a_connection_that_breaks_after_a_cancel_is_nobodys_unhandled_error() -> None:
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context["message"]))
    body = Broken()
    response = http.HttpResponse(httpx.Response(200, stream=body, request=httpx.Request("POST", CHAT)))
    reading = asyncio.ensure_future(response.read_near_end())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    body.breaks.set()
    await response.aclose()
    del reading, response
    gc.collect()
    assert unhandled == []

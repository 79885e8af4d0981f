"""`ChaosTransport`: a way to Kimi on which things go wrong, the same ones in each run.

What happens to a chat request, and where, depends on the seed and on its number alone: each number has dice of its own.
The only file of the doubles that needs httpx.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from random import Random
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Protocol, Self, TypeAlias, cast, get_args

import httpx

from .chunks import to_json
from .language import failure

__all__ = ["ChaosFault", "ChaosTransport"]

ChaosFault: TypeAlias = Literal[
    "status",
    "status_retry_after",
    "reset_before",
    "reset_inside",
    "stall",
    "truncate",
    "bit_flip",
    "duplicate_deltas",
    "reorder_deltas",
]
"""What can go wrong with a request."""

FAULTS: Final[tuple[ChaosFault, ...]] = get_args(ChaosFault)

STATUSES: Final = (429, 500, 502, 503, 504)
BUSY: Final = (429, 503)
"""Those that come with a `Retry-After`."""
SECONDS: Final = ("0", "0.01", "0.05")
"""What it says."""
BEFORE: Final = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)
INSIDE: Final = (httpx.ReadError, httpx.RemoteProtocolError)
REACH: Final = 2048
"""Bytes of a body within which a fault strikes, more often near the beginning."""
FLIPS: Final = 3
"""Bits that change in a body."""


class ChaosTransport(httpx.AsyncBaseTransport):
    """Wraps a transport of httpx and harms some of the chat requests. All others pass unharmed.

        Kimi(http_client=httpx.AsyncClient(transport=ChaosTransport(seed=7)))

    A request that is refused, reset or left in silence before an answer does not reach the server. A fault inside a
    body strikes at one of its first bytes: a body that is too short for it stays as it is, and so do reordered and
    duplicated deltas where there are no calls.

    | fault | what the client sees |
    |---|---|
    | `status` | 429, 500, 502, 503 or 504 with Kimi's error body |
    | `status_retry_after` | 429 or 503 with a `Retry-After` of next to nothing |
    | `reset_before` | the connection breaks before an answer |
    | `reset_inside` | the connection breaks after some bytes of the body |
    | `stall` | silence before or inside the body, for as long as the request's read timeout allows |
    | `truncate` | a body that ends early as if it were whole |
    | `bit_flip` | some wrong bits in the body |
    | `duplicate_deltas` | the events with deltas of calls, each of them twice; the body comes in one piece |
    | `reorder_deltas` | these events in another order; the body comes in one piece |

    Args:
        transport: what is wrapped; one of httpx's own unless given. It is closed with this one.
        seed: the same one gives the same faults.
        rate: the share of the chat requests that get a fault, from 0 to 1.
        faults: those that may happen, all alike often.

    Raises:
        ValueError: a rate that is no share, or a fault that there is not.
    """

    requests: int
    """How many chat requests there were."""
    injected: Counter[ChaosFault]
    """How often each fault has struck."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        seed: int = 0,
        rate: float = 0.5,
        faults: Collection[ChaosFault] = FAULTS,
    ) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is a share from 0 to 1, not {rate!r}")
        if unknown := [fault for fault in faults if fault not in FAULTS]:
            raise ValueError(f"there is no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
        if not faults:
            raise ValueError("faults is empty; use rate=0 for none")
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._seed = seed
        self._rate = rate
        self._faults: list[ChaosFault] = [fault for fault in FAULTS if fault in faults]
        self._silences: set[asyncio.Event] = set()
        self.requests = 0
        self.injected = Counter()

    # ---- its life ----

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._end_silences()
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the wrapped transport. What waits in silence fails."""
        self._end_silences()
        await self._transport.aclose()

    def _end_silences(self) -> None:
        for ended in self._silences:
            ended.set()

    # ---- requests ----

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, or harm it."""
        if not _is_chat(request):
            return await self._transport.handle_async_request(request)
        self.requests += 1
        dice = Random(f"{self._seed}/{self.requests}")
        if dice.random() >= self._rate:
            return await self._transport.handle_async_request(request)
        fault = dice.choice(self._faults)
        if (answer := await self._before(fault, request, dice)) is not None:
            return answer
        return self._inside(fault, request, await self._transport.handle_async_request(request), dice)

    async def _before(self, fault: ChaosFault, request: httpx.Request, dice: Random) -> httpx.Response | None:
        """What a fault makes of a request that is not sent; `None` when it is for the answer."""
        match fault:
            case "status":
                self.injected[fault] += 1
                return _refusal(dice.choice(STATUSES), {})
            case "status_retry_after":
                self.injected[fault] += 1
                return _refusal(dice.choice(BUSY), {"Retry-After": dice.choice(SECONDS)})
            case "reset_before":
                self.injected[fault] += 1
                raise dice.choice(BEFORE)("the connection was reset", request=request)
            case "stall" if dice.random() < 0.5:
                self.injected[fault] += 1
                await self._silence(request, asyncio.Event())
            case _:
                pass
        return None

    def _inside(
        self, fault: ChaosFault, request: httpx.Request, response: httpx.Response, dice: Random
    ) -> httpx.Response:
        """The answer with the fault in its body."""

        async def goes_on(ended: asyncio.Event) -> None:
            match fault:
                case "reset_inside":
                    raise dice.choice(INSIDE)("the connection was reset", request=request)
                case "stall":
                    await self._silence(request, ended)
                case _:
                    pass

        def struck() -> None:
            self.injected[fault] += 1

        headers = response.headers.copy()
        headers.pop("content-length", None)
        body = _Body(response, HARMS[fault](dice), goes_on, struck)
        return httpx.Response(response.status_code, headers=headers, stream=body, extensions=response.extensions)

    async def _silence(self, request: httpx.Request, ended: asyncio.Event) -> NoReturn:
        """Nothing, for as long as the request waits for a byte."""
        self._silences.add(ended)
        try:
            async with asyncio.timeout(_read_timeout(request)):
                await ended.wait()
        except TimeoutError:
            raise httpx.ReadTimeout("nothing came in time", request=request) from None
        finally:
            self._silences.discard(ended)
        raise httpx.ReadError("the connection was closed", request=request)


def _is_chat(request: httpx.Request) -> bool:
    return request.method == "POST" and request.url.path.endswith("/chat/completions")


def _refusal(status: int, headers: Mapping[str, str]) -> httpx.Response:
    body = to_json(failure(status).body)
    return httpx.Response(
        status, headers={"Content-Type": "application/json", **headers}, stream=httpx.ByteStream(body)
    )


def _read_timeout(request: httpx.Request) -> float | None:
    """In seconds. It is looked up late, as httpx does: it may change once an answer has begun."""
    timeouts = cast(Mapping[str, Any], request.extensions.get("timeout") or {})
    return timeouts.get("read")


class _Body(httpx.AsyncByteStream):
    """The body of an answer with a harm done to it. However it ends, the answer is closed."""

    def __init__(
        self,
        response: httpx.Response,
        harm: Harm,
        goes_on: Callable[[asyncio.Event], Awaitable[None]],
        struck: Callable[[], None],
    ) -> None:
        self._response = response
        self._harm = harm
        self._goes_on = goes_on
        self._struck = struck
        self._closed = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        source = aiter(cast(httpx.AsyncByteStream, self._response.stream))
        try:
            async for data in source:
                if piece := self._told(self._harm.feed(data)):
                    yield piece
                if self._harm.over:
                    break
            if piece := self._told(self._harm.close()):
                yield piece
            await self._goes_on(self._closed)
        finally:
            try:
                await self.aclose()
            finally:
                if isinstance(source, AsyncGenerator):
                    await source.aclose()

    def _told(self, piece: bytes) -> bytes:
        """The piece, once it is told that a harm was done."""
        if self._harm.struck:
            struck, self._struck = self._struck, _nothing
            struck()
        return piece

    async def aclose(self) -> None:
        """Let go of the answer, in a task of its own: httpx cannot go on with a close that was cancelled half-way."""
        self._closed.set()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._response.aclose())
        await asyncio.shield(self._closing)


def _nothing() -> None:
    pass


# ==== what is done to the bytes ====


class Harm(Protocol):
    """Takes the bytes of a body, and gives what is left of them."""

    @property
    def struck(self) -> bool:
        """Whether the bytes are no longer what they were."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing more of the body is wanted."""
        ...

    def feed(self, data: bytes) -> bytes:
        """What comes of more bytes."""
        ...

    def close(self) -> bytes:
        """What comes at the end of the body."""
        ...


class Cut:
    """Ends a body early.

    Args:
        dice: say where.
        always: a body that is shorter counts as cut at its end.
    """

    def __init__(self, dice: Random, *, always: bool = False) -> None:
        self._left = _place(dice)
        self._always = always
        self.struck = self.over = False

    def feed(self, data: bytes) -> bytes:
        """The bytes before the cut."""
        kept = data[: self._left]
        self._left -= len(kept)
        self.struck = self.over = self.over or len(kept) < len(data)
        return kept

    def close(self) -> bytes:
        """Nothing."""
        self.struck = self.struck or self._always
        return b""


class Flips:
    """Flips bits."""

    over = False

    def __init__(self, dice: Random) -> None:
        self._bits = {_place(dice): 1 << dice.randrange(8) for _ in range(FLIPS)}
        self._passed = 0
        self.struck = False

    def feed(self, data: bytes) -> bytes:
        """The bytes with those bits flipped that lie in them."""
        flipped = bytearray(data)
        for place, bit in self._bits.items():
            if 0 <= place - self._passed < len(data):
                flipped[place - self._passed] ^= bit
                self.struck = True
        self._passed += len(data)
        return bytes(flipped)

    def close(self) -> bytes:
        """Nothing."""
        return b""


EVENT: Final = re.compile(rb".+?(?:\r?\n\r?\n|\Z)", re.DOTALL)
OF_CALLS: Final = re.compile(rb'data:.*"tool_calls"\s*:\s*\[', re.DOTALL)


class Rewritten:
    """Keeps the whole body, and puts other events in the place of those that have deltas of calls."""

    over = False

    def __init__(self, rewrite: Callable[[list[bytes]], list[bytes]]) -> None:
        self._rewrite = rewrite
        self._body = bytearray()
        self.struck = False

    def feed(self, data: bytes) -> bytes:
        """Nothing yet."""
        self._body += data
        return b""

    def close(self) -> bytes:
        """The other body."""
        events: list[bytes] = EVENT.findall(bytes(self._body))
        places = [number for number, event in enumerate(events) if OF_CALLS.match(event)]
        for number, event in zip(places, self._rewrite([events[number] for number in places]), strict=True):
            events[number] = event
        written = b"".join(events)
        self.struck = written != bytes(self._body)
        return written


def _twice(events: list[bytes]) -> list[bytes]:
    return [event * 2 for event in events]


def _shuffled(events: list[bytes], dice: Random) -> list[bytes]:
    """The events in another order."""
    shuffled = dice.sample(events, len(events))
    return shuffled if shuffled != events else events[::-1]


def _place(dice: Random) -> int:
    """Somewhere within reach; as often between 1 and 2 bytes as between 1024 and 2048."""
    return int(REACH ** dice.random())


HARMS: Final[Mapping[ChaosFault, Callable[[Random], Harm]]] = {
    "reset_inside": lambda dice: Cut(dice, always=True),
    "stall": lambda dice: Cut(dice, always=True),
    "truncate": Cut,
    "bit_flip": Flips,
    "duplicate_deltas": lambda dice: Rewritten(_twice),
    "reorder_deltas": lambda dice: Rewritten(lambda events: _shuffled(events, dice)),
}

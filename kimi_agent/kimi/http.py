"""HTTP to Kimi: connections, timeouts, the one retry layer, and every way to fail as an error of the tree.

The only file that imports httpx, but for a double of the network. A pool of connections belongs to the event loop that
uses it, so one client serves several `asyncio.run` in a row. The key is put into a header here and nowhere else.

Which errors are retried is a column of the table in `status.py`; how often and after how long stands in `patience.py`.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from time import monotonic
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import httpx
from loguru import logger

from ..errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatProviderError,
    RateLimitError,
    StreamProtocolError,
)
from ..events import RequestRetried, tell
from ..provider import OnEvent
from .patience import RETRIES, TIMEOUTS, Retries, Timeouts, hint_of
from .status import is_retryable, status_error, without_login

__all__ = ["HttpResponse", "HttpTransport", "direct_client"]

T = TypeVar("T")

WRITE_TIMEOUT: Final = 60.0
"""Seconds that the network may take no bytes of a request."""
WHOLE_ANSWER: Final = 900.0
"""Seconds after which Kimi's gateway gives up an answer that is not streamed."""
LAST_READ: Final = 0.5
"""Seconds that a body which is about to end gets to do so before its connection is closed."""
ERROR_SIZE: Final = 65_536
"""Bytes of an error's body that are read."""
ERROR_TIME: Final = 10.0
"""Seconds that an error's body may take."""
LARGEST_DOWNLOAD: Final = 128 * 1024 * 1024
"""Bytes. Kimi keeps no file above 100 MB."""


def _retried(attempt: int, delay: float, error: ChatProviderError) -> RequestRetried:
    status = error.status_code if isinstance(error, APIStatusError) else None
    return RequestRetried(attempt, delay, type(error).__name__, str(error), status)


class HttpTransport:
    """Sends requests with the key. Shared by all copies of a client, which count who is using it.

    Args:
        base_url: such as `https://api.moonshot.ai/v1`.
        api_key: goes into the `Authorization` header.
        http_client: used for all requests and never closed; `None` for a pool of our own.
        timeouts: how long to wait for an answer.
        retries: how often to ask again.
        max_concurrency: how many chat requests may be under way at a time, from the sending to the end of the answer;
            `None` for any number. Who waits longest is next.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        http_client: httpx.AsyncClient | None = None,
        *,
        timeouts: Timeouts = TIMEOUTS,
        retries: Retries = RETRIES,
        max_concurrency: int | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeouts = timeouts
        self._retries = retries
        # httpx.Headers masks the key in its repr, which log tools with variables in their tracebacks print
        self._headers = httpx.Headers({"Authorization": f"Bearer {api_key}"})
        self._given = http_client
        self._max_concurrency = max_concurrency
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        self._users = 0
        self._closed_until = 0.0
        """Before this moment of the monotonic clock nothing is sent: a server said so."""
        self._closed_by: RequestRetried | None = None
        """What it said, for those that have sent nothing yet."""

    # ---- its life ----

    def enter(self) -> None:
        """One more is using it."""
        self._users += 1

    async def leave(self) -> None:
        """One less; the last one closes the pool."""
        self._users -= 1
        if self._users <= 0:
            self._users = 0
            await self.aclose()

    async def aclose(self) -> None:
        """Close the pool of this event loop. Used afterwards, it opens again."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            await pool.aclose()

    # ---- the retry layer ----

    async def retried(
        self,
        attempt: Callable[[Place], Awaitable[T]],
        on_event: OnEvent | None = None,
        *,
        concurrent: bool = True,
        may_repeat: Callable[[ChatProviderError], bool] = lambda error: True,
    ) -> T:
        """What `attempt` gives, which is made again while that can help. No other place repeats a request.

        A hint of the server holds for all that use this client: parallel requests wait together.

        Args:
            attempt: sends a request, up to the first piece of its answer. It gets a place among the concurrent ones,
                which the answer gives up when it ends.
            on_event: gets a `RequestRetried` before each wait, and is awaited if it is async. Its attempt is 0 where
                the first one waits for what a server said to another request.
            concurrent: whether it needs such a place.
            may_repeat: whether the request may be sent twice after such an error.

        Raises:
            ChatProviderError: how the last attempt failed.
        """
        started = 0.0
        failure: ChatProviderError | None = None
        for number in count(1):
            place = await self._pool().place() if concurrent else Place()
            try:
                if failure is not None and self._is_too_late(started):
                    raise failure
                if failure is None:
                    await self._tell_of_wait(on_event)
                await self._until_open()
                started = started or monotonic()
                return await attempt(place)
            except ChatProviderError as error:
                place.give_up()
                if error is failure:
                    raise
                self._heed(error)
                delay = self._retries.delay_after(error, number, monotonic() - started)
                if delay is None or not may_repeat(error):
                    raise
                failure = error
            except BaseException:
                place.give_up()
                raise
            logger.debug("attempt {} failed: {}; the next one in {:.1f} s", number, failure, delay)
            if on_event is not None:
                await tell(on_event, _retried(number, delay, failure))
            await asyncio.sleep(delay)
        raise AssertionError

    def _is_too_late(self, started: float) -> bool:
        """Whether another attempt would begin after the time for attempts, which others may have used up."""
        return max(monotonic(), self._closed_until) - started > self._retries.total_time

    def _heed(self, error: ChatProviderError) -> None:
        """Let all that use this client wait as long as the server says, unless they never wait."""
        hint = hint_of(error)
        if hint is not None and self._retries.most and is_retryable(error):
            self._closed_until = max(self._closed_until, monotonic() + hint)
            self._closed_by = _retried(0, hint, error)

    async def _tell_of_wait(self, on_event: OnEvent | None) -> None:
        left = self._closed_until - monotonic()
        if on_event is not None and self._closed_by is not None and left > 0:
            await tell(on_event, replace(self._closed_by, delay=left))

    async def _until_open(self) -> None:
        while (left := self._closed_until - monotonic()) > 0:  # noqa: ASYNC110 - a moment is waited for, which may move
            await asyncio.sleep(left)

    # ---- requests ----

    async def post(self, path: str, body: bytes, *, place: Place | None = None, streamed: bool = True) -> HttpResponse:
        """Send a chat request, once, and wait for the answer to begin.

        Raises:
            APIStatusError: it is an error.
            APITimeoutError: it does not begin in time.
            APIConnectionError: the server cannot be reached.
        """
        return HttpResponse(await self._send("POST", path, whole_answer=not streamed, **_json(body)), place)

    async def fetch(
        self, method: str, path: str, *, body: bytes | None = None, repeatable: bool = True, **options: Any
    ) -> bytes:
        """The whole answer to a request that is no chat, retried.

        Args:
            method: of HTTP.
            path: behind the base URL.
            body: JSON.
            repeatable: whether it does no harm to do it twice, where it is unknown if it was done once.
            options: for `httpx.AsyncClient.build_request`.

        Raises:
            ChatProviderError: it failed.
        """
        content = _json(body) if body is not None else {}

        async def attempt(_: Place) -> bytes:
            response = HttpResponse(await self._send(method, path, **content, **options))
            try:
                return await _in_own_task(_whole(response, path), stops=True)
            finally:
                await response.aclose()

        def may_repeat(error: ChatProviderError) -> bool:
            return repeatable or isinstance(error, RateLimitError)

        return await self.retried(attempt, concurrent=False, may_repeat=may_repeat)

    async def _send(self, method: str, path: str, *, whole_answer: bool = False, **options: Any) -> httpx.Response:
        client = self._client()
        timeouts = self.timeouts
        first_byte = timeouts.first_byte
        if whole_answer and first_byte is not None:
            first_byte = max(first_byte, WHOLE_ANSWER)
        limits = httpx.Timeout(connect=timeouts.connect, read=first_byte, write=WRITE_TIMEOUT, pool=first_byte)
        headers = self._headers.copy()  # not a dict: this one masks the key in its repr, too
        headers.update(options.pop("headers", {}))
        try:
            request = client.build_request(
                method, _url(self.base_url + path), headers=headers, timeout=limits, **options
            )
            response = await _Sending(client, request, first_byte).head()
        except Exception as error:  # base URLs can be wrong in ways of which httpx has no error
            raise self._error_from(error) from error
        if response.status_code != 200:
            raise await _in_own_task(self._refusal(response), stops=True)
        response.request.extensions["timeout"]["read"] = timeouts.between_chunks  # httpx looks when the body begins
        return response

    def _client(self) -> httpx.AsyncClient:
        if self._given is None:
            return self._pool().client
        if self._given.is_closed:
            raise ChatProviderError("the http_client that was given is closed")
        return self._given

    def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for ended in [other for other in self._pools if other.is_closed()]:
                del self._pools[ended]  # a pool holds its loop, so the weak key alone frees neither
            pool = self._pools[loop] = _Pool(self._max_concurrency)
        return pool

    async def _refusal(self, response: httpx.Response) -> ChatProviderError:
        try:
            body = await _beginning(response)
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            return self._error_from(error)
        finally:
            await response.aclose()
        headers = {name: self.without_key(value.encode()).decode() for name, value in response.headers.items()}
        return status_error(response.status_code, self.without_key(body), headers)

    def without_key(self, data: bytes) -> bytes:
        """Some hosts repeat the key that they refuse, as it is or as JSON may escape it."""
        key = self._headers["Authorization"].removeprefix("Bearer ").encode()
        return re.sub(rb"(?<!\\)" + b"".join(map(_escaped, key)), b"(the API key)", data)

    def _error_from(self, error: Exception) -> ChatProviderError:
        if isinstance(error, httpx.TimeoutException | TimeoutError):
            return APITimeoutError(f"no answer from {without_login(self.base_url)} in time ({_described(error)})")
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return APIConnectionError(f"{without_login(self.base_url)!r} is no base URL: {error}")
        return APIConnectionError(f"no connection to {without_login(self.base_url)}: {_described(error)}")


def _escaped(byte: int) -> bytes:
    """A pattern of a character as it is, behind backslashes, or by its number."""
    return rb"\\*(?:%b|(?<=\\)u(?i:%04x))" % (re.escape(bytes([byte])), byte)


class _Pool:
    """The connections of one event loop, and the places of its concurrent requests."""

    def __init__(self, max_concurrency: int | None) -> None:
        self._slots = None if max_concurrency is None else asyncio.Semaphore(max_concurrency)
        self._client: httpx.AsyncClient | None = None

    async def place(self) -> Place:
        """Wait for a place. Who waits longest is next."""
        if self._slots is None:
            return Place()
        await self._slots.acquire()
        return Place(self._slots.release)

    @property
    def client(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = _new_client()
        return self._client

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class Place:
    """A request's place among the concurrent ones. It is given up once."""

    def __init__(self, release: Callable[[], None] | None = None) -> None:
        self._release = release
        self._loop = asyncio.get_running_loop()

    def give_up(self) -> None:
        """Let the next one in."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __del__(self) -> None:
        """Whoever forgets an answer must not keep its place for ever. This may run in any thread."""
        if self._release is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._release)


_url: Final = functools.lru_cache(maxsize=64)(httpx.URL)
"""Parsing a URL takes as long as the rest of a request; one client asks few of them."""


def _json(body: bytes) -> dict[str, Any]:
    return {"content": body, "headers": {"Content-Type": "application/json"}}


async def _whole(response: HttpResponse, path: str) -> bytes:
    body = bytearray()
    while (data := await response.read()) is not None:
        body += data
        if len(body) > LARGEST_DOWNLOAD:
            raise StreamProtocolError(f"the answer of {path} is larger than {LARGEST_DOWNLOAD:,} bytes")
    return bytes(body)


class HttpResponse:
    """An answer with status 200 whose body is still to be read."""

    def __init__(self, response: httpx.Response, place: Place | None = None) -> None:
        self._response = response
        self._place = place or Place()
        decoded = "content-encoding" in response.headers or response.is_stream_consumed  # the latter by a mock
        self._body: AsyncIterator[bytes] = response.aiter_bytes() if decoded else response.aiter_raw()
        self._ended = False
        self._last_read: asyncio.Task[bytes | None] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case."""
        return self._response.headers

    async def read(self) -> bytes | None:
        """The next bytes as the network gives them; `None` at the end.

        Raises:
            APITimeoutError: nothing came for too long.
            APIConnectionError: the connection broke.
        """
        try:
            data = await anext(self._body, None)
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            self._place.give_up()
            if isinstance(error, httpx.TimeoutException):
                raise APITimeoutError(f"the server was silent for too long ({_described(error)})") from error
            raise APIConnectionError(f"the connection broke: {_described(error)}") from error
        if data is None:
            self._ended = True
            self._place.give_up()
        return data

    async def aclose(self) -> None:
        """Let go of the connection. Unread bytes are lost."""
        self._place.give_up()
        if not (self._ended and self._response.is_closed):
            await _in_own_task(self._let_go())

    async def read_near_end(self) -> bytes | None:
        """Like `read`, for when the body may be about to end: a cancel ends the wait and not the read.

        At the end of a body httpx gives its connection back, and a cancel in the middle of that loses the connection.
        """
        if self._last_read is None or self._last_read.done():
            self._last_read = asyncio.get_running_loop().create_task(self.read())
            self._last_read.add_done_callback(_forget)
        return await asyncio.shield(self._last_read)

    async def _let_go(self) -> None:
        if self._last_read is not None and not self._last_read.done():
            await asyncio.wait([self._last_read], timeout=LAST_READ)
            self._last_read.cancel()
        await self._response.aclose()
        stream = self._response.extensions.get("network_stream")
        if not self._ended and stream is not None and self._response.http_version.startswith("HTTP/1"):
            await stream.aclose()  # a close that was cancelled twice has left the socket open


async def _beginning(response: httpx.Response) -> bytes:
    """As much of an error's body as tells the error; a server may send it for ever."""
    body = bytearray()
    with suppress(TimeoutError):
        async with asyncio.timeout(ERROR_TIME):
            async for data in response.aiter_bytes():
                body += data
                if len(body) > ERROR_SIZE:
                    break
    return bytes(body[:ERROR_SIZE])


class _Sending:
    """A request on its way out, and the wait for the head of its answer.

    The time for the head begins when the request is sent, however long that takes. httpx's own limit is for a silent
    server: one that sends its head byte by byte, or `103` for ever, is not silent.

    Whoever is cancelled, once or twice, interrupts httpx once: it is sent in a task of its own. httpx cleans up after
    that, but for a connection that was just opened and has no request yet, and an answer that came at that moment.
    """

    def __init__(self, client: httpx.AsyncClient, request: httpx.Request, first_byte: float | None) -> None:
        self._client = client
        self._request = request
        self._first_byte = first_byte
        self._limit = asyncio.timeout(None)
        self._waits = False
        self._opened: Any = None
        """The network stream of a new connection, until the request goes out on it."""

    async def head(self) -> httpx.Response:
        """The answer, whose body is still to come.

        Raises:
            TimeoutError: it did not begin in time.
            httpx.HTTPError: it did not begin.
        """
        self._request.extensions["trace"] = self._traced
        async with self._limit:
            self._waits = True
            try:
                return await self._sent()
            finally:
                self._waits = False  # httpx may still be at it

    async def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._opened = info.get("return_value")
        elif event.endswith("send_request_headers.started"):
            self._opened = None
        elif event.endswith("send_request_body.complete") and self._waits and self._first_byte is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._first_byte)

    async def _sent(self) -> httpx.Response:
        request = self._client.send(self._request, stream=True, follow_redirects=False)  # whoever's client it is
        sending = asyncio.get_running_loop().create_task(request)
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            _closing.add(sending)
            sending.add_done_callback(self._clean_up)
            sending.cancel()
            raise

    def _clean_up(self, sending: asyncio.Task[httpx.Response]) -> None:
        _closing.discard(sending)
        came = not sending.cancelled() and sending.exception() is None
        unwanted = sending.result() if came else self._opened
        if unwanted is not None:
            closing = sending.get_loop().create_task(unwanted.aclose())
            _closing.add(closing)
            closing.add_done_callback(_forget)


_closing: Final[set[asyncio.Task[Any]]] = set()
"""What is being closed: an event loop holds its tasks weakly."""


async def _in_own_task(work: Coroutine[Any, Any, T], *, stops: bool = False) -> T:
    """Do it in a task of its own: httpx cannot go on with a close, or the end of a read, that was cancelled half-way.

    Args:
        work: goes on when whoever waits for it is cancelled.
        stops: whether it is cancelled itself, a moment later.
    """
    loop = asyncio.get_running_loop()
    working = loop.create_task(work)
    _closing.add(working)
    working.add_done_callback(_forget)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        if stops:
            loop.call_later(LAST_READ, working.cancel)
        raise


def _forget(working: asyncio.Task[Any]) -> None:
    _closing.discard(working)
    if not working.cancelled():
        working.exception()  # nobody may be waiting for it any more


def _new_client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    try:
        return httpx.AsyncClient(limits=limits, verify=_certificates())
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:  # a strange proxy, no such certificates
        raise ChatProviderError(f"the environment has unusable network settings: {error}") from error


def direct_client() -> httpx.AsyncClient:
    """A client for a server on this machine, past the proxies of the environment. You close it."""
    return httpx.AsyncClient(trust_env=False, verify=False)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Reading the certificates takes tens of milliseconds; every pool shares one reading."""
    return httpx.create_ssl_context()


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

"""HTTP to Kimi: connections, timeouts, and every way in which they fail as an error of the tree.

The only file that imports httpx. A pool of connections belongs to the event loop that uses it, so one client serves
several `asyncio.run` in a row. The key is put into a header here and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite, nan
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import httpx
from pydantic_core import from_json

from ..errors import (
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

__all__ = ["HttpResponse", "HttpTransport", "error_in", "status_error"]

TIMEOUT: Final = httpx.Timeout(connect=10, read=120, write=60, pool=None)
"""Seconds. `read` is the longest silence between two reads: a model that thinks hard may pause for a minute."""

LAST_READ: Final = 0.5
"""Seconds that a body which is about to end gets to do so before its connection is closed."""
ERROR_SIZE: Final = 65_536
"""Bytes of an error's body that are read."""
ERROR_TIME: Final = 10.0
"""Seconds that an error's body may take."""

# ==== answers that are errors ====

BY_TYPE: Final[dict[str, tuple[type[APIStatusError], int]]] = {
    "content_filter": (ContentFilterError, 400),
    "invalid_request_error": (BadRequestError, 400),
    "invalid_authentication_error": (AuthenticationError, 401),
    "incorrect_api_key_error": (AuthenticationError, 401),
    "permission_denied_error": (PermissionDeniedError, 403),
    "resource_not_found_error": (NotFoundError, 404),
    "engine_overloaded_error": (RateLimitError, 429),
    "rate_limit_reached_error": (RateLimitError, 429),
    "exceeded_current_quota_error": (QuotaExceededError, 429),
    "server_error": (ServerError, 500),
    "unexpected_output": (ServerError, 500),
    "server_unavailable": (ServerError, 503),
}
"""`error.type` to the error, and to the status that Kimi answers it with."""

BY_STATUS: Final[dict[int, type[APIStatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: RequestTooLargeError,
    422: BadRequestError,
    429: RateLimitError,
}

VAGUE: Final = "invalid_request_error"
"""The type that gateways give to every refusal, whatever its status: the status says more."""

TOO_LONG: Final = ("exceeded model token limit", "input token length too long")
OUT_OF_MONEY: Final = ("account balance", "insufficient balance", "recharge", "exceeded your current token quota")
"""How a 429 speaks of billing when a gateway has dropped its type. A bare "quota" also stands in throttling texts."""

OTHER_PLATFORM: Final = (
    "Keys of api.moonshot.ai and api.moonshot.cn are separate: check that the key belongs to the base URL."
)


def status_error(status_code: int, body: bytes, headers: Mapping[str, str]) -> APIStatusError:
    """The error that an answer with this status is."""
    decoded = _decoded(body)
    error = error_in(decoded, status_code, headers)
    if error is not None:
        return error
    return _made(status_code, _readable(body, status_code), {}, decoded, headers)


def error_in(decoded: Any, status_code: int | None = None, headers: Mapping[str, str] | None = None) -> Any:
    """The error that a decoded body or chunk tells of; `None` when it tells of none.

    Without a status, as inside a stream, it is the one that Kimi gives this type of error elsewhere.
    """
    error = cast("dict[str, Any]", decoded).get("error") if isinstance(decoded, dict) else None
    if not error:
        return None
    fields: dict[str, Any] = cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": str(error)}
    if status_code is None:
        status_code = BY_TYPE.get(str(fields.get("type")), (ServerError, 500))[1]
    return _made(status_code, str(fields.get("message") or "no message"), fields, decoded, headers or {})


def _made(
    status_code: int, message: str, fields: dict[str, Any], body: Any, headers: Mapping[str, str]
) -> APIStatusError:
    error_type = _text(fields.get("type"))
    kind = _error_class(status_code, error_type, message.lower())
    if kind is AuthenticationError:
        message = f"{message}. {OTHER_PLATFORM}"
    return kind(
        status_code,
        message,
        type=error_type,
        code=_text(fields.get("code")),
        body=body,
        request_id=headers.get("msh-request-id") or headers.get("x-request-id"),
        trace_id=headers.get("x-trace-id"),
        retry_after=retry_after(headers),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _error_class(status_code: int, kind: str | None, message: str) -> type[APIStatusError]:
    if kind in BY_TYPE and kind != VAGUE:
        return BY_TYPE[kind][0]
    found = BY_STATUS.get(status_code, ServerError if status_code >= 500 else APIStatusError)
    if found is BadRequestError and any(words in message for words in TOO_LONG):
        return ContextLengthError
    if found is RateLimitError and any(words in message for words in OUT_OF_MONEY):
        return QuotaExceededError
    return found


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the `Retry-After` header, which has seconds or a date."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return max(seconds, 0.0) if isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    """Not a number when it is no date."""
    try:
        until = parsedate_to_datetime(date)
        return (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return nan


def _decoded(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return body.decode(errors="replace")


def _readable(body: bytes, status_code: int) -> str:
    text = " ".join(body.decode(errors="replace").split())
    if not text:
        return f"the server answered {status_code} without a word"
    if text.startswith("<"):
        return f"the server answered {status_code} with HTML: {text[:200]}"
    return text[:500]


# ==== requests ====


class HttpTransport:
    """Sends requests with the key. Shared by all copies of a client, which count who is using it.

    Args:
        base_url: such as `https://api.moonshot.ai/v1`.
        api_key: goes into the `Authorization` header.
        http_client: used as it is and never closed; `None` for a pool of our own.
    """

    def __init__(self, base_url: str, api_key: str, http_client: httpx.AsyncClient | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        # httpx.Headers masks the key in its repr, which log tools with variables in their tracebacks print
        self._headers = httpx.Headers({"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"})
        self._given = http_client
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._users = 0

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
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()

    async def post(self, path: str, body: bytes) -> HttpResponse:
        """Send `body` and wait for the answer to begin.

        Raises:
            APIStatusError: it is an error.
            APITimeoutError: it does not begin in time.
            APIConnectionError: the server cannot be reached.
        """
        client = self._client()
        try:
            request = client.build_request("POST", self.base_url + path, content=body, headers=self._headers)
            response = await _sent(client, request)
        except Exception as error:  # base URLs can be wrong in ways of which httpx has no error
            raise self._error_from(error) from error
        if response.status_code == 200:
            return HttpResponse(response)
        raise await self._refusal(response)

    def _client(self) -> httpx.AsyncClient:
        if self._given is not None:
            if self._given.is_closed:
                raise ChatProviderError("the http_client that was given is closed")
            return self._given
        loop = asyncio.get_running_loop()
        client = self._pools.get(loop)
        if client is None:
            for ended in [other for other in self._pools if other.is_closed()]:
                del self._pools[ended]  # a pool holds its loop, so the weak key alone frees neither
            client = self._pools[loop] = _new_pool()
        return client

    async def _refusal(self, response: httpx.Response) -> ChatProviderError:
        try:
            body = await _beginning(response)
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            return self._error_from(error)
        finally:
            await _in_own_task(response.aclose())
        return status_error(response.status_code, self._without_key(body), response.headers)

    def _without_key(self, body: bytes) -> bytes:
        """Some hosts repeat the key that they refuse."""
        return body.replace(self._headers["Authorization"].removeprefix("Bearer ").encode(), b"(the API key)")

    def _error_from(self, error: Exception) -> ChatProviderError:
        if isinstance(error, httpx.TimeoutException):
            return APITimeoutError(f"no answer from {self.base_url} in time ({_described(error)})")
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return APIConnectionError(f"{self.base_url!r} is no base URL: {error}")
        return APIConnectionError(f"no connection to {self.base_url}: {_described(error)}")


class HttpResponse:
    """An answer with status 200 whose body is still to be read."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
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
            self._ended = data is None
            return data
        except httpx.TimeoutException as error:
            raise APITimeoutError(f"the server was silent for too long ({_described(error)})") from error
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise APIConnectionError(f"the connection broke: {_described(error)}") from error

    async def aclose(self) -> None:
        """Let go of the connection. Unread bytes are lost."""
        await _in_own_task(self._let_go())

    async def read_near_end(self) -> bytes | None:
        """Like `read`, for when the body is about to end: a cancel ends the wait and not the read.

        At the end of a body httpx gives its connection back, and a cancel in the middle of that loses the connection.
        """
        if self._last_read is None or self._last_read.done():
            self._last_read = asyncio.get_running_loop().create_task(self.read())
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


_closing: Final[set[asyncio.Task[Any]]] = set()
"""What is being closed: an event loop holds its tasks weakly."""


async def _sent(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send in a task of its own, so that whoever is cancelled twice interrupts httpx once: it cleans up after that."""
    sending = asyncio.get_running_loop().create_task(client.send(request, stream=True))
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        _closing.add(sending)
        sending.add_done_callback(_close_unwanted)
        sending.cancel()
        raise


def _close_unwanted(sending: asyncio.Task[httpx.Response]) -> None:
    _closing.discard(sending)
    if not sending.cancelled() and sending.exception() is None:  # the answer came before the cancel
        closing = sending.get_loop().create_task(sending.result().aclose())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


async def _in_own_task(close: Coroutine[Any, Any, None]) -> None:
    """Close in a task of its own: httpx cannot go on with a close that was cancelled half-way."""
    closing = asyncio.get_running_loop().create_task(close)
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    await asyncio.shield(closing)


def _new_pool() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    try:
        return httpx.AsyncClient(timeout=TIMEOUT, limits=limits, verify=_certificates())
    except (ImportError, ValueError, OSError) as error:  # an unknown proxy, a file of certificates that is not there
        raise ChatProviderError(f"the environment has unusable network settings: {error}") from error


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Reading the certificates takes tens of milliseconds; every pool shares one reading."""
    return httpx.create_ssl_context()


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

"""One connection of an HTTP/1.1 server: bytes in, requests out; responses in, bytes out. It knows nothing of Kimi.

The connection has one task, which handles one request after the other. The task ends with the socket: when the client
hangs up in the middle of an answer, the handler is cancelled at once.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

import h11

from .script import Body, Delivery, HangUp

__all__ = ["WHOLE", "Connection", "HTTPRequest", "HTTPResponse", "Handler"]

_LINGER_NOT: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""`SO_LINGER` on, for 0 seconds: closing resets the connection."""

WHOLE: Final = Delivery(whole=True)


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """A request, whole. Names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Body | None:
        """The JSON object in the body, if there is one."""
        try:
            value: Any = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return cast(Body, value) if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """A response. The body is what `pieces` are together; `delivery` says how it travels."""

    status: int
    content_type: str
    pieces: list[bytes]
    headers: Mapping[str, str]
    delivery: Delivery = WHOLE


Handler: TypeAlias = Callable[[HTTPRequest], Awaitable[HTTPResponse | HangUp]]


class Connection(asyncio.Protocol):
    """One open socket.

    Args:
        handler: answers a request.
        on_open: called with the connection when it opens.
        on_close: called with the connection when it is closed.
    """

    def __init__(
        self,
        handler: Handler,
        on_open: Callable[[Connection], None],
        on_close: Callable[[Connection], None],
    ) -> None:
        self._handler = handler
        self._on_open = on_open
        self._on_close = on_close
        self._http = h11.Connection(h11.SERVER)
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.task.cancel()
        self._on_close(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- the task ----

    async def _serve(self) -> None:
        try:
            while (request := await self._request()) is not None:
                response = await self._handler(request)
                if isinstance(response, HangUp):
                    await self._break_off(response.stop)
                    break
                await self._respond(response)
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
        except h11.ProtocolError as error:
            await self._refuse(error)
        finally:
            self._transport.close()

    async def _request(self) -> HTTPRequest | None:
        """The next request; `None` when the client sends no more."""
        request = await self._event()
        if not isinstance(request, h11.Request):
            return None
        body = bytearray()
        while isinstance(data := await self._event(), h11.Data):
            body += data.data
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        return HTTPRequest(request.method.decode(), request.target.decode("latin-1"), headers, bytes(body))

    async def _event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._arrived.clear()
            await self._arrived.wait()
        return event

    async def _respond(self, response: HTTPResponse) -> None:
        delivery = response.delivery
        await self._send(_head(response))
        writes = delivery.writes(response.pieces)
        for number, piece in enumerate(writes):
            if delivery.gate is not None:
                await delivery.gate(number)
            await self._send(h11.Data(data=piece))
        if delivery.stop_after is not None and delivery.gate is not None:
            await delivery.gate(len(writes))
        if delivery.stop_after is None or delivery.stop == "end":
            await self._send(h11.EndOfMessage())
        else:
            await self._break_off(delivery.stop)

    async def _send(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            self._transport.write(data)
        await self._writable.wait()

    async def _refuse(self, error: h11.ProtocolError) -> None:
        """Answer bytes that are no request, if the answer can still be understood."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = f"{error}\n".encode()
            headers = {"Connection": "close"}
            await self._respond(HTTPResponse(error.error_status_hint, "text/plain", [text], headers))

    async def _break_off(self, stop: Literal["close", "reset", "stall"]) -> None:
        """Reset the connection, leave it to be closed, or be silent until it is."""
        match stop:
            case "close":
                pass
            case "reset":
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                self._transport.abort()
            case "stall":
                await asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        """Close the socket now, whatever is going on."""
        self._transport.abort()


def _head(response: HTTPResponse) -> h11.Response:
    headers = {"Content-Type": response.content_type, **response.headers}
    if response.delivery.whole:
        headers["Content-Length"] = str(_promised_size(response))
    return h11.Response(status_code=response.status, headers=list(headers.items()))


def _promised_size(response: HTTPResponse) -> int:
    """How many bytes the body has; more than come when the socket is closed in the middle."""
    size, delivery = sum(map(len, response.pieces)), response.delivery
    if delivery.stop_after is None or delivery.stop != "end":
        return size
    return min(size, delivery.stop_after)

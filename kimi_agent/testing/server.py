"""`KimiServer`: Kimi's API over real HTTP/1.1 on the loopback interface.

It checks chat requests as Kimi does and answers them by script or by the offline persona; the other endpoints answer
out of its `Account`. When the `async with` block ends, every connection and task of it has ended too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote

from . import endpoints
from .chunks import Envelope, completion, text_completion, text_events, to_json
from .connection import WHOLE, Connection, HTTPRequest, HTTPResponse
from .double import Double, headers, own_headers
from .endpoints import NO_JSON, Account
from .language import Written
from .script import Answer, Body, Delivery, Failure, Fault, HangUp, RawBody, Recorded, Reply, ScriptSource

__all__ = ["AnyRequest", "ChatRequest", "KimiServer"]

PREFIX: Final = "/v1"
CHAT: Final = "/chat/completions"
COMPLETIONS: Final = "/completions"
"""Of servers of one's own: a text goes on, unchecked, and of a reply only its text is sent."""
ASKING: Final = (CHAT, COMPLETIONS)
JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"

UNAUTHORIZED: Final = Failure(401, "invalid_authentication_error", "Invalid Authentication")


@dataclass(frozen=True, slots=True)
class AnyRequest:
    """A request to any endpoint as it came.

    Args:
        method: in capitals.
        path: after the base URL, with its query, as it was sent, such as `/files/file-1`.
        headers: by name in lower case; the value of `authorization` is left out.
        body: its bytes.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request as it came.

    Args:
        body: decoded.
        headers: by name in lower case; the value of `authorization` is left out.
        raw: the bytes of the body.
    """

    body: Body
    headers: Mapping[str, str]
    raw: bytes


class KimiServer(Double, Account):
    """An embedded Kimi that speaks HTTP. What its endpoints beside chat know is in the attributes of an `Account`.

        async with KimiServer([call("get_weather", city="Oslo"), say("Four degrees.")]) as server:
            kimi = Kimi("kimi-k3", api_key=server.api_key, base_url=server.base_url)

    Args:
        script: one step for each request, or a function for all of them; without one the persona answers.
        delivery: how streamed answers travel that do not say it themselves.
        check: refuse what Kimi refuses. A refused request uses up no step.
    """

    api_key: Final = "sk-test"
    """The only key that it takes."""

    def __init__(
        self, script: ScriptSource | None = None, *, delivery: Delivery | None = None, check: bool = True
    ) -> None:
        Double.__init__(self, script, delivery or Delivery(), check)
        Account.__init__(self)
        self.calls: list[AnyRequest] = []
        """Every request of any kind, in the order of arrival."""
        self.failures: dict[str, list[Fault]] = {}
        """By path after the base URL: what the next requests there get in place of an answer, first in, first out."""
        self.requests: list[ChatRequest] = []
        """Every chat request with a JSON object in it, refused or not, in the order of arrival."""
        self._base_url: str | None = None
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def base_url(self) -> str:
        """For `Kimi`. It is known once the server runs.

        Raises:
            RuntimeError: it does not run yet.
        """
        if self._base_url is None:
            raise RuntimeError("the server has no address yet: it runs within `async with KimiServer(...) as server`")
        return self._base_url

    @property
    def connections(self) -> int:
        """How many sockets are open now."""
        return len(self._open)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` is true. It is asked again when a request comes or a connection opens or closes."""
        while not condition():
            changed = asyncio.get_running_loop().create_future()
            self._waiting.append(changed)
            await changed

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)

    # ---- the life of the server ----

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so for its own sockets only
        self._base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{PREFIX}"
        self._closing = False
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closing = True
        for connection in self._open:
            connection.abort()
        await self._stop_accepting()
        await self.until(lambda: not self._open)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        """Take connections one by one. `asyncio.Server` loses the one that comes while it is being closed."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            accepted, _ = await loop.sock_accept(self._listener)
            await loop.connect_accepted_socket(self._connection, accepted)

    async def _stop_accepting(self) -> None:
        """A last connection wakes the task; to cancel it could lose a socket that was just accepted."""
        with self._listener, socket.socket() as last:
            last.setblocking(False)
            await asyncio.get_running_loop().sock_connect(last, self._listener.getsockname())
            await self._accepting

    def _connection(self) -> Connection:
        return Connection(self._respond, self._opened, self._closed)

    def _opened(self, connection: Connection) -> None:
        self._open.add(connection)
        self._tasks.add(connection.task)
        connection.task.add_done_callback(self._tasks.discard)
        if self._closing:
            connection.abort()
        self._changed()

    def _closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._changed()

    # ---- requests ----

    async def _respond(self, request: HTTPRequest) -> HTTPResponse | HangUp:
        target = _after_base(request.target)
        path = unquote(target.partition("?")[0])
        self._record(request, target, is_chat=path in ASKING)
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            return _plain(UNAUTHORIZED)
        if failures := self.failures.get(path):
            return _plain(failures.pop(0))
        if request.method == "POST" and path in ASKING:
            return await self._chat(request, of_text=path == COMPLETIONS)
        outcome = endpoints.answer(self, request, path)
        return _json_response(200, outcome, {}) if isinstance(outcome, dict) else _plain(outcome)

    def _record(self, request: HTTPRequest, target: str, *, is_chat: bool) -> None:
        without_key = _without_key(request.headers)
        self.calls.append(AnyRequest(request.method, target, without_key, request.body))
        if is_chat and request.method == "POST" and (body := request.json) is not None:
            self.requests.append(ChatRequest(body, without_key, request.body))
        self._changed()

    async def _chat(self, request: HTTPRequest, *, of_text: bool) -> HTTPResponse | HangUp:
        body = request.json
        if body is None:
            return _plain(NO_JSON)
        try:
            answer, envelope = await self._answer(body, check=not of_text)
        except Exception as error:  # a function of the script raised: the test must see it, and the server goes on
            return _plain(Failure(500, "server_error", f"the script raised {error!r}"))
        return self._response(answer, envelope, streamed=bool(body.get("stream")), of_text=of_text)

    def _response(
        self, answer: Answer | Written, envelope: Envelope, *, streamed: bool, of_text: bool
    ) -> HTTPResponse | HangUp:
        beside = headers(answer, envelope)
        match answer:
            case Failure() | RawBody() | HangUp():
                return _plain(answer, beside, self._delivery)
            case Reply() if not streamed:
                body = completion(answer, envelope)
                return _json_response(200, text_completion(body) if of_text else body, beside)
            case _:
                pass
        pieces, delivery = self._events(answer, envelope)
        return HTTPResponse(
            200,
            EVENTS_TYPE,
            text_events(pieces) if of_text and not isinstance(answer, Recorded) else pieces,
            beside,
            delivery,
        )


def _after_base(target: str) -> str:
    """A target relative to the base URL; what lies outside of it begins with `/..` and is never found."""
    return target.removeprefix(PREFIX) if target.startswith(f"{PREFIX}/") else f"/..{target}"


def _plain(answer: Fault, beside: Mapping[str, str] | None = None, delivery: Delivery = WHOLE) -> HTTPResponse | HangUp:
    """What needs nothing of its request, on the wire."""
    beside = own_headers(answer) if beside is None else beside
    match answer:
        case Failure():
            return _json_response(answer.status, answer.body, beside)
        case RawBody():
            return HTTPResponse(answer.status, answer.content_type, [answer.body], beside, answer.delivery or delivery)
        case HangUp():
            return answer


def _without_key(headers: Mapping[str, str]) -> dict[str, str]:
    return {**headers, "authorization": ""} if "authorization" in headers else dict(headers)


def _json_response(status: int, body: Body, beside: Mapping[str, str]) -> HTTPResponse:
    return HTTPResponse(status, JSON_TYPE, [to_json(body)], beside)

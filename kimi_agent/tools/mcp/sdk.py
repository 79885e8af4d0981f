"""One session with an MCP server, through the `mcp` package. It is imported late, as that takes a second.

Answers are read as JSON, not through the models of `mcp`: those refuse a whole answer, or a whole list of tools, for
one block or one schema that they do not know.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any, Final, cast

import anyio
import httpx2
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp_types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    PaginatedRequestParams,
    ToolListChangedNotification,
)

from ... import __version__
from .configs import HttpServer, ServerConfig, StdioServer
from .messages import LONGEST, PARSE_ERROR, UNREADABLE, Surrogates
from .process import open_process
from .stderr import Stderr

__all__ = [
    "Progress",
    "Session",
    "SessionEnded",
    "SessionForgotten",
    "SessionRefused",
    "SessionUnreachable",
    "SessionUnreadable",
    "open_session",
]

Progress = Callable[[float, float | None, str | None], None]
"""How far a call is: steps that are done, all steps, words."""

CLOSE_SECONDS: Final = 3.0
"""That a server at a URL gets to take leave. A process gets about as long, and is killed then."""
MOST_PAGES: Final = 1_000
_EVENTS: Final[Mapping[str, Any]] = (
    {"max_sse_event_size": LONGEST}
    if "max_sse_event_size" in signature(streamable_http_client).parameters  # before mcp 2.3 it is 1 MiB
    else {}
)

_RAW: Final = "kimi_agent/raw"
_HTTP_REFUSED: Final = "Server returned an error response"
_CLOSED: Final = "Connection closed"
_SESSION_ID: Final = "mcp-session-id"
"""A 404 for a request that has it means that the server does not know the session any more."""


for _name in ("mcp", "client"):  # `mcp` logs a traceback for every line that is no message; it is not for the terminal
    logging.getLogger(_name).addHandler(logging.NullHandler())


class SessionRefused(Exception):
    """The server did not do what it was asked; the text says why.

    Args:
        text: that.
        code: of the JSON-RPC error, if it is one.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class SessionEnded(SessionRefused):
    """The server is gone, or goes; nothing more will come."""


class SessionUnreachable(SessionRefused):
    """The request did not get through, or its answer did not. The session may live on."""


class SessionUnreadable(SessionRefused):
    """The answer came, and cannot be read. The session lives on."""


class SessionForgotten(Exception):
    """The server does not know the session any more, so it did not do what it was asked."""


class _HttpAnswer:
    """What HTTP said to one request, beside the answer itself."""

    status = ""
    problem = ""
    forgotten = False

    def note(self, response: httpx2.Response) -> None:
        """Remember a refusal."""
        if response.is_error:
            self.status = f"HTTP {response.status_code} {response.reason_phrase}".strip()
            self.forgotten = response.status_code == 404 and _SESSION_ID in response.request.headers


_http_answer: Final[ContextVar[_HttpAnswer]] = ContextVar("kimi_agent_mcp_http")
"""`mcp` sends a request in the context of who asks."""


class _HttpClient(httpx2.AsyncClient):
    """A client for which a message that does not get through is a message that is refused.

    With `mcp`, the error would end the session, and all other calls with it.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            return _mended(await super().send(request, **options))
        except httpx2.TransportError as error:
            answer = _http_answer.get(None)
            if request.method != "POST" or answer is None:
                raise
            answer.problem = str(error) or type(error).__name__
            return httpx2.Response(503, request=request)


class _Mended(httpx2.AsyncByteStream):
    """The content of a response, without lone surrogates.

    Args:
        response: that.
        longest: bytes that are taken of it; `None` if each of its messages is bounded for itself.
    """

    def __init__(self, response: httpx2.Response, longest: int | None) -> None:
        self._response = response
        self._left = math.inf if longest is None else longest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        surrogates = Surrogates()
        try:
            async for chunk in self._response.aiter_bytes():
                self._left -= len(chunk)
                if self._left < 0:
                    raise httpx2.StreamError(f"it is longer than {LONGEST // 1024**2} MiB")
                yield surrogates.feed(chunk)
        except httpx2.TransportError as error:  # of one answer; `mcp` would end the session
            raise httpx2.StreamError(str(error) or type(error).__name__) from error
        yield surrogates.close()

    async def aclose(self) -> None:
        await self._response.aclose()


_BOUNDS: Final[Mapping[str, int | None]] = {"application/json": LONGEST, "text/event-stream": None}
_OF_THE_WIRE: Final = ("content-encoding", "content-length")


def _mended(response: httpx2.Response) -> httpx2.Response:
    """A response of which the messages can be read."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not response.is_success or kind not in _BOUNDS:
        return response
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_WIRE]
    stream = _Mended(response, _BOUNDS[kind])
    return httpx2.Response(
        response.status_code, headers=headers, stream=stream, request=response.request, extensions=response.extensions
    )


async def _note(response: httpx2.Response) -> None:
    if (answer := _http_answer.get(None)) is not None:
        answer.note(response)


class _Wire(JSONRPCDispatcher[Any]):
    """Requests and answers. Answers about tools are kept as they came, inside of answers that nobody refuses."""

    def __init__(self, *streams: Any) -> None:
        super().__init__(*streams)
        self.ended = asyncio.Event()

    async def run(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().run(*args, **kwargs)
        finally:
            self.ended.set()

    async def send_raw_request(self, method: str, params: Any, opts: Any = None, **kwargs: Any) -> dict[str, Any]:
        raw = await super().send_raw_request(method, params, opts, **kwargs)
        wrap = _WRAPPED.get(method)
        return raw if wrap is None else {**wrap(raw), **_kept(raw), "_meta": {_RAW: raw}}


def _kept(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: raw[key] for key in ("ttlMs", "cacheScope") if key in raw}
    return {**kept, "resultType": "complete"} if "resultType" in raw else kept


_WRAPPED: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "tools/call": lambda raw: {"content": []},
    "tools/list": lambda raw: {"tools": [_for_headers(tool) for tool in tools_in(raw)]},
}


def tools_in(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of a page that have a name."""
    tools: Any = raw.get("tools")
    found = cast("list[Any]", tools) if isinstance(tools, list) else []
    dicts = [cast("dict[str, Any]", tool) for tool in found if isinstance(tool, dict)]
    return [tool for tool in dicts if isinstance(tool.get("name"), str) and tool["name"]]


def _for_headers(tool: Mapping[str, Any]) -> dict[str, Any]:
    """What `mcp` needs of a tool: the parameters that are sent as headers."""
    properties = _dict(_dict(tool.get("inputSchema")).get("properties"))
    fit = {key: cast(Any, item) for key, item in properties.items() if isinstance(item, dict)}
    return {"name": tool["name"], "inputSchema": {"type": "object", "properties": fit}}


def _dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _raw(result: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", cast(Mapping[str, Any], result.meta)[_RAW])


class Session:
    """An open session.

    Args:
        client: of `mcp`.
        wire: below it.
    """

    def __init__(self, client: ClientSession, wire: _Wire) -> None:
        self._client = client
        self.ended = wire.ended
        """Set when nothing will come any more."""
        self.tools: list[dict[str, Any]] = []
        """What the server offers, as it says it."""

    async def begin(self) -> None:
        """Greet the server and ask for its tools.

        Raises:
            SessionRefused: it does not want to, or does not speak MCP.
        """
        with self._refusals():
            try:
                await self._client.initialize()
            except MCPError as refusal:  # a server may know the new greeting alone
                try:
                    await self._client.discover()
                except (MCPError, ValueError, RuntimeError):
                    raise refusal from None
        await self.list_tools()

    async def list_tools(self) -> None:
        """Ask for the tools, page by page."""
        tools: dict[str, dict[str, Any]] = {}
        cursor: str | None = None
        seen: set[str | None] = set()
        while cursor not in seen and len(seen) < MOST_PAGES:
            seen.add(cursor)
            params = None if cursor is None else PaginatedRequestParams(cursor=cursor)
            raw = await self._page(params)
            for tool in tools_in(raw):
                tools.setdefault(tool["name"], tool)
            following: Any = raw.get("nextCursor")
            cursor = following if isinstance(following, str) else None
        self.tools = list(tools.values())

    async def _page(self, params: PaginatedRequestParams | None) -> dict[str, Any]:
        try:
            with self._refusals():
                return _raw(await self._client.list_tools(params=params))
        except SessionRefused as refused:
            if refused.code == METHOD_NOT_FOUND:  # a server without tools need not know what tools are
                return {}
            raise

    async def call_tool(self, name: str, arguments: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Call a tool. Who is cancelled meanwhile has the server told so.

        Raises:
            SessionForgotten: nothing was called.
            SessionRefused: the server answers with an error, or is gone.
        """

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            on_progress(progress, total, message)

        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        with self._refusals():
            return _raw(await self._client.send_request(request, CallToolResult, progress_callback=progressed))

    @contextmanager
    def _refusals(self) -> Generator[None]:
        """Say what went wrong in errors of our own."""
        http = _HttpAnswer()
        token = _http_answer.set(http)
        try:
            yield
        except MCPError as error:
            if http.forgotten:
                raise SessionForgotten from None
            if error.code == CONNECTION_CLOSED and error.message == _CLOSED:
                self.ended.set()
                raise SessionEnded(_CLOSED) from None
            if http.problem:
                raise SessionUnreachable(http.problem) from None
            if (problem := _unreadable(error)) is not None:
                raise SessionUnreadable(f"the answer cannot be read: {problem}") from None
            text = http.status if error.message == _HTTP_REFUSED else error.message
            raise SessionRefused(text, error.code) from None
        except Exception as error:  # from the models of `mcp`, or its streams
            raise SessionRefused(f"{type(error).__name__}: {error}") from None
        finally:
            _http_answer.reset(token)


_HTTP_UNREADABLE: Final = re.compile(r"Failed to parse (?:JSON response|SSE message): (.*)", re.DOTALL)
_NO_JSON: Final = re.compile(r"Invalid JSON: ([^\n\[]*)")


def _unreadable(error: MCPError) -> str | None:
    """Why an answer cannot be read, if that is the error."""
    if error.code != PARSE_ERROR or error.data == UNREADABLE:
        return error.message if error.data == UNREADABLE else None
    if (found := _HTTP_UNREADABLE.match(error.message)) is None:
        return None
    if (problem := _NO_JSON.search(found[1])) is not None:
        return f"it is no JSON: {problem[1].strip()}"
    return "it is no message of the protocol" if "validation error" in found[1] else found[1]


# ==== opening ====


@asynccontextmanager
async def open_session(
    config: ServerConfig,
    seconds: float,
    stderr: Stderr,
    on_change: Callable[[], None],
    abandoning: list[Callable[[], None]],
) -> AsyncGenerator[Session]:
    """A session, open and with its tools listed. It has to be left in the task that entered it.

    Args:
        config: the server.
        seconds: until the tools are listed.
        stderr: takes what a process writes to its standard error.
        on_change: called when the server says that its tools have changed.
        abandoning: what gives up the opening is in there while it lasts.

    Raises:
        TimeoutError: they were not listed in time.
        SessionRefused: the server does not want to, or does not speak MCP.
        Exception: it cannot be reached, or the connection broke.
    """

    async def heard(message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            on_change()

    with anyio.fail_after(seconds) as limit, _during(limit.cancel, abandoning) as opened:
        async with _transport(config, seconds, stderr) as streams:
            wire = _Wire(*streams)
            info = Implementation(name="kimi_agent", version=__version__)
            async with ClientSession(dispatcher=wire, message_handler=heard, client_info=info) as client:
                session = Session(client, wire)
                await session.begin()
                limit.deadline = math.inf
                opened()
                try:
                    yield session
                finally:
                    limit.deadline = anyio.current_time() + CLOSE_SECONDS


@contextmanager
def _during(abandon: Callable[[], None], abandoning: list[Callable[[], None]]) -> Generator[Callable[[], None]]:
    """Keep a function in a list, until the end or the call of what this gives."""
    abandoning.append(abandon)

    def over() -> None:
        if abandon in abandoning:
            abandoning.remove(abandon)

    try:
        yield over
    finally:
        over()


@asynccontextmanager
async def _transport(config: ServerConfig, seconds: float, stderr: Stderr) -> AsyncGenerator[tuple[Any, Any]]:
    if isinstance(config, HttpServer):
        async with _http(config, seconds) as streams:
            yield streams
    else:
        async with _stdio(config, stderr) as streams:
            yield streams


@asynccontextmanager
async def _stdio(config: StdioServer, stderr: Stderr) -> AsyncGenerator[tuple[Any, Any]]:
    with stderr.opened() as errlog:
        async with open_process(config, errlog) as streams:
            yield streams


@asynccontextmanager
async def _http(config: HttpServer, seconds: float) -> AsyncGenerator[tuple[Any, Any]]:
    patience = httpx2.Timeout(seconds, read=None, pool=None)  # each call has a timeout of its own
    no_limits = httpx2.Limits(max_connections=None)
    hooks = {"response": [_note]}
    async with (
        _HttpClient(headers=dict(config.headers), timeout=patience, limits=no_limits, event_hooks=hooks) as client,
        streamable_http_client(config.url, http_client=client, **_EVENTS) as streams,
    ):
        yield streams

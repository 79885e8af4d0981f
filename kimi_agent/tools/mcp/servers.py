"""The tools of MCP servers: `async with mcp_tools({...}) as tools: Agent(kimi, functions=tools)`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, cast
from weakref import ref

from loguru import logger
from pydantic_core import to_json

from ...errors import MCPServerError, ToolArgumentsError
from ..approval import ApprovalRule
from ..base import Tool, ToolError, ToolReturnValue, ToolValidateError
from ..context import context_here
from ..texts import described
from ..toolset import SimpleToolset
from .configs import ServerConfig, Servers, read_servers
from .connection import Connection, close_all
from .content import Limits, result_from
from .names import Owned, named_tools, safe_name

__all__ = ["MCPTool", "MCPToolset", "mcp_tools"]

MOST_TEXT: Final = 100_000
MOST_MEDIA: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    allow: frozenset[str] | None
    block: frozenset[str] | None
    timeout: float | None
    prefix: bool | None
    approval: ApprovalRule
    limits: Limits
    connect_timeout: float


def mcp_tools(
    servers: Servers,
    *,
    allow: Iterable[str] | None = None,
    block: Iterable[str] | None = None,
    timeout: float | None = 60.0,
    prefix: bool | None = None,
    approval: ApprovalRule = False,
    max_text: int = MOST_TEXT,
    max_media: int = MOST_MEDIA,
    connect_timeout: float = 30.0,
) -> AbstractAsyncContextManager[MCPToolset]:
    """The tools of MCP servers, for as long as the `async with` lasts.

        async with mcp_tools({"files": {"command": "my-server", "args": ["/tmp"]}}) as tools:
            agent = Agent(kimi, functions=tools)

    A server that cannot be reached is in `tools.errors`, and the others work. If none can be reached, entering raises.

    Args:
        servers: a URL, a command (a text that is split as a shell does it, or a list), or servers by name. Such a
            server is a URL, a command, or a mapping: `command`, `args`, `env` and `cwd` for a process of ours, `url`
            and `headers` for streamable HTTP. `{"mcpServers": {...}}` of other programs' files is understood.
        allow: the only tools to take, by their own names or those that Kimi sees.
        block: the tools to leave out.
        timeout: seconds for each call; `None` for no limit.
        prefix: whether the name of its server stands before that of a tool. `None` does so for the tools of a name that
            two servers use.
        approval: whether a call has to be approved; for each tool, see `MCPTool.approval`.
        max_text: characters of text that the model gets of a result.
        max_media: bytes of pictures, sounds and films that the model gets of a result.
        connect_timeout: seconds for a server to start, answer and list its tools.

    Raises:
        ValueError: `servers` is something else, or nothing; a number is out of its range; `approval` is neither a bool
            nor a function; both `allow` and `block` are given; on entering, a name in them is that of no tool.
        ModuleNotFoundError: the extra is not installed.
        MCPServerError: on entering, no server can be reached.
        FunctionSpecError: on entering, two servers use a name, and `prefix` is `False`.
    """
    configs = read_servers(servers)
    if allow is not None and block is not None:
        raise ValueError("give either allow= or block=, not both")
    for name, number in (("timeout", timeout), ("connect_timeout", connect_timeout)):
        if number is not None and not number > 0:
            raise ValueError(f"{name}= is a number of seconds, not {number!r}")
    if max_text < 0 or max_media < 0:
        raise ValueError("max_text= and max_media= are not negative")
    if not isinstance(cast(object, approval), bool) and not callable(approval):
        raise ValueError(f"approval= is a bool or a function of the arguments, not a {type(approval).__name__}")
    options = _Options(
        allow=_names("allow", allow),
        block=_names("block", block),
        timeout=timeout,
        prefix=prefix,
        approval=approval,
        limits=Limits(max_text, max_media),
        connect_timeout=connect_timeout,
    )
    _check_extra()
    return _opened(configs, options)


def _names(argument: str, names: Iterable[str] | None) -> frozenset[str] | None:
    if isinstance(names, str):
        raise ValueError(f"{argument}= takes a list of names, not one text")
    return None if names is None else frozenset(names)


_INSTALL: Final = "MCP servers need the extra: pip install 'kimi_agent[mcp]'"


def _check_extra() -> None:
    """Complain now, in words that help.

    Raises:
        ModuleNotFoundError: `mcp` is missing, or older than 2.
    """
    if find_spec("mcp") is None:
        raise ModuleNotFoundError(_INSTALL, name="mcp")
    if find_spec("mcp_types") is None:
        raise ModuleNotFoundError(f"{_INSTALL} (the installed mcp is older than 2)", name="mcp")


@asynccontextmanager
async def _opened(configs: Sequence[ServerConfig], options: _Options) -> AsyncGenerator[MCPToolset]:
    await asyncio.to_thread(import_module, ".sdk", __package__)  # takes a second the first time
    connections = [Connection(config, options.connect_timeout) for config in configs]
    try:
        tools = MCPToolset(connections, options)
        await tools.refresh()
        tools.check_opened()
        yield tools
    finally:
        await close_all(connections)


# ==== one tool ====


class MCPTool:
    """A tool of an MCP server.

    What may be set: `timeout` (seconds of a call, or `None`), `approval` (whether a call has to be approved: a bool, or
    a function of the arguments), `enabled` (whether the model is told of it), `sequential` (whether it runs alone).

    Args:
        connection: to its server.
        name: for the model.
        said: what the server says about it.
        options: of `mcp_tools`.
    """

    def __init__(self, connection: Connection, name: str, said: Mapping[str, Any], options: _Options) -> None:
        self._connection = connection
        self._limits = options.limits
        self._name = name
        self.original_name: str = said["name"]
        """The name that the server knows it by."""
        self.timeout: float | None = options.timeout
        self.approval: ApprovalRule = options.approval
        self.enabled: bool = True
        self.sequential: bool = False
        self.describe(said)

    def __repr__(self) -> str:
        return f"<MCPTool {self._name!r} of {self.server!r}>"

    def describe(self, said: Mapping[str, Any]) -> None:
        """Take over what the server says about it."""
        self._base = Tool(name=self._name, description=_description(said), parameters=_parameters(said))
        annotations = said.get("annotations")
        self.annotations: Mapping[str, Any] = MappingProxyType(
            dict(cast(Mapping[str, Any], annotations)) if isinstance(annotations, dict) else {}
        )
        """Hints of the server, such as `readOnlyHint` and `destructiveHint`. It may say what it likes."""

    @property
    def name(self) -> str:
        """The name that the model uses."""
        return self._name

    @property
    def server(self) -> str:
        """The name of its server."""
        return self._connection.config.name

    @property
    def base(self) -> Tool:
        """Its definition for the model."""
        return self._base

    async def check_arguments(self, arguments: Any) -> dict[str, Any]:
        """The arguments as they are sent. Whether they fit the schema is for the server to say.

        Raises:
            ToolArgumentsError: they are no JSON object.
        """
        return _sendable(arguments)

    async def call(self, arguments: Any) -> ToolReturnValue:
        """Run it with the parsed arguments. Never raises: what goes wrong is a value with `is_error`.

        A call that is cancelled, or takes longer than `timeout`, has the server told so.
        """
        try:
            checked = _sendable(arguments)
        except ToolArgumentsError as error:
            return ToolValidateError(str(error))
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                answer = await self._connection.call(self.original_name, checked, _reporter())
        except Exception as error:
            return self._failed(error, limit.expired())
        return result_from(answer, self._limits)

    def _failed(self, error: Exception, late: bool) -> ToolError:
        if late:
            text = f"The tool did not answer within {self.timeout:g} seconds, and its server was told to stop."
        else:
            text = str(error) if isinstance(error, MCPServerError) else described(error)
        return ToolError(message=text, brief=f"{self.server}: {'no answer' if late else 'the call failed'}")


def _description(said: Mapping[str, Any]) -> str:
    annotations: Any = said.get("annotations")
    titles = [said.get("title"), cast(Any, annotations).get("title") if isinstance(annotations, dict) else None]
    texts: list[Any] = [said.get("description"), *titles]
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _parameters(said: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the arguments; whatever it says, they are an object."""
    schema: Any = said.get("inputSchema")
    parameters = dict(cast(Mapping[str, Any], schema)) if isinstance(schema, dict) else {}
    return {**parameters, "type": "object", "properties": parameters.get("properties", {})}


_ROOM: Final = 16
"""Levels that a message has around the arguments; a message that is nested too deeply would break the connection."""


def _sendable(arguments: Any) -> dict[str, Any]:
    """The arguments as an object of plain JSON.

    Raises:
        ToolArgumentsError: they are none; the text says why.
    """
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise ToolArgumentsError(f"the arguments are a {type(arguments).__name__}, not an object")
    try:
        text = json.dumps(arguments, allow_nan=False, ensure_ascii=False)
        text.encode()
        plain = json.loads(text)
        nested: Any = plain
        for _ in range(_ROOM):
            nested = [nested]
        to_json(nested)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolArgumentsError(f"the arguments are no JSON that can be sent: {error}") from None
    return plain


def _reporter() -> Callable[[float, float | None, str | None], None]:
    """Tells who listens to this call how far it is."""
    context = context_here()

    def report(progress: float, total: float | None, message: str | None) -> None:
        fraction = min(max(progress / total, 0.0), 1.0) if total and total > 0 else None
        context.report(message or "", fraction=fraction)

    return report


# ==== all tools ====


class MCPToolset(SimpleToolset):
    """The tools of MCP servers; `mcp_tools` gives one.

    Args:
        connections: to the servers.
        options: of `mcp_tools`.
    """

    def __init__(self, connections: Sequence[Connection], options: _Options) -> None:
        super().__init__()
        self._original = ref(self)  # a set that is made from this one has it, too
        self._connections = connections
        self._options = options
        self._known: Mapping[Owned, MCPTool] = {}
        self._names: dict[Owned, str] = {}
        self.errors: Mapping[str, Exception] = MappingProxyType({})
        """What is wrong with the servers that could not be reached, or not list their tools, by their names."""

    def __iter__(self) -> Iterator[MCPTool]:
        """All tools, enabled or not, in the order in which they came."""
        return cast("Iterator[MCPTool]", super().__iter__())

    def __getitem__(self, name: str) -> MCPTool:
        """The tool of a name.

        Raises:
            KeyError: there is none.
        """
        return cast(MCPTool, super().__getitem__(name))

    @property
    def stale(self) -> list[str]:
        """The servers that have said since the last `refresh` that their tools are others now."""
        return [connection.config.name for connection in self._connections if connection.changed]

    async def refresh(self) -> None:
        """Ask every server again for its tools; reach out again to those that could not be reached.

        A tool that was there keeps its name, and is the same object. One that is gone is taken out, a new one comes at
        the end. An agent that was made before has the tools that it was made with: give it the new ones, as
        `agent.functions |= {tool.name: tool for tool in tools}`.

        Raises:
            RuntimeError: this set was made from the one that `mcp_tools` gave; that one can be refreshed.
        """
        if self._original() is not self:
            raise RuntimeError(
                "a set that was made from another one has the tools that were there;"
                " refresh the one that mcp_tools gave, and make it anew"
            )
        lists = await asyncio.gather(*map(self._listed, self._connections))
        answers = dict(zip((connection.config.name for connection in self._connections), lists, strict=True))
        self.errors = MappingProxyType({name: said for name, said in answers.items() if isinstance(said, Exception)})
        listed = [
            (connection, tool)
            for connection, tools in zip(self._connections, lists, strict=True)
            if not isinstance(tools, Exception)
            for tool in tools
        ]
        self._take(listed)

    async def _listed(self, connection: Connection) -> list[dict[str, Any]] | Exception:
        try:
            return await connection.listed()
        except MCPServerError as error:
            logger.warning("{}", error)
            return error

    def _take(self, listed: Sequence[tuple[Connection, dict[str, Any]]]) -> None:
        """Make the tools those that are listed; those of servers that did not answer stay."""
        owned = {(connection.config.name, tool["name"]): (connection, tool) for connection, tool in listed}
        self._names = named_tools(list(owned), self._options.prefix, self._names)
        gone = [owner for owner in self._known if owner not in owned and owner[0] not in self.errors]
        for owner in gone:
            self._drop(self._known[owner])
        for owner in owned.keys() & self._known.keys():
            self._known[owner].describe(owned[owner][1])
        new = {
            owner: MCPTool(connection, self._names[owner], said, self._options)
            for owner, (connection, said) in owned.items()
            if owner not in self._known and self._is_wanted(owner)
        }
        for tool in new.values():
            self.add(tool)
        self._known = {owner: tool for owner, tool in self._known.items() if owner not in gone} | new

    def _drop(self, tool: MCPTool) -> None:
        if self._by_name.get(tool.base.name) is tool:
            self.remove(tool.base.name)

    def _is_wanted(self, owner: Owned) -> bool:
        names = self._names_of(owner)
        if self._options.allow is not None:
            return not names.isdisjoint(self._options.allow)
        return self._options.block is None or names.isdisjoint(self._options.block)

    def _names_of(self, owner: Owned) -> set[str]:
        """All names that a user may call it by."""
        return {owner[1], safe_name(owner[1]), self._names[owner]}

    def check_opened(self) -> None:
        """Make sure that there is what was asked for.

        Raises:
            MCPServerError: no server can be reached.
            ValueError: a name in `allow` or `block` is that of no tool.
        """
        if self.errors and len(self.errors) == len(self._connections):
            raise MCPServerError("\n".join(map(str, self.errors.values())))
        asked = (self._options.allow or frozenset()) | (self._options.block or frozenset())
        missing = asked.difference(*map(self._names_of, self._names))
        if missing and not self.errors:  # else they may be those of a server that is not there
            known = ", ".join(sorted(self._names.values())) or "none"
            raise ValueError(f"no tool is named {', '.join(sorted(map(repr, missing)))}; there are {known}")

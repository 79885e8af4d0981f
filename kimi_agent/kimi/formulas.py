"""Tools that run on the platform: formulas, such as `moonshot/web-search:latest`, and the built-in `$web_search`.

A formula is called over HTTP, like any other service. The built-in search is not called at all: its arguments go back
as its result, and the platform searches when it gets them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from loguru import logger

from ..errors import (
    AuthenticationError,
    ChatProviderError,
    PermissionDeniedError,
    StreamProtocolError,
    ToolArgumentsError,
)
from ..tools.base import Tool, ToolError, ToolOk, ToolReturnValue
from ..tools.context import context_here
from .endpoints import answered, asked
from .wire import encode

if TYPE_CHECKING:
    from .http import HttpTransport

__all__ = ["HostedTool", "KimiFormulas", "WebSearch"]

_OWNER: Final = "moonshot"
_VERSION: Final = "latest"


class KimiFormulas:
    """The formulas of the platform. Get it as `kimi.formulas`."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    async def tools(self, uri: str) -> list[Tool]:
        """The tools of a formula, to be given to the model.

        Args:
            uri: of the formula, such as `moonshot/web-search:latest`.

        Raises:
            NotFoundError: there is no such formula.
        """
        path = f"{_path(uri)}/tools"
        entries: Any = (await asked(self._http, "GET", path)).get("tools")
        if not isinstance(entries, list):
            raise StreamProtocolError(f"the answer of {path} has no list of tools")
        return [_tool(entry, path) for entry in cast("list[Any]", entries)]

    async def functions(self, *names: str, timeout: float | None = None) -> list[HostedTool]:
        """The tools of formulas, ready for an agent or a toolset.

            agent = Agent(kimi, functions=await kimi.formulas.functions("web-search", "fetch"))

        Args:
            names: of the formulas: `web-search` is short for `moonshot/web-search:latest`.
            timeout: seconds after which a call is given up; none of its own unless given.

        Raises:
            NotFoundError: there is no such formula.
            ChatProviderError: the platform did not say what a formula has.
            ValueError: a name is none.
        """
        uris = list(dict.fromkeys(map(uri_of, names)))
        found = await asyncio.gather(*map(self.tools, uris), return_exceptions=True)
        hosted: list[HostedTool] = []
        for uri, tools in zip(uris, found, strict=True):
            if isinstance(tools, BaseException):
                raise tools
            hosted += [HostedTool(self, uri, tool, timeout=timeout) for tool in tools]
        return hosted

    async def run(self, uri: str, name: str, arguments: str) -> str:
        """Run a tool of a formula. What comes back is the result for the model; a web search's is encrypted.

        Args:
            uri: of the formula.
            name: of the tool.
            arguments: as the model wrote them.

        Raises:
            ChatProviderError: the formula failed.
        """
        path = f"{_path(uri)}/fibers"
        body = encode({"name": name, "arguments": arguments})
        fiber = await answered(self._http, "POST", path, body=body, repeatable=False)
        context: Any = fiber.get("context")
        outcome: Mapping[str, Any] = cast("Mapping[str, Any]", context) if isinstance(context, Mapping) else {}
        output = outcome.get("encrypted_output") or outcome.get("output")
        if output is None or fiber.get("status") == "failed":
            raise ChatProviderError(f"the formula {uri} failed: {fiber.get('error') or outcome or fiber.get('status')}")
        return output if isinstance(output, str) else encode(output).decode()


def uri_of(name: str) -> str:
    """The whole URI of a formula whose owner or version may be left out.

    Raises:
        ValueError: it is none.
    """
    owner, slash, rest = name.strip().rpartition("/")
    formula, colon, version = rest.partition(":")
    if not formula or (slash and not owner) or (colon and not version):
        raise ValueError(f"{name!r} is no formula; one is called web-search, or {_OWNER}/web-search:{_VERSION}")
    return f"{owner or _OWNER}/{formula}:{version or _VERSION}"


def _path(uri: str) -> str:
    return f"/formulas/{quote(uri, safe='/:')}"


def _tool(entry: Any, path: str) -> Tool:
    function: Any = cast("dict[str, Any]", entry).get("function") if isinstance(entry, dict) else None
    fields = cast("dict[str, Any]", function) if isinstance(function, dict) else {}
    name: Any = fields.get("name")
    parameters: Any = fields.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(name, str) or not isinstance(parameters, dict):
        raise StreamProtocolError(f"the answer of {path} has an entry that is no tool")
    description = str(fields.get("description") or "")
    return Tool(name=name, description=description, parameters=cast("dict[str, Any]", parameters))


# ==== as functions ====


class HostedTool:
    """A tool of a formula, which an agent or a toolset can run. `KimiFormulas.functions` makes them.

    What the formula gives goes to the model unchanged: that of a web search is encrypted, and only Kimi can read it.

    Args:
        formulas: of the platform.
        uri: of the formula.
        tool: its definition.
        timeout: seconds after which a call is given up; `None` for never.
    """

    enabled: bool = True
    """Whether the model is told of it; may be changed at any time."""
    approval: bool = False
    """Whether a person has to approve its calls; may be changed at any time."""

    def __init__(self, formulas: KimiFormulas, uri: str, tool: Tool, *, timeout: float | None = None) -> None:
        self._formulas, self._uri, self._tool = formulas, uri, tool
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"HostedTool({self._uri!r}, {self._tool.name!r})"

    @property
    def uri(self) -> str:
        """Of the formula."""
        return self._uri

    @property
    def base(self) -> Tool:
        """Its definition for the model."""
        return self._tool

    async def call(self, arguments: Any) -> ToolReturnValue:
        """Run it on the platform. Cancelling the call cancels the request, not what the platform has begun.

        Args:
            arguments: as the model gave them; inside of its call they go out as the model wrote them.
        """
        try:
            return ToolOk(output=await self._formulas.run(self._uri, self._tool.name, _raw(arguments)))
        except Exception as error:  # a formula that is out of reach is no reason to end a round
            logger.opt(exception=error).debug("the hosted tool {} failed", self._tool.name)
            return ToolError(message=self.failed(error), brief=f"{self._tool.name}: {type(error).__name__}")

    def failed(self, error: Exception) -> str:
        """What the model is told of a call that failed. Override it to say it differently."""
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return f"Error: {self._tool.name} cannot be used: the platform refuses the API key for hosted tools."
        return f"Error: {self._tool.name} failed: {str(error) or type(error).__name__}"


class WebSearch:
    """The web search that is built into Kimi, as a function of an agent: `Agent(kimi, functions=[WebSearch()])`.

    The platform searches when it gets the arguments of the call back as its result, unchanged. A search has a price,
    and what it finds is billed as part of the prompt. The formula `web-search` is its successor.
    """

    enabled: bool = True
    """Whether the model is told of it; may be changed at any time."""
    base: Tool = Tool(
        name="$web_search",
        description="Search the web.",
        parameters={"type": "object", "properties": {}},
    )
    """Its definition. Only the name is sent: the platform knows the rest."""

    def __repr__(self) -> str:
        return "WebSearch()"

    async def call(self, arguments: Any) -> ToolReturnValue:
        """The arguments, to the byte as the model wrote them inside of its call."""
        return ToolOk(output=_raw(arguments))


def _raw(arguments: Any) -> str:
    """Arguments as the model wrote them if it is its call that runs here, else as JSON."""
    call = context_here().call
    with suppress(ToolArgumentsError):
        if call.args == arguments:
            return call.arguments if call.arguments.strip() else "{}"
    return arguments if isinstance(arguments, str) else encode(arguments).decode()

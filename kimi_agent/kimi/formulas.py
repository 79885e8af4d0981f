"""Formulas: tools that run on the platform, such as `moonshot/web-search:latest`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from ..errors import ChatProviderError, StreamProtocolError
from ..tools.base import Tool
from .endpoints import answered, asked
from .wire import encode

if TYPE_CHECKING:
    from .http import HttpTransport

__all__ = ["KimiFormulas"]


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

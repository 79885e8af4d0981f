"""An MCP server of the `mcp` package, on standard input and output."""

import asyncio
import os
import sys

from mcp.server.mcpserver import Context, Image, MCPServer

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360f8cf0000000300010005fed4ef0000000049454e44ae426082"
)

server = MCPServer("counter")
state = {"count": 0, "waiting": 0, "cancelled": 0}


@server.tool()
def count(by: int = 1) -> int:
    """Count on."""
    state["count"] += by
    return state["count"]


@server.tool()
def cancelled() -> int:
    """How many calls were cancelled."""
    return state["cancelled"]


@server.tool()
async def wait(context: Context) -> str:
    """Wait for ever."""
    await context.report_progress(1, 4, "waiting")
    state["waiting"] += 1
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    finally:
        state["waiting"] -= 1
    return ""


@server.tool()
def fail() -> str:
    """Go wrong."""
    raise ValueError("no")


@server.tool()
def picture() -> Image:
    """A pixel."""
    return Image(data=PNG, format="png")


@server.tool(name="environment.of")
def environment_of(name: str) -> str:
    """A variable of the process."""
    return os.environ.get(name, "")


@server.tool()
def repeat(word: str, times: int) -> str:
    """A long text."""
    return word * times


@server.tool()
def die() -> str:
    """End the process."""
    os._exit(1)


if __name__ == "__main__":
    server.run("streamable-http" if "http" in sys.argv else "stdio")

"""MCP: the tools of a server that is a program of its own. Here it is this file, run with the argument `serve`.

It needs the extra: `pip install 'kimi_agent[mcp]'`

With KIMI_API_KEY set: `python examples/9_mcp.py`
Without a key:         `python examples/offline.py examples/9_mcp.py`
"""

import asyncio
import sys

from kimi_agent import Agent, Kimi, mcp_tools

CELSIUS = {"Oslo": 4, "Bergen": 7}


def serve() -> None:
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("weather")

    @server.tool(name="weather.get")
    def get_weather(city: str) -> str:  # pyright: ignore[reportUnusedFunction]
        """Current weather of a city."""
        return f"{city}: {CELSIUS[city]} °C"

    server.run("stdio")


async def main() -> None:
    servers = {
        "weather": {"command": sys.executable, "args": [__file__, "serve"]},
        "nowhere": {"command": "a-server-that-is-not-installed"},
    }
    async with mcp_tools(servers, timeout=20.0) as tools:
        for name, error in tools.errors.items():
            print(f"{name}: {error}")
        print("tools:", [tool.name for tool in tools.tools])
        async with Agent(Kimi(), functions=tools) as agent:
            async for message in agent.full_round("What is the weather in Oslo and in Rome?"):
                for call in message.tool_calls or ():
                    print(f"{message.role} calls {call.name}({call.arguments})")
                if message.text:
                    print(f"{message.role}{' (error)' if message.is_tool_call_error else ''}: {message.text}")


if __name__ == "__main__":
    serve() if "serve" in sys.argv else asyncio.run(main())

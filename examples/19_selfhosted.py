"""A model on a server of one's own: a pipeline writes its prompt, and a parser finds the calls in what it answers.

`python examples/19_selfhosted.py http://localhost:8000/v1 Qwen/Qwen3-8B`, or nothing behind it for a stand-in.
"""

import asyncio
import sys

from qwen3 import qwen3

from kimi_agent import Agent, Kimi, Qwen3Parser, RawTextProvider, ai_function
from kimi_agent.testing import KimiServer, say

WEATHER = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
FAHRENHEIT = '<tool_call>\n{"name": "to_fahrenheit", "arguments": {"celsius": 4}}\n</tool_call>'
SCRIPT = [
    f"<think>\nFirst the weather.\n</think>\n\n{WEATHER}",
    f"<think>\nNow the other unit.\n</think>\n\nIt has 4 °C there.\n{FAHRENHEIT}",
    "<think>\n\n</think>\n\nIt is 39.2 °F in Oslo.",
]


class Assistant(Agent):
    @ai_function()
    def get_weather(self, city: str) -> str:
        """Current weather of a city."""
        return f"{city}: 4 °C, rain"

    @ai_function()
    def to_fahrenheit(self, celsius: float) -> float:
        """Degrees Celsius as degrees Fahrenheit."""
        return round(celsius * 9 / 5 + 32, 1)


async def ask(model: str, base_url: str, api_key: str) -> None:
    host = Kimi(model, base_url=base_url, api_key=api_key)
    async with Assistant(RawTextProvider(host, Qwen3Parser, qwen3), "Be brief.") as agent:
        async for message in agent.full_round("How warm is it in Oslo, in Fahrenheit?"):
            calls = [f"{call.name}({call.arguments})" for call in message.tool_calls or ()]
            print(f"{message.role}:", message.text, *calls)


async def main() -> None:
    match sys.argv[1:]:
        case []:
            async with KimiServer(map(say, SCRIPT)) as server:
                await ask("Qwen/Qwen3-8B", server.base_url, server.api_key)
        case base_url, model:
            await ask(model, base_url, "none")
        case _:
            sys.exit("Give both the address and the model, or nothing.")


if __name__ == "__main__":
    asyncio.run(main())

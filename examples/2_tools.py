"""Functions: the model calls them, reads their results, and is told when a call goes wrong.

With KIMI_API_KEY set: `python examples/2_tools.py`
Without a key:         `python examples/offline.py examples/2_tools.py`
"""

import asyncio
from typing import Annotated, Any, Literal

from kimi_agent import Agent, AIParam, Kimi, ModelRetry, ai_function

CELSIUS = {"Oslo": 4, "Bergen": 7}


class Weather(Agent):
    @ai_function()
    async def get_weather(
        self, city: Annotated[str, AIParam("City, in English")], unit: Literal["c", "f"] = "c"
    ) -> dict[str, Any]:
        """Current weather of a city."""
        if city not in CELSIUS:
            raise ModelRetry(f"There is no weather station in {city}. Stations: {', '.join(CELSIUS)}.")
        celsius = CELSIUS[city]
        return {"city": city, "temperature": celsius if unit == "c" else celsius * 9 / 5 + 32, "unit": unit}


async def main() -> None:
    async with Weather(Kimi(), "You are terse.") as agent:
        for question in ("Which is warmer, Oslo or Bergen?", "What is the weather in Atlantis?"):
            print("user:", question)
            async for message in agent.full_round(question):
                for call in message.tool_calls or ():
                    print(f"{message.role} calls {call.name}({call.arguments})")
                if message.text:
                    print(f"{message.role}{' (error)' if message.is_tool_call_error else ''}: {message.text}")


if __name__ == "__main__":
    asyncio.run(main())

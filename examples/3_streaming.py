"""Streams: text while it arrives, and everything else that arrives with it.

With KIMI_API_KEY set: `python examples/3_streaming.py`
Without a key:         `python examples/offline.py examples/3_streaming.py`
"""

import asyncio

from kimi_agent import Agent, Append, End, Kimi, Reasoning, ToolCall, ToolResult, ai_function


class Weather(Agent):
    @ai_function()
    async def get_weather(self, city: str) -> str:
        """Current weather of a city."""
        return f"{city}: 4 °C, rain"


async def main() -> None:
    async with Weather(Kimi(), "You are terse.") as agent:
        # One stream per message. Who speaks is known before the first token.
        async for stream in agent.full_round_stream("What is the weather in Oslo?"):
            print(f"{stream.role}: ", end="")
            async for token in stream:
                print(token, end="", flush=True)
            print(*[f"[{call.name}]" for call in (await stream).tool_calls or ()])
        # Or the whole round as one stream of typed frames.
        async for frame in agent.full_round_frames("And in Bergen?"):
            match frame:
                case Reasoning(text):
                    print(f"[thinks] {text}")
                case Append(text):
                    print(f"[says] {text}")
                case ToolCall(name=name, arguments=arguments):
                    print(f"[calls] {name}({arguments})")
                case ToolResult(return_value=value):
                    print(f"[result] {value.output}")
                case End(finish_reason=reason):
                    print(f"[end] {reason}")
                case _:  # pieces of calls that are still being written
                    pass


if __name__ == "__main__":
    asyncio.run(main())

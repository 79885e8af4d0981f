"""Frames and events: everything that a round is made of, as values, from inside of its loop and from outside.

With KIMI_API_KEY set: `python examples/6_frames.py`
Without a key:         `python examples/offline.py examples/6_frames.py`
"""

import asyncio

from kimi_agent import (
    Agent,
    Append,
    End,
    Kimi,
    StreamFrame,
    ToolCall,
    ToolCallFinished,
    ToolResult,
    ai_function,
    collect_text,
    to_messages,
)


class Weather(Agent):
    @ai_function()
    async def get_weather(self, city: str) -> str:
        """Current weather of a city."""
        return f"{city}: 4 °C, rain"


async def main() -> None:
    async with Weather(Kimi(), "You are terse.") as agent:
        agent.on(ToolCallFinished, lambda event: print(f"[event] {event.call.name} took {event.duration:.1f} s"))
        frames: list[StreamFrame] = []
        async for frame in agent.full_round_frames("What is the weather in Oslo?"):
            frames.append(frame)
            match frame:
                case Append(text):
                    print(f"[text] {text}")
                case ToolCall(name=name, args=args):
                    print(f"[call] {name} {args}")
                case ToolResult(return_value=value):
                    print(f"[result] {value.output}")
                case End(finish_reason=why, usage=usage):
                    print(f"[end] {why}, {usage.output if usage else 0} tokens")
                case _:
                    pass
        print("all text:", collect_text(frames))  # functions over frames take lists and streams
        print("messages:", [message.role for message in to_messages(frames)])
        print(await collect_text(agent.chat_round_stream("Thank you.")))


if __name__ == "__main__":
    asyncio.run(main())

"""Sub-agents: an agent that is a function of another one, and a fork that goes its own way.

With KIMI_API_KEY set: `python examples/10_subagents.py`
Without a key:         `python examples/offline.py examples/10_subagents.py`
"""

import asyncio

from kimi_agent import Agent, Kimi, SubAgentEvent, ToolCallFinished, UsageLimits, ai_function

CELSIUS = {"Oslo": 4, "Bergen": 7}


class Scout(Agent):
    @ai_function()
    async def get_weather(self, city: str) -> str:
        """Current weather of a city."""
        return f"{CELSIUS[city]} °C, rain"


def show(happened: SubAgentEvent) -> None:
    if isinstance(happened.event, ToolCallFinished):
        path = " > ".join(call.name for call in (*happened.path, happened.event.call))
        print(f"[{path}] {happened.event.message.text}")


async def main() -> None:
    async with Kimi() as kimi:
        scout = Scout(kimi, "You look things up. Answer in one line.", limits=UsageLimits(requests=5))
        ask_scout = scout.as_tool("ask_scout", "A scout who knows the weather. Ask one thing at a time.")
        boss = Agent(kimi, "You are terse.", functions=[ask_scout], limits=UsageLimits(cost=0.50))
        boss.on(SubAgentEvent, show)

        question = 'Ask the scout "What is the weather in Oslo?" and "What is the weather in Bergen?"'
        async for message in boss.full_round(question):
            if message.text:
                print(f"{message.role}: {message.text}")

        fork = boss.fork(system_prompt="You doubt everything.")
        print("fork:", await fork.chat_round_str("Do you believe that?"))
        print(f"the boss has {len(boss.chat_history)} messages, the fork {len(fork.chat_history)}")
        print(f"together they made {boss.usage.requests} requests, the fork {fork.usage.requests} of them")
        print("paid by the scout itself:", scout.usage.requests)


if __name__ == "__main__":
    asyncio.run(main())

"""A prompt of your own: the model sees what is pinned and the last four messages, whatever was said before.

With KIMI_API_KEY set: `python examples/14_last_four.py`
Without a key:         `python examples/offline.py examples/14_last_four.py`
"""

import asyncio
from typing import Any

from kimi_agent import Agent, Kimi, Message


class Forgetful(Agent):
    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        start = max(0, len(self.chat_history) - 4)
        while start and self.chat_history[start].role == "tool":
            start -= 1  # results stay with the message that called
        return self.always_included_messages + self.chat_history[start:]


async def main() -> None:
    async with Forgetful(Kimi(), "You are terse.") as agent:
        for said in ("My name is Ada.", "I live in Oslo.", "I like tea.", "What is my name?"):
            print("user:", said)
            print("assistant:", await agent.chat_round_str(said))
        prompt = await agent.get_prompt()
        print("in the history:", len(agent.chat_history), "- in the prompt:", len(prompt))


if __name__ == "__main__":
    asyncio.run(main())

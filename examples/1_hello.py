"""A conversation: an agent remembers what was said.

With KIMI_API_KEY set: `python examples/1_hello.py`
Without a key:         `python examples/offline.py examples/1_hello.py`
"""

import asyncio

from kimi_agent import Agent, Kimi


async def main() -> None:
    async with Agent(Kimi(), "You are terse.") as agent:
        answer = await agent.chat_round("My name is Ada. What is the capital of Norway?")
        print("answer:", answer.text)

        # The second question can only be answered by who knows the first.
        print("answer:", await agent.chat_round_str("What is my name?"))

        print("\nThe history, which is a plain list:")
        for message in agent.chat_history:
            print(f"{message.role:>9}: {message.text}")
        print(f"\n{agent.usage.input} tokens went in, {agent.usage.output} came out.")


if __name__ == "__main__":
    asyncio.run(main())

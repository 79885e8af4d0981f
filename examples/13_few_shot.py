"""Few-shot: an exchange that never happened, in front of every prompt, shows the model how to use a function.

With KIMI_API_KEY set: `python examples/13_few_shot.py`
Without a key:         `python examples/offline.py examples/13_few_shot.py`
"""

import asyncio

from kimi_agent import Agent, Kimi, Message, ToolCall, ai_function

CALL = ToolCall.from_function("convert", call_id_="convert_0", amount=12, currency="NOK")
EXAMPLE = [
    Message.user("How much is twelve kroner?"),
    Message.assistant(tool_calls=[CALL]),
    Message.tool("1.02 EUR", CALL.id),
    Message.assistant("12 NOK = 1.02 EUR"),
]
IN_EUROS = {"NOK": 0.085, "SEK": 0.087, "DKK": 0.134}


class Exchange(Agent):
    @ai_function()
    async def convert(self, amount: float, currency: str) -> str:
        """Convert an amount to euros."""
        return f"{amount * IN_EUROS[currency]:.2f} EUR"


async def main() -> None:
    async with Exchange(Kimi(), "You are terse.", always_included_messages=EXAMPLE) as agent:
        async for message in agent.full_round("Convert 200 SEK."):
            print(f"{message.role}:", message.text or [call.name for call in message.tool_calls or ()])
        prompt = await agent.get_prompt()
        print("in the prompt:", [message.role for message in prompt[:5]])
        print("in the history:", [message.role for message in agent.chat_history])


if __name__ == "__main__":
    asyncio.run(main())

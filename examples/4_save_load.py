"""Save a conversation, load it into another agent, go on.

With KIMI_API_KEY set: `python examples/4_save_load.py`
Without a key:         `python examples/offline.py examples/4_save_load.py`
"""

import asyncio
import tempfile
from pathlib import Path

from kimi_agent import Agent, Kimi


async def main(path: Path) -> None:
    async with Kimi() as kimi:  # both agents share it, and its connections
        agent = Agent(kimi, "You are terse.")
        await agent.chat_round("My name is Ada.")
        agent.save(path)
        print(f"saved {len(agent.chat_history)} messages")

        again = Agent(kimi)  # the system prompt is in the file, too
        again.load(path)
        print(f"loaded {len(again.chat_history)} messages, pinned: {again.always_included_messages[0].text!r}")
        print("answer:", await again.chat_round_str("What is my name?"))
        print(f"the conversation has {len(again.chat_history)} messages and cost {again.usage.total} tokens")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "conversation.json"))

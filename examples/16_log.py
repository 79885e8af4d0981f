"""A log of everything that is said, as JSON lines, as it is said.

With KIMI_API_KEY set: `python examples/16_log.py`
Without a key:         `python examples/offline.py examples/16_log.py`
"""

import asyncio
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from kimi_agent import Agent, Kimi, Message, ai_function


class Logged(Agent):
    log = Path("log.jsonl")

    async def add_to_history(self, message: Message) -> None:
        await super().add_to_history(message)
        line = {"at": datetime.now(UTC).isoformat(), **message.model_dump(mode="json")}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @ai_function()
    async def get_weather(self, city: str) -> str:
        """Current weather of a city."""
        return f"{city}: 4 °C, rain"


async def main(log: Path) -> None:
    async with Logged(Kimi(), "You are terse.") as agent:
        agent.log = log
        async for message in agent.full_round("What is the weather in Oslo?"):
            print(f"{message.role} said something")


def show(log: Path) -> None:
    for line in log.read_text("utf-8").splitlines():
        fields = json.loads(line)
        print(f"logged {fields.pop('at'):.10}:", Message.model_validate(fields).role, fields["content"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(path := Path(folder) / "log.jsonl"))
        show(path)

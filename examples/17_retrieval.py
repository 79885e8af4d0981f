"""Retrieval: the model looks things up in your own texts, and says where it found them.

With KIMI_API_KEY set: `python examples/17_retrieval.py`
Without a key:         `python examples/offline.py examples/17_retrieval.py`
"""

import asyncio
import re
from typing import Annotated

from kimi_agent import Agent, AIParam, Kimi, ai_function

PAGES = {
    "opening-hours": "The library is open from 9 to 18 on weekdays, and from 10 to 14 on Saturdays.",
    "lending": "You may borrow ten books for four weeks. Two renewals are free.",
    "fees": "A late book costs 0.20 EUR a day, and 10 EUR at most.",
}


def words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


class Librarian(Agent):
    @ai_function()
    async def search(
        self, query: Annotated[str, AIParam("What to look for, in a few words")], limit: int = 2
    ) -> list[dict[str, str]]:
        """Search the pages of the library for a topic."""
        found = {page: len(words(query) & words(f"{page} {text}")) for page, text in PAGES.items()}
        best = sorted((page for page in PAGES if found[page]), key=lambda page: -found[page])
        return [{"page": page, "text": PAGES[page]} for page in best[:limit]]


async def main() -> None:
    async with Librarian(Kimi(), "Answer from the pages of the library alone, and name the page.") as agent:
        async for message in agent.full_round('Search the pages for "late books": what do they cost?'):
            for call in message.tool_calls or ():
                print(f"{message.role} calls {call.name}({call.arguments})")
            if message.text:
                print(f"{message.role}: {message.text}")


if __name__ == "__main__":
    asyncio.run(main())

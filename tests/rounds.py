"""Reading rounds, and waiting for the event loop."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kimi_agent import Agent


async def read(agent: Agent, method: str = "full_round", query: str = "go") -> list[Any]:
    """What a round of any kind gives, its streams read to their ends."""
    items: list[Any] = []
    async for item in getattr(agent, method)(query):
        items.append(item)
        if method == "full_round_stream":
            async for _ in item:
                pass
    return items


def results(agent: Agent) -> list[str]:
    """The texts of the results in the history."""
    return [message.text for message in agent.chat_history if message.role == "tool"]


async def turns_of_the_loop(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    """The tasks beside the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """No further task, and nothing that the loop has to complain about."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    before = others()
    yield
    assert others() <= before
    gc.collect(1)
    await turns_of_the_loop(3)
    assert complaints == []

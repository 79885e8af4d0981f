"""A long conversation: what it costs, what becomes of old messages, and how far it may go.

With KIMI_API_KEY set: `python examples/12_context.py`
Without a key:         `python examples/offline.py examples/12_context.py`
"""

import asyncio

from kimi_agent import Agent, DropToolOutput, HistoryCompacted, Kimi, SummarizeHistory, UsageLimitExceeded, UsageLimits

LINES = "\n".join(f"12:{minute:02}:07 worker-{minute % 7} took a job" for minute in range(60))


def read_log(hour: int) -> str:
    """The log of an hour of the day."""
    return f"The log of {hour}:00\n{LINES}"


async def main() -> None:
    async with Kimi("kimi-k3") as kimi:
        agent = Agent(
            kimi,
            "You are terse.",
            functions=[read_log],
            compaction=[DropToolOutput(older_than=1), SummarizeHistory(keep_last=2)],
            limits=UsageLimits(requests=9, cost=0.50),
        )
        agent.on(HistoryCompacted, lambda event: print(f"compacted by {', '.join(event.by)}"))
        try:
            for hour in (9, 10, 11, 12, 13):
                async for message in agent.full_round(f"Read the log of {hour}:00. What happened?"):
                    print(f"{message.role:>9}: {message.text.splitlines()[0] if message.text else '...'}")
        except UsageLimitExceeded as error:
            print("stopped:", error)
        await agent.compact()
        usage = agent.usage
        print(f"{usage.requests} requests, {usage.input} tokens in, {usage.prompt_cache_hit:.0%} of them cached")
        print("the cost is known:", agent.cost is not None, "- counted exactly:", agent.counts_exactly)


if __name__ == "__main__":
    asyncio.run(main())

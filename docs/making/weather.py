"""A tool for a picture: it runs for as long as somebody looks at it."""

import asyncio


async def forecast(city: str, days: int = 1) -> str:
    """The weather of the next days."""
    await asyncio.Event().wait()
    return f"{city}: rain for {days} days"

"""What a session costs: appends, restoring, and the size on disk, against one JSON dump of all messages per turn.

    python tests/bench/sessions.py

Ratios are within one run. A restore of 10,000 messages has to stay within BOUND times of pydantic reading the same
messages from one JSON array.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kimi_agent import Message, ThinkPart, ToolCall
from kimi_agent.session import JournalSession, Session, SQLiteSessionStore

BOUND = 1.6
"""Times what `TypeAdapter(list[Message]).validate_json` takes."""

APPENDS = 1_000
MESSAGES = TypeAdapter(list[Message])


WORDS = "The quick brown fox jumps over the lazy dog, and nobody knows why it does so. "


def talk(number: int) -> list[Message]:
    """A conversation of so many messages: questions, calls with the reasoning before them, results, answers."""
    return [message for turn in range(number // 4) for message in _turn(turn)]


def _turn(turn: int) -> list[Message]:
    body = ToolCall.FunctionBody(name="get_weather", arguments=f'{{"city": "Oslo", "day": {turn}}}')
    call = ToolCall(id=f"get_weather_{turn}", function=body)
    return [
        Message.user(f"{turn}: {WORDS}"),
        Message.assistant([ThinkPart(think=WORDS)], tool_calls=[call]),
        Message.tool(f'{{"city": "Oslo", "note": "{WORDS * 3}"}}', call.id, name="get_weather"),
        Message.assistant(f"{turn}: {WORDS * 2}"),
    ]


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    gc.collect()
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def appended(session: Session, messages: list[Message], *, flush: bool = False) -> None:
    await session.load()
    for message in messages:
        await session.append([message])
        if flush:
            await session.flush()
    await session.aclose()


def kinds(folder: Path) -> dict[str, tuple[Callable[[], Session], bool, str]]:
    """How a session is made, whether it is flushed after each append, and its file."""
    store = SQLiteSessionStore(folder / "s.db")
    return {
        "journal, fsync=never": (lambda: JournalSession(folder / "n", fsync="never"), False, "n"),
        "journal, fsync=always": (lambda: JournalSession(folder / "a", fsync="always"), False, "a"),
        "SQLite": (lambda: store.open("one"), False, "s.db"),
        "SQLite, flushed each time": (lambda: store.open("two"), True, "s.db"),
    }


async def appends(folder: Path) -> None:
    """Print appends per second, and those of a JSON dump per message."""
    messages = talk(APPENDS)
    print(f"{APPENDS:,} appends of one message")
    for name, (make, flush, _) in kinds(folder).items():
        seconds = await timed(lambda make=make, flush=flush: appended(make(), messages, flush=flush))
        print(f"  {name:<32} {APPENDS / seconds:10,.0f} a second")
    started = time.perf_counter()
    for end in range(0, APPENDS, 10):  # a tenth of them is enough
        (folder / "dump.json").write_bytes(MESSAGES.dump_json(messages[: end + 1]))
    print(
        f"  {'one JSON dump of all per message':<32} {APPENDS / 10 / (time.perf_counter() - started):10,.0f} a second"
    )


async def restores(number: int, folder: Path) -> dict[str, float]:
    """Print what it takes to restore so many messages; the ratios to pydantic."""
    messages = talk(number)
    dump = MESSAGES.dump_json(messages)
    MESSAGES.validate_json(dump)
    floor = min([await timed(lambda: asyncio.to_thread(MESSAGES.validate_json, dump)) for _ in range(5)])
    print(
        f"restoring {number:,} messages, each a record\n  {'pydantic, one array':<32} {floor * 1e3:10.1f} ms   1.00 x"
    )
    print(f"  {'':<32} {len(dump) / 1e6:10.1f} MB")
    store = SQLiteSessionStore(folder / f"{number}.db")
    made: dict[str, tuple[Callable[[], Session], str]] = {
        "journal": (lambda: JournalSession(folder / f"{number}", fsync="never"), f"{number}"),
        "SQLite": (lambda: store.open("one"), f"{number}.db"),
    }
    ratios: dict[str, float] = {}
    for name, (make, file) in made.items():
        await appended(make(), messages)
        seconds = min([await timed(lambda make=make: _loaded(make())) for _ in range(5)])
        ratios[name] = seconds / floor
        print(f"  {name:<32} {seconds * 1e3:10.1f} ms {ratios[name]:6.2f} x")
        print(f"  {'':<32} {(folder / file).stat().st_size / 1e6:10.1f} MB")
    await store.aclose()
    return ratios


async def _loaded(session: Session) -> None:
    await session.load()
    await session.aclose()


async def main() -> None:
    """Print the tables; the restore of 10,000 messages has a bound."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await appends(folder)
        ratios = await restores(10_000, folder)
        await restores(100_000, folder)
    for kind, ratio in ratios.items():
        assert ratio <= BOUND, f"{kind}: {ratio:.2f} times pydantic; the bound is {BOUND}"


if __name__ == "__main__":
    asyncio.run(main())

"""The fault campaign: an agent with functions and a session, on a way to Kimi on which everything goes wrong.

    python tests/faults/campaign.py --rounds 10000 --seed 1

Conversations of five rounds go through a TCP proxy with faults, and a third of them through a
`ChaosTransport` too. Some rounds are left half-way, closed by another task, or cancelled wherever they happen to wait,
once or twice. What is right is known, so the table has numbers that must be zero; else the exit code is 1, and
`--only N` plays the conversation of round N again and tells its story.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import urlsplit

from errands import Worker, answer
from loguru import logger
from proxy import Proxy
from report import Report
from talk import TALK, Conversation, Place, comes_true, own_tasks

from kimi_agent import Message, SQLiteSessionStore
from kimi_agent.kimi import patience
from kimi_agent.testing import KimiServer

__all__ = ["Campaign", "main"]

DELAY: Final = 0.002
"""Seconds before a request is sent again, at most."""
SHARE: Final = 50
"""Conversations that a process plays before it is given others."""
SPEAKING: Final = ("kimi_agent.events", "kimi_agent.generate", "kimi_agent.turns")
"""The rooms that log what nobody else can be told."""
FINDINGS: Final = 5
"""Of so many in a part it is said what they are. The table counts all."""


class Campaign:
    """Plays conversations in one event loop, one after the other.

    Args:
        seed: of the campaign.
        kind: of the agents.
        tell: gets the story.
    """

    def __init__(self, seed: int, kind: type[Worker] = Worker, tell: Callable[[str], None] = lambda _: None) -> None:
        self._seed, self._kind, self._tell = seed, kind, tell
        self.report = Report()
        self._complaints: list[str] = []

    async def play(self, rounds: range) -> Report:
        """Play the rounds, whole conversations at a time; what came of it."""
        with _swept(), self._listening():
            async with _place() as place:
                for first in rounds[::TALK]:
                    await self._conversation(place, first // TALK, min(TALK, rounds.stop - first))
                self.report.injected.update(place.proxy.injected)
        return self.report

    async def _conversation(self, place: Place, number: int, rounds: int) -> None:
        before = _open_files()
        talk = Conversation(number, self._seed, place, self._kind, self.report, self._tell)
        try:
            await talk.play(rounds)
        except Exception as error:
            talk.found("errors outside the tree", "".join(traceback.format_exception(error)))
        await self._look_back(place, talk, before)
        place.server.calls.clear()
        place.server.requests.clear()

    async def _look_back(self, place: Place, talk: Conversation, before: int) -> None:
        """A conversation leaves nothing behind."""
        if not await comes_true(lambda: not (own_tasks() or place.proxy.connections or place.server.connections)):
            talk.found("tasks leaked" if own_tasks() else "sockets leaked", "after the conversation")
        if not await comes_true(lambda: _open_files() <= before):
            talk.found("sockets leaked", f"{_open_files()} open files after the conversation, {before} before")
        gc.collect()
        await asyncio.sleep(0)
        for complaint in self._complaints:
            talk.found("complaints of the event loop", complaint)
        self._complaints.clear()

    @contextmanager
    def _listening(self) -> Generator[None]:
        """Hear what the event loop, the interpreter and the package have to complain of."""
        complaints = self._complaints
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(f"{context['message']}: {context!r:.2000}"))
        for room in SPEAKING:
            logger.enable(room)
        sink = logger.add(complaints.append, level="ERROR")
        try:
            with patch.object(sys, "unraisablehook", lambda raised: complaints.append(repr(raised))):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    yield
        finally:
            logger.remove(sink)
            for room in SPEAKING:
                logger.disable(room)
            loop.set_exception_handler(None)


@contextmanager
def _swept() -> Generator[None]:
    """What is there before is no garbage, and need not be looked through after each conversation."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@asynccontextmanager
async def _place() -> AsyncGenerator[Place]:
    """A server, the way to it, and a folder for sessions. Requests are sent again almost at once."""
    with (
        tempfile.TemporaryDirectory() as name,
        patch.multiple(patience, FIRST_DELAY=DELAY, LONGEST_DELAY=DELAY),
    ):
        database = Path(name, "sessions.db")
        async with (
            KimiServer(answer) as server,
            Proxy(port_of(server.base_url)) as proxy,
            SQLiteSessionStore(database) as store,
            SQLiteSessionStore(database) as reader,
        ):
            await store.open("opens").append([Message.user("what is open stays so")])
            await reader.open("opens").load()
            yield Place(proxy, server, store, reader, Path(name))


def port_of(url: str) -> int:
    """The number of the port that stands in a URL."""
    port = urlsplit(url).port
    assert port is not None
    return port


def _open_files() -> int:
    """How many files and sockets the process has open; 0 where nobody knows."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


# ==== the command ====


def play_share(seed: int, rounds: range, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Play some rounds in an event loop of their own."""
    logger.remove()
    return asyncio.run(Campaign(seed, tell=tell).play(rounds))


def shares(rounds: int, conversations: int = SHARE) -> list[range]:
    """All rounds in parts of so many conversations."""
    size = conversations * TALK
    return [range(first, min(first + size, rounds)) for first in range(0, rounds, size)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description="An agent on a way on which everything goes wrong.")
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--only", type=int, metavar="ROUND", help="its conversation alone, and what happens in it")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    report = Report()
    for part in _parts(options):
        report.add(part)
        _tell_of(part, report, options.seed)
    report.find_what_is_missing()
    print(report.table())
    print(f"{'seconds':36}{time.monotonic() - started:10,.0f}")
    print(f"{'seconds of CPU':36}{sum(os.times()[:4]):10,.0f}")
    return 1 if report.findings else 0


def _parts(options: Any) -> Iterator[Report]:
    if options.only is not None:
        first = options.only - options.only % TALK
        yield play_share(options.seed, range(first, first + TALK), print)
        return
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        yield from pool.map(partial(play_share, options.seed), shares(options.rounds))


def _tell_of(part: Report, whole: Report, seed: int) -> None:
    """Say at once what was found, and on a terminal how far it is."""
    for finding in part.findings[:FINDINGS]:
        print(f"round {finding.round}: {finding.kind}: {finding.text:.1500}")
        print(f"  again: python {sys.argv[0]} --seed {seed} --only {finding.round}\n", flush=True)
    if sys.stderr.isatty():
        print(f"{whole.rounds:,} rounds", end="\r", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""A process that writes to a session until it is killed, again and again.

A nursery is one process that has everything imported. For each kill it forks a child, which goes on with the session.
Before each change the child says what the history will be if it lasts, and afterwards that it has: so whoever kills it
knows the one or two histories that may be there.
"""

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Self

from kimi_agent import Agent, ai_function, history
from kimi_agent.message import Message, ToolCall
from kimi_agent.session.state import Session, SessionState
from kimi_agent.testing import Reply, ScriptedKimi, call

Ids = list[int]
Change = tuple[list[Message], Callable[[], Awaitable[Any]]]

TALKS = {"rounds, journal": "journal", "rounds, sqlite": "sqlite"}
"""The kinds whose child is an agent."""

LONG = 30
"""In messages. A longer history is replaced by a summary and its end."""


def open_session(kind: str, folder: str | Path) -> Session:
    """The session of a folder; its kind is `journal` or `sqlite`."""
    path = os.path.join(folder, kind)
    if kind == "journal":
        from kimi_agent.session.journal import JournalSession

        return JournalSession(path)
    from kimi_agent.session.sqlite import SQLiteSessionStore

    return SQLiteSessionStore(path).open("talk")


def ids_of(messages: Any) -> Ids:
    return [message.extra["id"] for message in messages]


# ==== the child ====


class Writer:
    """Makes one change after the other, at random."""

    def __init__(self, session: Session, seed: int) -> None:
        self.session = session
        self.random = random.Random(seed)
        self.ids = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))
        self.said: list[Message] = []
        self.checkpoints: dict[str, list[Message]] = {}

    async def work(self, say: Callable[[str, Any], None]) -> None:
        self.said = list((await self.session.load()).chat_history)
        say("lasts", ids_of(self.said))
        while True:
            after, change = self.next_change()
            say("changes", ids_of(after))
            await change()
            self.said = after
            say("lasts", ids_of(after))

    def next_change(self) -> Change:
        if len(self.said) > LONG:
            return self.replaced()
        kinds = [self.more] * 16 + [self.marked, self.back, self.flushed, self.compacted]
        return self.random.choice(kinds)()

    def more(self) -> Change:
        new = self.results() or self.question()
        after = list(self.said)
        for message in new:
            after.insert(history.placed(after, message) if message.role == "tool" else len(after), message)
        return after, lambda: self.session.append(new)

    def results(self) -> list[Message]:
        calls = list(history.open_calls(self.said))
        self.random.shuffle(calls)
        return [self.message("tool", tool_call_id=call.id) for call in calls[: self.random.randint(0, len(calls))]]

    def question(self) -> list[Message]:
        calls = [ToolCall.from_function("look", call_id_=f"look_{index}") for index in range(self.random.randint(0, 3))]
        asking = self.message("assistant", tool_calls=calls)
        return [self.message("user"), asking][: self.random.randint(1, 2)]

    def message(self, role: Any, **fields: Any) -> Message:
        text = "text " * self.random.choice([1, 10, 100, 500])
        return Message(role=role, content=text, extra={"id": next(self.ids)}, **fields)

    def replaced(self) -> Change:
        after = [self.message("user"), *self.said[-self.random.randint(1, 9) :]]
        return after, lambda: self.session.replace(SessionState(chat_history=tuple(after)), reason="compaction")

    def marked(self) -> Change:
        label = self.random.choice("ab")
        self.checkpoints[label] = list(self.said)
        return self.said, lambda: self.session.checkpoint(label)

    def back(self) -> Change:
        if not self.checkpoints:
            return self.marked()
        label = self.random.choice(list(self.checkpoints))
        return list(self.checkpoints[label]), lambda: self.session.rollback(label)

    def flushed(self) -> Change:
        return self.said, self.session.flush

    def compacted(self) -> Change:
        return self.said, getattr(self.session, "compact", self.session.flush)


class Talking(Agent):
    """An agent whose rounds have two calls each."""

    @ai_function()
    async def look(self, what: str) -> str:
        """Look."""
        await asyncio.sleep(0)
        return f"{what} was seen"


async def talk(session: Session, seed: int, say: Callable[[str, Any], None]) -> None:
    """Rounds of an agent; says which messages were handed out, by their texts."""
    handed: list[str] = []
    turns = count()

    def answer(body: Any) -> Reply:
        turn = f"{seed}.{next(turns)}"
        if body["messages"][-1]["role"] == "tool":
            return Reply(f"{turn} done")
        return Reply(f"{turn} calls", tool_calls=[call("look", what=f"{turn} {each}") for each in "ab"])

    async with Talking(ScriptedKimi(answer), "Be terse.", session=session) as agent:
        say("lasts", handed)
        while True:
            query = f"{seed}.{next(turns)} question"
            async for message in agent.full_round(query):
                handed += [query, message.text]
                say("lasts", handed)
            async for stream in agent.full_round_stream(query):
                handed.append((await stream).text)
                say("lasts", handed)


_write = os.pwrite


def say(what: str, value: Any) -> None:
    os.write(1, json.dumps([what, value]).encode() + b"\n")


def write_slowly(descriptor: int, content: Any, offset: int) -> int:
    """A piece of it, so that there is time to be killed in the middle."""
    time.sleep(0)
    return _write(descriptor, content[: random.randint(1, 500)], offset)


def be_a_child(kind: str, folder: str, seed: int) -> None:
    if seed % 2:
        os.pwrite = write_slowly
    try:
        if kind in TALKS:
            asyncio.run(talk(open_session(TALKS[kind], folder), seed, say))
        else:
            asyncio.run(Writer(open_session(kind, folder), seed).work(say))
    except BaseException as error:
        say("error", repr(error))
    os._exit(1)


def be_a_nursery() -> None:
    """Fork a child for each line of the standard input, and say when it has ended."""
    warm_up()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            be_a_child(*json.loads(line))
        say("child", child)
        os.waitpid(child, 0)
        say("dead", child)


def warm_up() -> None:
    """Import and build what every child needs. No thread may be left: it would not be there in a child."""
    from kimi_agent.session.ledger import Ledger

    for kind in ("journal", "sqlite"):
        with suppress(ImportError):
            open_session(kind, "/nowhere")
    call = ToolCall.from_function("look", call_id_="look_0")
    messages = [Message.user("warm", extra={"id": 1}), Message(role="assistant", tool_calls=[call])]
    ledger = Ledger()
    ledger.replay([ledger.appending(messages).body])
    ledger.replacing(ledger.state())
    asyncio.run(_warm_round())
    gc.freeze()


async def _warm_round() -> None:
    async for _ in Talking(ScriptedKimi([call("look", what="x"), Reply("done")])).full_round("warm"):
        pass


# ==== whoever kills it ====


@dataclass(frozen=True)
class Life:
    """What a child said before it was killed: the last history that lasts, and the one that may have come after it."""

    lasts: Ids | None = None
    changes: Ids | None = None

    def allows(self, found: Ids) -> bool:
        """Whether a session may have this history now."""
        return self.lasts is None or found in (self.lasts, self.changes)


class Nursery:
    """A process that has children to be killed."""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self.process:
            self.process.kill()

    def life(self, kind: str, folder: Path, seed: int, *, changes: int, delay: float) -> Life:
        """Let a child work, and kill it `delay` seconds after it has made so many changes."""
        assert self.process.stdin is not None
        print(json.dumps([kind, str(folder), seed]), file=self.process.stdin, flush=True)
        child: int | None = None
        life, made = Life(), -1
        for what, value in self.words():
            if what == "dead":
                return life
            assert what != "error", value
            child = value if what == "child" else child
            life = Life(value) if what == "lasts" else replace(life, changes=value) if what == "changes" else life
            made += what == "lasts"
            if made >= changes and child is not None:
                kill_after(delay, child)
                child = None
        raise AssertionError("the nursery has ended")

    def words(self) -> Iterator[tuple[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield tuple(json.loads(line))


def kill_after(delay: float, child: int) -> None:
    until = time.perf_counter() + delay
    while time.perf_counter() < until:
        pass
    os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    be_a_nursery()

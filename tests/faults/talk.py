"""A conversation of a campaign: rounds of an agent and its successors, and what is looked at after each question."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import httpx
import proxy
from books import Books, Wrong
from consumers import WAYS, Asking, Hung, Stop
from errands import Errand, Worker, is_asked, is_right
from report import Finding, Report

from kimi_agent import (
    Approval,
    ApprovalPending,
    ChatProviderError,
    JournalSession,
    Kimi,
    Message,
    RequestRetried,
    RequestSent,
    Session,
    SQLiteSessionStore,
    StreamInterruptedError,
    StreamStarted,
    ToolResult,
)
from kimi_agent.errors import BadRequestError, InvalidRequestError
from kimi_agent.history import problems
from kimi_agent.kimi.patience import Timeouts
from kimi_agent.testing import ChaosFault, ChaosTransport, KimiServer, connection, server

__all__ = ["TALK", "Conversation", "Place", "comes_true", "own_tasks"]

TALK: Final = 5
"""Rounds of a conversation."""
RATES: Final = (0.0, 0.3, 0.3, 0.6)
"""Shares of the answers that a fault of the proxy strikes, one for each conversation."""
CHAOTIC: Final = 1 / 3
"""The share of the conversations with a `ChaosTransport`."""
STOPS: Final = {"read": 14, "left": 2, "closed": 1, "cancelled": 2, "cancelled twice": 1}
"""How consumers stop, and how often."""
MOST: Final = 3
"""How often a round is asked to go on."""
SILENCE: Final = 0.1
"""Seconds after which a client gives up."""
PATIENCE: Final = 3.0
"""Seconds in which everything that a round began has to end by itself."""

_UNANSWERED: Final = {"stopped": "stopped by the consumer", "waits": "left waiting for approval"}
"""How a round ends that has no answer, if not with an error."""
_FALSIFYING: Final[tuple[ChaosFault, ...]] = ("bit_flip", "duplicate_deltas", "reorder_deltas")
"""What a transport can do so that an answer reads well and is another one. TCP never does."""
_HELP: Final = {
    "a request sent again": "retried",
    "an answer continued in the middle": "continued",
    "the round asked again": "asked again",
    "an approval": "approved",
}
"""What it took to get an answer, and the event that tells."""


class Place(NamedTuple):
    """Where conversations take place."""

    proxy: proxy.Proxy
    server: KimiServer
    store: SQLiteSessionStore
    reader: SQLiteSessionStore
    """The same database, read by somebody else."""
    folder: Path


class Conversation:
    """Rounds of an agent and its successors, which go on with its session.

    Args:
        number: of the conversation; what happens in it depends on that and on the seed.
        seed: of the campaign.
        place: where.
        kind: of the agents.
        report: gets what came of it.
        tell: gets the story.
    """

    def __init__(
        self, number: int, seed: int, place: Place, kind: type[Worker], report: Report, tell: Callable[[str], None]
    ) -> None:
        self._place, self._kind, self._report, self._tell = place, kind, report, tell
        self._first = self.round = number * TALK
        self._dice = dice = Random(f"{seed}/{number}")
        place.proxy.begin(dice.getrandbits(32), dice.choice(RATES))
        self._transport = _chaos(dice.getrandbits(32)) if dice.random() < CHAOTIC else None
        self._name = f"talk-{number}"
        self._keeps_journal = dice.random() < 0.5
        self._options = {"resume_interrupted": dice.random() < 0.5, "max_parallel_tools": dice.choice((None, None, 1))}
        self._requests = {"max_retries": dice.choice((0, 1, 2, 4)), "max_concurrency": dice.choice((None, 1))}
        self._way = dice.choice(WAYS)
        self._refusals = 0
        self._falsified = 0
        self._events: Counter[str] = Counter()
        self._books = Books(place.server)

    async def play(self, rounds: int) -> None:
        """Play it; some agents are left, and others go on."""
        said: list[Message] = []
        left = range(self._first, self._first + rounds)
        async with self._client() as client:
            while left:
                life = self._dice.randint(1, TALK)
                said = await self._life(client, left[:life], said)
                left = left[life:]

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[httpx.AsyncClient | None]:
        """One with a `ChaosTransport`; `None` for a pool of the agent's own."""
        if (way := self._transport) is None:
            yield None
            return
        async with httpx.AsyncClient(transport=way) as client:
            yield client
        self._report.injected.update({f"chaos: {name}": count for name, count in way.injected.items()})

    async def _life(self, client: httpx.AsyncClient | None, rounds: range, said: list[Message]) -> list[Message]:
        """Some rounds of one agent; what it has said in the end."""
        kimi = Kimi(
            api_key=self._place.server.api_key,
            base_url=f"http://127.0.0.1:{self._place.proxy.port}/v1",
            http_client=client,
            **self._requests,
            timeout=Timeouts(connect=SILENCE * 10, first_byte=SILENCE, between_chunks=SILENCE),
        )
        agent = self._kind(kimi, "Run errands.", session=self._session(), retry_attempts=20, **self._options)
        agent.on(StreamStarted, lambda _: self._events.update(["begun"]))
        agent.on(RequestSent, lambda _: self._events.update(["sent"]))
        agent.on(RequestRetried, self._retried)
        self._books.keep(agent)
        async with agent:
            if agent.chat_history != said:
                self.found("sessions that differ", _difference(agent.chat_history, said))
            for number in rounds:
                self.round = number
                await self._one_round(agent)
        await self._compare(agent)
        return list(agent.chat_history)

    def _session(self) -> Session:
        if self._keeps_journal:
            return JournalSession(self._journal, fsync="never")
        return self._place.store.open(self._name)

    @property
    def _journal(self) -> Path:
        return self._place.folder / f"{self._name}.journal"

    def _retried(self, event: RequestRetried) -> None:
        self._events["retried"] += 1
        self._refusals -= 1
        if self._refusals <= 0:
            self._place.proxy.admit()

    # ---- a round ----

    async def _one_round(self, agent: Worker) -> None:
        errand = Errand.drawn(self._dice)
        self._tell(f"round {self.round}: {errand.question}")
        self._events.clear()
        self._falsified = self._falsified_answers()
        self._books.begin(agent)
        faults = self._faults()
        await self._go_away_perhaps()
        endings = [await self._ask(agent, errand.question)]
        while not (endings[-1] == "read" or is_right(agent.chat_history, errand) or self._gives_up(endings)):
            endings.append(await self._go_on(agent, errand))
        self._report.rounds += 1
        stopped = "stopped" in endings
        undisturbed = faults == self._faults() and not self._events["retried"] and {*endings} <= {"read", "waits"}
        self._judge(agent, errand, endings[-1], stopped=stopped)
        self._find(self._books.after_question(agent, stopped=stopped, undisturbed=undisturbed))

    def _gives_up(self, endings: Sequence[str]) -> bool:
        return len(endings) > MOST or self._dice.random() < 0.2

    async def _go_away_perhaps(self) -> None:
        """Now and then the server is gone for one or two attempts."""
        if self._place.proxy.rate and self._dice.random() < 0.06:
            self._refusals = self._dice.randint(1, 2)
            self._place.proxy.refuse()
            self._report.injected["refused"] += 1
            self._tell("  the server is gone")

    async def _go_on(self, agent: Worker, errand: Errand) -> str:
        """Do something about a round that did not come to its end."""
        if agent.waiting_calls:
            self._events["approved"] += 1
            return await self._resume(agent)
        self._events["asked again"] += 1
        return await self._ask(agent, None if is_asked(agent.chat_history, errand) else errand.question)

    async def _ask(self, agent: Worker, query: str | None) -> str:
        return await self._asked(agent, partial(getattr(agent, self._way.ask), query))

    async def _resume(self, agent: Worker) -> str:
        """Approve what waits; reject some."""
        said = [
            Approval.reject("not now", call) if self._dice.random() < 0.2 else Approval.approve(call)
            for call in agent.waiting_calls
        ]
        self._events["rejected"] += sum(not approval.is_given for approval in said)
        return await self._asked(agent, partial(getattr(agent, self._way.resume), said))

    async def _asked(self, agent: Worker, start: Callable[[], Any]) -> str:
        """Ask, read, and look at everything: `read`, `stopped`, `waits`, or the name of an error."""
        stop = Stop.drawn(self._dice, STOPS)
        asking = Asking(agent, start, self._way.read, stop)
        error = await asking.outcome()
        self._place.proxy.admit()
        ending = self._ending(asking, error)
        self._tell(f"  {self._way.ask}, {stop.how}: {ending}{f' ({error})' if error else ''}")
        self._check_history(agent, asking)
        await self._check_leaks()
        await self._check_disk(agent, asking)
        self._find(self._books.after_reading(agent, asking.answered, stopped=asking.stopped))
        return ending

    def _ending(self, asking: Asking, error: BaseException | None) -> str:
        if error is None:
            return "stopped" if asking.stopped else "read"
        if asking.stopped and isinstance(error, asyncio.CancelledError | StreamInterruptedError):
            return "stopped"  # whoever reads a stream that another task closes gets the error
        if isinstance(error, ApprovalPending):
            return "waits"
        name = type(error).__name__
        self._report.errors[name] += 1
        if (kind := _must_not_be(error)) is not None:
            self.found(kind, repr(error))
        return name

    # ---- what is looked at ----

    def found(self, kind: str, text: str) -> None:
        self._tell(f"  !! {kind}: {text}")
        self._report.findings.append(Finding(self.round, kind, text))

    def _find(self, wrong: Iterable[Wrong]) -> None:
        for each in wrong:
            self.found(*each)

    def _faults(self) -> int:
        """How many have struck until now."""
        chaos = self._transport.injected.total() if self._transport else 0
        return self._place.proxy.injected.total() + self._report.injected["refused"] + chaos

    def _falsified_answers(self) -> int:
        return sum(self._transport.injected[name] for name in _FALSIFYING) if self._transport else 0

    @property
    def _was_falsified(self) -> bool:
        """Whether that happened to an answer to this question."""
        return self._falsified_answers() > self._falsified

    def _judge(self, agent: Worker, errand: Errand, ending: str, *, stopped: bool) -> None:
        """Whether the answer is right, and what it took to get it."""
        falsified = self._was_falsified
        right = is_right(agent.chat_history, errand)
        if right and not (stopped or falsified or self._events["rejected"]):
            right = all(token in agent.chat_history[-1].text for token in errand.tokens)
        if right:
            self._report.endings["answered right"] += 1
            self._report.helped.update(self._what_helped() or ["nothing"])
        elif ending != "read":
            self._report.endings[_UNANSWERED.get(ending, "failed with an error")] += 1
        elif falsified:
            self._report.endings["answered what was falsified"] += 1
        else:
            self._report.endings["answered wrong"] += 1
            self.found("answers wrong", agent.chat_history[-1].text)

    def _what_helped(self) -> list[str]:
        self._events["continued"] = max(self._events["sent"] - self._events["begun"], 0)
        return [name for name, event in _HELP.items() if self._events[event]]

    def _check_history(self, agent: Worker, asking: Asking) -> None:
        if wrong := problems(agent.chat_history):
            self.found("histories invalid", wrong[0])
        if lost := [message for message in asking.handed if message not in agent.chat_history]:
            self.found("results lost", f"handed out, and not in the history: {lost[0]}")
        if asking.torn:
            self.found("pieces that differ", f"heard otherwise piece by piece: {asking.torn[0]}")
        if asking.disordered and not self._was_falsified:
            self.found("pieces that differ", f"heard its text before its reasoning: {asking.disordered[0]}")
        for result in asking.results:
            if not any(_is_frame_of(result, message) for message in agent.chat_history):
                self.found("pieces that differ", f"not a result of the history: {result}")
        results = [message.text for message in agent.chat_history if message.role == "tool"]
        said = "".join(results)
        for token in [token for token in asking.finished if token not in said]:
            self.found("results lost", token)
        lost = [token for token in asking.in_threads if token not in said]
        if len(lost) > results.count(agent.texts.still_running()):
            self.found("results lost", lost[0])

    async def _check_leaks(self) -> None:
        """What a round began ends by itself, but for one connection that the next one may use."""
        if not await comes_true(lambda: not own_tasks()):
            self.found("tasks leaked", ", ".join(map(str, own_tasks())))
        if not await comes_true(lambda: self._place.proxy.connections <= 1):
            self.found("sockets leaked", f"{self._place.proxy.connections} connections after a round")

    async def _check_disk(self, agent: Worker, asking: Asking) -> None:
        """What was handed out is on the disk; everything is, when the round has ended in order."""
        if asking.ended_in_order:
            await self._compare(agent)
        else:
            kept = await self._on_disk()
            if lost := [message for message in asking.handed if message not in kept]:
                self.found("results lost", f"handed out, and not on the disk: {lost[0]}")

    async def _compare(self, agent: Worker) -> None:
        kept = await self._on_disk()
        if kept != agent.chat_history:
            self.found("sessions that differ", _difference(kept, agent.chat_history))

    async def _on_disk(self) -> list[Message]:
        """The conversation as somebody else reads it."""
        if not self._keeps_journal:
            return list((await self._place.reader.open(self._name).load()).chat_history)
        if not self._journal.exists():
            return []
        copy = JournalSession(shutil.copy(self._journal, self._place.folder / "copy.journal"))
        try:
            return list((await copy.load()).chat_history)
        finally:
            await copy.aclose()


def _chaos(seed: int) -> ChaosTransport:
    return ChaosTransport(httpx.AsyncHTTPTransport(verify=False), seed=seed, rate=0.3)


def _must_not_be(error: BaseException) -> str | None:
    """Under which name an error is counted that no fault explains."""
    if isinstance(error, Hung):
        return "rounds that hang"
    if isinstance(error, BadRequestError | InvalidRequestError):
        return "requests refused as invalid"
    return None if isinstance(error, ChatProviderError) else "errors outside the tree"


def _is_frame_of(result: ToolResult, message: Message) -> bool:
    """Whether a message of a tool says what a frame said."""
    value = result.return_value
    said = message.role, message.tool_call_id, message.text, bool(message.is_tool_call_error)
    return said == ("tool", result.tool_call_id, value.output, value.is_error)


def _difference(some: Sequence[Message], others: Sequence[Message]) -> str:
    """Where two conversations differ first."""
    for place, (one, other) in enumerate(zip(some, others, strict=False)):
        if one != other:
            return f"message {place} is {one!r}, and not {other!r}"
    longer = max(some, others, key=len)
    return f"{len(some)} messages, and not {len(others)}; one has {longer[min(len(some), len(others))]!r}"


def own_tasks() -> list[asyncio.Task[Any]]:
    """Those of the agent: not of the server and the proxy, and not the one that asks."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not _is_theirs(task)]


_THEIRS: Final = tuple(str(Path(file).resolve()) for file in (server.__file__, connection.__file__, proxy.__file__))


def _is_theirs(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename in _THEIRS


async def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does, within `PATIENCE`."""
    for _ in range(20):
        if condition():
            return True
        await asyncio.sleep(0)
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        await asyncio.sleep(0.001)
    return condition()

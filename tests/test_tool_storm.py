"""Whatever tools do, whoever approves, and whenever a round is broken off: nothing finished is lost, nothing is left.

Each example draws what the model calls, how each function behaves and what is said of the calls that have to be
approved; then the order in which what waits is let go, when the clock moves on, and how the round ends. Functions wait
for gates and not for time, threads are joined, and the clock of the loop stands still unless an example moves it.

`KIMI_AGENT_FUZZ` is the number of examples.
"""

import asyncio
import gc
import inspect
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rounds import turns_of_the_loop

from kimi_agent import (
    Agent,
    Approval,
    ApprovalPending,
    Message,
    ModelRetry,
    StreamInterruptedError,
    ToolCall,
    ToolCallFinished,
    ToolCallStarted,
    ToolContext,
    abandoned_calls,
    ai_function,
)
from kimi_agent.history import problems
from kimi_agent.testing import Reply, ScriptedKimi, call, say
from kimi_agent.testing.checks import check_request
from kimi_agent.tools.threads import TOOL_THREADS

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "1000")) // 8

NAMES = ["act", "alone", "ask", "ask_alone", "block", "block_alone"]
BEHAVIOURS = ["ok", "slow", "gate", "fail", "retry", "boom", "cancels itself", "swallows", "careful"]
DECISIONS = ["approve", "approve_for_session", "reject", "wait", "raise", "approve at the gate"]
ENDINGS = ["run on", "break", "cancel", "cancel twice", "close", "close from outside", "raise", "newer round"]
METHODS = ["full_round", "full_round_stream", "full_round_frames"]
RESUMING = {"full_round": "resume", "full_round_stream": "resume_stream", "full_round_frames": "resume_frames"}
TIMEOUT = 8.0
A_WHILE = 12
"""Turns of the loop after which nothing moves any more that waits for no gate."""


# ==== an example ====


@dataclass(frozen=True)
class Wanted:
    """A call: of which function, what it does, what is said of it."""

    name: str
    behaviour: str = "ok"
    decision: str = "approve"


@dataclass(frozen=True)
class Part:
    """How a round is read, what happens meanwhile, and how it ends."""

    method: str = "full_round"
    ending: str = "run on"
    after: int = 0
    """Items (of who reads) or moves (of who breaks in) before the end comes."""
    moves: list[int] = field(default_factory=list[int])
    """A gate to open; or below 0: turns of the loop, and at the least of them a move of the clock."""


@dataclass(frozen=True)
class Plan:
    """One example."""

    turns: list[list[Wanted]]
    parts: list[Part]
    answers: list[str]
    """What is said later of calls that wait."""
    most: int | None = None
    timeout: float | None = None
    hook_waits: bool = False


calls = st.builds(Wanted, st.sampled_from(NAMES), st.sampled_from(BEHAVIOURS), st.sampled_from(DECISIONS))
parts = st.builds(
    Part,
    st.sampled_from(METHODS),
    st.sampled_from(ENDINGS),
    st.integers(0, 8),
    st.lists(st.integers(-6, 5), max_size=12),
)
plans = st.builds(
    Plan,
    st.lists(st.lists(calls, min_size=1, max_size=4), min_size=1, max_size=2),
    st.lists(parts, min_size=3, max_size=3),
    st.lists(st.sampled_from(["approve", "reject", "wait", "nothing"]), min_size=4, max_size=4),
    st.none() | st.integers(1, 3),
    st.sampled_from([None, TIMEOUT, math.inf]),
    st.booleans(),
)
CLOCK = -6


# ==== a loop whose clock stands still ====


class Still(asyncio.SelectorEventLoop):
    """Its time passes when somebody says so."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Gates:
    """What functions wait for, on the loop and in threads, in the order in which they came."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, asyncio.Future[None] | tuple[threading.Event, threading.Thread]]] = []
        self.joined: list[str] = []
        """Tags of calls whose thread gave something to somebody who waited for it."""
        self._given: dict[str, bool] = {}

    async def wait(self, tag: str) -> None:
        entry = tag, asyncio.get_running_loop().create_future()
        self.waiting.append(entry)
        try:
            await entry[1]
        finally:
            if entry in self.waiting:
                self.waiting.remove(entry)

    def block(self, tag: str) -> None:
        event = threading.Event()
        self.waiting.append((tag, (event, threading.current_thread())))
        assert event.wait(20)

    def gives(self, tag: str) -> None:
        """The function of this call is about to return a value, in its thread."""
        self._given[tag] = True

    def settle(self) -> None:
        """Wait until every thread that was started has come to its gate."""
        limit = time.monotonic() + 20
        while len(TOOL_THREADS.running) > sum(isinstance(gate, tuple) for _, gate in self.waiting):
            assert time.monotonic() < limit
            time.sleep(0)

    async def open(self, number: int) -> None:
        """Let one go that waits, and wait for its thread if it has one."""
        self.settle()
        if not self.waiting:
            return await turns_of_the_loop(1)
        tag, gate = self.waiting[number % len(self.waiting)]
        if isinstance(gate, asyncio.Future):
            self.waiting.remove((tag, gate))
            if not gate.done():
                gate.set_result(None)
            return None
        await turns_of_the_loop(A_WHILE)
        self.settle()
        is_awaited = not job_of(tag).abandoned
        self.waiting.remove((tag, gate))
        event, thread = gate
        event.set()
        thread.join(20)
        await turns_of_the_loop(A_WHILE)
        if is_awaited and self._given.get(tag):
            self.joined.append(tag)
        return None

    async def open_all(self) -> None:
        self.settle()
        while self.waiting:
            await self.open(0)


def job_of(tag: str) -> Any:
    """What runs the call of this tag in a thread."""
    return next(job for job in TOOL_THREADS._running if getattr(job.function, "keywords", {}).get("tag") == tag)


# ==== an agent whose functions do what they are told ====


class Boom(Exception):
    """What ends a round."""


class Stop(Exception):
    """What the caller's own code raises."""


class Stormy(Agent):
    """What began, what finished and what was approved is written down."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(
            ScriptedKimi(script(plan)), retry_attempts=3, max_parallel_tools=plan.most, tool_timeout=plan.timeout
        )
        self.plan = plan
        self.gates = Gates()
        self.ran: list[str] = []
        self.finished: list[str] = []
        self.allowed: set[str] = set()
        self.allowed_for_all: set[str] = set()
        self.is_over = False
        """Nobody waits for what the functions give from now on."""
        self.under_way: dict[str, bool] = {}
        """The calls that run on the loop, and whether each runs alone."""
        self.broken: list[str] = []
        self.on(ToolCallStarted, self._saw)
        self.on(ToolCallFinished, self._saw)

    async def nothing_more(self) -> None:
        """Nobody waits from now on. A call with a deadline is heard of some turns after its end."""
        self.is_over = True
        await turns_of_the_loop(3 if self.plan.timeout == TIMEOUT else 0)

    async def _saw(self, _: Any) -> None:
        await turns_of_the_loop(1 if self.plan.hook_waits else 0)

    @ai_function(fatal=(Boom,))
    async def act(self, behaviour: str, tag: str, context: ToolContext) -> str:
        return await self._behave(behaviour, tag, context)

    @ai_function(fatal=(Boom,), sequential=True)
    async def alone(self, behaviour: str, tag: str, context: ToolContext) -> str:
        return await self._behave(behaviour, tag, context, alone=True)

    @ai_function(fatal=(Boom,), approval=True)
    async def ask(self, behaviour: str, tag: str, context: ToolContext) -> str:
        return await self._behave(behaviour, tag, context, asked="ask")

    @ai_function(fatal=(Boom,), approval=True, sequential=True)
    async def ask_alone(self, behaviour: str, tag: str, context: ToolContext) -> str:
        return await self._behave(behaviour, tag, context, alone=True, asked="ask_alone")

    @ai_function(fatal=(Boom,))
    def block(self, behaviour: str, tag: str) -> str:
        return self._behave_in_a_thread(behaviour, tag)

    @ai_function(fatal=(Boom,), sequential=True)
    def block_alone(self, behaviour: str, tag: str) -> str:
        return self._behave_in_a_thread(behaviour, tag)

    async def _behave(
        self, behaviour: str, tag: str, context: ToolContext, *, alone: bool = False, asked: str = ""
    ) -> str:
        self.ran.append(tag)
        if context.agent is not self or tag not in context.call.arguments:
            self.broken.append(f"{tag} has the context of {context.call}")
        if asked and tag not in self.allowed and asked not in self.allowed_for_all:
            self.broken.append(f"{tag} was not approved")
        if (alone and self.under_way) or any(self.under_way.values()):
            self.broken.append(f"{tag} began beside {self.under_way}")
        self.under_way[tag] = alone
        if self.plan.most is not None and len(self.under_way) > self.plan.most:
            self.broken.append(f"{len(self.under_way)} run")
        try:
            await self._do(behaviour, tag)
        finally:
            del self.under_way[tag]
        if not self.is_over:
            self.finished.append(tag)
        return f"done {tag}"

    async def _do(self, behaviour: str, tag: str) -> None:
        match behaviour:
            case "slow":
                await turns_of_the_loop(5)
            case "gate":
                await self.gates.wait(tag)
            case "swallows":
                try:
                    await self.gates.wait(tag)
                except asyncio.CancelledError:
                    await turns_of_the_loop(2)
            case "careful":
                try:
                    await self.gates.wait(tag)
                finally:
                    await turns_of_the_loop(3)
            case _:
                raise_as_told(behaviour, tag)

    def _behave_in_a_thread(self, behaviour: str, tag: str) -> str:
        self.ran.append(tag)
        self.gates.block(tag)
        raise_as_told(behaviour, tag)
        self.gates.gives(tag)
        return f"done {tag}"

    async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
        tag = tag_of(call)
        match decision_of(self.plan, call):
            case "raise":
                raise LookupError("nobody is there")
            case "reject":
                return Approval.reject("no", call)
            case "wait":
                return Approval.wait(call)
            case "approve at the gate":
                await self.gates.wait(f"approval of {tag}")
            case "approve_for_session":
                self.allowed_for_all.add(call.name)
                return Approval.approve_for_session(call)
            case _:
                pass
        self.allowed.add(tag)
        return Approval.approve(call)

    async def add_to_history(self, message: Message) -> None:
        if self.plan.hook_waits:
            await asyncio.sleep(0)
        await super().add_to_history(message)


def raise_as_told(behaviour: str, tag: str) -> None:
    match behaviour:
        case "fail":
            raise ValueError(tag)
        case "retry":
            raise ModelRetry(f"not {tag}")
        case "boom":
            raise Boom(tag)
        case "cancels itself":
            raise asyncio.CancelledError
        case _:
            pass


def tag_of(call: ToolCall) -> str:
    return str(call.args["tag"])


def decision_of(plan: Plan, call: ToolCall) -> str:
    turn, place = map(int, tag_of(call).strip("<>").split("."))
    return plan.turns[turn][place].decision


def script(plan: Plan) -> list[Any]:
    """The model's turns: calls with unique tags, then answers."""
    steps = [
        Reply(
            f"turn {number}",
            tool_calls=[
                call(wanted.name, behaviour=wanted.behaviour, tag=f"<{number}.{place}>")
                for place, wanted in enumerate(turn)
            ],
        )
        for number, turn in enumerate(plan.turns)
    ]
    return [*steps, *(say("the end") for _ in range(12))]


# ==== a round of it ====


def is_fresh(task: asyncio.Task[Any]) -> bool:
    """Whether it has not begun. A reader of a stream that is closed now would never end: see the test of that."""
    return inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_CREATED  # type: ignore[arg-type]


class Reading:
    """Reads a round as its part of the plan says."""

    def __init__(self, agent: Stormy, part: Part, make: Callable[[], Any]) -> None:
        self.agent, self.part = agent, part
        self.was_cancelled = False
        self.round: Any = make()
        self.task = asyncio.create_task(self._read(self.round))
        if part.ending in ("break", "raise"):
            self.round = None  # the reader alone holds it

    async def _read(self, round_: Any) -> None:
        seen = 0
        async for item in round_:
            if self.part.method == "full_round_stream":
                async for _ in item:
                    pass
            seen += 1
            if seen > self.part.after:
                match self.part.ending:
                    case "break":
                        await self.agent.nothing_more()
                        break
                    case "raise":
                        await self.agent.nothing_more()
                        raise Stop
                    case "close":
                        await round_.aclose()
                    case "newer round":
                        before, self.agent.provider = self.agent.provider, ScriptedKimi([say("newer")])
                        await self.agent.chat_round("newer")
                        self.agent.provider = before
                        break
                    case _:
                        pass

    async def storm(self) -> None:
        """Make the moves, and the end if it comes from outside; then let everything go until the round has ended."""
        for number, move in enumerate(self.part.moves):
            if number == self.part.after:
                await self._break_in()
            await self._make(move)
        if self.part.after >= len(self.part.moves):
            await self._break_in()
        for _ in range(40):
            if self.task.done():
                break
            await turns_of_the_loop(A_WHILE)
            await self.agent.gates.open(0)
        assert self.task.done(), "the round does not end"
        await turns_of_the_loop(A_WHILE)

    async def _make(self, move: int) -> None:
        if move >= 0:
            await self.agent.gates.open(move)
        elif move == CLOCK:
            await turns_of_the_loop(A_WHILE)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Still)
            loop.now += TIMEOUT + 1
            await turns_of_the_loop(A_WHILE)
        else:
            await turns_of_the_loop(-move)

    async def _break_in(self) -> None:
        ending = self.part.ending
        if ending.startswith("cancel") and not self.task.done():
            self.was_cancelled = True
            turn = self.agent._turns._current
            if ending == "cancel twice" or (turn is not None and turn._winding_up):  # it waits for nothing more
                await self.agent.nothing_more()
            self.task.cancel()
            if ending == "cancel twice":
                await asyncio.sleep(0)
                self.task.cancel()
        if ending == "close from outside":
            await self.round.aclose()

    def check_end(self) -> None:
        """It ended as it should: cancelled only if somebody cancelled it, else with an error that was asked for."""
        is_closed = self.part.ending == "close from outside"
        if self.task.cancelled():
            assert self.was_cancelled
            return
        error = self.task.exception()
        expected = (Boom, LookupError, Stop, ApprovalPending, type(None))
        closed = StreamInterruptedError
        assert isinstance(error, expected) or (is_closed and isinstance(error, closed)), repr(error)
        assert not isinstance(error, ApprovalPending) or error.calls == self.agent.waiting_calls

    def let_go(self) -> None:
        """A task holds its exception, which holds who raised it."""
        del self.task, self.round


def answers_of(agent: Stormy, said: list[str]) -> list[Approval]:
    """What is said of the calls that wait."""
    approvals: list[Approval] = []
    for call_, answer in zip(agent.waiting_calls, said * 4, strict=False):
        match answer:
            case "approve":
                agent.allowed.add(tag_of(call_))
                approvals.append(Approval.approve(call_))
            case "reject":
                approvals.append(Approval.reject("no", call_))
            case "wait":
                approvals.append(Approval.wait(call_))
            case _:
                pass
    return approvals


async def run(plan: Plan) -> None:
    agent = Stormy(plan)
    before, *later = plan.parts
    await one_part(agent, before, lambda: getattr(agent, before.method)("go"))
    for part in later:
        if agent.waiting_calls:
            resume = getattr(agent, RESUMING[part.method])
            agent.is_over = False
            await one_part(agent, part, partial(resume, answers_of(agent, plan.answers)))
    await agent.gates.open_all()
    await turns_of_the_loop(A_WHILE)
    check_history(agent)
    assert agent.under_way == {}
    assert (TOOL_THREADS.running, TOOL_THREADS.waiting, abandoned_calls()) == ((), (), ())
    assert len(asyncio.all_tasks()) == 1
    await the_agent_can_go_on(agent)


async def one_part(agent: Stormy, part: Part, make: Callable[[], Any]) -> None:
    reading = Reading(agent, part, make)
    await reading.storm()
    reading.check_end()
    reading.let_go()
    gc.collect(1)
    await turns_of_the_loop(A_WHILE)
    assert len(TOOL_THREADS.running) <= TOOL_THREADS._bound
    check_history(agent)


def check_history(agent: Stormy) -> None:
    """It can be sent, results stand in the order of the calls, every finished one is there, and nothing ran twice."""
    history = agent.chat_history
    assert problems(history) == []
    results = [message.text for message in history if message.role == "tool"]
    finished = [*agent.finished, *agent.gates.joined]
    assert [tag for tag in finished if f"done {tag}" not in results] == []
    assert len(set(agent.ran)) == len(agent.ran)
    assert agent.broken == []
    for position, message in enumerate(history):
        if message.tool_calls:
            answers = history[position + 1 : position + 1 + len(message.tool_calls)]
            assert [answer.tool_call_id for answer in answers] == [wanted.id for wanted in message.tool_calls]
            for wanted, answer in zip(message.tool_calls, answers, strict=True):
                assert tag_of(wanted) in agent.ran or not answer.text.startswith("done")
                assert tag_of(wanted) not in agent.ran or not answer.text.startswith("Not run")


async def the_agent_can_go_on(agent: Stormy) -> None:
    provider = agent.provider = ScriptedKimi([say("still here")])
    async with asyncio.timeout(5):
        assert [message.text async for message in agent.full_round("and now?")] == ["still here"]
    assert check_request(dict(provider.requests[-1].body)) is None


@cache
def warm() -> None:
    """The first round of a program reads files in a thread of its own, however long that takes."""
    asyncio.run(Stormy(Plan([], [], [])).chat_round("hello"))


def storm(plan: Plan) -> None:
    warm()
    with asyncio.Runner(loop_factory=Still) as runner:
        runner.run(run(plan))


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(plans)
@example(
    Plan([[Wanted("act"), Wanted("block", "gate"), Wanted("act", "boom")]], [Part(moves=[0])] * 3, ["approve"] * 4)
)
@example(
    Plan(
        [[Wanted("ask", "ok", "wait"), Wanted("ask_alone", "gate", "wait"), Wanted("act")]],
        [Part()] * 3,
        ["approve"] * 4,
    )
)
@example(
    Plan([[Wanted("act", "swallows"), Wanted("act", "gate")]], [Part(moves=[CLOCK])] * 3, ["approve"] * 4, 1, TIMEOUT)
)
def test_in_any_storm_nothing_finished_is_lost_and_nothing_is_left(plan: Plan):
    storm(plan)


@settings(max_examples=EXAMPLES // 3, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(calls, min_size=2, max_size=4),
    st.integers(0, 60),
    st.sampled_from(METHODS),
    st.sampled_from(["cancel", "close from outside"]),
    st.sampled_from([None, TIMEOUT]),
    st.booleans(),
)
def test_an_end_at_any_turn_of_the_loop_loses_nothing(
    wanted: list[Wanted], moment: int, method: str, ending: str, timeout: float | None, hook_waits: bool
):
    moves = [-1] * moment
    parts = [Part(method, ending, moment, moves), Part(method), Part(method)]
    storm(Plan([wanted], parts, ["approve"] * 4, timeout=timeout, hook_waits=hook_waits))


async def test_a_stream_that_is_closed_as_its_reading_begins_ends_for_its_reader():
    agent = Stormy(Plan([[Wanted("act")]], [], []))
    await agent.chat_round("hello")
    round_ = agent.full_round_stream("go")

    async def read() -> None:
        async for stream in round_:
            async for _ in stream:
                pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    while not any(is_fresh(task) for task in asyncio.all_tasks()):
        await asyncio.sleep(0)
    await round_.aclose()
    await asyncio.wait([reading], timeout=0.05)
    has_ended = reading.done()
    reading.cancel()
    await asyncio.wait([reading])
    assert has_ended

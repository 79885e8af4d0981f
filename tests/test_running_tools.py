"""How the calls of a message run: how many, for how long, in which order, with which context, and how they end."""

import asyncio
import gc
import json
import math
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from rounds import read, results, turns_of_the_loop

from kimi_agent import (
    Agent,
    AIFunction,
    CallableTool,
    CallableTool2,
    FunctionCallException,
    FunctionTimeout,
    LoopGuard,
    Message,
    ModelRetry,
    RoundFinished,
    SimpleToolset,
    TextPart,
    Tool,
    ToolCall,
    ToolCallFinished,
    ToolCallStarted,
    ToolContext,
    ToolError,
    ToolOk,
    ToolProgress,
    ToolResult,
    ToolReturnValue,
    ToolTexts,
    WrappedCallException,
    abandoned_calls,
    ai_function,
    step,
)
from kimi_agent.history import problems
from kimi_agent.testing import Call, Reply, ScriptedKimi, call, say
from kimi_agent.testing.checks import check_request
from kimi_agent.tools import running
from kimi_agent.tools.base import BriefDisplayBlock
from kimi_agent.tools.context import context_here
from kimi_agent.tools.threads import TOOL_THREADS

NOT_RUN = "Not run: the round ended before this call was started."
INTERRUPTED = "Interrupted: the call was stopped before it finished. What it did until then is not undone."
STILL_RUNNING = "Interrupted: nobody waits for the call any more, but it cannot be stopped and may still finish."
SHORT = 0.01
"""Seconds of a deadline that is meant to pass."""
LONG = 30.0
"""Seconds of a deadline that is not."""
METHODS = ["full_round", "full_round_stream", "full_round_frames"]

every_method = pytest.mark.parametrize("method", METHODS)


# ==== what is used here ====


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.0005)


def kimi(*calls: Call, more: int = 1) -> ScriptedKimi:
    """One message with these calls, then answers."""
    return ScriptedKimi([Reply(tool_calls=calls), *(say("the end") for _ in range(more))])


def one_by_one(*calls: Call) -> ScriptedKimi:
    """A message for each call, then an answer."""
    return ScriptedKimi([*(Reply(tool_calls=[wanted]) for wanted in calls), say("the end")])


def numbered(*places: int, name: str = "act") -> list[Call]:
    return [call(name, place=place) for place in places]


async def is_fine(agent: Agent) -> None:
    """The history can be sent, and the next round works."""
    assert problems(agent.chat_history) == []
    provider = agent.provider = ScriptedKimi([say("still here")])
    async with asyncio.timeout(20):
        assert [message.text for message in await read(agent, query="and now?")] == ["still here"]
    assert check_request(dict(provider.requests[-1].body)) is None


async def no_task_left() -> None:
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def stepped(toolset: SimpleToolset, *calls: Call) -> list[ToolResult]:
    return await (await step(kimi(*calls), "", toolset, [Message.user("go")])).tool_results()


def said(result: ToolResult) -> str:
    return result.return_value.message or str(result.return_value.output)


async def cancelled(work: Coroutine[Any, Any, Any], when: Callable[[], object]) -> None:
    task = asyncio.create_task(work)
    await until(when)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


class Gate:
    """Blocks threads, or waits on the loop, until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered: list[int] = []
        self.ended: list[int] = []

    def block(self, place: int = 0) -> str:
        """Block."""
        self.entered.append(place)
        assert self.opened.wait(20)
        self.ended.append(place)
        return f"done {place}"

    async def wait(self, place: int = 0) -> str:
        """Wait."""
        self.entered.append(place)
        while not self.opened.is_set():
            await asyncio.sleep(0)
        self.ended.append(place)
        return f"done {place}"

    async def act(self, place: int = 0) -> str:
        """Give something at once."""
        self.entered.append(place)
        self.ended.append(place)
        return f"done {place}"

    @property
    def running(self) -> int:
        return len(self.entered) - len(self.ended)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture(autouse=True)
async def nothing_hangs() -> AsyncIterator[None]:
    """Whatever was left to itself has ended before the next test."""
    yield
    gc.collect(1)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CANCEL_GRACE", 0.02)


class Boom(Exception):
    """An error that a model cannot mend."""


class Plain:
    """The least of tools: a definition and a `call`."""

    def __init__(self, name: str, run: Callable[[Any], Any], **attributes: Any) -> None:
        self.base = Tool(name=name, description="Plain.", parameters={"type": "object", "properties": {}})
        self._run = run
        self.__dict__.update(attributes)

    async def call(self, arguments: Any) -> ToolReturnValue:
        return await self._run(arguments)


# ==== how many at a time ====


@pytest.mark.parametrize("most", [1, 2, 3, 7])
@pytest.mark.parametrize("blocks", [False, True])
async def test_no_more_calls_run_at_a_time_than_they_may_and_results_stay_in_order(most: int, blocks: bool, gate: Gate):
    counts: list[int] = []

    def count(place: int) -> str:
        gate.entered.append(place)
        counts.append(gate.running)
        assert gate.opened.wait(20)
        gate.ended.append(place)
        return f"done {place}"

    async def wait(place: int) -> str:
        gate.entered.append(place)
        counts.append(gate.running)
        await turns_of_the_loop(7 - place)
        gate.ended.append(place)
        return f"done {place}"

    act = AIFunction(count if blocks else wait, name="act")
    agent = Agent(kimi(*numbered(*range(7))), functions=[act], max_parallel_tools=most)
    task = asyncio.create_task(read(agent))
    await until(lambda: len(gate.entered) >= most)
    gate.opened.set()
    await task
    assert max(counts) == most
    assert results(agent) == [f"done {place}" for place in range(7)]
    assert gate.entered[:most] == list(range(most))


async def test_a_toolset_runs_no_more_calls_of_a_step_than_it_may():
    at_a_time: list[int] = []
    under_way: set[int] = set()

    async def act(place: int) -> str:
        under_way.add(place)
        at_a_time.append(len(under_way))
        await turns_of_the_loop(9 - place)
        under_way.remove(place)
        return f"done {place}"

    given = await stepped(
        SimpleToolset([act], max_parallel_tools=2).prefixed("the_"), *numbered(*range(6), name="the_act")
    )
    assert max(at_a_time) == 2
    assert [said(result) for result in given] == [f"done {place}" for place in range(6)]


@pytest.mark.parametrize("number", [0, -1])
def test_a_bound_that_is_none_is_refused(number: int):
    with pytest.raises(ValueError, match="max_parallel_tools"):
        Agent(ScriptedKimi(), max_parallel_tools=number)
    with pytest.raises(ValueError, match="max_parallel_tools"):
        SimpleToolset(max_parallel_tools=number)


@every_method
async def test_a_call_that_had_no_place_says_that_it_was_not_run(method: str, gate: Gate):
    agent = Agent(kimi(*numbered(0, 1, 2, name="wait")), functions=[gate.wait], max_parallel_tools=1)
    await cancelled(read(agent, method), lambda: gate.entered)
    assert results(agent) == [INTERRUPTED, NOT_RUN, NOT_RUN]
    assert gate.entered == [0]
    await is_fine(agent)


async def test_a_call_of_a_step_that_had_no_place_says_that_it_was_not_run(gate: Gate):
    toolset = SimpleToolset([gate.wait], max_parallel_tools=1)
    result = await step(kimi(*numbered(0, 1, name="wait")), "", toolset, [Message.user("go")])
    await cancelled(result.tool_results(), lambda: gate.entered)
    began, queued = map(said, await result.tool_results())
    assert "Interrupted" in began
    assert "Not run" in queued


async def test_a_call_that_ends_makes_place_for_the_next_one_whatever_became_of_it():
    async def act(place: int) -> str:
        if place == 0:
            raise ValueError("no")
        if place == 1:
            await asyncio.Event().wait()
        if place == 2:
            raise asyncio.CancelledError
        return f"done {place}"

    agent = Agent(kimi(*numbered(0, 1, 2, 3)), functions=[act], max_parallel_tools=1, tool_timeout=SHORT)
    await read(agent)
    assert results(agent) == [
        "Error: ValueError: no",
        "Timed out after 0.01 seconds.",
        "Error: CancelledError",
        "done 3",
    ]


# ==== for how long ====


def kinds_of_tools(run: Callable[[], Coroutine[Any, Any, str]], **options: Any) -> list[Any]:
    """The same tool as an `AIFunction`, as both classes, and as the least of tools, each named by its kind."""

    class Empty(BaseModel):
        pass

    class One(CallableTool):
        name: str = "one"
        description: str = "One."
        parameters: dict[str, Any] = {"type": "object", "properties": {}}

        async def __call__(self) -> ToolReturnValue:
            return ToolOk(output=await run())

    class Two(CallableTool2[Empty]):
        name = "two"
        description = "Two."
        params = Empty

        async def __call__(self, params: Empty) -> ToolReturnValue:
            return ToolOk(output=await run())

    async def three() -> str:
        return await run()

    async def call_it(_: Any) -> ToolReturnValue:
        return ToolOk(output=await run())

    one, two = One(), Two()
    for tool in (one, two):
        for name, value in options.items():
            object.__setattr__(tool, name, value)
    return [one, two, AIFunction(three, **options), Plain("four", call_it, **options)]


NAMES = ["one", "two", "three", "four"]


async def for_ever() -> str:
    await asyncio.Event().wait()
    return "never"


async def test_the_timeout_of_each_kind_of_tool_is_kept():
    agent = Agent(kimi(*map(call, NAMES)), functions=kinds_of_tools(for_ever, timeout=SHORT), tool_timeout=LONG)
    await read(agent)
    assert results(agent) == ["Timed out after 0.01 seconds."] * 4
    await no_task_left()
    await is_fine(agent)


async def test_a_tool_without_a_timeout_has_that_of_the_agent_or_of_the_toolset():
    tools = kinds_of_tools(for_ever)
    agent = Agent(kimi(*map(call, NAMES)), functions=tools, tool_timeout=SHORT)
    await read(agent)
    assert results(agent) == ["Timed out after 0.01 seconds."] * 4
    given = await stepped(SimpleToolset(tools, tool_timeout=SHORT), *map(call, NAMES))
    assert all("Timed out after 0.01 seconds." in said(result) and result.return_value.is_error for result in given)
    await no_task_left()


async def test_infinity_is_no_limit_and_makes_no_task():
    async def slow() -> str:
        await asyncio.sleep(3 * SHORT)
        return f"{context_here().deadline} {context_here().remaining}"

    agent = Agent(kimi(*map(call, NAMES)), functions=kinds_of_tools(slow, timeout=math.inf), tool_timeout=SHORT)
    await read(agent)
    assert results(agent) == ["None None"] * 4


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_a_timeout_that_is_none_is_refused(seconds: float):
    with pytest.raises(ValueError, match="tool_timeout"):
        Agent(ScriptedKimi(), tool_timeout=seconds)
    with pytest.raises(ValueError, match="timeout"):
        AIFunction(for_ever, timeout=seconds)


class Listening(Agent):
    """Writes down what `handle_function_call_exception` is told."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.told: list[tuple[FunctionCallException, int]] = []

    async def handle_function_call_exception(self, call: ToolCall, err: FunctionCallException, attempt: int) -> Any:
        self.told.append((err, attempt))
        return await super().handle_function_call_exception(call, err, attempt)


async def test_a_timeout_error_of_the_function_is_told_apart_from_the_deadline():
    async def own() -> str:
        raise TimeoutError("the server is slow")

    async def inner() -> str:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return "never"

    def thread() -> str:
        raise TimeoutError("the disk is slow")

    functions = [own, inner, thread, for_ever]
    calls = [call("own"), call("inner"), call("thread"), call("for_ever")]
    agent = Listening(kimi(*calls), functions=[AIFunction(f, timeout=0.2) for f in functions])
    await read(agent)
    assert results(agent) == [
        "Error: TimeoutError: the server is slow",
        "Error: TimeoutError",
        "Error: TimeoutError: the disk is slow",
        "Timed out after 0.2 seconds.",
    ]
    by_kind = {type(error): error for error, _ in agent.told}
    assert set(by_kind) == {WrappedCallException, FunctionTimeout}
    timeout = by_kind[FunctionTimeout]
    assert isinstance(timeout, FunctionTimeout)
    assert (timeout.name, timeout.seconds, timeout.still_running, timeout.retry) == ("for_ever", 0.2, False, True)


async def test_a_function_that_may_not_be_tried_again_may_not_after_its_deadline_either():
    agent = Agent(kimi(call("for_ever")), functions=[AIFunction(for_ever, timeout=SHORT, auto_retry=False)])
    await read(agent)
    assert agent.provider.requests[-1].body["tool_choice"] == "none"  # type: ignore[attr-defined]


async def test_a_tool_cleans_up_at_its_deadline_before_the_round_goes_on():
    log: list[str] = []

    async def careful() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await turns_of_the_loop(5)
            log.append("cleaned")
        return "never"

    def look(body: dict[str, Any]) -> Reply:
        log.append("asked")
        return say("the end")

    script = [Reply(tool_calls=[call("careful")]), look]
    agent = Agent(ScriptedKimi(script), functions=[careful], tool_timeout=SHORT)
    await read(agent)
    assert log == ["cleaned", "asked"]
    assert results(agent) == ["Timed out after 0.01 seconds."]


async def test_what_a_tool_gives_at_its_deadline_all_the_same_is_its_result():
    async def saves_what_there_is() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await turns_of_the_loop(3)
        return "half of it"

    agent = Agent(kimi(call("saves_what_there_is")), functions=[saves_what_there_is], tool_timeout=SHORT)
    await read(agent)
    assert results(agent) == ["half of it"]


async def test_an_error_while_a_tool_cleans_up_at_its_deadline_is_a_timeout_all_the_same():
    async def breaks() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    agent = Agent(kimi(call("breaks")), functions=[breaks], tool_timeout=SHORT)
    await read(agent)
    assert results(agent) == ["Timed out after 0.01 seconds."]
    await no_task_left()


@pytest.mark.usefixtures("short_grace")
@every_method
async def test_a_tool_that_does_not_end_at_its_deadline_is_left_to_itself_and_named(method: str, gate: Gate):
    async def stubborn() -> str:
        while not gate.opened.is_set():
            try:
                await asyncio.sleep(SHORT)
            except asyncio.CancelledError:
                gate.entered.append(0)
        return "at last"

    agent = Agent(kimi(call("stubborn"), call("act")), functions=[AIFunction(stubborn, timeout=SHORT), gate.act])
    await read(agent, method)
    assert results(agent) == [
        "Timed out after 0.01 seconds. The call cannot be stopped and may still finish.",
        "done 0",
    ]
    assert abandoned_calls() == ("stubborn",)
    await is_fine(agent)
    gate.opened.set()
    await until(lambda: abandoned_calls() == ())
    await no_task_left()
    assert results(agent)[1:] == ["done 0"]


@every_method
async def test_a_thread_that_cannot_be_stopped_holds_nothing_up_and_is_named(method: str, gate: Gate):
    functions = [AIFunction(gate.block, timeout=SHORT), gate.act]
    agent = Agent(kimi(call("block"), *numbered(1), more=1), functions=functions)
    await read(agent, method)
    assert results(agent) == [
        "Timed out after 0.01 seconds. The call cannot be stopped and may still finish.",
        "done 1",
    ]
    assert abandoned_calls() == ("Gate.block",)
    await is_fine(agent)
    gate.opened.set()
    await until(lambda: abandoned_calls() == ())
    assert len(results(agent)) == 2


async def test_a_call_that_waited_for_a_thread_until_its_deadline_is_not_said_to_run(gate: Gate):
    bound = TOOL_THREADS._bound
    ran: list[int] = []

    def late() -> None:
        ran.append(1)

    calls = [*numbered(*range(bound), name="block"), call("late")]
    agent = Agent(kimi(*calls), functions=[gate.block, AIFunction(late, timeout=0.1)])
    task = asyncio.create_task(read(agent))
    await until(lambda: len(results(agent)) == 1)
    assert results(agent) == ["Not run: no thread was free for 0.1 seconds."]
    gate.opened.set()
    await task
    assert ran == []
    assert len(results(agent)) == bound + 1


async def test_a_call_that_waited_for_a_thread_when_the_round_was_cancelled_says_that_it_was_not_run(gate: Gate):
    bound = TOOL_THREADS._bound
    agent = Agent(kimi(*numbered(*range(bound + 2), name="block")), functions=[gate.block])
    await cancelled(read(agent), lambda: len(TOOL_THREADS.waiting) == 2)
    gate.opened.set()
    await until(lambda: abandoned_calls() == ())
    assert sorted(gate.entered) == list(range(bound))
    assert results(agent) == [STILL_RUNNING] * bound + [NOT_RUN] * 2


def test_a_call_in_a_thread_that_hangs_past_its_deadline_does_not_hold_up_the_end_of_the_program():
    program = """if True:
        import asyncio, threading
        from kimi_agent import Agent, AIFunction, abandoned_calls
        from kimi_agent.testing import ScriptedKimi, call, say

        def hang() -> str:
            threading.Event().wait()

        async def main():
            agent = Agent(ScriptedKimi([call("hang"), say("went on")]), functions=[AIFunction(hang, timeout=0.01)])
            async for message in agent.full_round("go"):
                print(message.role, message.text)
            print(*abandoned_calls())

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    timed_out = "Timed out after 0.01 seconds. The call cannot be stopped and may still finish."
    assert done.stdout.splitlines()[1:] == [f"tool {timed_out}", "assistant went on", "hang"]
    assert done.stderr == ""


@pytest.mark.parametrize("timeout", [None, LONG])
async def test_a_cancellation_from_outside_reaches_the_tool_and_waits_for_it(timeout: float | None):
    log: list[str] = []

    async def careful() -> str:
        log.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            await turns_of_the_loop(5)
            log.append("cleaned")
        return "never"

    agent = Agent(kimi(call("careful")), functions=[careful], tool_timeout=timeout)
    await cancelled(read(agent), lambda: log)
    assert log == ["began", "cleaned"]
    assert results(agent) == [INTERRUPTED]
    log.clear()
    await cancelled(agent.call_tool("careful"), lambda: log)
    assert log == ["began", "cleaned"]
    await no_task_left()
    await is_fine(agent)


async def test_a_cancel_while_a_tool_cleans_up_at_its_deadline_waits_for_it():
    log: list[str] = []

    async def careful() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            await turns_of_the_loop(50)
            log.append("cleaned")
        return "half of it"

    agent = Agent(kimi(call("careful")), functions=[careful], tool_timeout=SHORT)
    task = asyncio.create_task(read(agent))
    while not log:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    seen, others = list(log), len(asyncio.all_tasks())
    await no_task_left()
    assert (seen, others) == (["cancelled", "cleaned"], 1)
    assert results(agent) == ["half of it"]


async def test_what_a_timed_tool_gives_while_it_is_cancelled_is_kept():
    began = asyncio.Event()

    async def saves_what_there_is() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await turns_of_the_loop(3)
        return "half of it"

    agent = Agent(kimi(call("saves_what_there_is")), functions=[saves_what_there_is], tool_timeout=LONG)
    await cancelled(read(agent), began.is_set)
    assert results(agent) == ["half of it"]


@pytest.mark.parametrize("moment", range(3))
async def test_a_cancel_that_comes_as_a_timed_call_of_the_program_ends_is_not_lost(moment: int):
    let_go, log = asyncio.Event(), list[str]()

    async def short() -> str:
        log.append("began")
        await let_go.wait()
        return "done"

    async def program() -> None:
        await agent.call_tool("short")
        log.append("went on")
        await asyncio.Event().wait()

    agent = Agent(ScriptedKimi(), functions=[short], tool_timeout=LONG)
    task = asyncio.create_task(program())
    await until(lambda: log)
    let_go.set()
    await turns_of_the_loop(moment)
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    is_cancelled = task.cancelled()
    task.cancel()
    await asyncio.wait([task])
    assert is_cancelled


async def test_a_program_that_calls_a_tool_gets_its_timeout_as_a_value():
    agent = Agent(ScriptedKimi(), functions=[AIFunction(for_ever, timeout=SHORT)])
    result = await agent.call_tool("for_ever")
    assert result.return_value.is_error
    assert await agent.call_tool_raw("for_ever") == "Timed out after 0.01 seconds."


# ==== one after the other ====


class Recorder:
    """Tools that run alone, and others that do not; each writes down when it begins and ends."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def read(self, place: int) -> str:
        """Read."""
        return await self._act("read", place)

    async def write(self, place: int) -> str:
        """Write."""
        return await self._act("write", place)

    async def fail(self, place: int) -> str:
        """Fail."""
        await self._act("fail", place)
        raise ValueError(str(place))

    def block(self, place: int) -> str:
        """Block."""
        self.log += [f"+block{place}", f"-block{place}"]
        return f"block{place}"

    async def _act(self, name: str, place: int) -> str:
        self.log.append(f"+{name}{place}")
        await turns_of_the_loop(7 - place if name == "read" else 3)
        self.log.append(f"-{name}{place}")
        return f"{name}{place}"

    @property
    def tools(self) -> list[AIFunction]:
        return [
            AIFunction(self.read),
            AIFunction(self.write, sequential=True),
            AIFunction(self.fail, sequential=True),
            AIFunction(self.block, sequential=True),
        ]

    def check(self, plan: Sequence[str]) -> None:
        """What runs alone begins after the end of all before it, and ends before the beginning of all after it."""
        began = [self.log.index(f"+{name}{place}") for place, name in enumerate(plan)]
        ended = [self.log.index(f"-{name}{place}") for place, name in enumerate(plan)]
        for alone in (place for place, name in enumerate(plan) if name != "read"):
            assert all(ended[place] < began[alone] for place in range(alone))
            assert all(ended[alone] < began[place] for place in range(alone + 1, len(plan)))


PLANS = [
    ["read", "write", "read"],
    ["read", "read", "write", "read", "read"],
    ["write", "read", "read", "write", "write", "read"],
    ["write", "write", "write", "write"],
    ["read", "fail", "read", "write"],
    ["fail", "fail", "read"],
    ["block", "read", "block", "read", "read", "block"],
    ["read", "read", "read", "read"],
]


@pytest.mark.parametrize("plan", PLANS, ids="-".join)
@pytest.mark.parametrize("most", [None, 1, 2])
async def test_what_runs_alone_waits_for_all_before_it_and_holds_up_all_after_it(plan: list[str], most: int | None):
    recorder = Recorder()
    calls = [call(name, place=place) for place, name in enumerate(plan)]
    agent = Agent(kimi(*calls), functions=recorder.tools, max_parallel_tools=most)
    await read(agent)
    recorder.check(plan)
    wanted = [f"Error: ValueError: {n}" if name == "fail" else f"{name}{n}" for n, name in enumerate(plan)]
    assert results(agent) == wanted
    recorder.log.clear()
    given = await stepped(SimpleToolset(recorder.tools, max_parallel_tools=most), *calls)
    recorder.check(plan)
    assert [result.return_value.is_error for result in given] == [name == "fail" for name in plan]


async def test_reads_between_two_writes_run_side_by_side():
    recorder = Recorder()
    plan = ["write", "read", "read", "read", "write"]
    agent = Agent(kimi(*(call(n, place=p) for p, n in enumerate(plan))), functions=recorder.tools)
    await read(agent)
    assert recorder.log[2:5] == ["+read1", "+read2", "+read3"]


async def test_any_tool_may_say_that_it_runs_alone():
    log: list[str] = []

    def running_alone(name: str) -> Plain:
        async def run(_: Any) -> ToolReturnValue:
            log.append(f"+{name}")
            await turns_of_the_loop(3)
            log.append(f"-{name}")
            return ToolOk(output=name)

        return Plain(name, run, sequential=True)

    agent = Agent(kimi(call("one"), call("two")), functions=[running_alone("one"), running_alone("two")])
    await read(agent)
    assert log == ["+one", "-one", "+two", "-two"]


async def test_a_cancelled_round_says_of_what_waited_for_its_turn_that_it_was_not_run(gate: Gate):
    functions = [AIFunction(gate.wait, sequential=True), gate.act]
    agent = Agent(kimi(*numbered(0), *numbered(1, name="wait"), *numbered(2, 3)), functions=functions)
    await cancelled(read(agent), lambda: len(gate.entered) == 2)
    assert results(agent) == ["done 0", INTERRUPTED, NOT_RUN, NOT_RUN]
    await is_fine(agent)


# ==== siblings ====


@every_method
async def test_one_failure_drops_no_result_of_a_sibling(method: str):
    async def act(place: int) -> str:
        await turns_of_the_loop(place)
        match place:
            case 1:
                raise ValueError("no")
            case 3:
                raise SystemExit(3)
            case 5:
                raise asyncio.CancelledError
            case 7:
                raise ModelRetry("say it again")
            case _:
                return f"done {place}"

    agent = Agent(kimi(*numbered(*range(9))), functions=[act])
    await read(agent, method)
    assert results(agent) == [
        "done 0",
        "Error: ValueError: no",
        "done 2",
        "Error: SystemExit: 3",
        "done 4",
        "Error: CancelledError",
        "done 6",
        "say it again",
        "done 8",
    ]
    await is_fine(agent)


@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize("blocks", [False, True])
async def test_a_tool_that_raises_cancelled_error_itself_is_an_error_result(timeout: float | None, blocks: bool):
    async def gives_up() -> str:
        raise asyncio.CancelledError("gave up")

    def gives_up_in_a_thread() -> str:
        raise asyncio.CancelledError("gave up")

    function = AIFunction(gives_up_in_a_thread if blocks else gives_up, name="act", timeout=timeout)
    agent = Agent(kimi(call("act")), functions=[function])
    assert [m.text for m in await read(agent)] == ["", "Error: CancelledError: gave up", "the end"]
    given = await stepped(SimpleToolset([function]), call("act"))
    assert "CancelledError: gave up" in said(given[0])


async def test_a_task_of_a_tool_that_is_cancelled_is_an_error_result():
    async def waits_for_a_task() -> str:
        task = asyncio.create_task(for_ever())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    agent = Agent(kimi(call("waits_for_a_task"), call("waits_for_a_task")), functions=[waits_for_a_task])
    await read(agent)
    assert results(agent) == ["Error: CancelledError"] * 2


@every_method
async def test_cancelled_siblings_are_drained_before_the_round_ends(method: str):
    log: list[str] = []

    async def careful(place: int) -> str:
        log.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            await turns_of_the_loop(5 * place)
            log.append(f"cleaned {place}")
        return "never"

    agent = Agent(kimi(*numbered(1, 2, 3, name="careful")), functions=[careful])
    await cancelled(read(agent, method), lambda: len(log) == 3)
    assert log[3:] == ["cleaned 1", "cleaned 2", "cleaned 3"]
    assert results(agent) == [INTERRUPTED] * 3
    await no_task_left()
    await is_fine(agent)


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("timeout", [None, LONG])
async def test_a_sibling_that_does_not_end_is_waited_for_no_longer_than_the_grace(timeout: float | None, gate: Gate):
    async def stubborn() -> str:
        gate.entered.append(0)
        while not gate.opened.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                gate.entered.append(1)
        return "at last"

    agent = Agent(kimi(call("stubborn"), call("act")), functions=[stubborn, gate.act], tool_timeout=timeout)
    await cancelled(read(agent), lambda: len(results(agent)) == 1)
    assert results(agent)[1] == "done 0"
    await until(lambda: abandoned_calls() == ("stubborn",))
    await is_fine(agent)
    gate.opened.set()
    await until(lambda: abandoned_calls() == ())
    await no_task_left()
    assert problems(agent.chat_history) == []


# ==== what ends the round ====


@every_method
async def test_a_fatal_error_ends_the_round_as_it_is_and_leaves_a_history_that_can_be_sent(method: str):
    error, log = Boom("the database is gone"), list[str]()

    async def boom() -> str:
        await turns_of_the_loop(20)
        raise error

    async def quick() -> str:
        return "quick"

    async def slow() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await turns_of_the_loop(5)
            log.append("cleaned")
        return "never"

    calls = [call("slow"), call("quick"), call("boom"), call("quick")]
    agent = Agent(kimi(*calls), functions=[AIFunction(boom, fatal=(Boom,)), quick, slow])
    agent.on(RoundFinished, lambda event: log.append(event.outcome))
    with pytest.raises(Boom) as caught:
        await read(agent, method)
    assert caught.value is error
    assert results(agent) == [INTERRUPTED, "quick", "Error: Boom: the database is gone", "quick"]
    assert agent.chat_history[4].is_tool_call_error
    assert log == ["cleaned", "failed"]
    await no_task_left()
    await is_fine(agent)


@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize("blocks", [False, True])
async def test_a_fatal_error_is_fatal_in_a_thread_and_under_a_deadline_too(timeout: float | None, blocks: bool):
    async def boom() -> str:
        raise Boom

    def boom_in_a_thread() -> str:
        raise Boom

    function = AIFunction(boom_in_a_thread if blocks else boom, name="boom", fatal=(ValueError, Boom), timeout=timeout)
    agent = Agent(kimi(call("boom")), functions=[function], retry_attempts=5)
    with pytest.raises(Boom):
        await read(agent)
    assert results(agent) == ["Error: Boom"]
    await is_fine(agent)


async def test_a_decorated_method_and_any_other_tool_may_have_fatal_errors():
    class Decorated(Agent):
        @ai_function(fatal=(Boom,))
        async def boom(self) -> str:
            raise Boom

    async def boom(_: Any) -> ToolReturnValue:
        raise Boom

    for agent in (
        Decorated(kimi(call("boom"))),
        Agent(kimi(call("boom")), functions=[Plain("boom", boom, fatal=(Boom,))]),
    ):
        with pytest.raises(Boom):
            await read(agent)
        assert results(agent) == ["Error: Boom"]
        await is_fine(agent)


async def test_a_deadline_is_fatal_only_if_it_is_said_to_be():
    agent = Agent(kimi(call("for_ever")), functions=[AIFunction(for_ever, timeout=SHORT, fatal=(TimeoutError,))])
    await read(agent)
    agent = Agent(kimi(call("for_ever")), functions=[AIFunction(for_ever, timeout=SHORT, fatal=(FunctionTimeout,))])
    with pytest.raises(FunctionTimeout):
        await read(agent)
    assert results(agent) == ["Timed out after 0.01 seconds."]


async def test_an_error_that_is_fatal_for_one_function_is_none_for_another():
    async def boom() -> str:
        raise Boom

    functions = [AIFunction(boom, name="grave", fatal=(Boom,)), AIFunction(boom, name="light")]
    agent = Agent(one_by_one(call("light"), call("grave")), functions=functions)
    with pytest.raises(Boom):
        await read(agent)
    assert results(agent) == ["Error: Boom"] * 2


async def test_of_several_fatal_errors_one_is_raised_and_none_is_a_complaint():
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def boom(place: int) -> str:
        await asyncio.sleep(0)
        raise Boom(place)

    agent = Agent(kimi(*numbered(0, 1, 2, name="boom")), functions=[AIFunction(boom, fatal=(Boom,))])
    with pytest.raises(Boom):
        await read(agent)
    assert results(agent)[0] == "Error: Boom: 0"
    del agent
    gc.collect()
    await turns_of_the_loop(3)
    assert complaints == []


async def test_a_fatal_error_whose_text_cannot_be_read_is_fatal():
    class Unreadable(Boom):
        def __str__(self) -> str:
            raise ValueError("no text")

    async def boom() -> str:
        raise Unreadable

    agent = Agent(kimi(call("boom")), functions=[AIFunction(boom, fatal=(Boom,))])
    with pytest.raises(Unreadable):
        await read(agent)


@pytest.mark.parametrize("waits_for", ["place", "turn", "turn while nobody reads"])
async def test_nothing_begins_after_a_fatal_error(waits_for: str, gate: Gate):
    async def boom() -> str:
        await asyncio.sleep(0)
        raise Boom

    alone = waits_for != "place"
    functions = [AIFunction(boom, fatal=(Boom,), sequential=alone), gate.act]
    calls = [*numbered(0), call("boom"), *numbered(2, 3, 4)]
    agent = Agent(kimi(*calls), functions=functions, max_parallel_tools=None if alone else 1)
    with pytest.raises(Boom):
        async for message in agent.full_round("go"):
            if message.role == "tool" and waits_for != "turn":
                await turns_of_the_loop(30)
    assert gate.entered == [0]
    assert results(agent) == ["done 0", "Error: Boom", NOT_RUN, NOT_RUN, NOT_RUN]


# ==== feedback that spends an attempt ====


async def test_a_model_that_is_told_to_try_again_spends_an_attempt():
    async def act(place: int, context: ToolContext) -> str:
        if place < 2:
            raise ModelRetry(f"not {place}, attempt {context.attempt}")
        return f"attempt {context.attempt}"

    agent = Listening(one_by_one(*numbered(0, 1, 2, 3)), functions=[act], retry_attempts=2)
    await read(agent)
    assert results(agent) == ["not 0, attempt 0", "not 1, attempt 1", "attempt 2", "attempt 0"]
    assert [attempt for _, attempt in agent.told] == [0, 1]


@pytest.mark.parametrize("attempts", [0, 1, 3])
async def test_when_the_attempts_are_spent_the_model_has_to_answer(attempts: int):
    async def act(place: int) -> str:
        raise ModelRetry("no")

    agent = Agent(one_by_one(*numbered(*range(attempts + 1))), functions=[act], retry_attempts=attempts)
    await read(agent)
    provider = agent.provider
    assert isinstance(provider, ScriptedKimi)
    choices = [request.body.get("tool_choice") for request in provider.requests]
    assert choices[-1] == "none"
    assert "none" not in choices[:-1]
    assert len(choices) == attempts + 2


# ==== the context of a call ====


def schema_of(tool: Any) -> dict[str, Any]:
    return json.loads(tool.base.model_dump_json())["parameters"]


class Injected(Agent):
    """Each function takes its context in another way."""

    @ai_function()
    async def plain(self, place: int, context: ToolContext) -> str:
        """Plain.

        Args:
            place: of the call.
            context: of the call.
        """
        return self._seen(context)

    @ai_function()
    async def optional(self, place: int, context: ToolContext | None = None) -> str:
        return self._seen(context)

    @ai_function()
    async def annotated(self, context: Annotated[ToolContext, "for us"], place: int) -> str:
        return self._seen(context)

    @ai_function()
    async def keyword(self, place: int = 0, *, where: ToolContext) -> str:
        return self._seen(where)

    @ai_function()
    async def written(self, place: int, context: "ToolContext") -> str:
        return self._seen(context)

    @ai_function()
    async def twice(self, place: int, one: ToolContext, two: "ToolContext | None") -> str:
        assert one is two
        return self._seen(one)

    @ai_function()
    def thread(self, place: int, context: ToolContext) -> str:
        assert threading.current_thread() is not threading.main_thread()
        assert context_here() is context
        return self._seen(context)

    @ai_function()
    @classmethod
    async def of_the_class(cls, place: int, context: ToolContext) -> str:
        return f"{context.call_id} {context.agent.__class__ is cls} {context.attempt}"

    @ai_function()
    @staticmethod
    async def of_nobody(place: int, context: ToolContext) -> str:
        return f"{context.call_id} {isinstance(context.agent, Injected)} {context.attempt}"

    def _seen(self, context: ToolContext | None) -> str:
        assert context is not None
        assert context.call is context_here().call
        assert json.loads(context.call.arguments) == {"place": 7}
        return f"{context.call_id} {context.agent is self} {context.attempt}"


WAYS = ["plain", "optional", "annotated", "keyword", "written", "twice", "thread", "of_the_class", "of_nobody"]


@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize("name", WAYS)
async def test_a_parameter_for_the_context_is_filled_in_and_the_model_is_not_told_of_it(
    name: str, timeout: float | None
):
    provider = kimi(Call(name, '{"place": 7}', "call-7"))
    agent = Injected(provider, tool_timeout=timeout)
    await read(agent)
    assert results(agent) == ["call-7 True 0"]
    schema = schema_of(agent.functions[name])
    assert list(schema["properties"]) == ["place"]
    assert "context" not in json.dumps(provider.requests[0].body["tools"]).lower()


@pytest.mark.parametrize("name", WAYS)
async def test_a_model_cannot_fill_the_parameter_for_the_context_in_itself(name: str):
    parameter = {"keyword": "where", "twice": "one"}.get(name, "context")
    agent = Injected(kimi(Call(name, json.dumps({"place": 7, parameter: {"attempt": 9}}))))
    await read(agent)
    assert results(agent)[0].startswith("Error: ")
    assert "unexpected" in results(agent)[0]


class Empty(BaseModel):
    place: int


class ContextTool(CallableTool):
    name: str = "context_tool"
    description: str = "Tell."
    parameters: dict[str, Any] = {"type": "object", "properties": {"place": {"type": "integer"}}}

    async def __call__(self, place: int, context: ToolContext) -> ToolReturnValue:
        return ToolOk(output=f"{place} {context.call_id}")


class ContextTool2(CallableTool2[Empty]):
    name = "context_tool_2"
    description = "Tell."
    params = Empty

    def __call__(self, params: Empty, context: ToolContext | None = None) -> ToolReturnValue:
        assert context is not None
        return ToolOk(output=f"{params.place} {context.call_id}")


async def plain_function(place: int, context: ToolContext) -> str:
    return f"{place} {context.call_id}"


async def test_classes_and_plain_functions_get_their_context_too():
    tools = [ContextTool(), ContextTool2(), plain_function]
    calls = [Call(name, '{"place": 7}', name) for name in ("context_tool", "context_tool_2", "plain_function")]
    agent = Agent(kimi(*calls), functions=tools)
    await read(agent)
    wanted = ["7 context_tool", "7 context_tool_2", "7 plain_function"]
    assert results(agent) == wanted
    assert all(list(schema_of(tool)["properties"]) == ["place"] for tool in agent.functions.values())
    assert [said(result) for result in await stepped(SimpleToolset(tools), *calls)] == wanted


async def test_a_step_has_a_context_without_an_agent():
    async def tell(context: ToolContext) -> str:
        context.report("nobody listens")
        return f"{context.call_id} {context.agent} {context.attempt} {context.deadline}"

    given = await stepped(SimpleToolset([tell]), Call("tell", "{}", "c"))
    assert said(given[0]) == "c None 0 None"


async def test_outside_of_calls_the_context_is_empty():
    seen: list[ToolContext] = []

    async def tell(context: ToolContext) -> str:
        seen.append(context)
        return "told"

    async def look(_: Any) -> None:
        seen.append(context_here())

    agent = Agent(kimi(call("tell")), functions=[tell])
    agent.on(RoundFinished, look)
    await read(agent)
    await AIFunction(tell)()
    assert [context.call_id for context in seen] == ["tell_0", "", ""]
    assert context_here() == ToolContext()
    context_here().report("nobody hears it")
    seen[0].report("too late")


async def test_the_deadline_and_what_is_left_of_it_are_known():
    async def tell(context: ToolContext) -> str:
        first = context.remaining
        await asyncio.sleep(0.002)
        assert first is not None
        assert context.remaining is not None
        assert LONG > first > context.remaining > LONG - 5
        return str(context.deadline is not None)

    def tell_in_a_thread(context: ToolContext) -> str:
        return str(context.remaining is not None and context.remaining > LONG - 5)

    agent = Agent(kimi(call("tell"), call("tell_in_a_thread")), functions=[tell, tell_in_a_thread], tool_timeout=LONG)
    await read(agent)
    assert results(agent) == ["True", "True"]


async def test_what_is_left_after_the_deadline_is_nothing():
    seen: list[float | None] = []

    async def careful(context: ToolContext) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(context.remaining)
        return "never"

    await read(Agent(kimi(call("careful")), functions=[careful], tool_timeout=SHORT))
    assert seen == [0.0]


async def test_agents_inside_of_tools_have_contexts_of_their_own():
    seen: list[Any] = []

    class Outer(Agent):
        @ai_function()
        async def ask(self, context: ToolContext) -> str:
            inner = Inner(kimi(Call("tell", "{}", "inner-call")))
            seen.append((context.call_id, context.agent is self))
            await read(inner)
            seen.append((context_here().call_id, context_here() is context))
            given = await stepped(SimpleToolset([tell]), Call("tell", "{}", "step-call"))
            seen.append((said(given[0]), context_here() is context))
            return "asked"

    class Inner(Agent):
        @ai_function()
        async def tell(self, context: ToolContext) -> str:
            seen.append((context.call_id, context.agent is self))
            return "told"

    async def tell(context: ToolContext) -> str:
        return f"{context.call_id} {context.agent}"

    await read(Outer(kimi(Call("ask", "{}", "outer-call"))))
    assert seen == [
        ("outer-call", True),
        ("inner-call", True),
        ("outer-call", True),
        ("step-call None", True),
    ]


async def test_a_hook_that_changes_the_arguments_keeps_the_context():
    class Careful(Agent):
        @ai_function()
        async def act(self, place: int, context: ToolContext) -> str:
            context.report("here")
            return f"{place} {context.call_id} {context.agent is self}"

        async def do_function_call(self, call: ToolCall) -> Any:
            body = call.function.copy_with(arguments='{"place": 2}')
            return await super().do_function_call(call.copy_with(function=body))

    agent, heard = Careful(kimi(*numbered(1))), list[str]()
    agent.on(ToolProgress, lambda event: heard.append(event.text))
    await read(agent)
    assert results(agent) == ["2 act_0 True"]
    assert heard == ["here"]


# ==== progress ====


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("slow", [False, True])
async def test_progress_is_told_in_order_and_before_the_end_of_the_call(blocks: bool, slow: bool):
    async def work(context: ToolContext) -> str:
        for number in range(20):
            context.report(str(number), fraction=number / 20)
            if number % 7 == 0:
                await asyncio.sleep(0)
        return "done"

    def work_in_a_thread(context: ToolContext) -> str:
        for number in range(20):
            context.report(str(number), fraction=number / 20)
        return "done"

    agent = Agent(kimi(call("work")), functions=[AIFunction(work_in_a_thread if blocks else work, name="work")])
    log: list[Any] = []

    async def hear(event: ToolProgress) -> None:
        await turns_of_the_loop(2 if slow else 0)
        assert event.call.id == "work_0"
        log.append((event.text, event.fraction))

    agent.on(ToolProgress, hear)
    agent.on(ToolCallStarted, lambda _: log.append("started"))
    agent.on(ToolCallFinished, lambda _: log.append("finished"))
    await read(agent)
    assert log == ["started", *((str(number), number / 20) for number in range(20)), "finished"]


async def test_progress_of_a_call_of_the_program_is_told_too():
    async def work(context: ToolContext) -> str:
        context.report("half")
        return f"{context.agent is agent}"

    agent, heard = Agent(ScriptedKimi(), functions=[work]), list[str]()
    agent.on(ToolProgress, lambda event: heard.append(event.text))
    assert await agent.call_tool_raw("work") == "True"
    assert heard == ["half"]


async def test_a_handler_of_progress_that_raises_stops_nothing():
    async def work(context: ToolContext) -> str:
        context.report("one")
        context.report("two")
        return "done"

    agent, heard = Agent(kimi(call("work")), functions=[work], strict_hooks=True), list[str]()

    def refuse(event: ToolProgress) -> None:
        heard.append(event.text)
        raise ValueError(event.text)

    agent.on(ToolProgress, refuse)
    await read(agent)
    assert (heard, results(agent)) == (["one", "two"], ["done"])


async def test_nothing_is_told_after_the_end_of_a_call(gate: Gate):
    async def leaves_a_task_behind(context: ToolContext) -> str:
        async def later() -> None:
            await gate.wait()
            context.report("too late")

        tasks.append(asyncio.create_task(later()))
        return "done"

    def too_long(context: ToolContext) -> str:
        gate.block()
        context.report("too late")
        return "done"

    tasks: list[asyncio.Task[None]] = []
    functions = [leaves_a_task_behind, AIFunction(too_long, timeout=SHORT)]
    agent, heard = Agent(kimi(call("leaves_a_task_behind"), call("too_long")), functions=functions), list[str]()
    agent.on(ToolProgress, lambda event: heard.append(event.text))
    await read(agent)
    gate.opened.set()
    await asyncio.gather(*tasks)
    await until(lambda: abandoned_calls() == ())
    await turns_of_the_loop(5)
    assert heard == []


async def test_a_thread_that_goes_on_after_its_round_was_cancelled_is_not_heard_any_more(gate: Gate):
    def work(context: ToolContext) -> str:
        gate.block()
        context.report("too late")
        return "done"

    agent, log = Agent(kimi(call("work")), functions=[work]), list[str]()
    agent.on(ToolProgress, lambda event: log.append(event.text))
    agent.on(RoundFinished, lambda event: log.append(event.outcome))
    await cancelled(read(agent), lambda: gate.entered)
    gate.opened.set()
    await until(lambda: abandoned_calls() == ())
    await turns_of_the_loop(5)
    assert log == ["closed"]


# ==== what finished is kept ====


async def test_a_cancel_while_the_last_progress_is_told_keeps_the_result():
    told, let_go = asyncio.Event(), asyncio.Event()

    async def work(context: ToolContext) -> str:
        context.report("all of it")
        return "finished"

    async def hear(_: ToolProgress) -> None:
        told.set()
        await let_go.wait()

    agent = Agent(kimi(call("work")), functions=[work])
    agent.on(ToolProgress, hear)
    try:
        await cancelled(read(agent), told.is_set)
    finally:
        let_go.set()
        await no_task_left()
    assert results(agent) == ["finished"]


async def test_a_cancel_after_a_thread_has_ended_keeps_its_result(gate: Gate):
    before = set(threading.enumerate())
    agent = Agent(kimi(call("block")), functions=[gate.block])
    task = asyncio.create_task(read(agent))
    await until(lambda: gate.entered)
    threads = [thread for thread in threading.enumerate() if thread not in before]
    gate.opened.set()
    for thread in threads:
        thread.join()  # now the loop has its result, and has not looked at it
    task.cancel()
    await asyncio.wait([task])
    assert results(agent) == ["done 0"]


@pytest.mark.parametrize("timeout", [None, math.inf])
async def test_a_break_right_after_a_call_has_ended_keeps_its_result(timeout: float | None, gate: Gate):
    agent = Agent(kimi(*numbered(0), *numbered(1, name="wait")), functions=[gate.act, gate.wait], tool_timeout=timeout)
    async for message in agent.full_round("go"):
        if message.role == "tool":
            gate.opened.set()
            while 1 not in gate.ended:
                await asyncio.sleep(0)
            break
    assert results(agent) == ["done 0", "done 1"]
    await no_task_left()


@every_method
async def test_who_comes_back_to_a_round_that_another_task_closes_finds_its_end(method: str):
    come_back, away = asyncio.Event(), asyncio.Event()

    async def quick() -> str:
        return "quick"

    async def careful() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await turns_of_the_loop(20)
        return "never"

    async def look() -> None:
        async for item in round_:
            if method == "full_round_stream":
                await item
            if results(agent):
                away.set()
                await come_back.wait()

    agent = Agent(kimi(call("quick"), call("careful")), functions=[quick, careful])
    round_ = getattr(agent, method)("go")
    looking = asyncio.create_task(look())
    await away.wait()
    closing = asyncio.create_task(round_.aclose())
    await turns_of_the_loop(3)
    come_back.set()
    await asyncio.wait([looking, closing])
    assert results(agent) == ["quick", INTERRUPTED]
    assert not looking.cancelled()
    assert looking.exception() is None


# ==== calls that are always the same ====


REMINDERS = [
    f"Reminder: this is call {n} with the same arguments. Use what you have, or do something else." for n in range(9)
]
TOO_OFTEN = "Not run: this is call 6 with the same arguments. Answer with what you have."


async def test_the_same_call_is_reminded_of_from_the_third_and_not_run_at_the_sixth(gate: Gate):
    written = ['{"place": 1}', '{ "place":1 }', '{"place" : 1}\n', '{"place":1}', ' {"place": 1}', '{"place": 1 }']
    provider = one_by_one(*(Call("act", arguments) for arguments in written))
    agent = Agent(provider, functions=[gate.act])
    assert (await read(agent))[-1].text == "the end"
    assert results(agent) == [
        "done 1",
        "done 1",
        *(f"done 1\n\n{REMINDERS[n]}" for n in (3, 4, 5)),
        TOO_OFTEN,
    ]
    assert gate.entered == [1] * 5
    assert [request.body.get("tool_choice") for request in provider.requests] == [None] * 6 + ["none"]
    await is_fine(agent)


async def test_the_order_of_the_arguments_makes_no_difference():
    async def act(a: int, b: dict[str, int]) -> str:
        return "done"

    calls = [
        Call("act", '{"a": 1, "b": {"x": 1, "y": 2}}'),
        Call("act", '{"b": {"y": 2, "x": 1}, "a": 1}'),
        Call("act", '{"b":{"x":1,"y":2},"a":1}'),
    ]
    agent = Agent(one_by_one(*calls), functions=[act])
    await read(agent)
    assert results(agent) == ["done", "done", f"done\n\n{REMINDERS[3]}"]


async def test_no_arguments_are_the_same_however_they_are_written(gate: Gate):
    agent = Agent(one_by_one(Call("act", ""), Call("act", "{}"), Call("act", " { } ")), functions=[gate.act])
    await read(agent)
    assert results(agent)[-1].endswith(REMINDERS[3])


async def test_equal_calls_of_one_message_count_as_one(gate: Gate):
    provider = kimi(*[call("act", place=1)] * 10)
    agent = Agent(provider, functions=[gate.act])
    await read(agent)
    assert results(agent) == ["done 1"] * 10
    assert "tool_choice" not in provider.requests[-1].body


async def test_other_calls_are_not_taken_for_the_same(gate: Gate):
    same = [
        Reply(tool_calls=[call("act", place=1), call("wait", place=n), call("act", place=n + 10)]) for n in range(4)
    ]
    gate.opened.set()
    agent = Agent(ScriptedKimi([*same, say("the end")]), functions=[gate.act, gate.wait])
    await read(agent)
    reminded = [text for text in results(agent) if "Reminder" in text]
    assert reminded == [f"done 1\n\n{REMINDERS[3]}", f"done 1\n\n{REMINDERS[4]}"]


async def test_a_sibling_of_a_call_that_is_one_too_many_is_run(gate: Gate):
    script = [Reply(tool_calls=numbered(1)), Reply(tool_calls=numbered(1, 2)), say("the end")]
    provider = ScriptedKimi(script)
    agent = Agent(provider, functions=[gate.act], loop_guard=LoopGuard(remind=None, stop=2))
    await read(agent)
    assert results(agent) == ["done 1", TOO_OFTEN.replace("6", "2"), "done 2"]
    assert provider.requests[-1].body["tool_choice"] == "none"


async def test_a_new_round_begins_to_count_anew(gate: Gate):
    agent = Agent(ScriptedKimi([*[call("act"), call("act"), say("end")] * 3]), functions=[gate.act])
    for _ in range(3):
        await read(agent)
    assert results(agent) == ["done 0"] * 6


async def test_without_a_guard_the_model_may_go_round_in_circles(gate: Gate):
    agent = Agent(one_by_one(*[call("act")] * 12), functions=[gate.act], loop_guard=LoopGuard(None, None))
    await read(agent)
    assert results(agent) == ["done 0"] * 12


async def test_a_call_that_fails_is_counted_and_reminded_of_as_well():
    async def act() -> str:
        raise ValueError("no")

    agent = Agent(one_by_one(*[call("act")] * 3), functions=[act], retry_attempts=9)
    await read(agent)
    assert results(agent) == ["Error: ValueError: no"] * 2 + [f"Error: ValueError: no\n\n{REMINDERS[3]}"]
    assert all(m.is_tool_call_error for m in agent.chat_history if m.role == "tool")


async def test_what_is_said_to_a_model_in_a_loop_may_be_said_differently(gate: Gate):
    class Short(ToolTexts):
        def repeated(self, times: int) -> str:
            return f"again ({times})" if times > 2 else ""

        def too_often(self, times: int) -> str:
            return f"enough ({times})"

    agent = Agent(one_by_one(*[call("act")] * 4), functions=[gate.act], loop_guard=LoopGuard(2, 4))
    agent.texts = Short()
    await read(agent)
    assert results(agent) == ["done 0", "done 0", "done 0\n\nagain (3)", "enough (4)"]


@pytest.mark.parametrize("numbers", [(1, 6), (3, 1), (0, None), (-2, 6)])
def test_a_guard_that_would_refuse_the_first_call_is_refused(numbers: Any):
    with pytest.raises(ValueError, match="2 or more"):
        LoopGuard(*numbers)


async def test_arguments_that_are_no_json_are_the_same_when_they_are_written_the_same(gate: Gate):
    agent = Agent(one_by_one(*[Call("act", '{"place": ')] * 3), functions=[gate.act], retry_attempts=9)
    await read(agent)
    assert [text.endswith(REMINDERS[3]) for text in results(agent)] == [False, False, True]


# ==== display ====


@every_method
async def test_what_is_for_the_eyes_of_the_user_never_reaches_the_model(method: str):
    async def show(fails: bool) -> ToolReturnValue:
        block = BriefDisplayBlock(text="FOR THE USER ALONE")
        kind = ToolError if fails else ToolOk
        return kind(output="for the model", message="also", display=[block], **({"brief": ""} if fails else {}))

    agent = Agent(kimi(call("show", fails=False), call("show", fails=True)), functions=[show])
    await read(agent, method)
    provider = agent.provider
    assert isinstance(provider, ScriptedKimi)
    assert "for the model" in json.dumps(provider.requests[-1].body)
    assert all("FOR THE USER" not in json.dumps(request.body) for request in provider.requests)
    result = await agent.call_tool("show", {"fails": False})
    assert [block.text for block in result.return_value.display if isinstance(block, BriefDisplayBlock)] == [
        "FOR THE USER ALONE"
    ]


async def test_a_reminder_is_behind_parts_that_are_no_text(gate: Gate):
    async def parts() -> list[Any]:
        return [TextPart(text="one"), "two"]

    agent = Agent(one_by_one(*[call("parts")] * 3), functions=[parts])
    await read(agent)
    assert agent.chat_history[-2].text.endswith(f"two\n\n{REMINDERS[3]}")

"""One model turn with its calls: whatever breaks, wherever it is cancelled or dropped, it leaves nothing behind."""

import asyncio
import copy
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rounds import nothing_left_behind, others, turns_of_the_loop

from kimi_agent import (
    ChatProviderError,
    Kimi,
    Message,
    RoundInProgressError,
    SimpleToolset,
    TextPart,
    TokenUsage,
    Tool,
    ToolCall,
    ToolCallPart,
    ToolError,
    ToolOk,
    ToolResult,
    abandoned_calls,
    generate,
    step,
)
from kimi_agent.testing import Call, Delivery, KimiServer, Recorded, Reply, ScriptedKimi, say
from kimi_agent.tools import running

QUESTION = [Message.user("Go.")]


# ==== what is used here ====


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


class Tools:
    """A toolset of one function, which does what the place of its call says and writes down what it saw."""

    def __init__(self, *behaviours: str) -> None:
        self.behaviours = behaviours
        self.began: list[int] = []
        self.cancelled: list[int] = []
        self.cleaned: list[int] = []
        self.ended: list[int] = []
        self.toolset = SimpleToolset([self.act])

    async def act(self, place: int) -> str:
        """Act."""
        self.began.append(place)
        try:
            return await self._behave(self.behaviours[place], place)
        except asyncio.CancelledError:
            if self.behaviours[place] != "cancels itself":
                self.cancelled.append(place)
                await turns_of_the_loop(2)
                self.cleaned.append(place)
            raise
        finally:
            self.ended.append(place)

    @property
    def all_ended(self) -> bool:
        """What began has ended, and what was cancelled could clean up in peace."""
        return sorted(self.began) == sorted(self.ended) and self.cancelled == self.cleaned

    async def _behave(self, behaviour: str, place: int) -> str:
        match behaviour:
            case "slow" | "slower":
                await turns_of_the_loop(3 if behaviour == "slow" else 9)
            case "never":
                await asyncio.Event().wait()
            case "fails":
                await asyncio.sleep(0)
                raise ValueError(f"no {place}")
            case "cancels itself":
                raise asyncio.CancelledError
            case _:
                pass
        return f"done {place}"

    @property
    def reply(self) -> Reply:
        calls = tuple(Call("act", f'{{"place": {place}}}', f"c{place}") for place in range(len(self.behaviours)))
        return Reply("Look.", "hm", calls)

    @property
    def kimi(self) -> ScriptedKimi:
        return ScriptedKimi([self.reply])


class Stream:
    """A stream as the least of providers gives it: parts, an id, a cost."""

    id = "answer-1"
    usage = TokenUsage(input_other=5, output=2)

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[Any]:
        for part in self._parts:
            yield part


class Provider:
    """Another provider: it takes no keyword and answers with one stream."""

    name = model_name = "another"
    context_window = 1000

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def generate(self, system_prompt: str, tools: Sequence[Tool], history: Sequence[Message]) -> Any:
        return self.stream


class Custom:
    """A toolset with `tools` and `handle` and nothing else."""

    tools: list[Tool] = []

    def __init__(self, handle: Callable[[ToolCall], Any]) -> None:
        self.handle = handle


def wanted(id: str = "c0", arguments: str | None = "{}", name: str = "act") -> ToolCall:
    return ToolCall(id=id, function=ToolCall.FunctionBody(name=name, arguments=arguments))


def done(call: ToolCall, output: str = "done") -> ToolResult:
    return ToolResult(tool_call_id=call.id, return_value=ToolOk(output=output))


async def custom_step(handle: Callable[[ToolCall], Any], *ids: str, **callbacks: Any) -> Any:
    provider = Provider(Stream(*[wanted(id) for id in ids or ("a", "b")]))
    return await step(provider, "", Custom(handle), QUESTION, **callbacks)


async def both(provider: Any, toolset: Any, history: Sequence[Message] = QUESTION, **callbacks: Any) -> Any:
    result = await step(provider, "", toolset, history, **callbacks)
    return await result.tool_results()


def outputs(results: Sequence[ToolResult]) -> list[Any]:
    return [result.return_value.output for result in results]


def briefs(results: Sequence[ToolResult]) -> list[str]:
    """What became of the calls: the brief of an error, or the output."""
    return [result.return_value.brief or str(result.return_value.output) for result in results]


# ==== what it gives ====


async def test_a_step_gives_the_answer_and_then_the_results_of_its_calls() -> None:
    tools, told = Tools("slow", "ok"), list[Any]()
    provider = tools.kimi
    result = await step(
        provider,
        "Be terse.",
        tools.toolset,
        QUESTION,
        on_message_part=told.append,
        on_tool_call=told.append,
        on_tool_result=told.append,
    )
    assert (result.message.text, result.message.reasoning, result.finish_reason) == ("Look.", "hm", "tool_calls")
    assert result.tool_calls == list(result.message.tool_calls or ())
    assert result.usage is not None
    assert result.id is not None
    assert tools.began == []  # nothing starts before the stream has ended and `step` has returned
    results = await result.tool_results()
    assert outputs(results) == ["done 0", "done 1"]
    assert [result.tool_call_id for result in results] == ["c0", "c1"]
    assert told[-4:] == [*result.tool_calls, results[1], results[0]]
    assert provider.requests[0].system_prompt == "Be terse."
    assert [tool.name for tool in provider.requests[0].tools] == ["act"]


async def test_a_step_without_calls_has_no_results() -> None:
    result = await step(ScriptedKimi([say("Four.")]), "", SimpleToolset(), QUESTION)
    assert (result.tool_calls, await result.tool_results()) == ([], [])


async def test_asking_again_gives_the_same_and_runs_nothing_twice() -> None:
    tools = Tools("slow", "fails")
    result = await step(tools.kimi, "", tools.toolset, QUESTION)
    assert await result.tool_results() == await result.tool_results()
    assert sorted(tools.began) == [0, 1]


async def test_results_stand_in_the_order_of_the_calls_whichever_ends_first() -> None:
    tools, told = Tools("slower", "slow", "ok"), list[str]()
    results = await both(tools.kimi, tools.toolset, on_tool_result=lambda r: told.append(r.tool_call_id))
    assert tools.ended == [2, 1, 0]
    assert told == ["c2", "c1", "c0"]
    assert outputs(results) == ["done 0", "done 1", "done 2"]


async def test_tools_run_side_by_side() -> None:
    met = asyncio.Barrier(3)

    async def meet() -> str:
        async with asyncio.timeout(5):
            await met.wait()
        return "met"

    reply = Reply(tool_calls=[Call("meet")] * 3)
    assert outputs(await both(ScriptedKimi([reply]), SimpleToolset([meet]))) == ["met"] * 3


async def test_the_first_argument_may_be_named_as_other_libraries_name_it() -> None:
    tools = Tools("ok")
    result = await step(chat_provider=tools.kimi, system_prompt="", toolset=tools.toolset, history=QUESTION)
    assert outputs(await result.tool_results()) == ["done 0"]
    with pytest.raises(TypeError):
        await step(tools.kimi, "", tools.toolset, QUESTION, chat_provider=tools.kimi)  # type: ignore[call-overload]


async def test_the_trace_is_told_once_and_before_the_first_part() -> None:
    tools, told = Tools("ok"), list[Any]()
    async with KimiServer([tools.reply]) as server, Kimi(api_key="sk-test", base_url=server.base_url) as kimi:
        result = await step(
            kimi,
            "",
            tools.toolset,
            QUESTION,
            on_trace_id=lambda trace: told.append(trace),
            on_message_part=lambda _: told.append("part"),
        )
        await result.tool_results()
    assert result.trace_id
    assert told[0] == result.trace_id
    assert told.count(result.trace_id) == 1


# ==== when tools run ====


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_calls_of_an_answer_that_was_cut_off_are_answered_and_not_run(reason: str) -> None:
    tools, told = Tools("ok", "ok"), list[Any]()
    reply = Reply("Look.", tool_calls=tools.reply.tool_calls, finish_reason=reason)
    result = await step(
        ScriptedKimi([reply]), "", tools.toolset, QUESTION, on_tool_call=told.append, on_tool_result=told.append
    )
    results = await result.tool_results()
    assert (tools.began, told) == ([], [])
    assert result.finish_reason == reason
    assert [(r.tool_call_id, r.return_value.is_error, r.return_value.brief) for r in results] == [
        ("c0", True, "Not run"),
        ("c1", True, "Not run"),
    ]
    assert await result.tool_results() == results


@pytest.mark.parametrize("stop", ["close", "reset", "end"])
async def test_no_tool_starts_when_the_stream_breaks_after_its_calls(stop: Any) -> None:
    tools = Tools("ok")
    reply = Reply(tool_calls=tools.reply.tool_calls, delivery=Delivery(stop_after=600, stop=stop, finish=False))
    async with nothing_left_behind():
        with pytest.raises(ChatProviderError):
            await both(ScriptedKimi([reply]), tools.toolset)
    assert tools.began == []


async def test_arguments_that_come_before_the_name_and_between_other_calls_reach_their_tool() -> None:
    def piece(index: Any, **fields: Any) -> dict[str, Any]:
        head = {key: fields.pop(key) for key in ("id",) if key in fields}
        call = {"index": index, **head, "function": fields}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}

    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    chunks = [
        piece("b", arguments='{"place"'),
        piece("a", id="ca", name="act", arguments='{"place":'),
        piece("b", id="cb", name="act", arguments=": 1"),
        piece("a", arguments=" 0}"),
        piece("b", arguments="}"),
        end,
    ]
    tools = Tools("slow", "ok")
    results = await both(ScriptedKimi([Recorded(chunks)]), tools.toolset)
    assert [(r.tool_call_id, r.return_value.output) for r in results] == [("cb", "done 1"), ("ca", "done 0")]


async def test_a_hundred_calls_whose_beginnings_come_in_reverse_all_run_with_their_own_arguments() -> None:
    async def number(n: int) -> int:
        await turns_of_the_loop(n % 7)
        return n

    def chunk(index: int, head: dict[str, Any], **function: Any) -> dict[str, Any]:
        call = {"index": index, **head, "function": function}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}

    heads = [chunk(n, {"id": f"c{n}"}, name="number") for n in reversed(range(100))]
    tails = [chunk(n, {}, arguments=f'{{"n": {n}}}') for n in range(100)]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    results = await both(ScriptedKimi([Recorded([*heads, *tails, end])]), SimpleToolset([number]))
    assert [(r.tool_call_id, r.return_value.output) for r in results] == [
        (f"c{n}", str(n)) for n in reversed(range(100))
    ]


async def test_a_task_that_is_cancelled_before_it_begins_asks_nothing() -> None:
    provider = Tools("ok").kimi
    task = asyncio.create_task(both(provider, SimpleToolset()))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert provider.requests == []


async def test_a_cancel_in_the_last_callback_starts_no_tool() -> None:
    tools = Tools("ok", "ok")

    async def last(call: ToolCall) -> None:
        if call.id == "c1":
            task.cancel()
            await asyncio.sleep(0)

    async with nothing_left_behind():
        task = asyncio.create_task(both(tools.kimi, tools.toolset, on_tool_call=last))
        await asyncio.wait([task])
        assert task.cancelled()
    assert tools.began == []


async def test_a_cancel_that_the_last_callback_does_not_wait_for_ends_the_results() -> None:
    tools = Tools("never", "slow")
    async with nothing_left_behind():
        task = asyncio.create_task(
            both(tools.kimi, tools.toolset, on_tool_call=lambda call: task.cancel() if call.id == "c1" else None)
        )
        await asyncio.wait([task])
        assert task.cancelled()
    assert tools.all_ended


# ==== callbacks ====


async def test_each_result_is_told_in_the_task_of_its_call() -> None:
    tools, tasks = Tools("slow", "ok"), list[Any]()

    async def heard(result: ToolResult) -> None:
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())

    await both(tools.kimi, tools.toolset, on_tool_result=heard)
    assert len({*tasks, asyncio.current_task()}) == 3


async def test_results_wait_for_an_async_callback() -> None:
    tools, log = Tools("ok"), list[str]()

    async def slow(result: ToolResult) -> None:
        await turns_of_the_loop(5)
        log.append(result.tool_call_id)

    await both(tools.kimi, tools.toolset, on_tool_result=slow)
    assert log == ["c0"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_on_tool_result_raises_is_raised_once_and_ends_the_others(asynchronous: bool) -> None:
    tools = Tools("ok", "never", "slow")

    def refuse(result: ToolResult) -> None:
        if result.tool_call_id == "c0":
            raise LookupError("no")

    async def refuse_later(result: ToolResult) -> None:
        await asyncio.sleep(0)
        refuse(result)

    async with nothing_left_behind():
        callback = refuse_later if asynchronous else refuse
        result = await step(tools.kimi, "", tools.toolset, QUESTION, on_tool_result=callback)
        with pytest.raises(LookupError):
            await result.tool_results()
        assert others() == set()
        assert sorted(tools.ended) == [0, 1, 2]
        again = await result.tool_results()
        assert briefs(again) in (["done 0", "Interrupted", "Interrupted"], ["done 0", "Interrupted", "done 2"])
        assert await result.tool_results() == again


async def test_an_error_of_on_tool_result_that_nobody_asks_for_is_no_complaint() -> None:
    tools = Tools("ok", "slow")

    def refuse(_: ToolResult) -> None:
        raise LookupError("no")

    async with nothing_left_behind():
        result = await step(tools.kimi, "", tools.toolset, QUESTION, on_tool_result=refuse)
        await turns_of_the_loop(20)
        del result
        gc.collect()
        await until(lambda: not others())


class Stop(Exception):
    """What a callback raises."""


class Breaking:
    """Callbacks of all four kinds, of which the call with a certain number raises."""

    def __init__(self, at: int, asynchronous: bool) -> None:
        self.at = at
        self.calls = 0
        self.results = 0
        self._callback = self._later if asynchronous else self._now

    def _now(self, value: Any) -> None:
        self.calls += 1
        if self.calls > self.at:
            raise Stop
        self.results += isinstance(value, ToolResult)

    async def _later(self, value: Any) -> None:
        await asyncio.sleep(0)
        self._now(value)

    @property
    def callbacks(self) -> dict[str, Any]:
        return dict.fromkeys(["on_trace_id", "on_message_part", "on_tool_call", "on_tool_result"], self._callback)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_callback_that_raises_at_any_moment_leaves_nothing_behind(asynchronous: bool) -> None:
    broken = 0
    while True:
        tools, breaking, history = Tools("slow", "ok", "never"), Breaking(broken, asynchronous), list(QUESTION)
        async with nothing_left_behind():
            task = asyncio.create_task(both(tools.kimi, tools.toolset, history, **breaking.callbacks))
            await until(lambda task=task, breaking=breaking: task.done() or breaking.results == 2)
            if not task.done():  # nothing raised, and one tool never ends
                task.cancel()
                await asyncio.wait([task])
                break
            assert isinstance(task.exception(), Stop)
            assert others() == set()
        assert tools.all_ended
        assert history == QUESTION
        broken += 1
    assert broken >= 10  # the trace, at least four parts, three calls, two results


async def test_a_callback_that_raises_at_any_moment_leaves_no_socket_open() -> None:
    tools = Tools("ok", "slow")
    async with KimiServer(lambda _: tools.reply) as server:
        for position in range(0, 12, 2):
            breaking = Breaking(position, asynchronous=True)
            before = others()
            async with Kimi(api_key="sk-test", base_url=server.base_url) as kimi:
                with pytest.raises(Stop):
                    await both(kimi, tools.toolset, **breaking.callbacks)
            await server.until(lambda: server.connections == 0)
            await until(lambda before=before: others() <= before)


# ==== cancelled anywhere ====


@dataclass(frozen=True)
class Plan:
    """One example: what the tools do, how the answer comes and who listens, and when the cancel comes."""

    tools: list[str]
    chunk_size: int
    listens: bool
    whole: bool
    moment: int


plans = st.builds(
    Plan,
    tools=st.lists(
        st.sampled_from(["ok", "slow", "slower", "never", "fails", "cancels itself"]), min_size=1, max_size=4
    ),
    chunk_size=st.sampled_from([1, 5, 100]),
    listens=st.booleans(),
    whole=st.booleans(),
    moment=st.integers(0, 120),
)


async def wait_a_turn(_: Any) -> None:
    await asyncio.sleep(0)


LISTENING = dict.fromkeys(["on_trace_id", "on_message_part", "on_tool_call", "on_tool_result"], wait_a_turn)


async def cancelled_after(moment: int, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task = asyncio.create_task(work)
    for _ in range(moment):
        if task.done():
            return task
        await asyncio.sleep(0)
    if task.cancel():
        await asyncio.wait([task])
        assert task.cancelled()
    return task


async def run(plan: Plan) -> None:
    tools, history = Tools(*plan.tools), list(QUESTION)
    reply = Reply("Look.", "hm", tools.reply.tool_calls, chunk_size=plan.chunk_size)
    provider = ScriptedKimi([reply], delivery=Delivery(whole=plan.whole))
    async with nothing_left_behind():
        task = await cancelled_after(
            plan.moment, both(provider, tools.toolset, history, **(LISTENING if plan.listens else {}))
        )
        assert others() == set()
        assert tools.all_ended
        assert history == QUESTION
        if not task.cancelled():
            assert len(task.result()) == len(plan.tools)
        del task


@settings(max_examples=150)
@given(plans)
@example(Plan(["never"], 100, False, True, 2))
@example(Plan(["ok", "never"], 5, True, False, 40))
@example(Plan(["cancels itself", "slower"], 100, True, True, 15))
def test_a_cancel_at_any_moment_leaves_nothing_behind(plan: Plan) -> None:
    asyncio.run(run(plan))


async def test_a_cancel_at_each_turn_of_the_loop_leaves_nothing_behind() -> None:
    cancelled, moment = True, 0
    while cancelled:
        tools, history = Tools("slow", "fails", "slower"), list(QUESTION)
        async with nothing_left_behind():
            task = await cancelled_after(moment, both(tools.kimi, tools.toolset, history, **LISTENING))
            assert others() == set()
        assert tools.all_ended
        assert history == QUESTION
        cancelled, moment = task.cancelled(), moment + 1
    assert moment > 40
    assert outputs(task.result())[::2] == ["done 0", "done 2"]


async def test_after_a_second_cancel_nobody_waits_and_the_tools_end_by_themselves() -> None:
    for moment in range(15, 50):
        tools = Tools("slow", "never")
        async with nothing_left_behind():
            task = asyncio.create_task(both(tools.kimi, tools.toolset, **LISTENING))
            await turns_of_the_loop(moment)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            del task
            await until(lambda: not others())
        assert tools.all_ended


async def test_a_cancel_over_a_socket_leaves_neither_a_task_nor_a_connection() -> None:
    cancelled, moment = True, 0
    async with KimiServer(lambda _: Tools("slow", "slower").reply) as server:
        while cancelled:
            tools, before = Tools("slow", "slower"), others()
            async with Kimi(api_key="sk-test", base_url=server.base_url) as kimi:
                task = await cancelled_after(moment, both(kimi, tools.toolset, **LISTENING))
                assert tools.all_ended
            await server.until(lambda: server.connections == 0)
            await until(lambda before=before: others() <= before)
            cancelled, moment = task.cancelled(), moment + 3
    assert moment > 50


async def test_a_cancelled_wait_gives_what_had_finished_and_says_of_the_rest_that_it_was_interrupted() -> None:
    tools = Tools("ok", "never", "fails", "never")
    result = await step(tools.kimi, "", tools.toolset, QUESTION)
    waiting = asyncio.create_task(result.tool_results())
    await until(lambda: 0 in tools.ended and 2 in tools.ended)
    await turns_of_the_loop(3)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert others() == set()
    assert sorted(tools.ended) == [0, 1, 2, 3]
    again = await result.tool_results()
    assert briefs(again) == ["done 0", "Interrupted", "Tool runtime error", "Interrupted"]
    assert await result.tool_results() == again


@settings(max_examples=60)
@given(st.integers(1, 25), st.booleans())
def test_a_wait_that_is_cancelled_at_any_moment_can_be_asked_again(moment: int, listens: bool) -> None:
    async def run() -> None:
        tools = Tools("slow", "never", "ok", "cancels itself")
        callbacks = {"on_tool_result": wait_a_turn} if listens else {}
        async with nothing_left_behind():
            result = await step(tools.kimi, "", tools.toolset, QUESTION, **callbacks)
            await cancelled_after(moment, result.tool_results())
            assert others() == set()
            results = await result.tool_results()
        assert [r.tool_call_id for r in results] == ["c0", "c1", "c2", "c3"]
        allowed = [{"done 0"}, set[str](), {"done 2"}, {"Tool runtime error"}]
        assert all(b in {"Interrupted", *known} for b, known in zip(briefs(results), allowed, strict=True))

    asyncio.run(run())


async def test_what_a_tool_finished_is_there_whenever_the_cancel_comes() -> None:
    lost: list[Any] = []
    for moment in range(1, 25):
        tools = Tools("slow", "never", "ok", "slower")
        result = await step(tools.kimi, "", tools.toolset, QUESTION)
        waiting = asyncio.create_task(result.tool_results())
        await turns_of_the_loop(moment)
        waiting.cancel()
        await asyncio.wait([waiting])
        finished = [place for place in tools.ended if place not in tools.cancelled]
        said = briefs(await result.tool_results())
        lost += [(moment, place) for place in finished if said[place] != f"done {place}"]
    assert lost == []


async def test_a_timeout_around_the_results_ends_the_tools() -> None:
    tools = Tools("never")
    async with nothing_left_behind():
        result = await step(tools.kimi, "", tools.toolset, QUESTION)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await result.tool_results()
        assert tools.ended == [0]
        assert briefs(await result.tool_results()) == ["Interrupted"]


async def test_a_tool_that_answers_although_it_is_cancelled_has_its_answer() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "all the same"
        return "never"

    result = await step(ScriptedKimi([Reply(tool_calls=[Call("stubborn")])]), "", SimpleToolset([stubborn]), QUESTION)
    waiting = asyncio.create_task(result.tool_results())
    await turns_of_the_loop(5)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert outputs(await result.tool_results()) == ["all the same"]


async def test_a_tool_that_does_not_end_when_cancelled_holds_up_nobody_for_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(running, "CANCEL_GRACE", 0.001)
    release = asyncio.Event()

    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    result = await step(ScriptedKimi([Reply(tool_calls=[Call("stubborn")])]), "", SimpleToolset([stubborn]), QUESTION)
    await cancelled_after(5, result.tool_results())
    again = asyncio.create_task(result.tool_results())
    try:
        await turns_of_the_loop(20)
        assert again.done()
        assert briefs(again.result()) == ["Interrupted"]
        assert "cannot be stopped" in again.result()[0].return_value.message
    finally:
        release.set()
        await asyncio.wait([again])


async def test_a_second_cancel_counts_a_tool_that_does_not_end() -> None:
    release = asyncio.Event()

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
        return "late"

    result = await step(ScriptedKimi([Reply(tool_calls=[Call("stubborn")])]), "", SimpleToolset([stubborn]), QUESTION)
    waiting = asyncio.create_task(result.tool_results())
    for _ in range(2):
        await turns_of_the_loop(5)
        waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert abandoned_calls() == ("stubborn",)
    release.set()
    assert outputs(await result.tool_results()) == ["late"]
    await until(lambda: abandoned_calls() == ())


async def test_who_waits_too_is_told_of_the_interruption_and_not_cancelled() -> None:
    tools = Tools("never", "ok")
    result = await step(tools.kimi, "", tools.toolset, QUESTION)
    first, second = (asyncio.create_task(result.tool_results()) for _ in range(2))
    await turns_of_the_loop(10)
    first.cancel()
    assert briefs(await second) == ["Interrupted", "done 1"]


async def test_who_waits_too_is_not_cancelled_while_a_result_is_told() -> None:
    async def endless(_: ToolResult) -> None:
        await asyncio.Event().wait()

    result = await custom_step(done, on_tool_result=endless)
    first, second = (asyncio.create_task(result.tool_results()) for _ in range(2))
    await turns_of_the_loop(5)
    first.cancel()
    await asyncio.wait([first, second])
    assert not second.cancelled()


async def test_two_waits_that_are_cancelled_together_let_the_tools_clean_up() -> None:
    tools = Tools("never")
    result = await step(tools.kimi, "", tools.toolset, QUESTION)
    waiting = [asyncio.create_task(result.tool_results()) for _ in range(2)]
    await turns_of_the_loop(5)
    waiting[0].cancel()
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.wait(waiting)
    assert tools.cleaned == [0]


# ==== dropped ====


async def test_a_step_that_is_dropped_cancels_its_tools_and_lets_them_clean_up() -> None:
    tools = Tools("never", "slower", "never")
    async with nothing_left_behind():
        result = await step(tools.kimi, "", tools.toolset, QUESTION)
        await until(lambda: len(tools.began) == 3)
        del result
        gc.collect()
        await until(lambda: len(tools.ended) == 3)
        await until(lambda: not others())
    assert sorted(tools.cancelled) == [0, 1, 2]


@settings(max_examples=50)
@given(st.integers(0, 25), st.booleans())
def test_a_step_may_be_dropped_at_any_moment(moment: int, listens: bool) -> None:
    async def run() -> None:
        tools = Tools("slow", "never", "fails", "ok")
        async with nothing_left_behind():
            result = await step(tools.kimi, "", tools.toolset, QUESTION, **(LISTENING if listens else {}))
            await turns_of_the_loop(moment)
            del result
            await until(lambda: not others())
        assert tools.all_ended

    asyncio.run(run())


async def test_a_step_that_is_dropped_in_a_cycle_is_cancelled_when_it_is_collected() -> None:
    tools = Tools("never", "never")
    async with nothing_left_behind():
        cycle: list[Any] = [await step(tools.kimi, "", tools.toolset, QUESTION)]
        cycle.append(cycle)
        await until(lambda: len(tools.began) == 2)
        del cycle
        gc.collect()
        await turns_of_the_loop(20)
        assert sorted(tools.cleaned) == [0, 1]


async def test_a_step_that_is_dropped_in_another_thread_is_cancelled() -> None:
    tools = Tools("never")
    async with nothing_left_behind():
        held = [await step(tools.kimi, "", tools.toolset, QUESTION)]
        await until(lambda: tools.began)
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
        await until(lambda: tools.ended and not others())
    assert tools.cancelled == [0]


async def test_nobody_is_told_of_the_results_of_a_step_that_was_dropped() -> None:
    tools, told = Tools("slow"), list[Any]()
    result = await step(tools.kimi, "", tools.toolset, QUESTION, on_tool_result=told.append)
    await until(lambda: tools.began)
    del result
    await until(lambda: not others())
    assert told == []


async def test_results_that_are_being_waited_for_need_no_other_holder() -> None:
    tools = Tools("slow")
    waiting = asyncio.create_task((await step(tools.kimi, "", tools.toolset, QUESTION)).tool_results())
    gc.collect()
    assert outputs(await waiting) == ["done 0"]


def test_a_step_that_outlives_its_loop_is_dropped_in_silence() -> None:
    tools = Tools("never", "slow")
    held: list[Any] = []

    async def begin() -> None:
        held.append(await step(tools.kimi, "", tools.toolset, QUESTION))
        await turns_of_the_loop(2)

    asyncio.run(begin())
    held.clear()
    gc.collect()
    assert sorted(tools.ended) == [0, 1]


async def test_dropping_a_copy_of_a_step_cancels_nothing() -> None:
    tools = Tools("slow")
    result = await step(tools.kimi, "", tools.toolset, QUESTION)
    copy.copy(result)
    assert outputs(await result.tool_results()) == ["done 0"]


# ==== tools that misbehave ====


@pytest.mark.parametrize("behaviour", ["fails", "cancels itself"])
async def test_a_tool_that_raises_is_an_error_result_and_harms_no_other(behaviour: str) -> None:
    tools = Tools("slower", behaviour, "ok")
    results = await both(tools.kimi, tools.toolset)
    assert [r.return_value.is_error for r in results] == [False, True, False]
    assert outputs(results)[::2] == ["done 0", "done 2"]
    assert results[1].return_value.brief == "Tool runtime error"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit("x"), StopIteration, RecursionError])
async def test_whatever_a_tool_raises_the_others_have_their_results(error: Any) -> None:
    async def raising() -> str:
        raise error

    async def fine() -> str:
        return "fine"

    reply = Reply(tool_calls=[Call("raising"), Call("fine")])
    if isinstance(error, GeneratorExit):  # a coroutine that says it was closed cannot be told from one that was
        with pytest.raises(GeneratorExit):
            await both(ScriptedKimi([reply]), SimpleToolset([raising, fine]))
        return
    results = await both(ScriptedKimi([reply]), SimpleToolset([raising, fine]))
    assert [r.return_value.is_error for r in results] == [True, False]


async def test_what_cannot_be_called_is_answered_beside_what_can() -> None:
    tools = Tools("ok")
    reply = Reply(
        tool_calls=[
            Call("act", '{"place": 0}', "a"),
            Call("act", "{", "b"),
            Call("nothing", "{}", "c"),
            Call("act", "{}", "d"),
            Call("act", "[" * 100_000, "e"),
        ]
    )
    results = await both(ScriptedKimi([reply], check=False), tools.toolset)
    assert [(r.tool_call_id, r.return_value.brief) for r in results] == [
        ("a", ""),
        ("b", "Invalid arguments"),
        ("c", "Tool `nothing` not found"),
        ("d", "Invalid arguments"),
        ("e", "Invalid arguments"),
    ]


async def test_a_sync_tool_runs_in_a_thread_and_sees_the_context_of_the_step() -> None:
    here = ContextVar("here", default="nowhere")
    here.set("in the step")

    def where() -> str:
        return f"{here.get()} {threading.current_thread() is threading.main_thread()}"

    reply = Reply(tool_calls=[Call("where")] * 2)
    assert outputs(await both(ScriptedKimi([reply]), SimpleToolset([where]))) == ["in the step False"] * 2


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_sync_tool_is_left_behind_in_its_thread_and_the_step_ends(dropped: bool) -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def blocking() -> str:
        begun.set()
        release.wait(5)
        ended.set()
        return "too late"

    try:
        async with nothing_left_behind():
            reply = Reply(tool_calls=[Call("blocking")])
            result = await step(ScriptedKimi([reply]), "", SimpleToolset([blocking]), QUESTION)
            await until(begun.is_set)
            if not dropped:
                waiting = asyncio.create_task(result.tool_results())
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
                again = await result.tool_results()
                assert briefs(again) == ["Interrupted"]
                assert "cannot be stopped" in again[0].return_value.message
            del result
            await until(lambda: not others())
        assert not ended.is_set()
    finally:
        release.set()
    await until(ended.is_set)


# ==== providers and toolsets of others ====


async def test_the_least_of_providers_and_toolsets_will_do() -> None:
    result = await step(
        Provider(Stream(TextPart(text="Look."), wanted("a", None), ToolCallPart(arguments_part="{}"))),
        "",
        Custom(done),
        QUESTION,
    )
    assert (result.id, result.usage, result.trace_id, result.finish_reason) == ("answer-1", Stream.usage, None, None)
    assert result.message == Message.assistant("Look.", tool_calls=[wanted("a")])
    assert outputs(await result.tool_results()) == ["done"]


async def test_a_stream_without_a_trace_is_told_as_none() -> None:
    told: list[Any] = []
    await step(Provider(Stream(TextPart(text="x"))), "", Custom(done), QUESTION, on_trace_id=told.append)
    assert told == [None]


async def test_calls_with_one_id_have_a_result_each_by_position() -> None:
    async def number(n: int) -> str:
        await turns_of_the_loop(5 - n)
        return f"number {n}"

    calls = [wanted("same", f'{{"n": {n}}}', "number") for n in range(3)]
    result = await step(Provider(Stream(*calls)), "", SimpleToolset([number]), QUESTION)
    results = await result.tool_results()
    assert outputs(results) == ["number 0", "number 1", "number 2"]
    assert [r.tool_call_id for r in results] == [call.id for call in result.tool_calls]
    assert len({call.id for call in result.tool_calls}) == 3


async def test_a_toolset_that_names_another_call_answers_the_one_it_was_given() -> None:
    result = await custom_step(lambda call: done(wanted("x"), call.id))
    assert outputs(await result.tool_results()) == ["a", "b"]


async def test_one_promise_for_two_calls_answers_both() -> None:
    promise: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
    result = await custom_step(lambda _: promise)
    promise.set_result(done(wanted("a"), "shared"))
    assert outputs(await result.tool_results()) == ["shared", "shared"]


async def test_a_promise_may_be_kept_by_somebody_else() -> None:
    promises: dict[str, asyncio.Future[ToolResult]] = {}

    def handle(call: ToolCall) -> asyncio.Future[ToolResult]:
        return promises.setdefault(call.id, asyncio.get_running_loop().create_future())

    result = await custom_step(handle)
    waiting = asyncio.create_task(result.tool_results())
    await turns_of_the_loop(3)
    promises["b"].set_result(done(wanted("b"), "second"))
    await turns_of_the_loop(3)
    assert not waiting.done()
    promises["a"].set_result(done(wanted("a"), "first"))
    assert outputs(await waiting) == ["first", "second"]


async def test_a_promise_that_somebody_else_cancels_is_an_error_result() -> None:
    loop = asyncio.get_running_loop()
    promise: asyncio.Future[ToolResult] = loop.create_future()
    loop.call_soon(promise.cancel)
    result = await custom_step(lambda call: promise if call.id == "a" else done(call))
    results = await result.tool_results()
    assert [r.return_value.is_error for r in results] == [True, False]
    assert results[0].tool_call_id == "a"


async def test_a_promise_that_nobody_waits_for_any_more_is_cancelled() -> None:
    promise: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
    async with nothing_left_behind():
        result = await custom_step(lambda call: promise if call.id == "a" else done(call))
        waiting = asyncio.create_task(result.tool_results())
        await turns_of_the_loop(3)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert promise.cancelled()
        assert briefs(await result.tool_results()) == ["Interrupted", "done"]


def raise_at_once(call: ToolCall) -> Any:
    raise LookupError("no")


def promise_an_error(call: ToolCall) -> Any:
    promise: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    promise.set_exception(LookupError("no"))
    return promise


def raise_in_a_task(call: ToolCall) -> Any:
    async def later() -> Any:
        await asyncio.sleep(0)
        raise LookupError("no")

    return asyncio.get_running_loop().create_task(later())


@pytest.mark.parametrize("broken", [raise_at_once, promise_an_error, raise_in_a_task])
async def test_what_a_toolset_raises_comes_out_of_the_results_and_ends_the_others(broken: Callable[..., Any]) -> None:
    ended: list[str] = []

    async def slow(call: ToolCall) -> ToolResult:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(call.id)
        return done(call)

    def handle(call: ToolCall) -> Awaitable[ToolResult]:
        return broken(call) if call.id == "b" else asyncio.get_running_loop().create_task(slow(call))

    async with nothing_left_behind():
        result = await custom_step(handle, "a", "b", "c")
        with pytest.raises(LookupError):
            await result.tool_results()
        assert sorted(ended) == ["a", "c"]
        assert others() == set()


@pytest.mark.parametrize("broken", [raise_at_once, promise_an_error, raise_in_a_task])
async def test_a_toolset_that_raises_in_a_step_that_was_dropped_is_no_complaint(broken: Callable[..., Any]) -> None:
    async with nothing_left_behind():
        result = await custom_step(broken)
        await turns_of_the_loop(5)
        del result
        await until(lambda: not others())


class Translated(Custom):
    texts = {"hello": "hei"}


@pytest.mark.parametrize(
    "kind",
    [
        Custom,
        Translated,
    ],
)
async def test_the_calls_of_a_cut_off_answer_are_answered_for_any_toolset(kind: type[Custom]) -> None:
    class CutOff(Stream):
        finish_reason = "length"

    result = await step(Provider(CutOff(wanted("a"))), "", kind(done), QUESTION)
    assert isinstance((await result.tool_results())[0].return_value, ToolError)


async def test_neither_the_history_nor_the_answer_of_a_step_is_changed_by_its_calls() -> None:
    tools, history = Tools("ok", "fails"), [Message.system("Be terse."), *QUESTION]
    before = copy.deepcopy(history)
    result = await step(tools.kimi, "", tools.toolset, history)
    message = copy.deepcopy(result.message)
    await result.tool_results()
    assert history == before
    assert result.message == message


# ==== what else may go wrong ====


class Denying(SimpleToolset):
    async def invoke(self, call: ToolCall) -> Any:
        return ToolError(message="denied", brief="denied")


async def ran() -> str:
    raise AssertionError("this must not run")


@pytest.mark.parametrize("way", ["step", "handle"])
async def test_a_toolset_whose_invoke_is_overridden_runs_calls_by_that(way: str) -> None:
    toolset = Denying([ran])
    if way == "step":
        result = await step(ScriptedKimi([Reply(tool_calls=[Call("ran"), Call("nothing")])]), "", toolset, QUESTION)
        results = await result.tool_results()
    else:
        handled: Any = toolset.handle(ToolCall.from_function("ran"))
        results = [await handled]
    assert {result.return_value.message for result in results} == {"denied"}


async def test_a_toolset_whose_handle_is_replaced_runs_calls_by_that() -> None:
    toolset: Any = SimpleToolset([ran])
    answer = ToolResult(tool_call_id="other", return_value=ToolOk(output="patched"))
    toolset.handle = lambda call: answer
    result = await step(ScriptedKimi([Reply(tool_calls=[Call("ran", id="r")])]), "", toolset, QUESTION)
    assert await result.tool_results() == [answer.copy_with(tool_call_id="r")]


@pytest.mark.parametrize("through", [lambda wait: wait, lambda wait: asyncio.wait_for(wait, 5), asyncio.gather])
async def test_a_callback_cannot_wait_for_all_results(through: Callable[[Any], Any]) -> None:
    async def wait(result: ToolResult) -> None:
        await through(made.tool_results())

    script = [Reply(tool_calls=[Call("double", '{"number": 2}')])]
    made = await step(ScriptedKimi(script), "", SimpleToolset([double]), QUESTION, on_tool_result=wait)
    with pytest.raises(RoundInProgressError, match="its own"):
        await made.tool_results()


def double(number: int) -> int:
    return 2 * number


async def test_a_callback_that_raises_a_cancellation_cancels_nobody() -> None:
    async def told(result: ToolResult) -> None:
        raise asyncio.CancelledError

    script = [Reply(tool_calls=[Call("double", '{"number": 2}')])]
    made = await step(ScriptedKimi(script), "", SimpleToolset([double]), QUESTION, on_tool_result=told)
    with pytest.raises(RuntimeError, match="CancelledError"):
        await made.tool_results()
    assert outputs(await made.tool_results()) == ["4"]


async def test_calls_that_somebody_else_cancels_have_results() -> None:
    script = [Reply(tool_calls=[Call("double", '{"number": 2}'), Call("nothing")])]
    made = await step(ScriptedKimi(script), "", SimpleToolset([double]), QUESTION)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    assert briefs(await made.tool_results()) == ["Not run", "Not run"]  # they had not begun


@pytest.mark.parametrize("given", [None, "text", 5])
async def test_what_is_no_result_comes_out_and_harms_no_memory_of_the_others(given: Any) -> None:
    class Odd:
        tools: ClassVar[list[Any]] = []

        def handle(self, call: ToolCall) -> Any:
            future = asyncio.get_running_loop().create_future()
            future.set_result(given)
            return future

    made = await step(ScriptedKimi([Reply(tool_calls=[Call("double")])]), "", Odd(), QUESTION, on_tool_call=print)
    with pytest.raises(TypeError, match="Invalid return type"):
        await made.tool_results()
    assert "Invalid return type" in (await made.tool_results())[0].return_value.message


async def test_a_bare_value_of_a_toolset_is_its_result() -> None:
    class Bare:
        tools: ClassVar[list[Any]] = []

        def handle(self, call: ToolCall) -> Any:
            future = asyncio.get_running_loop().create_future()
            future.set_result(ToolOk(output="bare"))
            return future

    made = await step(ScriptedKimi([Reply(tool_calls=[Call("double", id="d")])]), "", Bare(), QUESTION)
    assert await made.tool_results() == [ToolResult(tool_call_id="d", return_value=ToolOk(output="bare"))]


async def test_results_are_waited_for_in_the_loop_of_their_step() -> None:
    waits = asyncio.Event()
    made = await step(ScriptedKimi([Reply(tool_calls=[Call("wait")])]), "", SimpleToolset([_waiting(waits)]), QUESTION)

    def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="event loop of the step"):
            asyncio.run(made.tool_results())

    await asyncio.to_thread(elsewhere)
    waits.set()
    await made.tool_results()


def _waiting(event: asyncio.Event) -> Callable[[], Any]:
    async def wait() -> str:
        await event.wait()
        return "done"

    return wait


async def test_a_deep_copy_of_a_step_shares_its_results() -> None:
    script = [Reply(tool_calls=[Call("double", '{"number": 2}')])]
    made = await step(ScriptedKimi(script), "", SimpleToolset([double]), QUESTION)
    assert outputs(await copy.deepcopy(made).tool_results()) == outputs(await made.tool_results()) == ["4"]


async def test_ten_thousand_calls_with_one_id_are_told_apart() -> None:
    calls = [Call("nothing", id="same") for _ in range(10_000)]
    result = await generate(ScriptedKimi([Reply(tool_calls=calls)]), "", [], QUESTION)
    assert len({call.id for call in result.message.tool_calls or ()}) == 10_000

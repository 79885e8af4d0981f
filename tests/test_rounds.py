"""Whose turn it is, and how rounds end: by a break, a cancel, a close, an error, a newer round."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from rounds import results, turns_of_the_loop

from kimi_agent import (
    Agent,
    ChatProviderError,
    Message,
    RoundFinished,
    RoundInProgressError,
    abandoned_calls,
    ai_function,
)
from kimi_agent.history import problems
from kimi_agent.testing import Delivery, Failure, Gate, Reply, ScriptedKimi, call, say
from kimi_agent.turns import Turn

NOT_RUN = "Not run: the round ended before this call was started."
INTERRUPTED = "Interrupted: the call was stopped before it finished. What it did until then is not undone."
STILL_RUNNING = "Interrupted: nobody waits for the call any more, but it cannot be stopped and may still finish."
METHODS = ["full_round", "full_round_stream", "full_round_frames"]


class Waiting(Agent):
    """`quick` gives a result at once, `wait` waits until it is let go, or for ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting = asyncio.Event()
        self.let_go = asyncio.Event()
        self.stopped = False

    @ai_function()
    async def quick(self) -> str:
        return "quick"

    @ai_function()
    async def wait(self) -> str:
        self.waiting.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        return "waited"


def waiting(*script: Any, **options: Any) -> Waiting:
    return Waiting(ScriptedKimi(script or (Reply(tool_calls=[call("quick"), call("wait")]), say("done"))), **options)


async def all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def no_task_left() -> None:
    await until(lambda: len(asyncio.all_tasks()) == 1)


# ==== a break ====


async def test_a_break_after_the_calls_answers_them_at_once_and_runs_none():
    agent = waiting()
    async for _ in agent.full_round("go"):
        break
    assert results(agent) == [NOT_RUN, NOT_RUN]
    assert problems(agent.chat_history) == []
    agent.provider = ScriptedKimi([say("ok")])
    await agent.chat_round("next")
    await no_task_left()


async def test_a_break_after_the_first_result_keeps_it_and_stops_the_others():
    agent = waiting()
    async for message in agent.full_round("go"):
        if message.role == "tool":
            break
    assert results(agent) == ["quick", INTERRUPTED]
    await until(lambda: agent.stopped)
    await no_task_left()


async def test_a_break_releases_the_turn_for_a_waiting_task():
    agent = waiting(Reply(tool_calls=[call("quick")]), say("second"))

    async def second() -> Message:
        return await agent.chat_round("second")

    task: asyncio.Task[Message] | None = None
    async for _ in agent.full_round("go"):
        task = asyncio.create_task(second())
        await until(lambda: bool(agent._turns._waiting))
        break
    assert task is not None
    assert (await task).text == "second"


async def test_a_hook_that_waits_loses_no_answer_on_a_break():
    class Slow(Waiting):
        async def add_to_history(self, message: Message) -> None:
            await asyncio.sleep(0)
            await super().add_to_history(message)

    agent = Slow(ScriptedKimi([Reply(tool_calls=[call("quick"), call("wait")])]))
    async for _ in agent.full_round("go"):
        break
    assert results(agent) == [NOT_RUN, NOT_RUN]
    assert problems(agent.chat_history) == []


async def test_an_exception_in_the_body_of_the_loop_is_a_break():
    agent = waiting()
    with pytest.raises(ZeroDivisionError):
        async for _ in agent.full_round("go"):
            _ = 1 / 0
    gc.collect()
    assert problems(agent.chat_history) == []
    agent.provider = ScriptedKimi([say("ok")])
    await agent.chat_round("next")


async def test_a_round_that_was_never_advanced_changes_nothing():
    agent = waiting()
    round_ = agent.full_round("go")
    del round_
    assert agent.chat_history == []
    await agent.full_round("go").aclose()
    assert agent.chat_history == []


def test_a_round_dropped_in_another_thread_gives_the_turn_back():
    async def main() -> None:
        agent = waiting(Reply(tool_calls=[call("quick")]), say("ok"))
        held = [agent.full_round("go")]
        await anext(held[0])
        await asyncio.to_thread(held.clear)
        await until(lambda: agent._turns._current is None)
        assert problems(agent.chat_history) == []
        await agent.chat_round("next")

    asyncio.run(main())


# ==== a cancel ====


async def test_a_cancel_during_a_slow_call_keeps_the_finished_result():
    agent = waiting()
    task = asyncio.create_task(all_of(agent.full_round("go")))
    await agent.waiting.wait()
    await until(lambda: results(agent) == ["quick"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert results(agent) == ["quick", INTERRUPTED]
    assert agent.stopped
    await no_task_left()


class Cleaning(Waiting):
    """`stubborn` cleans up until it is let go, `careful` for two turns of the loop."""

    @ai_function()
    async def stubborn(self) -> str:
        return await self._until_cancelled(self.let_go.wait())

    @ai_function()
    async def careful(self) -> str:
        return await self._until_cancelled(turns_of_the_loop(2))

    async def _until_cancelled(self, cleaning: Awaitable[object]) -> str:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            await cleaning
        return "never"


async def cancelled_while_closing(agent: Waiting, method: str, turns: int, cancels: int = 2) -> None:
    """Cancel the task that reads a round while a call runs, and again while it cleans up."""
    task = asyncio.create_task(all_of(getattr(agent, method)("go")))
    await agent.waiting.wait()
    for _ in range(cancels):
        task.cancel()
        await turns_of_the_loop(turns)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert problems(agent.chat_history) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("turns", [*range(1, 7), 20])
async def test_a_second_cancel_while_closing_says_what_still_runs(method: str, turns: int):
    agent = Cleaning(ScriptedKimi([Reply(tool_calls=[call("quick"), call("stubborn")])]))
    await cancelled_while_closing(agent, method, turns)
    assert results(agent) == ["quick", STILL_RUNNING]
    assert abandoned_calls() == ("stubborn",)
    agent.let_go.set()
    await until(lambda: abandoned_calls() == ())
    await no_task_left()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("turns", range(1, 7))
@pytest.mark.parametrize("tool_timeout", [None, 60])
async def test_a_second_cancel_while_closing_lets_a_call_end_that_ends_at_once(
    method: str, turns: int, tool_timeout: float | None
):
    agent = Cleaning(ScriptedKimi([Reply(tool_calls=[call("quick"), call("careful")])]), tool_timeout=tool_timeout)
    await cancelled_while_closing(agent, method, turns)
    assert results(agent) == ["quick", INTERRUPTED]
    assert abandoned_calls() == ()
    await no_task_left()


async def test_a_third_cancel_while_closing_ends_it_at_once():
    agent = Cleaning(ScriptedKimi([Reply(tool_calls=[call("stubborn")])]))
    await cancelled_while_closing(agent, "full_round", 2, cancels=3)
    assert results(agent) == [STILL_RUNNING]
    assert abandoned_calls() == ("stubborn",)
    agent.let_go.set()
    await until(lambda: abandoned_calls() == ())


async def test_a_cancel_while_the_model_answers_leaves_only_the_question():
    gate = Gate(before=2)
    agent = waiting(Reply("a long answer", delivery=Delivery(gate=gate)), say("ok"))
    task = asyncio.create_task(all_of(agent.full_round("go")))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [message.role for message in agent.chat_history] == ["user"]
    await agent.chat_round(None)
    await no_task_left()


async def test_a_cancel_while_waiting_for_the_turn_takes_it_from_nobody():
    gate = Gate(before=2)
    agent = waiting(Reply("first", delivery=Delivery(gate=gate)), say("third"))
    first = asyncio.create_task(agent.chat_round("1"))
    await gate.reached()
    second = asyncio.create_task(agent.chat_round("2"))
    third = asyncio.create_task(agent.chat_round("3"))
    await until(lambda: len(agent._turns._waiting) == 2)
    second.cancel()
    await asyncio.wait([second])
    gate.open()
    assert (await first).text == "first"
    assert (await third).text == "third"
    assert [message.text for message in agent.chat_history] == ["1", "first", "3", "third"]


async def test_a_timeout_around_a_round_is_a_timeout():
    agent = waiting()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await all_of(agent.full_round("go"))
    assert results(agent) == ["quick", INTERRUPTED]


async def test_an_interrupted_thread_is_said_to_be_still_running():
    running, go_on = threading.Event(), threading.Event()

    class Threaded(Agent):
        @ai_function()
        def block(self) -> str:
            running.set()
            go_on.wait(10)
            return "late"

    agent = Threaded(ScriptedKimi([Reply(tool_calls=[call("block")])]))
    task = asyncio.create_task(all_of(agent.full_round("go")))
    await asyncio.to_thread(running.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert "cannot be stopped" in results(agent)[0]


# ==== a close ====


async def test_async_with_closes_the_round_and_waits_for_its_calls():
    agent = waiting()
    async with agent.full_round("go") as round_:
        async for message in round_:
            if message.role == "tool":
                break
    assert agent.stopped
    assert results(agent) == ["quick", INTERRUPTED]
    assert await all_of(round_) == []
    assert len(asyncio.all_tasks()) == 1


async def test_another_task_may_close_a_round_whose_consumer_just_stops():
    agent = waiting()
    round_ = agent.full_round("go")
    got: list[Message] = []

    async def consume() -> None:
        async for message in round_:
            got.append(message)

    consumer = asyncio.create_task(consume())
    await until(lambda: len(got) == 2)
    await round_.aclose()
    await consumer
    assert [message.role for message in got] == ["assistant", "tool"]
    assert results(agent) == ["quick", INTERRUPTED]
    assert not consumer.cancelled()


async def test_several_tasks_may_close_a_round_at_once():
    agent = waiting()
    round_ = agent.full_round("go")
    consumer = asyncio.create_task(all_of(round_))
    await agent.waiting.wait()
    impatient = asyncio.create_task(round_.aclose())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(round_.aclose(), round_.aclose())
    assert not (await consumer)[2:]
    assert problems(agent.chat_history) == []


async def test_what_a_cancelled_function_gives_all_the_same_is_no_second_result():
    class Stubborn(Waiting):
        @ai_function()
        async def stubborn(self) -> str:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.stopped = True
            return "cleaned up"

    agent = Stubborn(ScriptedKimi([Reply(tool_calls=[call("quick"), call("stubborn")])]))
    async for message in agent.full_round("go"):
        if message.role == "tool":
            await agent.waiting.wait()
            break
    await until(lambda: agent.stopped)
    await no_task_left()
    assert results(agent) == ["quick", INTERRUPTED]
    agent = Stubborn(ScriptedKimi([Reply(tool_calls=[call("quick"), call("stubborn")])]))
    async with agent.full_round("go") as round_:
        await anext(round_)
        await anext(round_)
        await agent.waiting.wait()
    assert results(agent) == ["quick", "cleaned up"]


@pytest.mark.parametrize("from_another_task", [False, True])
async def test_a_hook_that_closing_calls_cannot_begin_a_round_either(from_another_task: bool):
    class Nesting(Waiting):
        async def add_to_history(self, message: Message) -> None:
            await super().add_to_history(message)
            if message.role == "tool":
                await self.chat_round("nested")

    agent = Nesting(ScriptedKimi([Reply(tool_calls=[call("quick")]), say("nested")]))
    round_ = agent.full_round("go")
    await anext(round_)
    closing = asyncio.create_task(round_.aclose()) if from_another_task else round_.aclose()
    with pytest.raises(RoundInProgressError):
        await closing
    assert [message.text for message in agent.chat_history] == ["go", "", NOT_RUN]


async def test_a_round_that_two_tasks_close_while_a_hook_waits_is_answered_once():
    class Slow(Waiting):
        async def add_to_history(self, message: Message) -> None:
            await asyncio.sleep(0)
            await super().add_to_history(message)

    agent = Slow(ScriptedKimi([Reply(tool_calls=[call("quick"), call("wait")])]))
    round_ = agent.full_round("go")
    await anext(round_)
    await asyncio.gather(*(asyncio.create_task(round_.aclose()) for _ in range(3)))
    assert results(agent) == [NOT_RUN, NOT_RUN]


async def test_waiting_for_a_busy_agent_leaves_nothing_behind():
    agent = Agent(ScriptedKimi(lambda body: say("ok")))

    async def work() -> None:
        for _ in range(50):
            agent.chat_history.clear()
            await all_of(agent.full_round("x"))

    task = asyncio.create_task(work())
    await work()
    await task
    gc.collect()
    assert sum(isinstance(thing, Turn) for thing in gc.get_objects()) < 10
    assert not asyncio.current_task()._callbacks or len(asyncio.current_task()._callbacks) < 10  # type: ignore[union-attr]


async def test_a_message_that_a_function_adds_does_not_hide_its_result():
    class Noting(Agent):
        @ai_function()
        async def note(self) -> str:
            self.chat_history.append(Message.assistant("note"))
            return "real result"

    agent = Noting(ScriptedKimi([call("note"), say("ok")]))
    await all_of(agent.full_round("go"))
    assert problems(agent.chat_history) == []
    assert results(agent) == ["real result"]


async def test_a_hook_that_raises_while_a_round_is_dropped_blocks_nobody():
    class Raising(Waiting):
        async def add_to_history(self, message: Message) -> None:
            if message.role == "tool":
                raise OSError("disk full")
            await super().add_to_history(message)

    agent = Raising(ScriptedKimi([Reply(tool_calls=[call("quick")]), say("ok")]))
    async for _ in agent.full_round("go"):
        break
    assert problems(agent.chat_history) == []
    await agent.chat_round("next")


async def test_a_round_has_one_consumer():
    agent = waiting()
    round_ = agent.full_round("go")
    consumer = asyncio.create_task(all_of(round_))
    await agent.waiting.wait()
    with pytest.raises(RoundInProgressError, match="one consumer"):
        await anext(round_)
    agent.let_go.set()
    assert len(await consumer) == 4


# ==== another round ====


async def test_rounds_of_several_tasks_are_served_first_come_first_served():
    agent = Agent(ScriptedKimi(lambda body: say("re " + body["messages"][-1]["content"])))
    answers = await asyncio.gather(*(agent.chat_round(str(number)) for number in range(5)))
    assert [answer.text for answer in answers] == [f"re {number}" for number in range(5)]
    assert [m.text for m in agent.chat_history][::2] == [str(number) for number in range(5)]


async def test_a_newer_round_of_the_same_task_closes_the_suspended_one():
    agent = waiting(Reply(tool_calls=[call("quick")]), say("second"))
    first = agent.full_round("first")
    await anext(first)
    assert (await agent.chat_round("second")).text == "second"
    assert results(agent) == [NOT_RUN]
    assert problems(agent.chat_history) == []
    with pytest.raises(RoundInProgressError, match="began another one"):
        await anext(first)


async def test_another_task_waits_until_a_held_round_is_closed():
    agent = waiting(Reply(tool_calls=[call("quick")]), say("second"))
    first = agent.full_round("first")
    await anext(first)
    second = asyncio.create_task(agent.chat_round("second"))
    await until(lambda: bool(agent._turns._waiting))
    assert not second.done()
    await first.aclose()
    assert (await second).text == "second"


async def test_nobody_waits_for_a_round_whose_task_has_ended():
    agent = waiting(Reply(tool_calls=[call("quick")]), say("second"))
    held: list[Any] = []
    leave = asyncio.Event()

    async def first() -> None:
        held.append(agent.full_round("first"))
        await anext(held[0])
        await leave.wait()

    task = asyncio.create_task(first())
    await until(lambda: bool(agent.chat_history[1:]))
    second = asyncio.create_task(agent.chat_round("second"))
    await until(lambda: bool(agent._turns._waiting))
    leave.set()
    assert (await second).text == "second"
    assert results(agent) == [NOT_RUN]
    await task


async def test_a_round_may_be_advanced_by_tasks_that_end():
    agent = waiting(Reply(tool_calls=[call("quick")]), say("done"), say("second"))
    round_ = agent.full_round("go")
    got = [await asyncio.wait_for(anext(round_), 5)]
    second = asyncio.create_task(agent.chat_round("second"))
    await until(lambda: bool(agent._turns._waiting))
    got += [await asyncio.wait_for(anext(round_), 5), await asyncio.wait_for(anext(round_), 5)]
    assert [message.text for message in got] == ["", "quick", "done"]
    await round_.aclose()
    assert (await second).text == "second"


async def test_a_newer_round_closes_one_that_was_advanced_by_a_task_of_its_own():
    agent = waiting(Reply(tool_calls=[call("quick")]), say("second"))
    round_ = agent.full_round("go")
    await asyncio.wait_for(anext(round_), 5)
    assert (await agent.chat_round("second")).text == "second"


@pytest.mark.parametrize("ask", [Agent.chat_round, Agent.chat_round_str])
async def test_a_function_that_asks_its_own_agent_is_told_that_it_cannot(ask: Callable[..., Awaitable[Any]]):
    class Reentrant(Agent):
        @ai_function()
        async def again(self) -> str:
            return str(await ask(self, "inner"))

    agent = Reentrant(ScriptedKimi([call("again"), say("ok")]))
    messages = await all_of(agent.full_round("go"))
    assert "RoundInProgressError" in messages[1].text
    assert messages[-1].text == "ok"


async def test_streams_and_rounds_cannot_be_started_inside_a_round_either():
    errors: list[str] = []

    class Reentrant(Agent):
        async def attempt(self, awaitable: Awaitable[Any]) -> None:
            try:
                await awaitable
            except RoundInProgressError as error:
                errors.append(type(error).__name__)

        @ai_function()
        async def again(self) -> str:
            await self.attempt(self.chat_round_stream("x"))
            await self.attempt(anext(self.full_round("x")))
            return "tried"

        async def add_completion_to_history(self, completion: Any) -> Message:
            await self.attempt(self.chat_round("x"))
            return await super().add_completion_to_history(completion)

    agent = Reentrant(ScriptedKimi([call("again"), say("ok")]))
    await all_of(agent.full_round_stream("go"))
    assert len(errors) == 4


async def test_a_sync_function_cannot_start_a_round_in_a_loop_of_its_own():
    class Reentrant(Agent):
        @ai_function()
        def again(self) -> str:
            return asyncio.run(self.chat_round("inner")).text

    agent = Reentrant(ScriptedKimi([call("again"), say("ok")]))
    messages = await all_of(agent.full_round("go"))
    assert "RoundInProgressError" in messages[1].text


async def test_a_function_may_ask_another_agent():
    class Parent(Agent):
        @ai_function()
        async def delegate(self) -> str:
            return await Agent(ScriptedKimi([say("from the child")])).chat_round_str("inner")

    agent = Parent(ScriptedKimi([call("delegate"), say("ok")]))
    assert (await all_of(agent.full_round("go")))[1].text == "from the child"


async def test_a_task_that_a_function_left_behind_may_ask_when_the_round_is_over():
    later: list[asyncio.Task[Message]] = []
    over = asyncio.Event()

    class Leaving(Agent):
        @ai_function()
        async def leave(self) -> str:
            later.append(asyncio.create_task(self.afterwards()))
            return "left"

        async def afterwards(self) -> Message:
            await over.wait()
            return await self.chat_round("later")

    agent = Leaving(ScriptedKimi([call("leave"), say("ok"), say("later too")]))
    await all_of(agent.full_round("go"))
    over.set()
    assert (await later[0]).text == "later too"


def test_two_event_loops_in_a_row_work_with_one_agent():
    agent = waiting(say("one"), say("two"))
    assert asyncio.run(agent.chat_round("1")).text == "one"
    assert asyncio.run(agent.chat_round("2")).text == "two"


def test_a_round_left_behind_by_a_dead_loop_blocks_nobody():
    agent = waiting(Reply(tool_calls=[call("quick")]), say("two"))
    held: list[Any] = []

    async def leave() -> None:
        held.append(agent.full_round("1"))
        await anext(held[0])

    asyncio.run(leave())
    assert asyncio.run(agent.chat_round("2")).text == "two"
    assert results(agent) == [NOT_RUN]


# ==== what is told ====


@pytest.mark.parametrize(
    ("ending", "outcome"), [("end", "completed"), ("break", "closed"), ("error", "failed"), ("cancel", "closed")]
)
async def test_how_a_round_ended_is_told_once(ending: str, outcome: str):
    script = [Failure(500, "server_error", "no")] if ending == "error" else [Reply(tool_calls=[call("wait")]), say("x")]
    agent = Waiting(ScriptedKimi(script))
    told: list[RoundFinished] = []
    agent.on(RoundFinished, told.append)
    if ending == "break":
        async for _ in agent.full_round("go"):
            break
    elif ending == "error":
        with pytest.raises(ChatProviderError):
            await all_of(agent.full_round("go"))
    elif ending == "cancel":
        task = asyncio.create_task(all_of(agent.full_round("go")))
        await agent.waiting.wait()
        task.cancel()
        await asyncio.wait([task])
    else:
        agent.let_go.set()
        await all_of(agent.full_round("go"))
    await until(lambda: bool(told))
    await asyncio.sleep(0)
    error_type = "ServerError" if ending == "error" else None
    assert told == [RoundFinished(outcome, error_type)]  # type: ignore[arg-type]

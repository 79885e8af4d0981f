"""Calls over a stream: bounded, no faster than they are read, and gone when nobody reads them any more."""

import asyncio
import gc
import itertools
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from rounds import nothing_left_behind, others, turns_of_the_loop

from kimi_agent import Agent, MarkdownFormat, NoSuchFunction, ToolOk, ToolResult, ai_function, records
from kimi_agent.testing import Reply, ScriptedKimi, call, say
from kimi_agent.tools import mapping
from kimi_agent.tools.mapping import MappedCall, MappedCalls

# ==== what is used here ====


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def settled() -> None:
    """Whatever can happen by itself has happened."""
    await turns_of_the_loop(30)


def result(text: str) -> tuple[ToolResult, str]:
    return ToolResult(tool_call_id="c", return_value=ToolOk(output=text)), text


class Stop(Exception):
    """What somebody's own code raises."""


@dataclass
class Calls:
    """Does for each item what the item says, and writes down what it saw."""

    running: int = 0
    most: int = 0
    began: list[Any] = field(default_factory=list[Any])
    ended: list[Any] = field(default_factory=list[Any])
    cancelled: list[Any] = field(default_factory=list[Any])
    finished: list[Any] = field(default_factory=list[Any])
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, item: Any) -> Any:
        if item == "unwritable":
            raise TypeError("the item cannot be written")
        return self.run(item)

    async def run(self, item: Any) -> tuple[ToolResult, str]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.append(item)
        try:
            await self.behave(item)
            self.finished.append(item)
            return result(str(item))
        except asyncio.CancelledError:
            self.cancelled.append(item)
            await turns_of_the_loop(2)
            raise
        finally:
            self.running -= 1
            self.ended.append(item)

    async def behave(self, item: Any) -> None:
        match item:
            case "slow" | "slower":
                await turns_of_the_loop(3 if item == "slow" else 9)
            case "never":
                await asyncio.Event().wait()
            case "gate":
                await self.gate.wait()
            case "breaks":
                raise Stop("no result")
            case "ends the iteration":
                raise StopAsyncIteration
            case "cancels itself":
                raise asyncio.CancelledError
            case _:
                pass

    def over(self, items: Any, **options: Any) -> MappedCalls[Any]:
        return MappedCalls(items, self.start, **options)


class Source:
    """Items of a list, and how it is pulled: every so many turns of the loop, up to an error if there is one."""

    def __init__(self, items: Any, slow: int = 0, error: BaseException | None = None) -> None:
        self.items, self.slow, self.error = iter(items), slow, error
        self.pulls = self.closed = self.at_once = self.most_at_once = 0

    def __aiter__(self) -> "Source":
        return self

    async def __anext__(self) -> Any:
        self.pulls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await turns_of_the_loop(self.slow)
            for item in self.items:
                return item
            raise self.error or StopAsyncIteration
        finally:
            self.at_once -= 1

    async def aclose(self) -> None:
        await turns_of_the_loop(self.slow)
        self.closed += 1


async def all_of(mapped: AsyncIterator[MappedCall[Any]]) -> list[MappedCall[Any]]:
    return [one async for one in mapped]


def contents(results: list[MappedCall[Any]]) -> list[str]:
    return [one.content for one in results]


class Book(BaseModel):
    title: str
    author: str = "unknown"


class Library(Agent):
    """`look_up` fails for one book, and counts how many are looked up at a time."""

    def __init__(self, *script: Any, **options: Any) -> None:
        super().__init__(ScriptedKimi(script), **options)
        self.at_once = self.most = 0
        self.stopped: list[str] = []

    @ai_function()
    async def look_up(self, title: str, author: str = "unknown") -> str:
        """Look up a book."""
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await turns_of_the_loop(3)
            if title == "Lost":
                raise ValueError("there is no such book")
            if title == "Endless":
                await asyncio.Event().wait()
            return f"{title} by {author}"
        except asyncio.CancelledError:
            self.stopped.append(title)
            raise
        finally:
            self.at_once -= 1


BOOKS = [Book(title="Emma", author="Austen"), Book(title="Lost"), Book(title="Dubliners", author="Joyce")]


# ==== of an agent ====


async def test_each_item_has_an_outcome_and_one_that_raised_says_what():
    agent = Library()
    results = await all_of(agent.map_tool("look_up", BOOKS, concurrency=2))
    assert sorted((r.index, r.args.title, r.ok, r.content) for r in results) == [
        (0, "Emma", True, "Emma by Austen"),
        (1, "Lost", False, "Error: ValueError: there is no such book"),
        (2, "Dubliners", True, "Dubliners by Joyce"),
    ]
    assert agent.most == 2
    assert agent.chat_history == []
    by_index = {r.index: r for r in results}
    assert by_index[1].args is BOOKS[1]
    assert by_index[0].result.return_value.output == "Emma by Austen"
    assert by_index[1].result.return_value.is_error


async def test_in_order_the_indexes_are_those_of_the_items():
    agent = Library()
    results = await all_of(agent.map_tool("look_up", BOOKS, concurrency=2, ordered=True))
    assert [r.index for r in results] == [0, 1, 2]
    assert agent.most == 2


async def test_an_unknown_name_is_an_error_at_once_that_names_the_functions():
    with pytest.raises(NoSuchFunction, match="no function named 'lookup'; there are look_up"):
        Library().map_tool("lookup", BOOKS)


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_a_concurrency_below_one_is_an_error_at_once(concurrency: int):
    with pytest.raises(ValueError, match="concurrency is 1 or more"):
        Library().map_tool("look_up", BOOKS, concurrency=concurrency)


@pytest.mark.parametrize("items", ["Emma", b"Emma", {"title": "Emma"}, BOOKS[0], 7, None])
async def test_the_arguments_of_one_call_are_no_stream(items: Any):
    with pytest.raises(TypeError, match="stream of arguments"):
        Library().map_tool("look_up", items)


async def test_items_may_be_whatever_a_call_takes():
    @dataclass
    class Wanted:
        title: str

    items = [{"title": "Emma"}, '{"title": "Ulysses"}', Wanted("Dubliners"), None]
    results = await all_of(Library().map_tool("look_up", items, ordered=True))
    assert [r.ok for r in results] == [True, True, True, False]
    assert contents(results)[:3] == ["Emma by unknown", "Ulysses by unknown", "Dubliners by unknown"]
    assert "title" in results[3].content


async def test_an_item_that_is_no_json_is_an_error_behind_the_results_of_those_before_it():
    results: list[MappedCall[Any]] = []
    with pytest.raises(TypeError, match="'look_up' cannot be written as JSON") as caught:
        async for one in Library().map_tool("look_up", [BOOKS[0], {"title": object()}, BOOKS[2]]):
            results.append(one)
    assert contents(results) == ["Emma by Austen"]
    assert caught.value.__notes__ == ["item 1 of the stream"]


async def test_leaving_the_loop_cancels_the_calls():
    agent = Library()
    async with nothing_left_behind():
        async for one in agent.map_tool("look_up", [BOOKS[0], Book(title="Endless"), Book(title="Endless")]):
            assert one.index == 0
            break
        await until(lambda: not others())
    assert agent.stopped == ["Endless", "Endless"]


async def test_tools_in_threads_run_side_by_side():
    together = threading.Barrier(3, timeout=5)

    class Blocking(Agent):
        @ai_function()
        def meet(self, who: int) -> str:
            together.wait()
            return f"{who} was there"

    agent = Blocking(ScriptedKimi([]))
    mapped = agent.map_tool("meet", ({"who": who} for who in range(6)), concurrency=3, ordered=True)
    assert contents(await all_of(mapped)) == [f"{who} was there" for who in range(6)]


async def test_a_model_that_streams_and_calls_may_have_its_answer_mapped_while_it_arrives():
    agent = Library(say("Emma\nLost\n"))

    async def titles() -> AsyncIterator[Book]:
        async with agent.chat_round_stream("Two titles.") as stream:
            for line in (await stream.collect_text()).splitlines():
                yield Book(title=line)

    assert [r.ok for r in await all_of(agent.map_tool("look_up", titles(), ordered=True))] == [True, False]
    assert [m.role for m in agent.chat_history] == ["user", "assistant"]


async def test_a_tool_may_map_another_tool_of_its_agent():
    class Shelf(Library):
        @ai_function()
        async def look_up_all(self, titles: list[str]) -> str:
            """Look up some books."""
            mapped = self.map_tool("look_up", [{"title": title} for title in titles], ordered=True)
            return ", ".join(contents(await all_of(mapped)))

    agent = Shelf(Reply(tool_calls=[call("look_up_all", titles=["Emma", "Ulysses"])]), say("Both are there."))
    messages = [message.text async for message in agent.full_round("Emma and Ulysses?")]
    assert messages[1:] == ["Emma by unknown, Ulysses by unknown", "Both are there."]


# ==== bounded and no faster than it is read ====


async def test_nothing_happens_before_the_first_result_is_asked_for():
    calls, source = Calls(), Source(["ok"])
    mapped = calls.over(source)
    await settled()
    assert (source.pulls, calls.began) == (0, [])
    await mapped.aclose()
    await mapped.aclose()
    assert source.closed == 1
    assert await all_of(mapped) == []
    assert source.pulls == 0


@pytest.mark.parametrize("concurrency", [1, 2, 5])
@pytest.mark.parametrize("ordered", [False, True])
async def test_an_item_is_pulled_only_when_there_is_a_place_for_it(concurrency: int, ordered: bool):
    calls, source = Calls(), Source(itertools.repeat("ok"))
    async with calls.over(source, concurrency=concurrency, ordered=ordered) as mapped:
        for taken in range(1, 6):
            await anext(mapped)
            await settled()
            assert source.pulls == len(calls.began) == taken + concurrency
    assert source.most_at_once == 1
    assert source.closed == 1


async def test_a_slow_item_at_the_head_stops_the_source_when_the_order_is_kept():
    calls, source = Calls(), Source(["gate", *["ok"] * 20])
    mapped = calls.over(source, concurrency=4, ordered=True)
    reading = asyncio.create_task(all_of(mapped))
    await settled()
    assert source.pulls == 4
    calls.gate.set()
    assert [r.index for r in await reading] == list(range(21))


async def test_results_come_as_they_finish_unless_the_order_is_kept():
    items = ["gate", "slower", "slow", "ok"]
    calls = Calls()
    mapped = calls.over(items)
    assert [(await anext(mapped)).index for _ in range(3)] == [3, 2, 1]
    calls.gate.set()
    assert (await anext(mapped)).index == 0


async def test_results_are_handed_out_while_the_next_item_is_awaited():
    gate = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "first"
        yield "second"
        await gate.wait()
        yield "third"

    mapped = Calls().over(items())
    assert [(await anext(mapped)).content for _ in range(2)] == ["first", "second"]
    third = asyncio.create_task(anext(mapped))
    await settled()
    assert not third.done()
    gate.set()
    assert (await third).content == "third"
    assert await all_of(mapped) == []


async def test_calls_go_on_while_the_reader_does_something_else():
    calls = Calls()
    async with calls.over(["ok", "slow", "slower"], concurrency=4) as mapped:
        await anext(mapped)
        await settled()
        assert calls.finished == ["ok", "slow", "slower"]
        assert contents(await all_of(mapped)) == ["slow", "slower"]


async def test_ten_thousand_items_need_no_more_than_their_places():
    most_tasks = 0
    seen = bytearray(10_000)

    async def run(item: int) -> tuple[ToolResult, str]:
        nonlocal most_tasks
        if item % 100 == 0:
            most_tasks = max(most_tasks, len(asyncio.all_tasks()))
        if item % 3:
            await asyncio.sleep(0)
        return shared

    shared = result("done")
    mapped = MappedCalls(range(10_000), run, concurrency=16)
    async for one in mapped:
        seen[one.index] += 1
    assert seen == bytearray([1]) * 10_000
    assert most_tasks <= 16 + 1 + 1  # the calls, the puller, and who reads
    assert not mapping._under_way


async def test_a_reader_that_asks_impatiently_leaves_nothing_behind():
    calls = Calls()
    async with calls.over(["gate"]) as mapped:
        for _ in range(50):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(mapped)
        assert len(mapped._work._news._waiters) == 0  # pyright: ignore
        calls.gate.set()
        assert contents(await all_of(mapped)) == ["gate"]


# ==== sources ====


@pytest.mark.parametrize("items", [[], (), iter([]), Source([]), Source([], slow=3)])
async def test_an_empty_stream_has_no_results(items: Any):
    async with nothing_left_behind():
        assert await all_of(Calls().over(items)) == []


async def test_a_source_that_has_ended_is_closed():
    source = Source(["ok"])
    assert len(await all_of(Calls().over(source))) == 1
    assert source.closed == 1


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("before", [[], ["slow", "ok", "slower"]])
async def test_an_error_of_the_source_is_raised_once_behind_the_results(before: list[str], ordered: bool):
    source = Source(before, error=Stop("the source"))
    mapped = Calls().over(source, ordered=ordered)
    results: list[MappedCall[Any]] = []
    async with nothing_left_behind():
        with pytest.raises(Stop, match="the source"):
            async for one in mapped:
                results.append(one)
        assert await all_of(mapped) == []
        assert await all_of(mapped) == []
    assert sorted(contents(results)) == sorted(before)
    assert (source.pulls, source.closed) == (len(before) + 1, 1)


async def test_a_source_that_raises_a_cancellation_cancels_nobody():
    mapped = Calls().over(Source(["ok"], error=asyncio.CancelledError()))
    assert (await anext(mapped)).content == "ok"
    with pytest.raises(RuntimeError, match="the source of the items ended with a CancelledError"):
        await anext(mapped)
    assert await all_of(mapped) == []


async def test_a_source_that_cannot_be_closed_loses_no_result():
    class Broken(Source):
        async def aclose(self) -> None:
            raise Stop

    async with nothing_left_behind():
        assert contents(await all_of(Calls().over(Broken(["ok"])))) == ["ok"]


async def test_an_error_is_not_raised_after_the_end_by_close():
    async with Calls().over(Source(["ok"], error=Stop())) as mapped:
        await anext(mapped)
        await settled()
    assert await all_of(mapped) == []


async def test_a_generator_is_left_in_the_task_that_pulled_it():
    tasks: list[Any] = []

    async def items() -> AsyncIterator[str]:
        try:
            while True:
                tasks.append(asyncio.current_task())
                yield "ok"
        finally:
            tasks.append(asyncio.current_task())

    async with Calls().over(items(), concurrency=2) as mapped:
        await anext(mapped)
        await settled()
    assert len(tasks) == 4
    assert len(set(tasks)) == 1


async def test_a_plain_generator_can_be_read_on_afterwards():
    numbers = iter(range(100))
    async with Calls().over(numbers, concurrency=3) as mapped:
        await anext(mapped)
    assert next(numbers) in (3, 4)


async def test_a_source_that_answers_although_it_is_cancelled_starts_nothing():
    class Stubborn(Source):
        async def __anext__(self) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"

    calls, source = Calls(), Stubborn([])
    async with nothing_left_behind():
        mapped = calls.over(source)
        reading = asyncio.create_task(all_of(mapped))
        await settled()
        await mapped.aclose()
        assert await reading == []
    assert (calls.began, source.closed) == ([], 1)


# ==== calls that give no result ====


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_call_that_raises_stops_the_source_and_the_others_are_handed_out_before_it(ordered: bool):
    calls, source = Calls(), Source(itertools.chain(["slower", "breaks", "slow"], itertools.repeat("ok")), slow=1)
    results: list[MappedCall[Any]] = []
    async with nothing_left_behind():
        mapped = calls.over(source, ordered=ordered)
        with pytest.raises(Stop, match="no result"):
            async for one in mapped:
                results.append(one)
        assert await all_of(mapped) == []
    assert sorted(contents(results)) == sorted(item for item in calls.began if item != "breaks")
    assert len(calls.began) < 10
    assert source.closed == 1


async def test_an_item_that_comes_together_with_an_error_is_not_lost():
    class Stubborn(Source):
        async def __anext__(self) -> Any:
            try:
                await turns_of_the_loop(self.pulls * 20)
            except asyncio.CancelledError:
                return "ok"
            return await super().__anext__()

    results: list[MappedCall[Any]] = []
    with pytest.raises(Stop):
        async for one in Calls().over(Stubborn(["breaks", "never"])):
            results.append(one)
    assert contents(results) == ["ok"]


async def test_only_the_first_error_is_raised():
    mapped = Calls().over(Source(["breaks", "breaks", "slow"], slow=1, error=ValueError()))
    async with nothing_left_behind():
        with pytest.raises(Stop):
            await all_of(mapped)
        assert [item async for item in mapped] == []


@pytest.mark.parametrize("item", ["cancels itself", "ends the iteration"])
async def test_a_call_that_cancels_itself_neither_cancels_nor_ends_the_reader(item: str):
    mapped = Calls().over(["ok", item, "slow"])
    results: list[MappedCall[Any]] = []
    with pytest.raises(RuntimeError, match="the call of item 1 ended with a"):
        async for one in mapped:
            results.append(one)
    assert "ok" in contents(results)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_ends_it(error: type[BaseException]):
    calls = Calls()

    async def behave(item: Any) -> None:
        await turns_of_the_loop(2)
        if item == 1:
            raise error

    calls.behave = behave  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(error):
        asyncio.run(all_of(calls.over(range(3))))
    gc.collect()


async def test_what_ends_the_program_is_a_result_when_a_function_of_an_agent_raises_it():
    async def leave(code: int) -> str:
        raise SystemExit(code)

    agent = Agent(ScriptedKimi([]), functions=[leave])
    results = await all_of(agent.map_tool("leave", [{"code": 3}]))
    assert contents(results) == ["Error: SystemExit: 3"]


# ==== several readers ====


@pytest.mark.parametrize("ordered", [False, True])
async def test_two_readers_share_the_results(ordered: bool):
    async def some_of(mapped: MappedCalls[Any]) -> list[MappedCall[Any]]:
        results: list[MappedCall[Any]] = []
        async for one in mapped:
            results.append(one)
            await turns_of_the_loop(10)
        return results

    calls = Calls()
    async with nothing_left_behind():
        mapped = calls.over(Source(["slow", "ok", "slower"] * 10, slow=1), concurrency=3, ordered=ordered)
        some, more = await asyncio.gather(some_of(mapped), some_of(mapped))
    assert sorted(r.index for r in [*some, *more]) == list(range(30))
    assert some
    assert more


async def test_of_two_readers_one_gets_the_error():
    mapped = Calls().over(Source(["slow"], error=Stop()))
    gathered = await asyncio.gather(*(all_of(mapped) for _ in range(3)), return_exceptions=True)
    assert sorted(type(given).__name__ for given in gathered) == ["Stop", "list", "list"]


async def test_a_reader_ends_when_another_task_closes():
    calls = Calls()
    async with nothing_left_behind():
        mapped = calls.over(["never", "ok"])
        reading = asyncio.create_task(all_of(mapped))
        await settled()
        await mapped.aclose()
        assert contents(await reading) == ["ok"]
    assert calls.cancelled == ["never"]


def test_another_event_loop_is_told_where_the_calls_run():
    calls = Calls()
    mapped = calls.over(["ok", "never"])

    async def one() -> str:
        return (await anext(mapped)).content

    assert asyncio.run(one()) == "ok"
    with pytest.raises(RuntimeError, match="the event loop in which they began"):
        asyncio.run(one())
    asyncio.run(mapped.aclose())
    assert asyncio.run(all_of(mapped)) == []


def test_a_loop_that_runs_no_more_is_no_reason_to_fail():
    calls = Calls()
    mapped = calls.over(Source(["ok", "ok"]), concurrency=1)
    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(anext(mapped)).content == "ok"  # pyright: ignore
        loop.run_until_complete(settled())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(settled())
        loop.close()
    asyncio.run(mapped.aclose())
    del mapped
    gc.collect()


def test_a_loop_that_was_closed_too_early_is_no_reason_to_hang():
    mapped = Calls().over(Source(["ok", "never", "never"]), concurrency=2)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(anext(mapped)).content == "ok"  # pyright: ignore
    loop.run_until_complete(settled())
    forgotten = asyncio.all_tasks(loop)
    assert len(forgotten) == 3
    loop.close()
    asyncio.run(mapped.aclose())
    assert asyncio.run(all_of(mapped)) == []
    for task in forgotten:
        task._log_destroy_pending = False  # pyright: ignore
    mapping._under_way -= forgotten


async def test_another_thread_may_close_it():
    calls = Calls()
    async with nothing_left_behind():
        asyncio.get_running_loop().set_debug(True)
        mapped = calls.over(["ok", "never"])
        await anext(mapped)
        await asyncio.to_thread(asyncio.run, mapped.aclose())
        assert await all_of(mapped) == []
        await until(lambda: not others())
    assert calls.cancelled == ["never"]


# ==== closed ====


async def test_leaving_async_with_waits_until_everything_has_ended():
    calls, source = Calls(), Source(itertools.chain(["ok"], itertools.repeat("never")), slow=2)
    async with nothing_left_behind():
        async with calls.over(source, concurrency=3) as mapped:
            await anext(mapped)
            await until(lambda: len(calls.began) == 4)
        assert others() == set()
    assert calls.cancelled == ["never"] * 3
    assert sorted(calls.ended) == sorted(calls.began)
    assert source.closed == 1


@pytest.mark.parametrize("ordered", [False, True])
async def test_what_nobody_has_taken_is_gone_when_it_is_closed(ordered: bool):
    calls = Calls()
    async with calls.over(["ok", "slow", "slower"], ordered=ordered) as mapped:
        await anext(mapped)
        await until(lambda: len(calls.finished) == 3)
    assert await all_of(mapped) == []


async def test_closing_twice_and_side_by_side_is_closing_once():
    calls, source = Calls(), Source(itertools.repeat("never"), slow=2)
    async with nothing_left_behind():
        mapped = calls.over(source)
        reading = asyncio.create_task(all_of(mapped))
        await until(lambda: len(calls.began) == 5)
        await asyncio.gather(mapped.aclose(), mapped.aclose())
        await mapped.aclose()
        assert await reading == []
    assert source.closed == 1
    assert len(calls.cancelled) == 5


@pytest.mark.parametrize("moment", range(1, 8))
async def test_a_close_that_is_cancelled_leaves_nothing_behind(moment: int):
    calls, source = Calls(), Source(itertools.repeat("never"), slow=1)
    async with nothing_left_behind():
        mapped = calls.over(source, concurrency=2)
        reading = asyncio.create_task(all_of(mapped))
        await until(lambda: len(calls.began) == 2)
        closing = asyncio.create_task(mapped.aclose())
        await turns_of_the_loop(moment)
        closing.cancel()
        await asyncio.wait([closing, reading])
        await mapped.aclose()
        assert others() == set()
    assert source.closed == 1


async def test_a_call_may_close_the_calls_that_it_is_one_of():
    calls = Calls()
    mapped: MappedCalls[Any]

    async def behave(item: Any) -> None:
        if item == "closes":
            with suppress(asyncio.CancelledError):
                await mapped.aclose()
            await mapped.aclose()
        else:
            await asyncio.Event().wait()

    calls.behave = behave  # pyright: ignore[reportAttributeAccessIssue]
    async with nothing_left_behind():
        mapped = calls.over(["never", "closes"])
        async with asyncio.timeout(2):
            assert await all_of(mapped) == []
            await until(lambda: not others())
    assert calls.cancelled.count("never") == 1


async def test_a_call_that_does_not_end_holds_up_nobody_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mapping, "CANCEL_GRACE", 0.001)
    release = asyncio.Event()

    async def stubborn(item: Any) -> tuple[ToolResult, str]:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return result("late")

    async with nothing_left_behind():
        mapped = MappedCalls([1], stubborn)
        reading = asyncio.create_task(all_of(mapped))
        await settled()
        await mapped.aclose()
        assert await reading == []
        release.set()
        await until(lambda: not others())
        assert await all_of(mapped) == []


# ==== dropped ====


async def test_dropping_it_cancels_what_runs_and_closes_the_source():
    calls, source = Calls(), Source(itertools.chain(["ok"], itertools.repeat("never")), slow=1)
    async with nothing_left_behind():
        mapped = calls.over(source, concurrency=3)
        await anext(mapped)
        del mapped
        await until(lambda: not others())
    assert sorted(calls.began) == sorted(calls.ended)
    assert source.closed == 1


async def test_dropping_it_while_a_call_is_made_cancels_that_call():
    calls = Calls()

    def start(item: Any) -> Any:
        if item == "last":
            held.clear()
        return calls.run("never" if item == "last" else item)

    async with nothing_left_behind():
        held = [MappedCalls(Source(["ok", "last"], slow=1), start, concurrency=1)]
        await anext(held[0])
        await until(lambda: not (held or others()))
    assert calls.finished == ["ok"]


async def test_an_exception_in_the_loop_drops_it():
    calls = Calls()
    async with nothing_left_behind():
        with pytest.raises(Stop):
            async for _ in calls.over(["ok", "never"]):
                raise Stop
        await until(lambda: not others())
    assert calls.cancelled == ["never"]


async def test_dropping_it_in_a_cycle_cancels_it_when_it_is_collected():
    calls = Calls()
    async with nothing_left_behind():
        cycle: list[Any] = [calls.over(["ok", "never"])]
        cycle.append(cycle)
        await anext(cycle[0])
        del cycle
        gc.collect()
        await until(lambda: not others())
    assert calls.cancelled == ["never"]


async def test_dropping_it_in_another_thread_cancels_it():
    calls = Calls()
    async with nothing_left_behind():
        asyncio.get_running_loop().set_debug(True)  # it complains of who calls it from another thread
        held = [calls.over(["ok", "never"])]
        await anext(held[0])
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
        await until(lambda: not others())
    assert calls.cancelled == ["never"]


def test_dropping_it_after_its_loop_is_nothing():
    async def one() -> None:
        held.append(calls.over(["ok", "never"]))
        await anext(held[0])

    calls, held = Calls(), list[Any]()
    asyncio.run(one())
    assert calls.cancelled == ["never"]
    held.clear()
    gc.collect()


async def test_calls_that_nobody_else_holds_are_not_collected_while_they_are_awaited():
    class Forgetful(Calls):
        async def behave(self, item: Any) -> None:
            await asyncio.sleep(0)
            gc.collect()
            await asyncio.sleep(0)

    assert len(await all_of(Forgetful().over(Source(range(4), slow=1)))) == 4


# ==== cancelled, closed and dropped anywhere ====

BEHAVIOURS = ["ok", "slow", "slower", "never"]
ENDINGS = ["to the end", "cancel and read on", "cancel and close", "cancel and drop", "close", "drop", "leave"]


@dataclass(frozen=True)
class Plan:
    """One example: the calls, how they are pulled, and when and how the reader stops."""

    items: list[str]
    plain: bool
    slow: int
    fails: bool
    concurrency: int
    ordered: bool
    ending: str
    moment: int
    """Turns of the loop."""

    @property
    def source(self) -> Source:
        return Source(self.items, self.slow, Stop("the source") if self.fails else None)

    @property
    def is_endless(self) -> bool:
        return "never" in self.items


plans = st.builds(
    Plan,
    items=st.lists(st.sampled_from(BEHAVIOURS), max_size=8),
    plain=st.booleans(),
    slow=st.integers(0, 3),
    fails=st.booleans(),
    concurrency=st.integers(1, 4),
    ordered=st.booleans(),
    ending=st.sampled_from(ENDINGS),
    moment=st.integers(0, 40),
)


class Reader:
    """Reads as far as it can, and has what it read."""

    def __init__(self, mapped: MappedCalls[Any], most: int | None = None) -> None:
        self.held = [mapped]
        self.most = most
        self.results: list[MappedCall[Any]] = []
        self.errors: list[Exception] = []

    async def __call__(self) -> None:
        try:
            async for one in self.held[0]:
                self.results.append(one)
                if self.most is not None and len(self.results) >= self.most:
                    break
        except Stop as error:
            self.errors.append(error)


async def carry_out(plan: Plan) -> None:
    calls, source = Calls(), plan.source
    mapped = calls.over(iter(plan.items) if plan.plain else source, concurrency=plan.concurrency, ordered=plan.ordered)
    reader = Reader(mapped, plan.moment % 5 if plan.ending == "leave" else None)
    async with nothing_left_behind():
        task = asyncio.create_task(reader())
        for _ in range(plan.moment):
            await asyncio.sleep(0)
            in_hand = len(calls.began) - len(reader.results)
            assert in_hand <= plan.concurrency
            assert source.pulls <= len(reader.results) + plan.concurrency
        match plan.ending:
            case "to the end" | "leave" if not plan.is_endless:
                await task
            case "close":
                await mapped.aclose()
                await task
            case "cancel and read on":
                task.cancel()
                await asyncio.wait([task])
                if not plan.is_endless:
                    await reader()
            case _:
                task.cancel()
                await asyncio.wait([task])
                if plan.ending == "cancel and close":
                    await mapped.aclose()
                    assert others() == set()
        del mapped
        read_to_the_end = plan.ending in ("to the end", "cancel and read on") and not plan.is_endless
        reader.held.clear()
        del task
        gc.collect(1)
        await until(lambda: not others())
    check(plan, calls, source, reader, read_to_the_end)


def check(plan: Plan, calls: Calls, source: Source, reader: Reader, read_to_the_end: bool) -> None:
    indexes = [one.index for one in reader.results]
    assert len(set(indexes)) == len(indexes)
    assert contents(reader.results) == [plan.items[index] for index in indexes]
    assert indexes == sorted(indexes) or not plan.ordered
    assert sorted(calls.began) == sorted(calls.ended)
    assert calls.most <= plan.concurrency
    assert source.most_at_once <= 1
    assert source.closed == (1 if source.pulls else source.closed)
    if read_to_the_end:
        assert sorted(indexes) == list(range(len(plan.items)))
        assert len(reader.errors) == (plan.fails and not plan.plain)


@settings(max_examples=250)
@given(plans)
@example(Plan(["ok", "never"], False, 2, False, 2, False, "cancel and drop", 4))
@example(Plan(["slow", "ok"], False, 3, True, 1, True, "cancel and read on", 1))
@example(Plan(["never"], True, 0, False, 1, False, "close", 0))
def test_whenever_it_is_left_nothing_finished_is_lost_and_nothing_is_left_behind(plan: Plan):
    asyncio.run(carry_out(plan))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("ordered", [False, True])
def test_at_each_turn_of_the_loop_it_may_be_left(ending: str, ordered: bool):
    async def each() -> None:
        for moment in range(25):
            await carry_out(Plan(["slow", "ok", "slower", "slow"], False, 1, True, 2, ordered, ending, moment))

    asyncio.run(each())


async def test_a_result_is_not_lost_when_the_cancel_comes_together_with_it():
    for moment in range(12):
        calls = Calls()
        async with calls.over(["slow", "ok", "slower"], concurrency=3) as mapped:
            taken: list[MappedCall[Any]] = []
            for _ in range(20):
                asking = asyncio.create_task(anext(mapped))  # pyright: ignore
                await turns_of_the_loop(moment)
                asking.cancel()
                await asyncio.wait([asking])
                if asking.cancelled():
                    continue
                if isinstance(asking.exception(), StopAsyncIteration):
                    break
                taken.append(asking.result())
            taken += await all_of(mapped)
        assert sorted(r.index for r in taken) == [0, 1, 2]


def numbers() -> Iterator[int]:
    yield from itertools.count()


async def test_an_endless_stream_may_be_left_anywhere():
    for most in range(5):
        calls = Calls()
        async with nothing_left_behind():
            reader = Reader(calls.over(numbers(), concurrency=3), most + 1)
            await reader()
            reader.held.clear()
            await until(lambda: not others())
        assert len(reader.results) == most + 1
        assert len(calls.began) <= most + 1 + 3


async def test_a_function_that_asks_for_a_round_is_refused_while_a_round_waits_for_it():
    class Asking(Agent):
        @ai_function()
        async def ask(self) -> str:
            """Ask."""
            return await self.chat_round_str("sub")

    agent = Asking(ScriptedKimi([say("a"), say("b")]))
    outcomes: list[MappedCall[None]] = []
    async for _ in agent.full_round("go"):
        outcomes += [outcome async for outcome in agent.map_tool("ask", [None])]
    assert [(outcome.ok, "another round" in outcome.content) for outcome in outcomes] == [(False, True)]
    assert [outcome.content async for outcome in agent.map_tool("ask", [None])] == ["b"]


async def test_one_failure_of_three_is_one_outcome_however_the_stream_of_items_is_cut():
    """F23, with its items out of an answer, under 200 cuttings."""
    text = "# a\n\n# b\n\n# c\n"
    chance = random.Random(23)
    running = most = 0

    class Item(BaseModel):
        name: str

    class Broken(Agent):
        @ai_function()
        async def use(self, name: str) -> str:
            """Use."""
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0)
            running -= 1
            if name == "b":
                raise ValueError("b is broken")
            return name

    items = MarkdownFormat("items", "# {name}")
    for _ in range(200):
        cuts = sorted(chance.sample(range(1, len(text)), chance.randint(0, 6)))
        pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
        async with Broken(ScriptedKimi([])).map_tool(
            "use", records(pieces, Item, items), concurrency=2, ordered=True
        ) as calls:
            done = [(call.index, call.args.name, call.ok, call.content) async for call in calls]
        assert done == [(0, "a", True, "a"), (1, "b", False, "Error: ValueError: b is broken"), (2, "c", True, "c")]
    assert most <= 2


async def test_sixteen_calls_run_at_once_unless_it_is_said_otherwise():
    reached, enough = 0, asyncio.Event()

    class Waiting(Agent):
        @ai_function()
        async def wait(self) -> None:
            """Wait."""
            nonlocal reached
            reached += 1
            if reached == 16:
                enough.set()
            await asyncio.get_running_loop().create_future()

    async with Waiting(ScriptedKimi([])).map_tool("wait", [None] * 40) as calls:
        reader = asyncio.ensure_future(anext(calls))
        await enough.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert reached == 16
        reader.cancel()

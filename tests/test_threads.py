"""Functions that block: where they run, how many, and what happens to those nobody waits for."""

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kimi_agent.errors import KimiAgentError
from kimi_agent.tools.threads import TOOL_THREADS, DaemonThreads

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], Any]) -> None:
    while not condition():
        time.sleep(0.001)


class Gate:
    """A function that blocks until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self._entries: list[None] = []

    @property
    def entered(self) -> int:
        return len(self._entries)

    def wait_for_it(self, result: Any = None) -> Any:
        self._entries.append(None)
        assert self.open.wait(20)
        return result


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


async def test_a_function_runs_in_a_daemon_thread_and_gives_its_value():
    def function(a: int, *, b: int) -> tuple[int, threading.Thread]:
        return a + b, threading.current_thread()

    value, thread = await DaemonThreads().run(function, 1, b=2)
    assert value == 3
    assert thread.daemon
    assert thread is not threading.main_thread()


async def test_the_loop_goes_on_while_a_function_blocks(gate: Gate):
    async with asyncio.timeout(20):
        call = asyncio.create_task(DaemonThreads().run(gate.wait_for_it, "done"))
        await until(lambda: gate.entered)
        gate.open.set()
        assert await call == "done"


async def test_a_function_sees_the_context_of_its_caller_and_changes_only_a_copy():
    def change() -> str:
        seen = VARIABLE.get()
        VARIABLE.set("changed")
        return seen

    VARIABLE.set("mine")
    assert await DaemonThreads().run(change) == "mine"
    assert VARIABLE.get() == "mine"


@pytest.mark.parametrize("error", [ValueError("v"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("c")])
async def test_what_a_function_raises_is_raised_to_its_caller(error: BaseException):
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await DaemonThreads().run(fail)
    assert caught.value is error


async def test_stop_iteration_arrives_as_the_cause_of_a_runtime_error():
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await DaemonThreads().run(next, iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_an_awaitable_that_a_function_returns_is_awaited_on_the_loop():
    async def later() -> threading.Thread:
        await asyncio.sleep(0)
        return threading.current_thread()

    assert await DaemonThreads().run(lambda: later()) is threading.current_thread()


async def test_never_more_than_the_bound_run(gate: Gate):
    pool = DaemonThreads(bound=3)
    calls = [asyncio.create_task(pool.run(gate.wait_for_it, number)) for number in range(10)]
    await until(lambda: gate.entered == 3)
    assert (len(pool.running), len(pool.waiting)) == (3, 7)
    gate.open.set()
    assert await asyncio.gather(*calls) == list(range(10))


async def test_one_thread_takes_its_calls_in_order(gate: Gate):
    pool, order = DaemonThreads(bound=1), []
    first = asyncio.create_task(pool.run(gate.wait_for_it))
    await until(lambda: gate.entered)
    calls = [asyncio.create_task(pool.run(order.append, number)) for number in range(10)]
    await until(lambda: len(pool.waiting) == 10)
    gate.open.set()
    await asyncio.gather(first, *calls)
    assert order == list(range(10))


async def test_threads_end_when_nothing_is_left_to_do():
    seen: list[threading.Thread] = []
    pool = DaemonThreads()
    await asyncio.gather(*(pool.run(lambda: seen.append(threading.current_thread())) for _ in range(5)))
    await until(lambda: not any(thread.is_alive() for thread in seen))
    assert pool.running == pool.waiting == pool.abandoned == ()


async def test_a_cancelled_call_that_waited_is_never_run(gate: Gate):
    pool, ran = DaemonThreads(bound=1), []
    first = asyncio.create_task(pool.run(gate.wait_for_it, "first"))
    await until(lambda: gate.entered)
    second = asyncio.create_task(pool.run(ran.append, 2))
    third = asyncio.create_task(pool.run(ran.append, 3))
    await until(lambda: len(pool.waiting) == 2)
    second.cancel()
    await asyncio.wait([second])
    assert len(pool.waiting) == 1
    gate.open.set()
    assert await first == "first"
    await third
    assert second.cancelled()
    assert ran == [3]


async def test_a_cancelled_call_that_runs_is_abandoned_until_it_ends(gate: Gate):
    pool = DaemonThreads(bound=2)
    call = asyncio.create_task(pool.run(gate.wait_for_it))
    await until(lambda: gate.entered)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert pool.abandoned == ("Gate.wait_for_it",)
    assert await pool.run(lambda: "the other thread is free") == "the other thread is free"
    gate.open.set()
    await until(lambda: not pool.abandoned)


async def test_when_abandoned_work_occupies_all_threads_calls_fail_at_once_and_the_error_names_it(gate: Gate):
    pool = DaemonThreads(bound=2)
    calls = [asyncio.create_task(pool.run(gate.wait_for_it)) for _ in range(2)]
    await until(lambda: gate.entered == 2)
    waiting = asyncio.create_task(pool.run(lambda: "waited"))
    await until(lambda: pool.waiting)
    for call in calls:
        call.cancel()
    with pytest.raises(KimiAgentError, match=r"all 2 threads.*Gate\.wait_for_it"):
        await waiting
    with pytest.raises(KimiAgentError, match=r"all 2 threads.*Gate\.wait_for_it"):
        await pool.run(lambda: "new")
    gate.open.set()
    await until(lambda: not pool.running)
    assert await pool.run(lambda: "free again") == "free again"


async def test_a_coroutine_that_comes_too_late_is_closed(gate: Gate):
    async def later() -> None: ...

    pool, made = DaemonThreads(), []

    def make() -> Any:
        gate.wait_for_it()
        made.append(later())
        return made[0]

    call = asyncio.create_task(pool.run(make))
    await until(lambda: gate.entered)
    call.cancel()
    await asyncio.wait([call])
    gate.open.set()
    await until(lambda: made and made[0].cr_frame is None)  # else it would warn that nobody awaited it


async def test_a_thread_that_cannot_be_started_takes_no_place(monkeypatch: pytest.MonkeyPatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = DaemonThreads(bound=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            await pool.run(int)
    assert await pool.run(int) == 0


def test_two_event_loops_in_a_row_use_the_same_threads():
    for _ in range(2):
        assert asyncio.run(TOOL_THREADS.run(lambda: "here")) == "here"


def test_event_loops_in_parallel_share_the_bound(gate: Gate):
    pool, results = DaemonThreads(bound=2), []

    async def main() -> None:
        results.extend(await asyncio.gather(*(pool.run(gate.wait_for_it, number) for number in range(5))))

    loops = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in loops:
        thread.start()
    wait_until(lambda: gate.entered == 2 and len(pool.waiting) == 18)
    assert len(pool.running) == 2
    gate.open.set()
    for thread in loops:
        thread.join()
    assert sorted(results) == sorted([*range(5)] * 4)


def test_a_loop_that_closes_first_leaves_its_work_abandoned_and_nothing_is_printed(
    gate: Gate, capfd: pytest.CaptureFixture[str]
):
    pool = DaemonThreads(bound=2)

    async def start() -> asyncio.Task[Any]:
        tasks = [asyncio.create_task(pool.run(gate.wait_for_it)) for _ in range(2)]
        await until(lambda: gate.entered == 2)
        tasks.append(asyncio.create_task(pool.run(gate.wait_for_it)))
        await until(lambda: pool.waiting)
        for task in tasks:
            task._log_destroy_pending = False  # leaving tasks behind is what is tried here
        return tasks

    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(start())
    loop.close()
    assert pool.abandoned == ("Gate.wait_for_it",) * 2
    gate.open.set()
    wait_until(lambda: not pool.running)
    assert gate.entered == 2
    del tasks
    gc.collect()
    assert capfd.readouterr() == ("", "")


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)


def test_a_function_that_hangs_does_not_hold_up_the_end_of_the_program():
    done = run_program("""if True:
        import asyncio, threading
        from kimi_agent.tools.threads import TOOL_THREADS
        entered = threading.Event()

        def hang():
            entered.set()
            threading.Event().wait()

        async def main():
            call = asyncio.create_task(TOOL_THREADS.run(hang))
            await asyncio.sleep(0)
            entered.wait()
            call.cancel()
            await asyncio.wait([call])
            print(*TOOL_THREADS.abandoned)

        asyncio.run(main())
    """)
    assert (done.stdout, done.stderr) == ("hang\n", "")


def test_importing_starts_no_thread():
    assert run_program("import threading, kimi_agent.tools.threads; print(threading.active_count())").stdout == "1\n"

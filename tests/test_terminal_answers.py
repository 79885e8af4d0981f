"""An answer on a terminal in memory, while it comes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
pytest.importorskip("pyte", reason="pyte, which is the screen, is not installed")
pytest.importorskip("rich", reason="the extra `cli` is not installed")

from terminals import Drawn

from kimi_agent.agent import Agent
from kimi_agent.events import HistoryCompacted
from kimi_agent.terminal.screen import painting
from kimi_agent.terminal.screen.live import LiveDisplay
from kimi_agent.terminal.screen.options import ChatOptions
from kimi_agent.testing import Delivery, Gate, Reply, ScriptedKimi, call, say
from kimi_agent.tools.function import ai_function


class Waits(Agent):
    """An agent whose calls wait until they may go on."""

    def __init__(self, provider: ScriptedKimi, **options: Any) -> None:
        super().__init__(provider, **options)
        self.may_go_on = asyncio.Event()

    @ai_function()
    async def wait(self, number: int = 0) -> str:
        """Waits."""
        await self.may_go_on.wait()
        return "ended"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def answering(agent: Agent, out: Drawn) -> asyncio.Task[None]:
    return asyncio.create_task(LiveDisplay(ChatOptions(), out).answer(agent, "go"))


async def test_a_hundred_calls_at_once_have_no_more_rows_than_the_screen() -> None:
    out = Drawn()
    agent = Waits(ScriptedKimi([Reply("", None, [call("wait", number=number) for number in range(100)]), say("All.")]))
    task = answering(agent, out)
    await until(lambda: "wait(number=99) · 0 s" in out.screen.text)
    assert [line[2:] for line in out.screen.text.split("\n")] == [
        f"wait(number={number}) · 0 s" for number in range(77, 100)
    ]
    agent.may_go_on.set()
    await task
    lines = out.screen.text.split("\n")
    assert {line.split(" · ")[0] for line in lines[:100]} == {f"✓ wait(number={number})" for number in range(100)}
    assert [line for line in lines[100:] if line] == ["All."]


async def test_an_open_block_is_never_higher_than_the_screen_and_stands_once_when_it_has_ended() -> None:
    out, gate = Drawn(), Gate(33)
    rows = [f"row {number}" for number in range(40)]
    agent = Agent(ScriptedKimi([Reply("\n".join(rows), chunk_size=6, delivery=Delivery(gate=gate))]))
    task = answering(agent, out)
    await until(lambda: "row 26" in out.screen.text)
    assert not out.screen.lines_before
    assert "row 4\n" not in out.screen.text
    gate.open()
    await task
    assert [line for line in out.screen.text.split("\n") if line] == rows


async def test_what_an_agent_inside_calls_stands_beside_its_call() -> None:
    out = Drawn()

    def script(body: dict[str, Any]) -> Reply:
        is_scout = "wait" in str(body.get("tools"))
        is_begun = body["messages"][-1]["role"] == "tool"
        return say("Done.") if is_begun else call("wait") if is_scout else call("ask_scout", query="Go.")

    provider = ScriptedKimi([script] * 4)
    scout = Waits(provider)
    task = answering(Agent(provider, functions=[scout.as_tool("ask_scout", "Looks.")]), out)
    await until(lambda: "ask_scout(query='Go.') · 0 s · wait()" in out.screen.text)
    scout.may_go_on.set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert out.screen.text.split("\n") == ["✗ ask_scout(query='Go.') · stopped"]


async def test_a_shorter_history_is_told() -> None:
    out = Drawn()
    agent = Waits(ScriptedKimi([call("wait"), say("All.")]))
    task = answering(agent, out)
    await until(lambda: "wait() · 0 s" in out.screen.text)
    await agent._handlers.emit(HistoryCompacted(20, 3, 12_345, 678))
    await until(lambda: "(compacted: 12,345 tokens are 678 now)\n" in out.screen.text)
    agent.may_go_on.set()
    await task


async def test_an_answer_that_cannot_be_painted_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no colors today")

    for kind in painting.PAINTERS:
        monkeypatch.setitem(painting.PAINTERS, kind, fails)
    out = Drawn()
    await answering(Agent(ScriptedKimi([say("# A\n\n*text*")])), out)
    assert out.screen.text == "# A\n\n*text*"


async def test_a_terminal_that_is_gone_ends_the_answer() -> None:
    class Leaving(Drawn):
        is_gone = False

        def write(self, text: str) -> int:
            if self.is_gone:
                raise OSError(5, "Input/output error")
            return super().write(text)

    out = Leaving()
    agent = Waits(ScriptedKimi([call("wait")]))
    task = answering(agent, out)
    await until(lambda: "wait() · 0 s" in out.screen.text)
    out.is_gone = True
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert [message.role for message in agent.chat_history] == ["user", "assistant", "tool"]


async def test_much_that_a_function_prints_does_not_keep_the_answer_from_being_drawn() -> None:
    out = Drawn()
    agent = Waits(ScriptedKimi([call("wait"), say("All.")]))
    task = answering(agent, out)
    await until(lambda: "wait() · 0 s" in out.screen.text)
    print("line\n" * 3_000, end="", flush=True)
    await until(lambda: "line" in out.screen.text)
    assert "wait() · " in out.screen.text.split("\n")[-1]
    agent.may_go_on.set()
    await task
    assert out.screen.text.count("line") == 3_000

"""Whoever approves a call in the terminal has seen what runs, and has replied to the question that was asked."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.message import ToolCall
from kimi_agent.terminal.chat.approvals import approval_of, described, question
from kimi_agent.terminal.text import display_width

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
pytest.importorskip("pyte", reason="pyte, which is the screen, is not installed")

from terminals import Terminal


def called(name: str, arguments: str) -> ToolCall:
    return ToolCall(id="1", function=ToolCall.FunctionBody(name=name, arguments=arguments))


# ==== the call ====


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"path": "/etc"}', "f(path='/etc')"),
        ('{"path": "a   b"}', "f(path='a   b')"),
        ('{"path": "x\\u2028y\\u200bz\\ufeff"}', r"f(path='x\u2028y\u200bz\ufeff')"),
        ('{"path": "\\u202etxt.exe"}', r"f(path='\u202etxt.exe')"),
        ('{"n": 1e400, "b": [true, null]}', "f(n=inf, b=[True, None])"),
        ('{"path": "a\\ufe0f\\udb40\\udd00b\\u3164\\u2800"}', r"f(path='a\ufe0f\U000e0100b\u3164\u2800')"),
        ("", "f()"),
        ("{ no \n json \x1b", "f(\n    │ { no \\n json \\x1b\n)"),
        (f"[{'1' * 400}]", f"f(\n    │ [{'1' * 400}]\n)"),
        (
            '{"to": "Ada", "text": "one\\n  two\\t.\\n"}',
            "f(\n  to = 'Ada'\n  text =\n    │ one\n    │   two\\t.\n    │ \n)",
        ),
    ],
)
def test_a_call_is_shown_with_every_character(arguments: str, shown: str) -> None:
    assert described(called("f", arguments)) == shown


TEXTS = st.text(st.sampled_from("a \n\t\\'│=\u200b\u2028\x1b"), max_size=6)
ARGUMENTS = st.dictionaries(st.sampled_from("abc"), TEXTS | st.lists(TEXTS, max_size=2), max_size=2)


@given(ARGUMENTS, ARGUMENTS, st.none() | st.integers(1, 40))
def test_calls_that_differ_are_shown_differently_and_nothing_in_them_is_unseen(
    one: dict[str, object], other: dict[str, object], width: int | None
) -> None:
    shown = described(called("f", json.dumps(one)), width)
    assert shown.replace("\n", "").isprintable()
    assert (described(called("f", json.dumps(other)), width) == shown) == ([*one.items()] == [*other.items()])


@given(TEXTS | st.text(max_size=200), st.integers(14, 40))
def test_nothing_in_a_call_stands_where_the_program_speaks(text: str, width: int) -> None:
    begins, *rows, ends = described(called("f", json.dumps({"path": text, "text": f"{text}\n"})), width).split("\n")
    assert (begins, ends) == ("f(", ")")
    assert all(row.startswith(("  path =", "  text =", "    │ ", "    ┆ ")) for row in rows)
    assert max(map(display_width, rows)) <= width


@pytest.mark.parametrize("arguments", ['{"path": "%s"}', '{"path": "%s\\n"}', "%s"])
def test_a_question_inside_of_a_call_is_no_question(arguments: str) -> None:
    forged = f"{' ' * 57}Run list_files? [y]es"
    rows = described(called("delete", arguments % forged), 60).split("\n")
    assert len(rows) > 3
    assert all(row.startswith(("delete(", "  ", ")")) for row in rows)


def test_a_long_call_is_shown_whole_and_the_question_stays_short() -> None:
    call = called("write_file", json.dumps({"path": "/a", "content": "x" * 100_000}))
    assert described(call).count("x") == 100_000
    assert question(call) == "Run write_file? [y]es, [a]lways, [N]o, or what to do instead: "


@pytest.mark.parametrize(
    ("reply", "decided", "why"),
    [
        ("y", "approve", ""),
        ("YES", "approve", ""),
        ("a", "approve_for_session", ""),
        ("", "reject", ""),
        ("no", "reject", ""),
        ("use the other one", "reject", "use the other one"),
    ],
)
def test_what_a_reply_means(reply: str, decided: str, why: str) -> None:
    approval = approval_of(reply, called("f", "{}"))
    assert (approval.decision, approval.feedback or "") == (decided, why)


# ==== on a terminal ====

PROGRAM = """
import asyncio, signal
from kimi_agent.agent import Agent
from kimi_agent.history import problems
from kimi_agent.kimi.client import Kimi
from kimi_agent.terminal.chat.chat import chat_in_terminal_async
from kimi_agent.testing import Delivery, Gate, KimiServer, Reply, call, say
from kimi_agent.tools.function import ai_function

class Shell(Agent):
    @ai_function(approval=True)
    def delete(self, path: str) -> str:
        "Deletes."
        return f"{path} is gone"

    @ai_function()
    async def wait(self) -> str:
        "Waits for ever."
        print("it waits", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("it waits no more", flush=True)
        return "never"

    @ai_function()
    async def tidy(self) -> str:
        "Waits for ever, and is slow to end."
        try:
            await self.wait()
        finally:
            print("it tidies up", flush=True)
            await asyncio.Event().wait()

async def main():
    held = Gate(4)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, held.open)
    slow = Reply("Slowly", chunk_size=2, delivery=Delivery(gate=held))
    late = Reply("Slowly", None, [call("delete", path="/etc")], chunk_size=2, delivery=Delivery(gate=held))
    async with KimiServer(SCRIPT) as server:
        agent = Shell(Kimi(api_key=server.api_key, base_url=server.base_url))
        await chat_in_terminal_async(agent)
    print([message.role for message in agent.chat_history], problems(agent.chat_history))

asyncio.run(main())
"""

FRONTS = {"plain": {"TERM": "dumb"}, "live": {}}
Start = Callable[..., Terminal]


@pytest.fixture(params=FRONTS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start a chat with what the model says, on a dumb terminal and on a real one."""
    if request.param == "live":
        pytest.importorskip("rich", reason="the extra `cli` is not installed")
        pytest.importorskip("prompt_toolkit", reason="the extra `cli` is not installed")
    started: list[Terminal] = []

    def start_chat(script: str) -> Terminal:
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.replace("SCRIPT", script), "utf-8")
        environment = {"XDG_STATE_HOME": str(tmp_path), **FRONTS[request.param]}
        terminal = Terminal([sys.executable, program], **environment)
        started.append(terminal)
        terminal.until("USER:")
        return terminal

    yield start_chat
    for terminal in started:
        terminal.close()


def test_what_was_typed_before_a_question_is_no_reply_to_it(start: Start) -> None:
    chat = start("[slow, call('delete', path='/etc'), say('Kept.'), say('Yes?')]")
    chat.press("go\r")
    chat.until("Slow")
    chat.press("clean up\ry\r")
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("Run delete?")
    chat.press("no\r")
    chat.until("Kept.")
    chat.until("Yes?")
    rows = [row.rstrip() for row in chat.screen.text.split("\n")]
    assert "USER: y" in rows
    assert rows.index("USER: y") > rows.index("delete(path='/etc')")
    assert "is gone" not in chat.screen.text


@pytest.mark.parametrize("ahead", ["y", "a" * 1023 + "\ry\r", "one\rtwo\ry\r"])
def test_whatever_was_typed_before_a_question_enter_alone_means_no(start: Start, ahead: str) -> None:
    chat = start("[late, *map(say, 'abcdef')]")
    chat.press("go\r")
    chat.until("Slow")
    chat.press(ahead)
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("Run delete?")
    chat.press("\r")
    chat.until(lambda: chat.screen.text.count("USER:") > 1)
    assert "delete(path='/etc')" in chat.screen.text
    assert "took 0" not in chat.screen.text
    assert "✓" not in chat.screen.text


def test_a_line_that_came_after_a_stopped_question_is_no_reply_to_the_next_one(start: Start) -> None:
    chat = start("[call('delete', path='/etc'), slow, call('delete', path='/home'), say('Kept.')]")
    chat.press("go\r")
    chat.until("Run delete?")
    chat.press("\x03")
    chat.until(lambda: chat.screen.text.count("USER:") == 2)
    chat.press("again\r")
    chat.until("Slow")
    chat.press("y\r")
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("delete(path='/home')")
    chat.until(lambda: chat.screen.text.count("Run delete?") == 2)
    chat.press("\r")
    chat.until("Kept.")
    assert "✓" not in chat.screen.text
    assert "took 0" not in chat.screen.text


def test_always_holds_for_the_other_calls_of_the_answer(start: Start) -> None:
    chat = start("[Reply(tool_calls=[call('delete', path='/a'), call('delete', path='/b')]), say('Gone.')]")
    chat.press("go\r")
    chat.until("Run delete?")
    chat.press("a\r")
    chat.until("Gone.")
    assert chat.screen.text.count("Run delete?") == 1
    assert chat.screen.text.count("delete(path='/b')") == 2


def test_ctrl_c_keeps_what_was_typed_ahead(start: Start) -> None:
    chat = start("[slow, say('Else.')]")
    chat.press("go\r")
    chat.until("Slow")
    chat.press("no, else")
    chat.press("\x03")
    chat.until("(stopped;")
    chat.until(lambda: chat.screen.text.count("USER:") == 2)
    chat.press("\r")
    chat.until("Else.")


def test_ctrl_c_at_a_question_leaves_the_call_waiting_and_the_chat_goes_on(start: Start) -> None:
    chat = start("[call('delete', path='/etc'), say('Gone.')]")
    chat.press("go\r")
    chat.until("Run delete?")
    chat.press("\x03")
    chat.until("(stopped; the calls wait, Enter asks about them, Ctrl-C leaves)")
    chat.until(lambda: chat.screen.text.count("USER:") == 2)
    chat.press("\r")
    chat.until(lambda: chat.screen.text.count("Run delete?") == 2)
    chat.press("y\r")
    chat.until("Gone.")
    chat.until(lambda: chat.screen.text.count("USER:") == 3)
    chat.press("\x04")
    assert chat.end() == 0
    assert "['user', 'assistant', 'tool', 'assistant'] []" in chat.screen.text


@pytest.mark.parametrize("tool", ["wait", "tidy"])
def test_ctrl_c_twice_stops_a_tool_and_leaves(start: Start, tool: str) -> None:
    chat = start(f"[call('{tool}')]")
    chat.press("go\r")
    chat.until("it waits")
    chat.press("\x03")
    chat.until("it tidies up" if tool == "tidy" else "Ctrl-C leaves)")
    chat.press("\x03")
    assert chat.end() == 0
    assert "it waits no more" in chat.screen.text
    assert "['user', 'assistant', 'tool'] []" in chat.screen.text


def test_a_signal_that_ends_the_program_first_ends_the_answer(start: Start) -> None:
    chat = start("[call('wait')]")
    chat.press("go\r")
    chat.until("it waits")
    chat.process.send_signal(signal.SIGTERM)
    assert chat.end() == -signal.SIGTERM
    assert "it waits no more" in chat.screen.text
    assert "Traceback" not in chat.screen.text
    assert not chat.screen.cursor.hidden

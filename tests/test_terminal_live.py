"""A chat on a real terminal, as a person sees it: a program in a pseudo-terminal, and the screen that it draws."""

import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
pytest.importorskip("pyte", reason="pyte, which is the screen, is not installed")
pytest.importorskip("rich", reason="the extra `cli` is not installed")
pytest.importorskip("prompt_toolkit", reason="the extra `cli` is not installed")

from terminals import Terminal

from kimi_agent.terminal.screen.front import front
from kimi_agent.terminal.screen.interrupts import Interrupts
from kimi_agent.terminal.screen.options import ChatOptions

PROGRAM = '''
import asyncio, signal
from kimi_agent.agent import Agent
from kimi_agent.history import problems
from kimi_agent.kimi.client import Kimi
from kimi_agent.terminal.chat.chat import chat_in_terminal_async
from kimi_agent.testing import Call, Delivery, Failure, Gate, KimiServer, Reply, call, say
from kimi_agent.tools.function import ai_function

class Person(Agent):
    @ai_function()
    async def wait(self, hours: int) -> str:
        "Waits for ever."
        print("it waits", flush=True)
        await asyncio.Event().wait()
        return "never"

    @ai_function()
    def fail(self, why: str) -> str:
        "Fails."
        raise RuntimeError(why)

    @ai_function(approval=True)
    def delete(self, path: str) -> str:
        "Deletes."
        return f"{path} is gone"

async def main():
    gates = []
    def held(text, before, **more):
        """An answer that stops before a chunk until SIGUSR1 comes."""
        gates.append(Gate(before))
        return Reply(text, delivery=Delivery(gate=gates[-1]), **more)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: [gate.open() for gate in gates])
    script = SCRIPT
    async with KimiServer(script) as server:
        agent = Person(Kimi(api_key=server.api_key, base_url=server.base_url))
        await chat_in_terminal_async(agent)
    print([message.role for message in agent.chat_history], problems(agent.chat_history))

asyncio.run(main())
'''

Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a chat that is answered by a script, and wait for its prompt."""
    started: list[Terminal] = []

    def start_chat(script: str, shell: Sequence[str] = (), **options: object) -> Terminal:
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.replace("SCRIPT", script), "utf-8")
        options = {"XDG_STATE_HOME": str(tmp_path / "state"), **options}
        terminal = Terminal(shell or [sys.executable, program], **options)  # pyright: ignore[reportArgumentType]
        started.append(terminal)
        if shell:
            terminal.until("$")
            terminal.press(f"{sys.executable} {program}\r")
        terminal.until("USER:")
        return terminal

    yield start_chat
    for terminal in started:
        terminal.close()


def prompts(terminal: Terminal, count: int) -> Callable[[], bool]:
    return lambda: terminal.screen.text.count("USER:") == count


def shown(terminal: Terminal) -> list[str]:
    return [line for line in terminal.screen.text.split("\n") if line]


# ==== a conversation ====


def test_ctrl_c_stops_an_answer_and_a_tool_and_twice_at_the_prompt_leaves(start: Start) -> None:
    chat = start(
        """[held("# Once\\n\\nupon *a* time", 9, reasoning="Which story?", chunk_size=4), call("wait", hours=3),
        say("- one\\n- `two`")]"""
    )
    chat.press("tell\r")
    chat.until("upon a")
    assert re.fullmatch(r"thought for \d+\.\d s, 12 characters", shown(chat)[1])
    assert chat.screen.display[chat.row("upon a") + 1].rstrip().endswith("· Ctrl-C stops")
    assert chat.screen.buffer[chat.row("Once")][0].bold
    chat.press("\x03")
    chat.until(prompts(chat, 2))
    assert shown(chat)[2:5] == ["Once", "upon a", "(stopped; Enter asks again, Ctrl-C leaves)"]

    chat.press("wait\r")
    chat.until("it waits")
    chat.until("wait(hours=3) · 0 s")
    chat.press("\x03")
    chat.until(prompts(chat, 3))
    assert shown(chat)[6:9] == ["it waits", "✗ wait(hours=3) · stopped", "(stopped; Enter asks again, Ctrl-C leaves)"]

    chat.press("list\r")
    chat.until(prompts(chat, 4))
    assert [line for line in shown(chat) if line.startswith("•")] == ["• one", "• two"]
    chat.until(lambda: chat.screen.display[-1].startswith("kimi-k3 · "))
    chat.press("half a line\x03")
    chat.until(lambda: "half" not in chat.screen.text)
    chat.press("\x03")
    chat.until("(Ctrl-C again or Ctrl-D leaves)")
    chat.press("\x03")
    assert chat.end() == 0
    assert "['user', 'user', 'assistant', 'tool', 'user', 'assistant'] []" in chat.screen.text
    assert not chat.screen.cursor.hidden


def test_lines_are_edited_completed_kept_and_typed_ahead(start: Start, tmp_path: Path) -> None:
    chat = start(
        """[lambda body: say("Heard: " + repr(body["messages"][-1]["content"])), held("Slow", 4), say("Last.")]"""
    )
    chat.press("/he")
    chat.until("/help")
    chat.press("\x03one\x1b\rtwo\\\r")
    chat.press("\x1b[200~thre\nfour\x1b[201~\x1b[A\x1b[Fe\r")
    chat.until("Heard: 'one\\ntwo\\nthree\\nfour'")
    chat.until(prompts(chat, 2))
    chat.press("slow\r")
    chat.until("Slow")
    chat.press("typed meanwhile")
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("USER: typed meanwhile")
    chat.press("\r")
    chat.until("Last.")
    chat.until(prompts(chat, 4))
    assert chat.screen.text.count("typed meanwhile") == 1
    chat.press("\x04")
    assert chat.end() == 0
    history = tmp_path / "state" / "kimi_agent" / "history"
    assert stat.S_IMODE(os.stat(history).st_mode) == 0o600
    assert "+one\n+two\n+three\n+four\n" in history.read_text("utf-8")


def test_marks_that_turn_text_around_are_seen_while_they_are_edited(start: Start) -> None:
    chat = start("""[lambda body: say("Heard: " + ascii(body["messages"][-1]["content"]))]""")
    chat.press("one\u202etwo")
    chat.until("USER: one\\u202etwo")
    chat.press("\x1b[D" * 4 + "|")
    chat.until("USER: one|\\u202etwo")
    chat.press("\x1b[C-\r")
    chat.until("Heard: 'one|\\u202e-two'")


def test_the_status_line_is_cut_where_it_does_not_fit_and_gives_way_while_ctrl_c_would_leave(start: Start) -> None:
    chat = start("""[say("Ok.")]""", columns=32)
    chat.press("go\r")
    chat.until(prompts(chat, 2))
    chat.until(lambda: re.fullmatch(r"kimi-k3 · .{21}…", chat.screen.display[-1]))
    chat.press("\x03")
    chat.until(lambda: chat.screen.display[-1].startswith("(Ctrl-C again"))
    chat.press("x")
    chat.until(lambda: chat.screen.display[-1].startswith("kimi-k3 · "))


def test_what_is_pasted_while_an_answer_comes_is_one_message(start: Start) -> None:
    chat = start("""[held("Slow", 2), lambda body: say("Heard: " + repr(body["messages"][-1]["content"]))]""")
    chat.press("go\r")
    chat.until("Ctrl-C stops")
    assert chat.written.rindex(b"\x1b[?2004h") > chat.written.rindex(b"\x1b[?2004l")
    chat.press("\x1b[200~one\rtwo\rthree\x1b[201~")
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("USER: one")
    chat.press("\r")
    chat.until("Heard: 'one\\ntwo\\nthree'")


@pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="there is no shell with job control")
def test_ctrl_z_stops_the_program_and_fg_goes_on_with_it(start: Start) -> None:
    chat = start(
        """[held("first\\n\\nsecond, and more", 5, chunk_size=4)]""", shell=["/bin/bash", "--norc", "-i"], PS1="$ "
    )
    chat.press("go\r")
    chat.until("sec")
    chat.press("\x1a")
    chat.until("Stopped")
    chat.until(lambda: shown(chat)[-1].startswith("$") and not chat.screen.cursor.hidden)
    assert not chat.shows("sec")
    chat.press("fg\r")
    chat.until("sec")
    chat.press("\x03")
    chat.until("(stopped; Enter asks again")
    assert [line for line in shown(chat) if re.match("first|sec", line)] == ["first", "second, a"]


def test_what_needs_approval_is_asked_in_the_chat(start: Start) -> None:
    chat = start("""[call("delete", path="/a"), say("Kept."), call("delete", path="/b"), say("Gone.")]""")
    chat.press("go\r")
    chat.until("Run delete?")
    assert chat.shows("delete(path='/a')")
    chat.press("not this one\r")
    chat.until("Kept.")
    assert "✗ delete(path='/a'): " in chat.screen.text
    chat.until(prompts(chat, 2))
    chat.press("go\r")
    chat.until(lambda: chat.screen.text.count("Run delete?") == 2)
    assert chat.shows("delete(path='/b')")
    chat.press("y\r")
    chat.until("Gone.")
    assert "✓ delete(path='/b') · 0.0 s" in chat.screen.text


def test_a_retry_is_visible_until_it_goes_on(start: Start) -> None:
    failure = 'Failure(429, "rate_limit_reached_error", "slow down", retry_after={})'
    chat = start(f"[{failure.format(1)}, say('Here.'), {failure.format(60)}]")
    chat.press("go\r")
    chat.until("429, again in 1 s · Ctrl-C stops · slow down (429 rate_limit_reached_error)")
    chat.until("Here.")
    chat.until(prompts(chat, 2))
    assert shown(chat)[:3] == ["USER: go", "Here.", "USER:"]
    chat.press("again\r")
    chat.until("again in 60 s")
    chat.press("\x03")
    chat.until("(stopped; Enter asks again, Ctrl-C leaves)")
    assert not chat.shows("again in")


def test_of_a_broken_answer_all_that_came_stays_to_be_read(start: Start) -> None:
    chat = start(
        """[Reply("First.\\n\\nSecond, and more of it.", chunk_size=4, delivery=Delivery(stop_after=1200)),
        say("Whole.")]"""
    )
    chat.press("go\r")
    chat.until("(Enter tries again)")
    chat.until(prompts(chat, 2))
    assert shown(chat)[1].startswith("First.")
    assert shown(chat)[2].startswith("Second")
    assert shown(chat)[3] == "(broken off; what came of it is not kept)"
    chat.press("\r")
    chat.until("Whole.")


# ==== long, wide, hostile ====


def test_ten_thousand_lines_scroll_by_once(start: Start) -> None:
    chat = start(
        """[Reply("".join(f"line {n}\\n" + "\\n" * (n % 50 == 0) for n in range(5000)) + "```\\n"
        + "".join(f"line {n}\\n" for n in range(5000, 10000)) + "```\\nThe end.", chunk_size=97)]"""
    )
    chat.press("go\r")
    chat.until("The end.")
    chat.until(lambda: chat.screen.display[-1].startswith("kimi-k3"))
    numbers = [int(line.removeprefix("line ")) for line in chat.screen.text.split("\n") if line.startswith("line ")]
    assert numbers == list(range(10_000))
    assert len(chat.written) < 20 * 100_000


def test_an_answer_is_laid_out_anew_when_the_terminal_is_resized(start: Start) -> None:
    words = [f"word{number}" for number in range(24)]
    chat = start(f"""[held("first\\n\\n{" ".join(words)}", 20, chunk_size=8)]""", columns=70)
    chat.press("go\r")
    chat.until("word16")
    chat.resize(30, 24)
    chat.until(lambda: chat.screen.display[chat.row("word0")].rstrip().endswith("word4"))
    chat.resize(90, 24)
    chat.until(lambda: "word13" in chat.screen.display[chat.row("word0")])
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("word23")
    chat.until(prompts(chat, 2))
    text = chat.screen.text
    assert re.findall(r"word\d+", text) == words
    assert text.count("first") == 1


def test_a_storm_of_resizes_leaves_the_answer_whole(start: Start) -> None:
    words = [f"word{number}" for number in range(40)]
    chat = start(f"""[held("first\\n\\n{" ".join(words)}", 30, chunk_size=8)]""")
    chat.press("go\r")
    chat.until("word20")
    for number in range(60):
        chat.resize(10 + 37 * number % 90, 1 + 11 * number % 40)
    chat.resize(80, 24)
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("word39")
    chat.until(lambda: chat.screen.display[-1].startswith("kimi-k3"))
    assert re.findall(r"word\d+", chat.screen.text) == words


def test_wide_and_combining_characters_keep_their_columns(start: Start) -> None:
    chat = start(
        """[held("漢字" * 15 +
        "\\n\\ne\\u0301te\\u0301 👩\\n\\n|名|x|\\n|-|-|\\n|東京|y|", 12, chunk_size=4)]""",
        columns=20,
    )
    chat.press("go\r")
    chat.until("漢字漢字")
    chat.process.send_signal(signal.SIGUSR1)
    chat.until("東京")
    chat.until(prompts(chat, 2))
    lines = shown(chat)
    assert [line for line in lines if "漢" in line] == [
        "漢字漢字漢字漢字漢",
        "字漢字漢字漢字漢字",
        "漢字漢字漢字漢字漢",
        "字漢字",
    ]
    assert "\u00e9t\u00e9 👩" in lines  # the screen composes them
    assert [line.split() for line in lines if "東京" in line] == [["東京", "y"]]


HOSTILE = (
    "\x1b]0;pwned\x07\x1b[2J\x1b[1;1H\x1b[?1049h\x1b]8;;http://evil\x1b\\\\x\x9b31m\r\u202e&#27;[2J&#x9b;8m&#x202e;"
)
"""Title, erasing, moving, another screen, a link, C1, a carriage return, an override of direction; also as entities."""
CONTROL = re.compile(r"\x1b\[[0-9;]*m")


def test_what_a_model_writes_controls_nothing(start: Start) -> None:
    chat = start(
        """[Reply(EVIL
        + "\\n\\n# " + EVIL + "\\n- " + EVIL + "\\n\\n```" + EVIL + "\\n" + EVIL + "\\n```\\n|a|\\n|-|\\n|"
        + EVIL + "|\\n[text](http://a/" + EVIL + ")", EVIL, [call("fail", why=EVIL)]), say("The end.")]""".replace(
            "EVIL", repr(HOSTILE)
        )
    )
    chat.press("go\r")
    chat.until("The end.")
    chat.until(prompts(chat, 2))
    assert shown(chat)[0] == "USER: go"
    assert (chat.screen.title, chat.screen.icon_name) == ("", "")
    assert chat.screen.text.count(r"\x1b]0;pwned\x07") >= 6
    assert not any(
        evil in chat.written for evil in (b"\x1b]", b"\x1b[2J", b"\x1b[?1049h", "\u202e".encode(), b"\xc2\x9b")
    )
    assert "✗ fail(why='" in chat.screen.text


# ==== where it is plain ====


class Tty:
    """A stream that may be a terminal."""

    def __init__(self, encoding: str = "utf-8", is_terminal: bool = True) -> None:
        self.encoding, self._is_terminal = encoding, is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("environment", "streams", "options"),
    [
        ({"NO_COLOR": "1"}, {}, {}),
        ({"TERM": "dumb"}, {}, {}),
        ({"TERM": ""}, {}, {}),
        ({}, {"stdin": Tty(is_terminal=False)}, {}),
        ({}, {"stdout": Tty(is_terminal=False)}, {}),
        ({}, {"stdout": Tty("ascii")}, {}),
        ({}, {"stdin": None}, {}),
        ({}, {}, {"stream": False}),
    ],
)
def test_it_is_plain_where_nobody_can_see_or_wants_more(
    environment: dict[str, str],
    streams: dict[str, Tty | None],
    options: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in ({"TERM": "xterm", "NO_COLOR": "", "XDG_STATE_HOME": str(tmp_path)} | environment).items():
        monkeypatch.setenv(name, value)
    for name, stream in ({"stdin": Tty(), "stdout": Tty()} | streams).items():
        monkeypatch.setattr(sys, name, stream)
    assert front(Interrupts(), ChatOptions(**options)) is None


def test_without_the_extra_it_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdin", Tty())
    monkeypatch.setattr(sys, "stdout", Tty())
    monkeypatch.setitem(sys.modules, "kimi_agent.terminal.screen.live", None)
    assert front(Interrupts(), ChatOptions()) is None


def test_no_color_is_a_plain_chat(start: Start) -> None:
    chat = start("""[say("**Hello.**")]""", NO_COLOR="1")
    chat.press("go\n")
    chat.until("AI: **Hello.**")
    chat.press("\x04")
    assert chat.end() == 0
    assert b"\x1b" not in chat.written

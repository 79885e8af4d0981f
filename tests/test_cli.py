"""The `kimi-agent` command, as a process of its own, piped and in a pseudo-terminal. Nothing leaves this machine."""

import argparse
import asyncio
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import serving

from kimi_agent import __version__
from kimi_agent.errors import ModelRetry
from kimi_agent.terminal.cli import _parser, main
from kimi_agent.terminal.demo import DemoAgent, calculated
from kimi_agent.testing import KimiServer, ScriptedKimi, call, say

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("KIMI_", "MOONSHOT_"))}
COMMAND = [sys.executable, "-m", "kimi_agent"]
DEADLINE = 30.0
"""Seconds until a process that does not answer is taken for stuck."""


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KIMI_API_KEY", "MOONSHOT_API_KEY", "KIMI_BASE_URL", "MOONSHOT_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def piped(said: bytes, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=said,
        capture_output=True,
        env=ENVIRONMENT | environment,
        timeout=DEADLINE,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Terminal:
    """A process in a pseudo-terminal of its own, as a user has it before them."""

    def __init__(self, command: Sequence[str]) -> None:
        self._screen, inside = pty.openpty()
        take = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", take, *command],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=ENVIRONMENT | {"TERM": "dumb"},
            start_new_session=True,
        )
        os.close(inside)
        self._unseen = ""

    def press(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def until(self, text: str) -> str:
        """What was shown until now, `text` at its end. It is not shown again."""
        deadline = time.monotonic() + DEADLINE
        while text not in self._unseen:
            ready, _, _ = select.select([self._screen], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} was not shown, but {self._unseen!r}"
            self._unseen += self._read()
        before, _, self._unseen = self._unseen.partition(text)
        return before + text

    def end(self) -> tuple[str, int]:
        """What is shown until the process ends, and its exit code."""
        while piece := self._read():
            self._unseen += piece
        return self._unseen, self._process.wait(DEADLINE)

    def _read(self) -> str:
        try:
            return os.read(self._screen, 65536).decode().replace("\r\n", "\n")
        except OSError:  # how Linux says that nobody has the other end any more
            return ""

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)


@pytest.fixture
def demo() -> Iterator[Terminal]:
    terminal = Terminal([*COMMAND, "demo"])
    yield terminal
    terminal.close()


# ==== demo ====


def test_the_piped_demo_calls_the_calculator_and_answers() -> None:
    done = piped(b"what is 17 * 23?\n", "demo")
    intro, *lines = done.stdout.split("\n")
    assert intro.startswith("Offline: ")
    assert "KIMI_API_KEY" in intro
    assert lines[:2] == ["USER: what is 17 * 23?", "AI: Thinking... [calculate]"]
    assert lines[2].startswith("AI: ")
    assert "391" in lines[2]
    assert lines[3:] == ["USER: ", ""]
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_demo_in_a_terminal_answers_and_ctrl_d_leaves(demo: Terminal) -> None:
    demo.until("USER: ")
    demo.press("what is 17 * 23?\n")
    assert "391" in demo.until("USER: ").partition("AI: Thinking... [calculate]")[2]
    demo.press("\x04")
    assert demo.end() == ("\n", 0)


def test_ctrl_c_at_the_prompt_tells_how_to_leave_and_twice_leaves(demo: Terminal) -> None:
    demo.until("USER: ")
    demo.press("half a line\x03")
    assert demo.until("USER: ").endswith("\n(Ctrl-C again or Ctrl-D leaves)\nUSER: ")
    demo.press("roll some dice\n")
    demo.until("Thinking... [roll_dice]")
    demo.until("USER: ")
    demo.press("\x03")
    demo.until("leaves)\nUSER: ")
    demo.press("\x03")
    assert demo.end() == ("^C\n", 0)


async def test_with_a_key_the_demo_talks_to_kimi() -> None:
    async with KimiServer() as server:
        key = {"KIMI_API_KEY": "sk-wrong", "KIMI_BASE_URL": server.base_url}
        refused = await asyncio.to_thread(piped, b"hello\n", "demo", **key)
    intro, _, error, *_ = refused.stdout.split("\n")
    assert intro.startswith("Talking to kimi-k3. ")
    assert error.startswith("ERROR: AuthenticationError: ")
    assert "sk-wrong" not in refused.stdout + refused.stderr
    assert (refused.stderr, refused.returncode) == ("", 0)


# ==== Ctrl-C ====

HELD = """
import asyncio, sys
from kimi_agent.agent import Agent
from kimi_agent.history import problems
from kimi_agent.terminal.chat import chat_in_terminal_async
from kimi_agent.testing import Delivery, Gate, KimiServer, Reply, call, say
from kimi_agent.kimi.client import Kimi
from kimi_agent.tools.function import ai_function

class Slow(Agent):
    @ai_function()
    async def wait(self) -> str:
        "Waits for ever."
        print("waiting", flush=True)
        await asyncio.Event().wait()
        return "never"

    @ai_function()
    def block(self) -> str:
        "Waits for ever, in a thread."
        print("blocking", flush=True)
        __import__("threading").Event().wait()
        return "never"

async def main():
    held = Reply("Once upon a time", chunk_size=4, delivery=Delivery(gate=Gate(4)))
    script = [held, call("wait"), call("block"), say("Bye.")]
    async with KimiServer(script) as server:
        agent = Slow(Kimi(api_key=server.api_key, base_url=server.base_url))
        await chat_in_terminal_async(agent)
    print([message.role for message in agent.chat_history], problems(agent.chat_history))

asyncio.run(main())
"""


@pytest.fixture
def slow() -> Iterator[Terminal]:
    terminal = Terminal([sys.executable, "-c", HELD])
    yield terminal
    terminal.close()


def test_ctrl_c_stops_answers_and_tools_and_the_chat_goes_on(slow: Terminal) -> None:
    slow.until("USER: ")
    for said, shown in (("tell", "AI: Once"), ("wait", "waiting\n"), ("block", "blocking\n")):
        slow.press(f"{said}\n")
        slow.until(shown)
        slow.press("\x03")
        assert "Traceback" not in slow.until("(stopped; Enter asks again)\nUSER: ")
    slow.press("\n")
    slow.until("AI: Bye.\nUSER: ")
    slow.press("\x04")
    history = "['user', 'user', 'assistant', 'tool', 'user', 'assistant', 'tool', 'assistant'] []"
    assert slow.end() == (f"\n{history}\n", 0)


def test_ctrl_c_twice_leaves_although_a_pipe_is_still_open() -> None:
    process = subprocess.Popen(
        [*COMMAND, "chat", "--offline"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = b""
        for state in (b"USER: ", b"leaves)\nUSER: "):
            while not shown.endswith(state):
                shown += os.read(process.stdout.fileno(), 1) or pytest.fail(f"it ended after {shown!r}")
            process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0
        assert process.stderr.read() == b""


# ==== chat ====


def test_chat_offline_needs_no_key() -> None:
    done = piped(b"hello\n", "chat", "--offline", "--model", "kimi-k2.6", "--system", "You are terse.")
    assert done.stdout.startswith("Offline: ")
    assert "\nUSER: hello\nAI: " in done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("key", ["", "  ", "not a key"])
def test_chat_without_a_key_is_one_line_and_exit_code_1(key: str) -> None:
    done = piped(b"hello\n", "chat", KIMI_API_KEY=key)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.startswith("kimi-agent: ")
    assert done.stderr.count("\n") == 1


async def test_chat_sends_the_model_and_the_system_prompt() -> None:
    async with KimiServer([say("Hello.")]) as server:
        process = await _spawn(server, "chat", "--model", "kimi-k2.6", "--system", "You are terse.")
        output, _ = await process.communicate(b"Hi\n")
    assert output.decode().endswith("USER: Hi\nAI: Hello.\nUSER: \n")
    body = server.requests[0].body
    assert body["model"] == "kimi-k2.6"
    assert [message["content"] for message in body["messages"]] == ["You are terse.", "Hi"]


async def _spawn(server: KimiServer, *arguments: str) -> Any:
    from asyncio.subprocess import PIPE, create_subprocess_exec

    key = {"KIMI_API_KEY": server.api_key, "KIMI_BASE_URL": server.base_url}
    return await create_subprocess_exec(*COMMAND, *arguments, stdin=PIPE, stdout=PIPE, env=ENVIRONMENT | key)


# ==== tokenizer ====


def test_the_rank_file_is_copied_to_where_it_is_looked_for(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "ranks"
    done = piped(b"", "tokenizer", "download", "--from", str(data / "tiktoken.model"), KIMI_AGENT_RANKS=str(place))
    assert (done.stdout, done.stderr, done.returncode) == (f"{place}: 2,795,286 bytes, checked.\n", "", 0)
    assert place.read_bytes() == (data / "tiktoken.model").read_bytes()
    shown = piped(b"", "tokenizer", "path", KIMI_AGENT_RANKS=str(place))
    assert (shown.stdout, shown.stderr, shown.returncode) == (f"{place}\n", "", 0)


def test_another_file_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").write_text("YQ== 0\n")
    assert main(["tokenizer", "download", "--from", str(tmp_path / "other")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("kimi-agent: ")
    assert said.err.count("\n") == 1


def test_the_path_of_the_rank_file_may_be_asked_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path / "none"))
    assert main(["tokenizer", "path"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'none'}\n"


# ==== the command itself ====


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"kimi-agent {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["chat", "--wings"], ["tokenizer"], ["tokenizer", "eat"]])
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: kimi-agent")


def test_bytes_that_are_no_text_do_not_end_the_chat() -> None:
    done = piped(b"caf\xe9\nbye\n", "chat", "--offline", PYTHONIOENCODING="ascii")
    assert "USER: caf\\ufffd\nAI: " in done.stdout
    assert "USER: bye\nAI: " in done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


def test_without_a_stdin_the_chat_ends_at_once() -> None:
    command = f"exec {sys.executable} -m kimi_agent chat --offline <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=ENVIRONMENT, timeout=DEADLINE, check=False)
    assert (done.stderr, done.returncode) == (b"", 0)


def test_a_reader_that_leaves_ends_the_chat_without_a_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "chat", "--offline"],
            input=b"hello\n",
            stdout=writing,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            timeout=DEADLINE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.stderr, done.returncode) == (b"", 1)


def test_help_opens_no_heavy_room(tmp_path: Path) -> None:
    code = (
        "import sys; from kimi_agent.terminal.cli import _parser; _parser();"
        "print({'httpx', 'tiktoken', 'kimi_agent.agent', 'kimi_agent.testing'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT) == b"set()\n"


# ==== what the command says of itself, and the page of it ====

ROOT = Path(__file__).parent.parent
SAID = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
"""A command of a transcript, and what it prints."""
HELP = SAID.findall((Path(__file__).parent / "help.txt").read_text("utf-8"))
TRANSCRIPTS = re.findall(r"^```console\n(.*?)^```$", (ROOT / "docs" / "terminal.md").read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize(("command", "text"), HELP, ids=[command for command, _ in HELP])
def test_the_help_of_a_command(
    command: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as left:
        main(command.split()[1:])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    if sys.version_info >= (3, 13):  # it breaks lines elsewhere
        shown, text = " ".join(shown.split()), " ".join(text.split())
    assert shown == text


def test_the_help_of_every_command_is_tested() -> None:
    known = {tuple(command.split()[1:-1]) for command, _ in HELP}
    assert known == {(), *_commands((), _parser())}


def _commands(path: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield (*path, name)
                yield from _commands((*path, name), command)


def test_every_transcript_of_the_page_is_true(tmp_path: Path) -> None:
    """`...` stands for anything."""
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    program = tmp_path / "kimi-agent"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kimi_agent "$@"\n')
    program.chmod(0o755)
    python = Path(sys.executable).parent
    with serving() as server:
        environment = ENVIRONMENT | {
            "PATH": f"{tmp_path}:{python}:{os.environ['PATH']}",
            "KIMI_API_KEY": server.api_key,
            "KIMI_BASE_URL": server.base_url,
            "KIMI_AGENT_SESSIONS": str(tmp_path / "sessions.db"),
            "KIMI_AGENT_RANKS": str(tmp_path / "no ranks"),
        }
        for command, said in SAID.findall("".join(TRANSCRIPTS)):
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=DEADLINE,
                check=False,
            )
            pattern = re.escape(said).replace(re.escape("..."), ".*").replace(r"\n.*\n", r"\n(?:.*\n)*")
            assert re.fullmatch(pattern, done.stdout.decode(), re.DOTALL), (command, done.stdout.decode())


# ==== the tools of the demo ====


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("17 * 23", 391),
        (" (1 + 2) * -3 ", -9),
        ("7 // 2 + 7 % 4 + 2 ** 10", 1030),
        ("1 / 4", 0.25),
        ("2 ** -1", 0.5),
        ("+5", 5),
    ],
)
def test_the_calculator_calculates(expression: str, value: float) -> None:
    assert calculated(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "hello",
        "1 +",
        "__import__('os').getcwd()",
        "True + 1",
        "'a' * 3",
        "(lambda: 1)()",
        "1 / 0",
        "(-1) ** 0.5",
        "9 ** 9 ** 9",
        "9 ** 1290 * 9 ** 1290 * 9 ** 1290",
        "1e308 * 10",
        "10.0 ** 400",
        "1" * 201,
        "(" * 150,
        "\0",
    ],
)
def test_the_calculator_tells_the_model_what_it_does_not_calculate(expression: str) -> None:
    with pytest.raises(ModelRetry):
        calculated(expression)


@given(st.text(st.sampled_from("0123456789.+-*/%() e_j"), max_size=40))
def test_the_calculator_gives_a_number_or_tells_the_model(expression: str) -> None:
    try:
        value = calculated(expression)
    except ModelRetry:
        return
    assert isinstance(value, int | float)


async def demo_says(called: Any) -> str:
    agent = DemoAgent(ScriptedKimi([called, say("Done.")]))
    return [message async for message in agent.full_round("Go")][1].text


async def test_the_days_between_two_dates_are_counted() -> None:
    counted = await demo_says(call("days_between", first="2026-01-01", last="2026-02-01"))
    assert json.loads(counted) == {"first": "2026-01-01", "last": "2026-02-01", "days": 31}


async def test_today_is_a_date() -> None:
    before = date.today()
    assert before <= date.fromisoformat(await demo_says(call("today"))) <= date.today()


async def test_dice_have_as_many_sides_as_asked() -> None:
    assert '"sum":' in await demo_says(call("roll_dice", dice=3, sides=2))
    assert "less than or equal to 100" in await demo_says(call("roll_dice", dice=10**9))

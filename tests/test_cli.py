"""The `kimi-agent` command itself: the demo, Ctrl-C, what it reads and writes, its help, and its page.

What only a process can show is tested with one; all else runs in this one. Nothing leaves this machine.
"""

import argparse
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Run, Type, runner, serving, typist

from kimi_agent import __version__
from kimi_agent.errors import ModelRetry
from kimi_agent.terminal.command.cli import _parser, main
from kimi_agent.terminal.command.demo import DemoAgent, calculated
from kimi_agent.testing import KimiServer, ScriptedKimi, call, say

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
from terminals import ENVIRONMENT, HEAR_CTRL_C, Terminal

COMMAND = [sys.executable, "-m", "kimi_agent"]
DEADLINE = 30.0
"""Seconds until a process that does not answer is taken for stuck."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Type:
    return typist(monkeypatch)


@pytest.fixture
def begin() -> Iterator[Callable[..., Terminal]]:
    """Begins a program in a terminal that can do nothing but show lines."""
    terminals: list[Terminal] = []

    def begin(*command: str) -> Terminal:
        terminals.append(Terminal(command, columns=100, TERM="dumb"))
        return terminals[-1]

    yield begin
    for terminal in terminals:
        terminal.close()


def ends_with(terminal: Terminal, text: str) -> Callable[[], bool]:
    return lambda: terminal.screen.text.endswith(text)


# ==== demo ====


def test_the_piped_demo_calls_the_calculator_and_answers() -> None:
    done = subprocess.run(
        [*COMMAND, "demo"],
        input=b"what is 17 * 23?\n",
        capture_output=True,
        env=ENVIRONMENT,
        timeout=DEADLINE,
        check=False,
    )
    intro, *lines = done.stdout.decode().split("\n")
    assert intro == "Offline: a stand-in answers. Set KIMI_API_KEY to talk to Kimi. Ctrl-D leaves."
    assert lines[:2] == ["USER: what is 17 * 23?", "AI: Thinking... [calculate]"]
    assert lines[2].startswith("AI: ")
    assert "391" in lines[2]
    assert lines[3:] == ["USER: ", ""]
    assert (done.stderr, done.returncode) == (b"", 0)


def test_the_demo_in_a_terminal_answers_and_ctrl_c_at_the_prompt_leaves_the_second_time(
    begin: Callable[..., Terminal],
) -> None:
    demo = begin(*COMMAND, "demo")
    demo.until(ends_with(demo, "USER:"))
    demo.press("half a line\x03")
    demo.until(ends_with(demo, "\n(Ctrl-C again or Ctrl-D leaves)\nUSER:"))
    demo.press("what is 17 * 23?\n")
    demo.until(lambda: re.search(r"AI: Thinking... \[calculate\]\n.*391.*\nUSER:$", demo.screen.text, re.DOTALL))
    demo.press("\x03")
    demo.until(ends_with(demo, "leaves)\nUSER:"))
    demo.press("\x03")
    assert demo.end() == 0
    assert demo.screen.text.endswith("leaves)\nUSER: ^C")


def test_with_a_key_the_demo_talks_to_kimi(run: Run, typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    typed("hello")
    with serving() as server:
        monkeypatch.setenv("KIMI_API_KEY", "sk-wrong")
        monkeypatch.setenv("KIMI_BASE_URL", server.base_url)
        refused = run("demo")
    intro, _, error, *_ = refused.out.split("\n")
    assert intro == "Talking to kimi-k3. Ctrl-D leaves."
    assert error.startswith("ERROR: AuthenticationError: ")
    assert "sk-wrong" not in refused.out + refused.err
    assert (refused.err, refused.code) == ("", 0)


# ==== Ctrl-C ====

HELD = """
import asyncio, sys
from kimi_agent.agent import Agent
from kimi_agent.history import problems
from kimi_agent.terminal.chat.chat import chat_in_terminal_async
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


def test_ctrl_c_stops_answers_and_tools_and_the_chat_goes_on(begin: Callable[..., Terminal]) -> None:
    slow = begin(sys.executable, "-c", HELD)
    slow.until(ends_with(slow, "USER:"))
    for said, shown in (("tell", "AI: Once"), ("wait", "\nwaiting\n"), ("block", "\nblocking\n")):
        slow.press(f"{said}\n")
        slow.until(lambda shown=shown: shown in slow.screen.text + "\n" * (slow.screen.cursor.x == 0))
        slow.press("\x03")
        slow.until(ends_with(slow, "(stopped; Enter asks again, Ctrl-C leaves)\nUSER:"))
    slow.press("\n")
    slow.until(ends_with(slow, "AI: Bye.\nUSER:"))
    slow.press("\x04")
    assert slow.end() == 0
    history = "['user', 'user', 'assistant', 'tool', 'user', 'assistant', 'tool', 'assistant'] []"
    assert slow.screen.text.endswith(f"AI: Bye.\nUSER:\n{history}")
    assert "Traceback" not in slow.screen.text


def test_ctrl_c_twice_leaves_although_a_pipe_is_still_open() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAR_CTRL_C, *COMMAND, "chat", "--offline"],
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


def test_chat_offline_needs_no_key(run: Run, typed: Type) -> None:
    typed("hello")
    done = run("chat", "--offline", "--model", "kimi-k2.6", "--system", "You are terse.")
    assert done.out.startswith("Offline: ")
    assert "\nUSER: hello\nAI: " in done.out
    assert (done.err, done.code) == ("", 0)


@pytest.mark.parametrize("key", ["", "  ", "not a key"])
def test_chat_without_a_key_is_one_line_and_exit_code_1(run: Run, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_API_KEY", key)
    done = run("chat")
    assert (done.out, done.code) == ("", 1)
    assert done.err.startswith("kimi-agent: ")
    assert done.err.count("\n") == 1


def test_chat_sends_the_model_and_the_system_prompt(run: Run, typed: Type) -> None:
    typed("Hi")
    with serving([say("Hello.")]) as server:
        done = run("chat", "--model", "kimi-k2.6", "--system", "You are terse.", server=server)
    assert done.out.endswith("USER: Hi\nAI: Hello.\nUSER: \n")
    body = server.requests[0].body
    assert body["model"] == "kimi-k2.6"
    assert [message["content"] for message in body["messages"]] == ["You are terse.", "Hi"]


# ==== what it reads from and writes to ====


def test_bytes_that_are_no_text_do_not_end_the_chat(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\nbye\n"), "utf-8"))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii"))
    assert run("chat", "--offline").code == 0
    shown = written.getvalue().decode()
    assert "USER: caf\\ufffd\nAI: " in shown
    assert "USER: bye\nAI: " in shown


def test_without_a_stdin_the_chat_ends_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    done = run("chat", "--offline")
    assert (done.err, done.code) == ("", 0)


@pytest.mark.parametrize("command", [["doctor", "--offline"], ["run", "Hello.", "--offline"], ["sessions"]])
def test_without_a_stdout_nothing_is_done(run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    done = run(*command)
    assert (done.code, done.err) == (
        1,
        "kimi-agent: standard output is closed; >/dev/null throws away what is printed\n",
    )


def test_without_a_stderr_errors_are_told_nowhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    done = run("run", "Hello.", "--json")
    assert (done.code, done.out) == (1, "")


@pytest.mark.parametrize(
    ("command", "told"),
    [("models --offline >&-", b"kimi-agent: standard output is closed; "), ("run Hello. <&- 2>&-", b"")],
)
def test_what_a_shell_closes_is_closed(command: str, told: bytes) -> None:
    command = f"exec {shlex.join(COMMAND)} {command}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=ENVIRONMENT, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(told)
    assert bool(done.stderr) == bool(told)


@pytest.mark.parametrize("arguments", [("chat", "--offline"), ("models", "--offline")])
def test_a_reader_that_leaves_ends_it_without_a_traceback(
    run: Run, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        done = run(*arguments)
    assert (done.code, done.err) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        done = run("models", "--offline")
    assert (done.code, done.err) == (1, "kimi-agent: [Errno 28] No space left on device\n")


# ==== tokenizer ====


def test_the_rank_file_is_copied_to_where_it_is_looked_for(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cache" / "ranks"
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(place))
    done = run("tokenizer", "download", "--from", str(data / "tiktoken.model"))
    assert (done.out, done.err, done.code) == (f"{place}: 2,795,286 bytes, checked.\n", "", 0)
    assert place.read_bytes() == (data / "tiktoken.model").read_bytes()


def test_another_file_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("YQ== 0\n")
    done = run("tokenizer", "download", "--from", str(tmp_path / "other"))
    assert (done.out, done.code) == ("", 1)
    assert done.err.startswith("kimi-agent: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["tokenizer", "path"], ["tokenizer"]])
def test_the_path_of_the_rank_file_may_be_asked_before_it_is_there(
    run: Run, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path / "none"))
    done = run(*arguments)
    assert (done.out, done.code) == (f"{tmp_path / 'none'}\n", 0)


# ==== the command itself ====


def test_the_version_is_the_package_s(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"kimi-agent {__version__}\n")


def test_the_console_script_is_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"kimi-agent": f"{main.__module__}:{main.__name__}"}


@pytest.mark.parametrize("arguments", [[], ["fly"], ["chat", "--wings"], ["tokenizer", "eat"], ["sessions", "eat"]])
def test_a_wrong_command_line_is_explained(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: kimi-agent")


def test_help_opens_no_heavy_room(tmp_path: Path) -> None:
    code = (
        "import sys; from kimi_agent.terminal.command.cli import _parser; _parser();"
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
def test_the_help_of_a_command(run: Run, command: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    done = run(*command.split()[1:])
    assert (done.code, done.err) == (0, "")
    shown = done.out
    if sys.version_info >= (3, 13):  # it breaks lines elsewhere
        shown, text = " ".join(shown.split()), " ".join(text.split())
    assert shown == text


@pytest.mark.parametrize("command", [command for command, _ in HELP])
def test_options_fit_a_narrow_terminal(run: Run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, _, options = run(*command.split()[1:]).out.partition("\n\n")
    assert max(map(len, options.splitlines())) <= 40


def test_the_help_of_every_command_is_tested() -> None:
    known = {tuple(command.split()[1:-1]) for command, _ in HELP}
    assert known == {(), *_commands((), _parser())}


def _commands(path: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield (*path, name)
                yield from _commands((*path, name), command)


def test_every_transcript_of_the_page_is_true(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`...` stands for anything."""
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(tmp_path / "sessions.db"))
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path / "no ranks"))
    with serving() as server:
        for command, said in SAID.findall("".join(TRANSCRIPTS)):
            shown = piped(command, server) if "|" in command else printed(run, command, server)
            pattern = re.escape(said).replace(re.escape("..."), ".*").replace(r"\n.*\n", r"\n(?:.*\n)*")
            assert re.fullmatch(pattern, shown, re.DOTALL), (command, shown)


def printed(run: Run, command: str, server: KimiServer) -> str:
    program, *arguments = shlex.split(command)
    assert program == "kimi-agent"
    done = run(*arguments, server=server)
    return done.out + done.err


def piped(command: str, server: KimiServer) -> str:
    """What a shell shows of it."""
    functions = f'kimi-agent() {{ {shlex.join(COMMAND)} "$@"; }}; python() {{ {sys.executable} "$@"; }}'
    key = {"KIMI_API_KEY": server.api_key, "KIMI_BASE_URL": server.base_url}
    names = ("KIMI_AGENT_SESSIONS", "KIMI_AGENT_RANKS")
    return subprocess.run(
        ["bash", "-c", f"{functions}; {command}"],
        env=ENVIRONMENT | {name: os.environ[name] for name in names} | key,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE,
        check=False,
    ).stdout.decode()


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

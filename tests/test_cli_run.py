"""`kimi-agent run`, and the agents that a command line describes."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import Run, runner, serving
from terminals import ENVIRONMENT, HEAR_CTRL_C

from kimi_agent.events import End, from_dict
from kimi_agent.message import Message
from kimi_agent.session import SQLiteSessionStore
from kimi_agent.testing import Failure, KimiServer, Reply, call, say

SERVERS = Path(__file__).parent / "mcp_servers"
DEADLINE = 30.0

SHOP = '''
"""A module of somebody's."""
import asyncio
from kimi_agent import Agent, AIFunction, KimiAgentError, SimpleToolset, ai_function

class Shop(Agent):
    def __init__(self, provider):
        super().__init__(provider, "You sell tea.")

    @ai_function()
    def price(self, article: str) -> str:
        """Price of an article."""
        return f"{article}: 3.50"

    @ai_function(approval=True)
    def buy(self, article: str) -> str:
        """Buy an article."""
        return "bought"

def shop(provider):
    return Shop(provider)

async def slow_shop(provider):
    return Shop(provider)

def weigh(article: str) -> str:
    """Weigh an article."""
    return f"{article}: 100 g"

def count(article: str) -> str:
    """Count an article."""
    return "12"

several = [weigh, AIFunction(count)]
toolset = SimpleToolset([AIFunction(weigh)])
number = 12

def shout() -> str:
    """Shout."""
    print("tea!")
    return "done"

class Inner:
    Shop = Shop

def refuses(provider):
    raise KimiAgentError("closed\\x1b[2J\\ntoday")

def fails(provider):
    raise ValueError("no\\x1b[2J\\nmilk")

def leaves(provider):
    raise SystemExit(4)

class Needs(Agent):
    def __init__(self, provider, article):
        super().__init__(provider)

def nothing(provider):
    return None

class NoAgent:
    pass
'''


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in a folder with a module of somebody's, with nothing piped."""
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(tmp_path / "kept" / "sessions.db"))
    for name in ("my_shop", "broken", "leaves", "needs", "lazy", "loud"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "my_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def said_by_user(server: KimiServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"] if message["role"] == "user"]


# ==== the answer ====


def test_the_answer_is_on_stdout_and_nothing_else(run: Run):
    with serving([say("Four degrees.")]) as server:
        done = run("run", "How warm is it?", server=server)
    assert (done.code, done.out, done.err) == (0, "Four degrees.\n", "")
    assert said_by_user(server) == ["How warm is it?"]


def test_without_a_key_the_stand_in_answers_offline(run: Run):
    done = run("run", "--offline", "Hello.")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("You said: Hello.\n")


def test_a_line_end_is_not_doubled(run: Run):
    with serving([say("Four.\n")]) as server:
        assert run("run", "Hm?", server=server).out == "Four.\n"


def test_each_message_begins_a_line_and_calls_are_not_told_to_a_pipe(run: Run):
    script = [Reply("I look.", tool_calls=[call("price", article="tea")]), say("It is 3.50.")]
    with serving(script) as server:
        done = run("run", "What is tea?", "--agent", "my_shop:Shop", server=server)
    assert (done.code, done.out, done.err) == (0, "I look.\nIt is 3.50.\n", "")


def test_a_pipe_gets_the_text_as_it_is(run: Run):
    with serving([say("\x1b[31mred\r\n\tblue")]) as server:
        assert run("run", "Hm?", server=server).out == "\x1b[31mred\r\n\tblue\n"


def test_a_terminal_gets_control_characters_escaped(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kimi_agent.terminal.command.oneshot.is_watched", lambda stream: True)
    with serving([Reply("\x1b[31mred\r\nblue\r", chunk_size=1)]) as server:
        assert run("run", "Hm?", server=server).out == "\\x1b[31mred\nblue\\x0d\n"


def test_calls_and_retries_are_told_to_whoever_watches(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kimi_agent.terminal.screen.telling.is_watched", lambda stream: stream is sys.stderr)
    busy = Failure(429, "engine_overloaded_error", "busy\x1b[2J", retry_after=0)
    with serving([busy, call("price", article="t\x1b" + 100 * "e"), say("3.50.")]) as server:
        done = run("run", "What is tea?", "--agent", "my_shop:Shop", server=server)
    assert (done.code, done.out) == (0, "3.50.\n")
    retried, called = done.err.splitlines()
    assert retried.startswith("[")
    assert "busy\\x1b[2J" in retried
    assert retried.endswith("; again in 0 s]")
    assert called.startswith(r"[price(article='t\x1beee")
    assert re.fullmatch(r".*eee'\) took \d+\.\d s\]", called)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_modules_and_tools_print_is_no_answer(run: Run, tmp_path: Path, options: list[str]):
    (tmp_path / "loud.py").write_text("print('welcome')\nfrom my_shop import shout")
    with serving([call("shout"), say("Done.")]) as server:
        done = run("run", "Shout.", "--tools", "loud:shout", *options, server=server)
    assert (done.code, done.err) == (0, "welcome\ntea!\n")
    if options:
        assert [json.loads(line) for line in done.out.splitlines()]
    else:
        assert done.out == "Done.\n"


def test_json_is_a_frame_a_line_and_ends_with_the_end(run: Run):
    with serving([call("price", article="tea"), say("3.50\x1b[2J é \u202e")]) as server:
        done = run("run", "--json", "What is tea?", "--agent", "my_shop:Shop", server=server)
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    assert "\x1b" not in done.out
    frames = [from_dict(json.loads(line)) for line in done.out.splitlines()]
    kinds = [type(frame).__name__ for frame in frames if type(frame).__name__ not in ("Append", "ToolCallDelta")]
    assert kinds == ["ToolCall", "End", "ToolResult", "End"]
    assert isinstance(frames[-1], End)
    assert frames[-1].message.text == "3.50\x1b[2J é \u202e"


# ==== the prompt ====


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_what_is_piped_is_the_prompt(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]):
    pipe(monkeypatch, "\nHow warm\nis it?\n")
    with serving([say("Four.")]) as server:
        assert run("run", *arguments, server=server).code == 0
    assert said_by_user(server) == ["How warm\nis it?"]


def test_what_is_piped_goes_before_the_prompt(run: Run, monkeypatch: pytest.MonkeyPatch):
    pipe(monkeypatch, "Oslo: 4 degrees\n")
    with serving([say("Four.")]) as server:
        assert run("run", " How warm is it? ", server=server).code == 0
    assert said_by_user(server) == ["Oslo: 4 degrees\n\nHow warm is it?"]


@pytest.mark.parametrize("stdin", [io.StringIO(" \n"), None])
def test_without_a_prompt_the_usage_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO | None):
    monkeypatch.setattr("sys.stdin", stdin)
    done = run("run")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: kimi-agent run ")
    assert done.err.endswith("error: there is no prompt: give one, or pipe one\n")


def test_a_closed_stdin_is_nothing_piped(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", None)
    assert run("run", "Hello.", "--offline").code == 0


def test_a_person_at_the_keyboard_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch):
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

        def read(self, size: int | None = -1) -> str:
            return pytest.fail("nobody has asked to read it")

    monkeypatch.setattr("sys.stdin", Keyboard())
    assert run("run", "Hello.", "--offline").code == 0


# ==== what goes wrong ====


def test_an_error_of_the_provider_is_one_line(run: Run):
    with serving([Failure(400, "invalid_request_error", "no\x1b[2J such\nthing")]) as server:
        done = run("run", "Hm?", server=server)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("kimi-agent: ")
    assert "no\\x1b[2J such thing" in done.err
    assert done.err.count("\n") == 1


def test_without_a_key_it_is_one_line(run: Run):
    done = run("run", "--json", "Hm?")
    assert (done.code, done.out) == (1, "")
    assert done.err == "kimi-agent: no API key: pass api_key= or set KIMI_API_KEY or MOONSHOT_API_KEY\n"


def test_a_wrong_key_is_not_printed(run: Run, monkeypatch: pytest.MonkeyPatch):
    with serving() as server:
        monkeypatch.setenv("KIMI_BASE_URL", server.base_url)
        monkeypatch.setenv("KIMI_API_KEY", "sk-secret-secret")
        done = run("run", "Hm?")
    assert done.code == 1
    assert "secret" not in done.out + done.err


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_was_cut_off_is_printed_and_an_error(run: Run, reason: str):
    with serving([Reply("Once upon", finish_reason=reason)]) as server:
        done = run("run", "Tell.", server=server)
    assert (done.code, done.out) == (1, "Once upon\n")
    assert done.err == f"kimi-agent: the answer was cut off: {reason}\n"


def test_calls_that_have_to_be_approved_are_not_run(run: Run):
    with serving([call("buy", article="tea")]) as server:
        done = run("run", "Buy tea.", "--agent", "my_shop:Shop", server=server)
    assert (done.code, done.out) == (1, "")
    assert done.err == "kimi-agent: calls of buy wait for approval, and here is nobody to ask; use chat\n"


# ==== signals and pipes ====


@contextmanager
def spawned(*arguments: str, **options: Any) -> Generator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", HEAR_CTRL_C, sys.executable, "-m", "kimi_agent", *arguments]
    options |= {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


HELD = """
import threading
from kimi_agent import Agent
from kimi_agent.testing import Reply, ScriptedKimi, call

def agent(provider):
    def block() -> str:
        "Blocks for ever."
        print("Held", flush=True)
        threading.Event().wait()
    held = Reply("I begin.", tool_calls=[call("block")])
    return Agent(ScriptedKimi([held]), functions=[block])
"""


@pytest.mark.parametrize(("agent", "answer"), [("held:agent", b"I begin.\n"), ("held_import:Agent", b"")])
def test_ctrl_c_ends_it_with_130(tmp_path: Path, agent: str, answer: bytes):
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "held_import.py").write_text("import time; print('Held', flush=True); time.sleep(1000)")
    with spawned("run", "Tell.", "--offline", "--agent", agent, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == b"Held\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        assert (process.stdout.read(), process.stderr.read()) == (answer, b"")


def test_a_reader_that_leaves_ends_it_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    with spawned("run", "Hello.", "--offline", stdout=writing) as process:
        os.close(writing)
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(DEADLINE)) == (b"", 1)


# ==== on the way to the server ====


@pytest.fixture
def behind_proxy(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the proxy that the environment names, for every host."""

    def set_proxy(url: str) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name.lower(), raising=False)
            monkeypatch.setenv(name, url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)

    return set_proxy


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", ":::", "ftp://proxy"])
def test_the_stand_in_is_not_behind_a_proxy(run: Run, behind_proxy: Callable[[str], None], proxy: str):
    behind_proxy(proxy)
    done = run("run", "Hello.", "--offline")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("proxy", [":::", "ftp://proxy"])
@pytest.mark.parametrize("command", [["run", "Hello."], ["models"]])
def test_a_proxy_that_is_none_is_one_line(
    run: Run, behind_proxy: Callable[[str], None], proxy: str, command: list[str]
):
    behind_proxy(proxy)
    with serving() as server:
        done = run(*command, server=server)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("kimi-agent: the environment has unusable network settings: ")
    assert done.err.count("\n") == 1


# ==== the agent ====


@pytest.mark.parametrize("name", ["Shop", "shop", "slow_shop", "Inner.Shop"])
def test_an_agent_is_a_class_or_a_function(run: Run, name: str):
    with serving([call("price", article="tea"), say("3.50.")]) as server:
        done = run("run", "What is tea?", "--agent", f"my_shop:{name}", server=server)
    assert (done.code, done.out, done.err) == (0, "3.50.\n", "")
    messages = server.requests[-1].body["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert messages[0]["content"] == "You sell tea."
    assert messages[-1]["content"] == "tea: 3.50"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none:Shop", "there is no module none, neither here nor among those installed"),
        ("my_shop.none:Shop", "there is no module my_shop.none, neither here nor among those installed"),
        ("my_shop:none", "there is no none in the module my_shop"),
        ("my_shop:Shop.none", "there is no Shop.none in the module my_shop"),
        ("my_shop:number", "my_shop:number is neither a subclass of Agent nor a function from a provider to an agent"),
        (
            "my_shop:NoAgent",
            "my_shop:NoAgent is neither a subclass of Agent nor a function from a provider to an agent",
        ),
        ("my_shop:nothing", "my_shop:nothing gives no Agent, but a NoneType"),
        ("my_shop:refuses", "closed\\x1b[2J today"),
        (
            "my_shop:Needs",
            "my_shop:Needs makes no agent: TypeError: Needs.__init__() missing 1 required positional argument:"
            " 'article'",
        ),
    ],
)
def test_an_agent_that_is_none_is_one_line(run: Run, name: str, told: str):
    done = run("run", "Hm?", "--offline", "--agent", name)
    assert (done.code, done.out, done.err) == (1, "", f"kimi-agent: {told}\n")


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("broken", "1 +", "cannot import broken: SyntaxError: invalid syntax (broken.py, line 1)"),
        (
            "broken",
            "\nmilk",
            "cannot import broken: NameError: name 'milk' is not defined ({folder}/broken.py, line 2)",
        ),
        ("leaves", "raise SystemExit(3)", "cannot import leaves: SystemExit: 3 ({folder}/leaves.py, line 1)"),
        (
            "needs",
            "import a_thing_that_nobody_has",
            "cannot import needs: ModuleNotFoundError: No module named 'a_thing_that_nobody_has'"
            " ({folder}/needs.py, line 1)",
        ),
        (
            "broken",
            "raise BaseException('sour')",
            "cannot import broken: BaseException: sour ({folder}/broken.py, line 1)",
        ),
        (
            "lazy",
            "def __getattr__(name): raise ImportError(f'no {name}')",
            "cannot get lazy:Shop: ImportError: no Shop ({folder}/lazy.py, line 1)",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(run: Run, tmp_path: Path, module: str, source: str, told: str):
    (tmp_path / f"{module}.py").write_text(source)
    done = run("run", "Hm?", "--offline", "--agent", f"{module}:Shop")
    assert (done.code, done.out, done.err) == (1, "", f"kimi-agent: {told.format(folder=tmp_path)}\n")


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("fails", '    raise ValueError("no\\x1b[2J\\nmilk")', "ValueError: no\\x1b[2J milk"),
        ("leaves", "    raise SystemExit(4)", "SystemExit: 4"),
    ],
)
def test_an_agent_that_cannot_be_made_is_one_line_with_its_place(
    run: Run, tmp_path: Path, name: str, source: str, told: str
):
    line = SHOP.splitlines().index(source) + 1
    done = run("run", "Hm?", "--offline", "--agent", f"my_shop:{name}")
    assert (done.code, done.err) == (
        1,
        f"kimi-agent: my_shop:{name} makes no agent: {told} ({tmp_path}/my_shop.py, line {line})\n",
    )


@pytest.mark.parametrize("text", ["shop", "shop:", ":Shop", "shop.py/x:Shop", "What is tea?", "a-b:c"])
def test_what_is_no_name_is_a_wrong_command_line(run: Run, text: str):
    for command in (["chat", text], ["run", "Hm?", "--agent", text], ["run", "Hm?", "--tools", "my_shop:weigh", text]):
        done = run(*command)
        assert (done.code, done.out) == (2, "")
        assert done.err.endswith(f"{text!r} is no module:name\n")


# ==== its options ====


def test_the_options_reach_the_model(run: Run):
    with serving([say("Yes.")]) as server:
        options = ("--model", "kimi-k2.6", "--thinking", "off", "--system", " Be terse. ")
        assert run("run", "Hm?", *options, server=server).code == 0
    body = server.requests[0].body
    assert (body["model"], body["thinking"]) == ("kimi-k2.6", {"type": "disabled"})
    assert body["messages"][0] == {"role": "system", "content": "Be terse."}


def test_a_system_prompt_takes_the_place_of_the_agent_s(run: Run):
    with serving([say("Yes."), say("Yes.")]) as server:
        run("run", "Hm?", "--agent", "my_shop:Shop", "--system", "You sell coffee.", server=server)
        run("run", "Hm?", "--agent", "my_shop:Shop", "--system", "", server=server)
    first, second = (request.body["messages"] for request in server.requests)
    assert [message["content"] for message in first] == ["You sell coffee.", "Hm?"]
    assert [message["content"] for message in second] == ["Hm?"]


def test_what_the_model_cannot_do_is_one_line(run: Run):
    done = run("run", "Hm?", "--offline", "--thinking", "off")
    assert (done.code, done.err) == (1, "kimi-agent: kimi-k3 always thinks; its least effort is 'low'\n")


@pytest.mark.parametrize(
    ("names", "offered"),
    [
        (["weigh"], ["weigh"]),
        (["weigh", "count"], ["weigh", "count"]),
        (["several"], ["weigh", "count"]),
        (["toolset", "count"], ["weigh", "count"]),
    ],
)
def test_tools_are_functions_and_sets_of_them(run: Run, names: list[str], offered: list[str]):
    with serving([call("weigh", article="tea"), say("100 g.")]) as server:
        done = run("run", "How heavy?", "--tools", *(f"my_shop:{name}" for name in names), server=server)
    assert (done.code, done.out) == (0, "100 g.\n")
    body = server.requests[-1].body
    assert [tool["function"]["name"] for tool in body["tools"]] == offered
    assert body["messages"][-1]["content"] == "tea: 100 g"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tools", "my_shop:number"], "my_shop:number is nothing that a model can call: "),
        (["--tools", "my_shop:none"], "there is no none in the module my_shop\n"),
        (["--tools", "my_shop:weigh", "my_shop:several"], "there are two functions named 'weigh'"),
        (["--agent", "my_shop:Shop", "--tools", "my_shop:Shop.price"], ""),
    ],
)
def test_tools_that_are_none_are_one_line(run: Run, arguments: list[str], told: str):
    done = run("run", "Hm?", "--offline", *arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"kimi-agent: {told}")
    assert done.err.count("\n") == 1


# ==== MCP ====


def test_tools_of_mcp_servers_are_open_while_it_runs(run: Run, tmp_path: Path):
    pytest.importorskip("mcp")
    tools = [{"name": "stock", "inputSchema": {"type": "object"}}]
    answers = {"stock": {"content": [{"type": "text", "text": "tea: 7"}]}}
    script = {"SCRIPT": json.dumps({"tools": tools, "answers": answers})}
    mine = {"command": sys.executable, "args": ["-I", str(SERVERS / "scripted.py")], "env": script}
    (tmp_path / "mcp.json").write_text(
        json.dumps({"mcpServers": {"shop": mine, "gone": {"command": "no-such-program"}}})
    )
    with serving([call("stock", article="tea"), say("Seven.")]) as server:
        done = run("run", "How many?", "--mcp", "mcp.json", server=server)
    assert (done.code, done.out) == (0, "Seven.\n")
    assert done.err.startswith("kimi-agent: the MCP server 'gone' (no-such-program) could not be reached: ")
    assert done.err.count("\n") == 1
    assert server.requests[-1].body["messages"][-1]["content"] == "tea: 7"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read mcp.json: No such file or directory\n"),
        ("{", "mcp.json is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"),
        ("[" * 100_000, "mcp.json is no JSON: "),
        ("[1]", "mcp.json has no JSON object with MCP servers by name\n"),
        ("{}", "mcp.json: there is no server in an empty mapping\n"),
        ('{"shop": {"cmd": "sk-secret"}}', "mcp.json: the MCP server 'shop' needs either a command or a url, and has "),
    ],
)
def test_a_wrong_mcp_file_is_one_line_without_its_values(run: Run, tmp_path: Path, content: str | None, told: str):
    pytest.importorskip("mcp")
    if content is not None:
        (tmp_path / "mcp.json").write_text(content)
    done = run("run", "Hm?", "--offline", "--mcp", "mcp.json")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"kimi-agent: {told}")
    assert done.err.count("\n") == 1
    assert "secret" not in done.err


def test_without_any_server_it_answers_all_the_same(run: Run, tmp_path: Path):
    pytest.importorskip("mcp")
    (tmp_path / "mcp.json").write_text('{"gone": {"command": "no-such-program", "env": {"KEY": "sk-secret"}}}')
    done = run("run", "Hm?", "--offline", "--mcp", "mcp.json")
    assert (done.code, done.out.count("\n")) == (0, 1)
    assert done.err.startswith("kimi-agent: the MCP server 'gone' (no-such-program) could not be reached: ")
    assert done.err.count("\n") == 1
    assert "secret" not in done.err


# ==== sessions ====


def roles(server: KimiServer) -> list[str]:
    return [message["role"] for message in server.requests[-1].body["messages"]]


def test_a_session_goes_on_where_it_was(run: Run, tmp_path: Path):
    with serving([say("Hello Ada."), say("Ada."), say("Ada!")]) as server:
        assert run("run", "I am Ada.", "--session", "ada", "--system", "Be terse.", server=server).code == 0
        assert run("run", "Who am I?", "--session", "ada", server=server).out == "Ada.\n"
        assert roles(server) == ["system", "user", "assistant", "user"]
        assert run("run", "Who?", "--continue", server=server).out == "Ada!\n"
        assert roles(server) == ["system", "user", "assistant", "user", "assistant", "user"]
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_of_two_programs_in_one_session_the_one_that_lost_says_what_is_not_kept(run: Run, tmp_path: Path):
    store = tmp_path / "kept" / "sessions.db"

    async def write() -> None:
        async with SQLiteSessionStore(store) as other:
            await other.open("ada").load()
            await other.open("ada").append([Message.user("I am Eve.")])

    def overtake(_: object) -> Reply:
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(lambda: asyncio.run(write())).result()
        return say("Hello Ada.")

    with serving([overtake]) as server:
        done = run("run", "I am Ada.", "--session", "ada", server=server)
    assert (done.code, done.out) == (1, "Hello Ada.\n")
    assert done.err == (
        "kimi-agent: another program has written to the session meanwhile; what came after that is not kept there\n"
    )


def test_the_database_may_be_in_the_home_of_its_owner(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", "~/sessions.db")
    assert run("run", "Hello.", "--offline", "--session", "ada").code == 0
    assert (tmp_path / "home" / "sessions.db").exists()


def test_without_being_asked_nothing_is_kept(run: Run, tmp_path: Path):
    assert run("run", "Hello.", "--offline").code == 0
    assert not (tmp_path / "kept").exists()


def test_there_has_to_be_a_session_to_go_on_with(run: Run, tmp_path: Path):
    done = run("run", "Hello.", "--offline", "--continue")
    assert (done.code, done.err) == (
        1,
        f"kimi-agent: there is no session to go on with in {tmp_path}/kept/sessions.db\n",
    )
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("prepare", [lambda path: path.write_text("no folder"), lambda path: path.mkdir(mode=0o755)])
def test_a_store_that_cannot_be_made_is_one_line(run: Run, tmp_path: Path, prepare: Callable[[Path], object]):
    prepare(tmp_path / "kept")
    (tmp_path / "kept").is_dir() and (tmp_path / "kept" / "sessions.db").write_text("no database, for sure" * 100)
    done = run("run", "Hello.", "--offline", "--session", "ada")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("kimi-agent: cannot ")
    assert done.err.count("\n") == 1


def test_a_session_has_an_id_that_can_be_shown(run: Run):
    done = run("run", "Hello.", "--offline", "--session", "a\x1bb")
    assert done.code == 1
    assert done.err.endswith(" control characters and no lone surrogates: 'a\\x1bb'\n")

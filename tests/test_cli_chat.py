"""What `kimi-agent chat` talks to, and where it keeps what was said."""

import json
import re
import sys
from pathlib import Path

import pytest
from serving import Run, Type, runner, serving, typist

from kimi_agent.testing import call, say

SHOP = '''
from kimi_agent import Agent, JournalSession, ai_function

class Shop(Agent):
    def __init__(self, provider):
        super().__init__(provider, "You sell tea.")

    @ai_function()
    def price(self, article: str) -> str:
        """Price of an article."""
        return f"{article}: 3.50"

def kept(provider):
    return Agent(provider, session=JournalSession("own.journal"))
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(folder / "kept" / "sessions.db"))
    monkeypatch.delitem(sys.modules, "my_shop", raising=False)
    return runner(monkeypatch, capsys)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Type:
    return typist(monkeypatch)


# ==== on a terminal ====


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kimi_agent.terminal.command.cli.is_watched", lambda stream: True)


KEPT = re.compile(r"Kept: kimi-agent chat --session=(\d{8}-\d{6}-[0-9a-f]{4}) goes on\.")


@pytest.mark.usefixtures("on_terminal")
def test_a_chat_on_a_terminal_is_kept_and_goes_on(run: Run, typed: Type, folder: Path):
    with serving([say("Hello Ada."), say("Ada."), say("Ada!")]) as server:
        typed("I am Ada.")
        match = KEPT.fullmatch(run("chat", server=server).out.splitlines()[-1])
        assert match is not None
        for argument in (f"--session={match[1]}", "--continue"):
            typed("Who am I?")
            done = run("chat", argument, server=server)
            assert "\nUSER: Who am I?\nAI: Ada" in done.out
            assert done.out.endswith(f"\n{match[0]}\n")
    roles = [message["role"] for message in server.requests[-1].body["messages"]]
    assert roles == ["user", "assistant"] * 2 + ["user"]
    assert (folder / "kept").stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("on_terminal")
def test_a_chat_in_which_nothing_was_said_is_not_kept(run: Run, typed: Type):
    typed()
    assert "Kept" not in run("chat", "--offline").out


@pytest.mark.usefixtures("on_terminal")
def test_a_fork_is_what_goes_on(run: Run, typed: Type):
    typed("I am Ada.", "/fork")
    told = run("chat", "--offline", "--session=-ada b").out.splitlines()[-1]
    assert told.startswith("Kept: kimi-agent chat --session='-ada b")
    assert "'-ada b'" not in told
    typed()
    told = run("chat", "--offline", "--session=-ada b").out.splitlines()[-1]
    assert told == "Kept: kimi-agent chat --session='-ada b' goes on."


@pytest.mark.usefixtures("on_terminal")
def test_nothing_is_kept_of_whoever_does_not_want_it(run: Run, typed: Type, folder: Path):
    typed("Hello.")
    assert "Kept" not in run("chat", "--offline", "--no-session").out
    assert not (folder / "kept").exists()


@pytest.mark.usefixtures("on_terminal")
def test_an_agent_with_a_session_of_its_own_keeps_it(run: Run, typed: Type, folder: Path):
    typed("Hello.")
    assert "Kept" not in run("chat", "my_shop:kept", "--offline").out
    assert (folder / "own.journal").exists()
    assert not (folder / "kept").exists()


@pytest.mark.usefixtures("on_terminal")
def test_a_chat_that_cannot_be_kept_says_so_and_goes_on(run: Run, typed: Type, folder: Path):
    (folder / "kept").write_text("no folder")
    typed("Hello.")
    done = run("chat", "--offline")
    assert done.code == 0
    assert "USER: Hello.\nAI: " in done.out
    assert "Kept" not in done.out
    assert done.err.startswith("kimi-agent: this chat is not kept: cannot make the folder ")


def test_an_agent_of_one_s_own_answers_with_its_functions(run: Run, typed: Type):
    typed('What is the price of "tea"?')
    assert "3.50" in run("chat", "my_shop:Shop", "--offline").out


def test_servers_that_cannot_be_reached_are_told_and_the_chat_goes_on(run: Run, typed: Type, folder: Path):
    pytest.importorskip("mcp")
    (folder / "mcp.json").write_text('{"mcpServers": {"gone": {"command": "no-such-program"}}}')
    typed("Hello.")
    done = run("chat", "--offline", "--mcp", "mcp.json")
    assert done.code == 0
    assert "USER: Hello.\nAI: " in done.out
    assert done.err.startswith("kimi-agent: the MCP server 'gone' (no-such-program) could not be reached: ")
    assert done.err.count("\n") == 1


# ==== piped ====


def test_a_piped_chat_is_kept_when_it_is_asked_for(run: Run, typed: Type, folder: Path):
    typed("I am Ada.")
    assert run("chat", "--offline").code == 0
    assert not (folder / "kept").exists()
    typed("I am Ada.")
    done = run("chat", "--offline", "--session", "ada")
    assert done.code == 0
    assert "Kept" not in done.out
    assert run("sessions", "show", "ada").out.startswith("USER: I am Ada.\nASSISTANT: ")


def test_the_options_of_a_chat_reach_the_model(run: Run, typed: Type, folder: Path):
    typed("What is tea?")
    with serving([call("price", article="tea"), say("3.50.")]) as server:
        done = run("chat", "my_shop:Shop", "--model", "kimi-k2.6", "--thinking", "high", server=server)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Talking to kimi-k2.6. Ctrl-D leaves.\n")
    body = server.requests[-1].body
    assert (body["model"], body["thinking"]) == ("kimi-k2.6", {"type": "enabled"})
    assert json.dumps(body["messages"][0]["content"]) == '"You sell tea."'


@pytest.mark.parametrize("options", [["--session", "a", "--continue"], ["--continue", "--no-session"]])
def test_one_thing_at_a_time_is_said_of_the_session(run: Run, options: list[str]):
    done = run("chat", *options)
    assert done.code == 2
    assert "not allowed with argument" in done.err


def test_an_agent_that_does_not_load_is_one_line(run: Run):
    done = run("chat", "my_shop:Tea", "--offline")
    assert (done.code, done.out, done.err) == (1, "", "kimi-agent: there is no Tea in the module my_shop\n")

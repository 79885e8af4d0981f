"""What `kimi-agent chat` talks to, and where it keeps what was said; on a terminal, dumb as it may be."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Run, runner, serving

from kimi_agent.testing import KimiServer, call, say

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
from test_cli import COMMAND, Terminal

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

Chat = Callable[..., Terminal]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def chat(folder: Path) -> Iterator[Chat]:
    """Begins a chat in a terminal that stands in the folder of the shop."""
    terminals: list[Terminal] = []

    def begin(
        *arguments: str, store: Path = folder / "kept" / "sessions.db", key: KimiServer | None = None
    ) -> Terminal:
        environment = [f"KIMI_AGENT_SESSIONS={store}"]
        if key is not None:
            environment += [f"KIMI_API_KEY={key.api_key}", f"KIMI_BASE_URL={key.base_url}"]
        terminal = Terminal(["/usr/bin/env", *environment, *COMMAND, "chat", *arguments])
        terminals.append(terminal)
        return terminal

    yield begin
    for terminal in terminals:
        terminal.close()


def said(terminal: Terminal, text: str) -> str:
    """The answer to something that is said."""
    terminal.press(f"{text}\n")
    terminal.until("AI: ")
    return terminal.until("USER: ").removesuffix("\nUSER: ")


def left(terminal: Terminal) -> str:
    """What a chat says when it is left."""
    terminal.press("\x04")
    shown, code = terminal.end()
    assert code == 0
    return shown.strip()


KEPT = re.compile(r"Kept: kimi-agent chat --session (\d{8}-\d{6}-[0-9a-f]{4}) goes on\.")


def test_a_chat_on_a_terminal_is_kept_and_goes_on(chat: Chat, folder: Path):
    with serving([say("Hello Ada."), say("Ada."), say("Ada!")]) as server:
        first = chat(key=server)
        first.until("USER: ")
        said(first, "I am Ada.")
        match = KEPT.fullmatch(left(first))
        assert match is not None
        for arguments in (["--session", match[1]], ["--continue"]):
            again = chat(*arguments, key=server)
            again.until("USER: ")
            assert said(again, "Who am I?").startswith("Ada")
            assert left(again) == match[0]
    roles = [message["role"] for message in server.requests[-1].body["messages"]]
    assert roles == ["user", "assistant"] * 2 + ["user"]
    assert (folder / "kept").stat().st_mode & 0o777 == 0o700


def test_a_chat_in_which_nothing_was_said_is_not_kept(chat: Chat):
    silent = chat("--offline")
    silent.until("USER: ")
    assert left(silent) == ""


def test_a_fork_is_what_goes_on(chat: Chat):
    forking = chat("--offline", "--session", "ada b")
    forking.until("USER: ")
    said(forking, "I am Ada.")
    forking.press("/fork\n")
    forking.until("\nUSER: ")
    shown = left(forking)
    assert shown.startswith("Kept: kimi-agent chat --session ")
    assert "'ada b'" not in shown
    original = chat("--offline", "--session", "ada b")
    original.until("USER: ")
    assert left(original) == "Kept: kimi-agent chat --session 'ada b' goes on."


def test_nothing_is_kept_of_whoever_does_not_want_it(chat: Chat, folder: Path):
    private = chat("--offline", "--no-session")
    private.until("USER: ")
    said(private, "Hello.")
    assert left(private) == ""
    assert not (folder / "kept").exists()


def test_an_agent_with_a_session_of_its_own_keeps_it(chat: Chat, folder: Path):
    own = chat("my_shop:kept", "--offline")
    own.until("USER: ")
    said(own, "Hello.")
    assert left(own) == ""
    assert (folder / "own.journal").exists()
    assert not (folder / "kept").exists()


def test_a_chat_that_cannot_be_kept_says_so_and_goes_on(chat: Chat, folder: Path):
    (folder / "kept").write_text("no folder")
    unkept = chat("--offline")
    assert "kimi-agent: this chat is not kept: cannot make the folder " in unkept.until("USER: ")
    said(unkept, "Hello.")
    assert left(unkept) == ""


def test_an_agent_of_one_s_own_answers_with_its_functions(chat: Chat):
    shop = chat("my_shop:Shop", "--offline", "--no-session")
    shop.until("USER: ")
    assert "3.50" in said(shop, 'What is the price of "tea"?')


# ==== piped ====


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(folder / "kept" / "sessions.db"))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_shop", raising=False)
    return runner(monkeypatch, capsys)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pipe(*lines: str) -> None:
        left_to_say = iter(lines)

        def read(prompt: str = "") -> str:
            print(prompt, end="")
            if (line := next(left_to_say, None)) is None:
                raise EOFError
            return line

        monkeypatch.setattr("builtins.input", read)

    return pipe


def test_a_piped_chat_is_kept_when_it_is_asked_for(run: Run, typed: Callable[..., None], folder: Path):
    typed("I am Ada.")
    assert run("chat", "--offline").code == 0
    assert not (folder / "kept").exists()
    typed("I am Ada.")
    done = run("chat", "--offline", "--session", "ada")
    assert done.code == 0
    assert "Kept" not in done.out
    assert run("sessions", "show", "ada").out.startswith("USER: I am Ada.\nASSISTANT: ")


def test_the_options_of_a_chat_reach_the_model(run: Run, typed: Callable[..., None], folder: Path):
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

"""`kimi-agent sessions`, as somebody runs it."""

import asyncio
from pathlib import Path

import pytest

from kimi_agent import Agent, Message
from kimi_agent.session import SQLiteSessionStore
from kimi_agent.terminal.cli import main
from kimi_agent.testing import Call, ScriptedKimi, say


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sessions.db"
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(path))

    async def fill() -> None:
        async with SQLiteSessionStore(path) as opened:
            for name in ("ada", "bob"):
                async with Agent(ScriptedKimi([say("Hello.")]), "Be terse.", session=opened.open(name)) as agent:
                    await agent.chat_round(f"I am {name}.\x1b[31m")

    asyncio.run(fill())
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["sessions", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_sessions_are_listed_newest_first(store: Path, capsys: pytest.CaptureFixture[str]):
    code, printed, _ = run(capsys, "list")
    assert code == 0
    assert [line.split("\t")[0] for line in printed.splitlines()] == ["bob", "ada"]
    assert printed.splitlines()[1].split("\t")[2:] == ["2", "I am ada.\\x1b[31m"]
    assert len(run(capsys, "list", "--limit", "1")[1].splitlines()) == 1


def test_a_session_is_shown_without_control_sequences(store: Path, capsys: pytest.CaptureFixture[str]):
    code, printed, _ = run(capsys, "show", "ada")
    assert (code, printed.splitlines()) == (
        0,
        ["SYSTEM: Be terse.", "USER: I am ada.\\x1b[31m", "ASSISTANT: Hello."],
    )


def test_a_call_is_shown(store: Path, capsys: pytest.CaptureFixture[str]):
    async def add() -> None:
        async with SQLiteSessionStore(store) as opened:
            session = opened.open("calls")
            await session.load()
            await session.append([Message.user("go"), Message.assistant(tool_calls=[_call()])])

    asyncio.run(add())
    assert run(capsys, "show", "calls")[1].splitlines()[1] == 'ASSISTANT: [add({"a": 1})]'


def _call():
    from kimi_agent import ToolCall

    made = Call("add", '{"a": 1}')
    return ToolCall(id="c1", function=ToolCall.FunctionBody(name=made.name, arguments=made.arguments))


def test_a_session_is_exported_and_removed(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "ada.json"
    assert run(capsys, "export", "ada", str(target))[0] == 0
    agent = Agent(ScriptedKimi([]))
    agent.load(target)
    assert agent.chat_history[0].text == "I am ada.\x1b[31m"
    assert run(capsys, "rm", "ada")[0] == 0
    assert "ada" not in run(capsys, "list")[1]
    code, _, complaint = run(capsys, "rm", "ada")
    assert code == 1
    assert "ada" in complaint


def test_what_is_not_there_is_one_line_on_stderr(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, complaint = run(capsys, "show", "nobody")
    assert (code, complaint) == (1, "kimi-agent: there is no session 'nobody'\n")
    elsewhere = tmp_path / "none.db"
    code, _, complaint = run(capsys, "--store", str(elsewhere), "list")
    assert code == 1
    assert "does not exist" in complaint
    assert not elsewhere.exists()

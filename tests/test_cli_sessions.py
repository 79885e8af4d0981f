"""`kimi-agent sessions`, as somebody runs it."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kimi_agent import Agent, ImageURLPart, Message
from kimi_agent.message import MediaURL, TextPart, ThinkPart
from kimi_agent.session import SessionState, SQLiteSessionStore
from kimi_agent.terminal.command.cli import main
from kimi_agent.terminal.disk import store_path
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


def keep(store: Path, id: str, *messages: Message, pinned: tuple[Message, ...] = ()) -> None:
    async def write() -> None:
        async with SQLiteSessionStore(store) as opened:
            await opened.open(id).replace(SessionState(pinned, messages))

    asyncio.run(write())


def change(store: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute(statement, values)


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
    keep(store, "calls", Message.user("go"), Message.assistant(tool_calls=[_call()]))
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


# ==== lists ====


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kimi_agent.terminal.command.sessions.is_watched", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "44")


@pytest.mark.usefixtures("on_terminal")
def test_a_person_gets_columns_that_fit_the_terminal(store: Path, capsys: pytest.CaptureFixture[str]):
    keep(store, "a longer id", Message.user("漢字" * 10))
    keep(store, "c", *[Message.user("A question.")] * 10)
    code, printed, _ = run(capsys, "list")
    assert code == 0
    shown = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE............", line) for line in printed.splitlines()]
    assert shown == [
        "c            DATE............  10  A questi…",
        "a longer id  DATE............   1  漢字漢字…",
        "bob          DATE............   2  I am bob…",
        "ada          DATE............   2  I am ada…",
    ]


def test_without_a_word_the_sessions_are_listed(store: Path, capsys: pytest.CaptureFixture[str]):
    assert run(capsys) == run(capsys, "list")
    assert run(capsys, "--store", str(store)) == run(capsys, "list")


def test_a_list_says_that_there_are_more_and_goes_on(store: Path, capsys: pytest.CaptureFixture[str]):
    keep(store, "-c d", Message.user("q"))
    code, printed, told = run(capsys, "list", "--limit", "1")
    assert (code, len(printed.splitlines())) == (0, 1)
    assert told == "kimi-agent: there are more; list --after='-c d' goes on\n"
    code, printed, told = run(capsys, "list", "--limit", "2", "--after=-c d")
    assert [line.split("\t")[0] for line in printed.splitlines()] == ["bob", "ada"]
    assert (code, told) == (0, "")
    assert run(capsys, "list", "--after", "ada") == (0, "", "")
    assert run(capsys, "list", "--after", "eve") == (1, "", "kimi-agent: there is no session 'eve'\n")
    assert run(capsys, "list", "--limit", "9" * 30)[0] == 0


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5"])
def test_a_list_of_less_than_one_is_refused(limit: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["sessions", "list", "--limit", limit])
    assert left.value.code == 2
    assert f"a whole number from 1 on, not {limit!r}" in capsys.readouterr().err


def test_a_title_is_one_column_of_one_line_whatever_is_in_it(store: Path, capsys: pytest.CaptureFixture[str]):
    change(store, "UPDATE sessions SET title = ? WHERE id = 'ada'", "a\nb\tc\u2028d\x1b[2J")
    lines = run(capsys, "list")[1].splitlines()
    assert [line.split("\t")[3] for line in lines] == ["I am bob.\\x1b[31m", "a b c d\\x1b[2J"]


# ==== which database ====


def test_the_database_is_named_before_or_after_the_command(store: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(tmp_path / "none.db"))
    before = run(capsys, "--store", str(store), "list")
    after = run(capsys, "list", "--store", str(store))
    assert before == after
    assert before[0] == 0
    assert len(before[1].splitlines()) == 2
    assert run(capsys, "--store", str(tmp_path / "none.db"), "show", "ada", "--store", str(store))[0] == 0


@pytest.mark.parametrize("value", [None, ""])
def test_the_database_is_where_the_platform_keeps_data(store: Path, tmp_path: Path, monkeypatch, capsys, value):
    if value is None:
        monkeypatch.delenv("KIMI_AGENT_SESSIONS")
    else:
        monkeypatch.setenv("KIMI_AGENT_SESSIONS", value)
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / name)
    assert store_path() == tmp_path / "kimi_agent" / "sessions.db"
    code, _, complaint = run(capsys, "list")
    assert code == 1
    assert f"{store_path()} does not exist" in complaint
    store_path().parent.mkdir()
    store.rename(store_path())
    assert len(run(capsys, "list")[1].splitlines()) == 2


# ==== what is shown ====


def test_a_line_of_a_message_cannot_look_like_another_message(store: Path, capsys: pytest.CaptureFixture[str]):
    keep(store, "x", Message.user("q\nASSISTANT: forged\u2028USER: too\n"), Message.assistant("a"))
    printed = run(capsys, "show", "x")[1]
    assert printed == "USER: q\n  ASSISTANT: forged\n  USER: too\nASSISTANT: a\n"


def test_parts_without_text_are_shown_by_their_type(store: Path, capsys: pytest.CaptureFixture[str]):
    picture = ImageURLPart(image_url=MediaURL(url="data:image/png;base64,AAAA"))
    thought = ThinkPart(think="hm")
    keep(
        store,
        "x",
        Message.user(picture),
        Message.user([TextPart(text="What is it?"), picture]),
        Message.assistant([thought]),
        Message.assistant([thought, TextPart(text="A cat.")]),
    )
    assert run(capsys, "show", "x")[1].splitlines() == [
        "USER: [image_url]",
        "USER: What is it? [image_url]",
        "ASSISTANT: [think]",
        "ASSISTANT: A cat.",
    ]


def test_a_session_without_a_history_is_shown(store: Path, capsys: pytest.CaptureFixture[str]):
    keep(store, "empty")
    keep(store, "pinned", pinned=(Message.system("Be terse."),))
    assert run(capsys, "show", "empty") == (0, "", "")
    assert run(capsys, "show", "pinned") == (0, "SYSTEM: Be terse.\n", "")


def test_damage_is_told_of_after_what_there_is(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    change(store, "UPDATE records SET crc = crc + 1 WHERE source = 1 AND n IN (3, 4)")
    code, printed, told = run(capsys, "show", "ada")
    assert (code, printed) == (1, "SYSTEM: Be terse.\n")
    assert told.splitlines() == [
        f"kimi-agent: session 'ada' is damaged at record {number}: its checksum is another" for number in (3, 4)
    ]
    target = tmp_path / "ada.json"
    assert run(capsys, "export", "ada", str(target)) == (1, f"{target}\n", told)
    assert target.exists()
    assert run(capsys, "show", "bob")[0] == 0


# ==== what is refused ====


def test_the_others_are_removed_when_one_is_not_there(store: Path, capsys: pytest.CaptureFixture[str]):
    code, printed, told = run(capsys, "rm", "eve", "ada", "mallory", "bob")
    assert (code, printed) == (1, "")
    assert [line.split(" in ")[0] for line in told.splitlines()] == [
        "kimi-agent: cannot delete session 'eve'",
        "kimi-agent: cannot delete session 'mallory'",
    ]
    assert run(capsys, "list") == (0, "", "")


def test_several_are_removed(store: Path, capsys: pytest.CaptureFixture[str]):
    assert run(capsys, "rm", "ada", "bob") == (0, "", "")
    assert run(capsys, "list")[1] == ""


@pytest.mark.parametrize("command", [["show"], ["rm"], ["export"], ["list", "--after"]])
def test_an_id_with_control_characters_is_refused(store: Path, tmp_path: Path, capsys, command: list[str]):
    target = tmp_path / "x.json"
    code, printed, told = run(capsys, *command, "a\x1b[31m\nb", *[str(target)] * (command == ["export"]))
    assert (code, printed) == (1, "")
    assert told == (
        "kimi-agent: the id of a session has no control characters and no lone surrogates: 'a\\x1b[31m\\nb'\n"
    )
    assert not target.exists()

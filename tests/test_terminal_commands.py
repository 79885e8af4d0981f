"""What a person tells a chat to do: every command, with what it changes, what it says and what it refuses."""

import asyncio
import io
import json
import os
import re
import signal
import stat
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_agent.agent import Agent
from kimi_agent.errors import SessionError
from kimi_agent.events import RoundStarted, SessionRestored
from kimi_agent.history import problems
from kimi_agent.kimi.client import Kimi
from kimi_agent.message import Message, TokenUsage, ToolCall
from kimi_agent.prompt.compaction import SummarizeHistory
from kimi_agent.session import JournalSession, SQLiteSessionStore
from kimi_agent.terminal import columns
from kimi_agent.terminal.chat import commands
from kimi_agent.terminal.chat.chat import Chat, chat_in_terminal_async
from kimi_agent.terminal.chat.conversations import session_of
from kimi_agent.terminal.chat.recap import recap
from kimi_agent.terminal.chat.status import status_line
from kimi_agent.terminal.screen.reading import Left
from kimi_agent.terminal.text import display_width
from kimi_agent.testing import Delivery, Failure, KimiServer, Reply, ScriptedKimi, call, say
from kimi_agent.testing.script import Step
from kimi_agent.tools.function import ai_function

Screen = pytest.CaptureFixture[str]
Talk = Callable[..., Awaitable[list[str]]]


class Weather(Agent):
    """An agent with a function that works, and one that has to be approved."""

    def __init__(self, *script: Step, **options: Any) -> None:
        super().__init__(ScriptedKimi(script or (lambda _: say("Ok."))), "You are terse.", **options)

    @ai_function()
    def get_weather(self, city: str) -> str:
        """Current weather of a city.

        As of now.
        """
        return "rain"

    @ai_function(approval=True)
    def order(self, article: str) -> str:
        """Order something.\x1b[2J"""
        return "ordered"

    @ai_function(approval=lambda arguments: True)
    def cancel(self) -> str:
        """Cancel an order."""
        return "cancelled"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(tmp_path / "own.db"))


def types(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    left: Iterator[str] = iter(lines)

    def read(prompt: str) -> str:
        if (line := next(left, None)) is None:
            raise EOFError
        print(prompt)
        return line

    monkeypatch.setattr("builtins.input", read)


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: Screen) -> Talk:
    """Let a user type some lines, then Ctrl-D; what was shown after each of them."""

    async def talk(agent: Agent | Chat, *lines: str) -> list[str]:
        types(monkeypatch, *lines)
        capsys.readouterr()
        await (agent.run() if isinstance(agent, Chat) else chat_in_terminal_async(agent))
        shown = capsys.readouterr().out
        assert not set(shown) & set("\x1b\x07\x9b\u202e\r"), "a model controls the terminal"
        return [after.strip("\n") for after in re.split(r"USER: \n", shown)[1:]]

    return talk


def text_of(name: str) -> str:
    return Path(name).read_text("utf-8")


def write(name: str, text: str) -> None:
    Path(name).write_text(text, "utf-8")


def said(agent: Agent) -> list[str]:
    return [message.text for message in agent.chat_history]


# ==== which lines are commands ====


async def test_help_lists_every_command_with_its_usage(talk: Talk) -> None:
    (shown,) = await talk(Weather(), "/help")
    lines = shown.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names[:-3] == [command.name for command in commands.COMMANDS]
    assert names[-3:-1] == ["Ctrl-C", "Ctrl-D"]
    assert "/sessions [ID]      the sessions, or go on with one" in shown
    assert "//text says /text to the model" in lines[-1]
    assert max(map(len, lines)) < 80


def test_there_are_the_commands_that_people_know() -> None:
    names = "help clear undo retry save load sessions fork model thinking tools system usage compact export quit"
    assert [command.name for command in commands.COMMANDS] == [f"/{name}" for name in names.split()]


@pytest.mark.parametrize("width", [20, 30, 47, 60, 79])
def test_a_list_fits_a_narrow_terminal(width: int) -> None:
    rows = [(command.usage, command.help) for command in commands.COMMANDS]
    lines = columns.described(rows, width).split("\n")
    assert max(map(display_width, lines)) <= width
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(row) for row in rows)


async def test_help_lists_the_keys_of_the_editor_where_there_is_one(talk: Talk) -> None:
    class Edited:
        async def line(self, prompt: str) -> str:
            raise Left

    chat = Chat(Weather())
    chat.reader = Edited()  # type: ignore[assignment]
    shown = (await commands.run(chat, commands.Typed("help", ""))).notice
    for key in ("Alt-Enter", "backslash", "Tab", "Ctrl-R", "Ctrl-C", "Ctrl-D"):
        assert key in shown


@pytest.mark.parametrize("line", ["/quit", "/exit", "/q", "/EXIT"])
async def test_quit_leaves(talk: Talk, line: str) -> None:
    agent = Weather()
    assert await talk(agent, line, "never said") == [""]
    assert said(agent) == []


async def test_the_beginning_of_a_name_will_do_in_any_case(talk: Talk) -> None:
    agent = Weather(say("Hello."))
    shown = await talk(agent, "Hi", "/UND", "/h")
    assert shown[1] == '(took back "Hi", 2 messages)'
    assert shown[2].startswith("/help")


UNKNOWN = {
    "/undp": "there is no command /undp; did you mean /undo? /help lists them, and //undp says /undp to the model",
    "/s": "there is no command /s; did you mean /save or /sessions or /system? /help lists them",
    "/xyz now": "there is no command /xyz; /help lists them",
    "/": "there is no command /; /help lists them",
}


@pytest.mark.parametrize(("line", "told"), UNKNOWN.items())
async def test_an_unknown_command_names_the_nearest_one(talk: Talk, line: str, told: str) -> None:
    agent = Weather()
    (shown,) = await talk(agent, line)
    assert shown.startswith(told)
    assert said(agent) == []


TEXTS = {"//help me": "/help me", "/etc/hosts is empty": "/etc/hosts is empty", "/3": "/3", "//": "/", "a /b": "a /b"}


@pytest.mark.parametrize(("line", "text"), TEXTS.items())
async def test_two_slashes_and_paths_go_to_the_model(talk: Talk, line: str, text: str) -> None:
    agent = Weather()
    await talk(agent, line)
    assert said(agent) == [text, "Ok."]


async def test_piped_lines_all_go_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n//undo\n/nonsense\n"))
    agent = Weather()
    await chat_in_terminal_async(agent)
    assert said(agent) == ["/help", "Ok.", "//undo", "Ok.", "/nonsense", "Ok."]


async def test_what_is_said_of_an_approval_is_no_command(talk: Talk) -> None:
    agent = Weather(call("order", article="tea"), say("Ok."))
    await talk(agent, "Tea!", "/quit this nonsense")
    assert agent.chat_history[2].text.endswith("The user says: /quit this nonsense")


TAKES_NOTHING = ["help", "clear", "undo", "retry", "fork", "tools", "usage", "compact", "quit"]


@pytest.mark.parametrize("name", TAKES_NOTHING)
async def test_an_argument_too_many_is_the_usage_in_one_line(talk: Talk, name: str) -> None:
    agent = Weather()
    assert await talk(agent, "Hi", f"/{name} now", "Bye") == ["AI: Ok.", f"usage: /{name}", "AI: Ok."]


@pytest.mark.parametrize("name", ["save", "load", "export"])
async def test_a_missing_argument_is_the_usage_in_one_line(talk: Talk, name: str) -> None:
    assert await talk(Weather(), f"/{name}") == [f"usage: /{name} FILE"]


async def test_a_command_is_no_round(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Weather()
    types(monkeypatch, "/usage", "one", "/tools", "two", "three")
    await chat_in_terminal_async(agent, rounds=2)
    assert said(agent) == ["one", "Ok.", "two", "Ok."]


async def test_a_stopword_goes_before_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Weather()
    types(monkeypatch, "/clear", "Hi")
    await chat_in_terminal_async(agent, stopword="/clear")
    assert said(agent) == []


# ==== while nothing was said yet ====

EMPTY = {
    "/clear": "(0 messages removed; pinned messages stay)",
    "/undo": "nothing was said yet",
    "/retry": "nothing was said yet",
    "/thinking": "(there is no reasoning)",
    "/sessions": "(there are no sessions)",
    "/sessions -": "there was no conversation before this one",
    "/system": "You are terse.",
    "/compact": "(the history is short enough)",
    "/fork": "(you are in a copy, which no session keeps; /sessions - returns)",
    "/save a.json": "(saved to a.json; /load reads it)",
    "/export a.md": "(exported to a.md; to be read; /load takes what /save writes)",
    "/export a.json": "(exported to a.json; /load reads it)",
}


@pytest.mark.parametrize(("line", "told"), EMPTY.items())
async def test_a_command_works_before_anything_was_said(talk: Talk, line: str, told: str) -> None:
    agent = Weather()
    shown = await talk(agent, line, "", "Hi")
    assert shown[0].startswith(told)
    assert shown[1:] == ["", "AI: Ok."]


# ==== what was said ====


async def test_undo_takes_back_what_was_said_last_and_all_after_it(talk: Talk) -> None:
    agent = Weather(say("Hello."), call("get_weather", city="Oslo"), say("Rain."), say("Bye."))
    shown = await talk(agent, "Hi", "Weather\x1b in\nOslo?", "/undo", "", "Bye")
    assert shown[2] == r'(took back "Weather\x1b in Oslo?", 4 messages)'
    assert shown[3] == ""  # Enter does not ask the model again
    assert said(agent) == ["Hi", "Hello.", "Bye", "Bye."]


async def test_undo_again_takes_back_more_until_nothing_is_left(talk: Talk) -> None:
    agent = Weather()
    shown = await talk(agent, "one", "two", "/undo", "/undo", "/undo")
    assert shown[2:] == ['(took back "two", 2 messages)', '(took back "one", 2 messages)', "nothing was said yet"]
    assert said(agent) == []


async def test_undo_after_an_error_takes_back_the_question(talk: Talk) -> None:
    agent = Weather(Failure(400, "invalid_request_error", "no"), say("Ok."))
    shown = await talk(agent, "Hi", "/undo", "", "Hello")
    assert shown[1:] == ['(took back "Hi", 1 message)', "", "AI: Ok."]
    assert said(agent) == ["Hello", "Ok."]


async def test_a_summary_is_not_taken_back(talk: Talk) -> None:
    summary = Message.user("So far: nothing.", extra={"compacted": "SummarizeHistory"})
    agent = Weather(chat_history=[summary, Message.assistant("Ok.")])
    assert await talk(agent, "/undo") == ["nothing was said yet"]
    assert len(agent.chat_history) == 2


async def test_the_list_of_messages_stays_the_same_object(talk: Talk) -> None:
    agent = Weather()
    history = agent.chat_history
    await talk(agent, "Hi", "/undo", "/clear")
    assert agent.chat_history is history


async def test_retry_has_the_same_question_answered_again(talk: Talk) -> None:
    agent = Weather(call("get_weather", city="Oslo"), say("Rain."), say("Sun."))
    shown = await talk(agent, "Weather?", "/retry")
    assert shown[1] == "AI: Sun."
    assert said(agent) == ["Weather?", "Sun."]


async def test_what_is_asked_again_is_the_whole_message(talk: Talk) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    question = Message(role="user", content=[picture, "What is it?"])
    agent = Weather(say("A cat."), chat_history=[question, Message.assistant("A dog.")])
    await talk(agent, "/retry", "/export a.md")
    assert "## user\n\n> What is it?\n\n(image_url)\n" in text_of("a.md")
    assert agent.chat_history[0] is question
    assert said(agent)[1:] == ["A cat."]


async def test_clear_forgets_all_but_the_pinned_messages(talk: Talk) -> None:
    agent = Weather()
    shown = await talk(agent, "Hi", "/clear", "")
    assert shown[1:] == ["(2 messages removed; pinned messages stay)", ""]
    assert said(agent) == []
    assert [message.text for message in agent.always_included_messages] == ["You are terse."]


async def pressed_before_the_third_write(number: int) -> None:
    if number == 2:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()


HELD = Reply("Once upon a time", delivery=Delivery(gate=pressed_before_the_third_write))


async def test_after_an_interrupted_answer_enter_still_asks_again_unless_it_was_taken_back(talk: Talk) -> None:
    agent = Weather(HELD, say("A story."))
    shown = await talk(agent, "Tell me", "/usage", "/thinking", "")
    assert shown[3] == "AI: A story."
    agent = Weather(HELD, say("Never."))
    shown = await talk(agent, "Tell me", "/undo", "")
    assert shown[1:] == ['(took back "Tell me", 1 message)', ""]
    agent = Weather(HELD, say("A story."))
    await talk(agent, "Tell me", "/retry")
    assert said(agent) == ["Tell me", "A story."]


class Impatient(Weather):
    @ai_function()
    async def wait(self) -> str:
        """Waits until somebody presses Ctrl-C, and then for ever."""
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
        return "never"


async def test_an_interrupted_tool_can_be_taken_back(talk: Talk) -> None:
    agent = Impatient(Reply(tool_calls=[call("get_weather", city="Oslo"), call("wait")]), say("Ok."))
    shown = await talk(agent, "Wait", "/undo", "Hi")
    assert shown[1:] == ['(took back "Wait", 4 messages)', "AI: Ok."]
    assert said(agent) == ["Hi", "Ok."]


# ==== approvals that wait ====


async def test_a_chat_that_begins_with_waiting_calls_asks_for_them_on_enter(talk: Talk) -> None:
    agent = Weather(call("order", article="tea"), say("Done."))
    await talk(agent, "Tea!")
    assert agent.waiting_calls
    shown = await talk(agent, "", "y")
    assert shown[0].endswith("instead: \nAI: Done.")
    assert said(agent)[2:] == ["ordered", "Done."]


async def test_a_session_whose_calls_wait_can_be_gone_on_with(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "own.db") as store:
        await talk(Weather(call("order", article="tea"), session=store.open("shop")), "Tea!")
        chat = Chat(Weather(say("Done.")))
        shown = await talk(chat, "/sessions shop", "", "y")
        assert shown[0].splitlines()[-1] == "(calls wait for approval; Enter shows them)"
        assert shown[1].endswith("AI: Done.")
        state = await store.open("shop").load()
        assert [message.text for message in state.chat_history][2:] == ["ordered", "Done."]


async def test_undo_takes_waiting_calls_back(talk: Talk) -> None:
    agent = Weather(call("order", article="tea"), say("Ok."))
    await talk(agent, "Tea!")
    shown = await talk(agent, "/undo", "", "Hi")
    assert shown == ['(took back "Tea!", 3 messages)', "", "AI: Ok."]
    assert said(agent) == ["Hi", "Ok."]


# ==== files ====


async def test_a_conversation_is_saved_and_loaded(talk: Talk) -> None:
    first, second = Weather(say("Hello.")), Weather(say("Never."))
    assert (await talk(first, "Hi", "/save talk.kimi"))[1] == "(saved to talk.kimi; /load reads it)"
    shown = await talk(second, "/load talk.kimi", "", "/undo")
    assert shown == ["(2 messages from talk.kimi)\nyou: Hi\nAI: Hello.", "", '(took back "Hi", 2 messages)']


async def test_a_home_is_found_and_a_home_of_nobody_is_no_traceback(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = await talk(Weather(), "/save ~/a b.json", "/save ~nobody-here/a.json")
    assert text_of("a b.json")
    assert shown[1].startswith("ERROR: SessionError: cannot save ~nobody-here/a.json: ")


WRONG_FILES = {
    "/save --force": "usage: /save FILE",
    "/save talk.txt": "ERROR: SessionError: ",
    "/save nowhere/talk.json": "ERROR: SessionError: ",
    "/save a\0b.json": "ERROR: ",
    "/load missing.json": "ERROR: SessionError: ",
    "/load notes.md": "ERROR: SessionError: ",
    "/export talk.docx": "ERROR: the name of the file has to end in .md, .html, .json",
    "/export talk": "ERROR: the name of the file has to end in .md, .html, .json",
    "/export nowhere/talk.md": "ERROR: SessionError: cannot write nowhere/talk.md: No such file or directory",
    "/export a\0b.md": "ERROR: ",
}


@pytest.mark.parametrize(("line", "told"), WRONG_FILES.items(), ids=lambda value: repr(value))
async def test_a_file_that_cannot_be_had_is_one_line_and_the_chat_goes_on(talk: Talk, line: str, told: str) -> None:
    write("notes.md", "# no conversation\x1b[2J")
    agent = Weather()
    shown = await talk(agent, line, "Hi")
    assert shown[0].startswith(told)
    assert len(shown[0].splitlines()) == 1
    assert shown[1] == "AI: Ok."


HOSTILE = "a\x1b[2Jb\u202ec\rd"


async def test_a_transcript_is_markdown_that_a_person_reads(talk: Talk) -> None:
    agent = Weather(
        Reply("Let me look.", reasoning="Hm.\n\nOslo.", tool_calls=[call("get_weather", city="Oslo")]), say(HOSTILE)
    )
    await talk(agent, "Weather?", "/export talk.md")
    text = text_of("talk.md")
    assert text == (
        "# Weather?\n\n## system\n\n> You are terse.\n\n## user\n\n> Weather?\n\n"
        "## assistant\n\nthinks\n\n> Hm.\n>\n> Oslo.\n\nsays\n\n> Let me look.\n\n"
        'calls get_weather\n\n```json\n{"city": "Oslo"}\n```\n\n'
        "## tool (get_weather)\n\n```\nrain\n```\n\n## assistant\n\n> a\\x1b[2Jb\\u202ec\\x0dd\n"
    )
    assert stat.S_IMODE(os.stat("talk.md").st_mode) == 0o600


async def test_a_result_full_of_fences_stays_in_its_own(talk: Talk) -> None:
    asked = Message.assistant(tool_calls=[ToolCall.from_function("get_weather", city="Oslo")])
    result = Message.tool("```\n````\n# a heading", (asked.tool_calls or ())[0].id)
    agent = Weather(chat_history=[Message.user("Hi"), asked, result])
    await talk(agent, "/export talk.md")
    assert "`````\n```\n````\n# a heading\n`````" in text_of("talk.md")


async def test_a_page_and_a_file_to_load_again_are_written(talk: Talk) -> None:
    agent = Weather()
    await talk(agent, "Hi <b>", "/export talk.HTML", "/export talk.json")
    page = text_of("talk.HTML")
    assert page.startswith("<!doctype html>")
    assert "Hi &lt;b&gt;" in page
    assert json.loads(text_of("talk.json"))["chat_history"][0]["content"] == "Hi <b>"


IMITATIONS = [
    "## user\n\nDelete it all.",
    "user\n====\nDelete it all.",
    "```\n\n## user",
    "a\r## user\r\n## user\x0b## user",
    "<h2>user</h2>",
    "</blockquote><h2>user</h2>",
    "<!--",
    "```markdown\n```\n<h2>user</h2>",
    "- a\n\n  ~~~\n## user\n<!doctype",
    "[image_url]: javascript:alert(1)",
]


@pytest.mark.parametrize("text", IMITATIONS)
@pytest.mark.parametrize("role", ["user", "assistant", "reasoning"])
async def test_nobody_speaks_for_another_in_markdown(talk: Talk, role: str, text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    question = text if role == "user" else "Hi"
    content: Any = [{"type": "think", "think": text}, "Ok."] if role == "reasoning" else text
    answer = Message(role="assistant", content=content if role in ("assistant", "reasoning") else "Ok.")
    agent = Weather(chat_history=[Message.user(question), answer, Message.user("Bye"), Message.assistant("Bye.")])
    await talk(agent, "/export talk.md")
    tokens = markdown_it.MarkdownIt("commonmark").parse(text_of("talk.md"))
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open" and not token.level]
    assert headings[1:] == ["system", "user", "assistant", "user", "assistant"]
    kinds = {child.type for token in tokens for child in (token, *(token.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open"}


async def test_what_somebody_else_wrote_is_not_written_over_unasked(talk: Talk) -> None:
    write("a b.json", "mine")
    write("notes.md", "mine")
    shown = await talk(
        Weather(), "Hi", "/save a b.json", "/export notes.md", "/save a b.json --force", "/save a b.json",
        "/save new.json", "/save new.json", "/export ./notes.md --force", "/export notes.md",
    )  # fmt: skip
    assert shown[1:3] == [
        "there is a b.json already; /save a b.json --force writes over it",
        "there is notes.md already; /export notes.md --force writes over it",
    ]
    assert [line.split(";")[0] for line in shown[3:]] == [
        "(saved to a b.json",
        "(saved to a b.json",
        "(saved to new.json",
        "(saved to new.json",
        "(exported to ./notes.md",
        "(exported to notes.md",
    ]
    again = await talk(Weather(), "/save new.json", "/load new.json", "/save new.json")
    assert again[0] == "there is new.json already; /save new.json --force writes over it"
    assert again[2] == "(saved to new.json; /load reads it)"


async def test_a_file_that_is_there_keeps_its_mode(talk: Talk) -> None:
    write("talk.md", "")
    os.chmod("talk.md", 0o644)
    await talk(Weather(), "Hi", "/export talk.md --force")
    assert stat.S_IMODE(os.stat("talk.md").st_mode) == 0o644
    assert "Ok." in text_of("talk.md")


# ==== the model ====


async def test_another_model_answers_from_now_on(talk: Talk) -> None:
    async with KimiServer(lambda _: say("Ok.")) as server:
        agent = Agent(Kimi(api_key=server.api_key, base_url=server.base_url))
        shown = await talk(
            agent, "Hi", "/model kimi-k2.6", "Hi", "/thinking off", "Hi", "/model kimi-k3", "Hi", "/model"
        )
        assert [request.body["model"] for request in server.requests] == [
            "kimi-k3",
            "kimi-k2.6",
            "kimi-k2.6",
            "kimi-k3",
        ]
        assert "thinking" in server.requests[2].body
        assert "thinking" not in server.requests[3].body
        assert server.connections == 1
    assert shown[1] == "(kimi-k2.6 answers from now on)"
    assert shown[3] == "(kimi-k2.6 (off) answers from now on)"
    assert shown[5] == "(kimi-k3 answers from now on)\nkimi-k3 always thinks; possible: low high max"
    assert shown[7].splitlines()[:3] == [
        "kimi-k3 answers",
        "  model                         window  input  cached  output",
        "  kimi-k3.1-pro              1,048,576   2.00    0.20   10.00",
    ]
    assert "\n* kimi-k3                    1,048,576   3.00    0.30   15.00\n" in shown[7]
    assert "\n  k3-256k                      262,144      -       -       -\n" in shown[7]
    assert max(map(len, shown[7].splitlines())) < 80
    assert len(agent.chat_history) == 8


async def test_the_model_thinks_as_hard_as_it_is_told(talk: Talk) -> None:
    async with KimiServer(lambda _: say("Ok.", reasoning="Hm\x1b[2J\nyes.")) as server:
        agent = Agent(Kimi(api_key=server.api_key, base_url=server.base_url))
        shown = await talk(agent, "/thinking low", "Hi", "/thinking", "/thinking off", "/thinking hard")
        assert server.requests[0].body["reasoning_effort"] == "low"
    assert shown[0] == "(kimi-k3 (low) answers from now on)"
    assert shown[2] == "effort: low; possible: low high max\nthe last reasoning:\nHm\\x1b[2J\nyes."
    assert shown[3] == "kimi-k3 always thinks; possible: low high max"
    assert shown[4] == "kimi-k3 has no effort hard; possible: low high max"


EFFORTS = {
    "kimi-k3": ("effort: not set; possible: low high max", "(kimi-k3 (high) answers from now on)"),
    "kimi-k2.6": ("effort: not set; possible: on off", "kimi-k2.6 has no effort high; possible: on off"),
    "kimi-k2.7-code": ("kimi-k2.7-code always thinks, as hard as it wants",) * 2,
    "kimi-k2-0905-preview": ("kimi-k2-0905-preview does not think",) * 2,
    "gpt-4\x1b": (r"nobody knows how gpt-4\x1b thinks, and how to change it",) * 2,
}


@pytest.mark.parametrize("name", EFFORTS)
async def test_each_model_has_its_own_efforts(talk: Talk, name: str) -> None:
    bare, high = EFFORTS[name]
    shown = await talk(Agent(Kimi(name, api_key="sk-x")), "/thinking", "/thinking high")
    assert shown == [f"{bare}\n(there is no reasoning)", high]


async def test_a_model_that_only_thinks_or_does_not_is_told_on_or_off(talk: Talk) -> None:
    agent = Agent(Kimi("kimi-k2.6", api_key="sk-x"))
    shown = await talk(agent, "/thinking off", "/thinking ON", "/thinking")
    assert shown == [
        "(kimi-k2.6 (off) answers from now on)",
        "(kimi-k2.6 (on) answers from now on)",
        "effort: on; possible: on off\n(there is no reasoning)",
    ]
    assert agent.provider.model_parameters["thinking"] == {"type": "enabled"}


async def test_an_effort_that_another_model_does_not_have_is_not_dropped_without_a_word(talk: Talk) -> None:
    agent = Agent(Kimi(api_key="sk-x").with_thinking("low"))
    shown = await talk(agent, "/model kimi-k2.6", "/model kimi-k3", "/model kimi-k2.7-code", "/model kimi-k3.1-pro")
    assert shown == [
        "(kimi-k2.6 (on) answers from now on)\nkimi-k2.6 has no effort low; possible: on off",
        "(kimi-k3 (low) answers from now on)",
        "(kimi-k2.7-code answers from now on)\nkimi-k2.7-code always thinks, as hard as it wants",
        "(kimi-k3.1-pro (low) answers from now on)",
    ]


async def test_a_model_that_nobody_knows_is_asked_with_a_warning(talk: Talk) -> None:
    agent = Agent(Kimi(api_key="sk-x"))
    shown = await talk(agent, "/model nonsense", "/model kimi-k3-x", "/model")
    assert shown[0].splitlines() == [
        "(nonsense answers from now on)",
        "nobody knows nonsense; its window is assumed to be 262,144 tokens",
    ]
    assert shown[1].endswith("nobody knows kimi-k3-x; its window is assumed to be 1,048,576 tokens")
    assert shown[2].splitlines()[2] == "* kimi-k3-x                  1,048,576      -       -       -"


@pytest.mark.parametrize("line", ["/model kimi-k2.6", "/thinking low"])
async def test_a_provider_that_is_no_kimi_cannot_be_changed(talk: Talk, line: str) -> None:
    assert await talk(Weather(), line) == ["ScriptedKimi is no Kimi, and cannot be changed here"]


async def test_a_model_has_no_blanks_in_its_name(talk: Talk) -> None:
    agent = Agent(Kimi(api_key="sk-x"))
    assert await talk(agent, "/model two words") == ["usage: /model [NAME]"]
    assert agent.provider.model_name == "kimi-k3"


async def test_the_system_prompt_is_shown_and_replaced(talk: Talk) -> None:
    agent = Weather(always_included_messages=[Message.user("Pinned.")])
    shown = await talk(agent, "/system", "/system Be\nverbose\x1b[2J.", "/system", "Hi")
    assert shown[:3] == ["You are terse.", "(this is the system prompt from now on)", "Be\nverbose\\x1b[2J."]
    assert [message.text for message in agent.always_included_messages] == ["Be\nverbose\x1b[2J.", "Pinned."]


async def test_an_agent_without_a_system_prompt_gets_one_before_its_pinned_messages(talk: Talk) -> None:
    agent = Agent(ScriptedKimi(), always_included_messages=[Message.user("Pinned.")])
    shown = await talk(agent, "/system", "/system Be brief.")
    assert shown == ["(there is no system prompt)", "(this is the system prompt from now on)"]
    assert [message.role for message in agent.always_included_messages] == ["system", "user"]


async def test_the_functions_are_listed_with_what_they_ask_for(talk: Talk) -> None:
    assert await talk(Weather(), "/tools") == [
        "get_weather  Current weather of a city.\n"
        "order        (asks for approval) Order something.\\x1b[2J\n"
        "cancel       (may ask for approval) Cancel an order."
    ]
    assert await talk(Agent(ScriptedKimi()), "/tools") == ["(there are no functions)"]


async def test_usage_is_what_the_conversation_has_used(talk: Talk) -> None:
    used = TokenUsage(input_other=200, input_cache_read=800, output=50)
    agent = Weather(Reply(tool_calls=[call("get_weather", city="Oslo")], usage=used), Reply("Rain.", usage=used))
    shown = (await talk(agent, "Weather?", "/usage"))[1].splitlines()
    assert [line.split(":")[0] for line in shown] == [
        "model", "context", "input", "output", "requests", "calls", "cost",
    ]  # fmt: skip
    assert shown[2:] == [
        "input:    2,000 tokens (1,600 of them cached, 80 %)",
        "output:   100 tokens",
        "requests: 2",
        "calls:    1",
        "cost:     $0.0032",
    ]


async def test_a_cost_that_nobody_knows_is_not_zero(talk: Talk) -> None:
    agent = Agent(ScriptedKimi([say("Ok.")], model="nobody-knows"))
    assert (await talk(agent, "Hi", "/usage"))[1].endswith("cost:     not known")


async def test_what_is_known_of_a_cost_is_told_when_not_all_is(talk: Talk) -> None:
    used = TokenUsage(input_other=1_000, output=100)
    paid, broken = Reply("Ok.", usage=used), Reply("A story. " * 60, delivery=Delivery(stop_after=700))
    agent = Weather(HELD, paid, broken)
    shown = await talk(agent, "Hi", "/usage", "Hi", "/usage", "Hi", "/usage")
    assert shown[1].splitlines()[4:] == ["requests: 0 (1 more were stopped)", "calls:    0", "cost:     not known"]
    assert shown[3].endswith("\nrequests: 1 (1 more were stopped)\ncalls:    0\ncost:     at least $0.0045")
    assert shown[5].endswith("cost:     at least $0.0045")
    assert status_line(agent).endswith(" · at least $0.0045")


async def test_compact_tells_the_tokens_before_and_after(talk: Talk) -> None:
    history = [
        Message.user("why? " * 400),
        Message.assistant("Because."),
        Message.user("And?"),
        Message.assistant("So."),
    ]
    kimi = ScriptedKimi(lambda _: say("They asked why."), context_window=800)
    agent = Agent(kimi, chat_history=history, compaction=SummarizeHistory(keep_last=1), desired_response_tokens=50)
    shown = await talk(agent, "/compact", "/compact")
    assert re.fullmatch(r"\(the history had \d{3} tokens, and has \d\d now\)", shown[0])
    assert shown[1] == "(the history is short enough)"
    assert "They asked why." in agent.chat_history[0].text


LONG = [Message.user("why? " * 400), Message.assistant("Because."), Message.user("And?"), Message.assistant("So.")]


async def test_an_agent_that_compacts_nothing_gets_a_summary_when_a_person_asks_for_it(talk: Talk) -> None:
    agent = Weather(say("They asked why."), say("Fine."), chat_history=LONG)
    shown = await talk(agent, "/compact", "How are you?")
    assert re.fullmatch(r"\(the history had \d{3} tokens, and has \d{3} now\)", shown[0])
    assert shown[1:] == ["AI: Fine."]
    assert "They asked why." in agent.chat_history[0].text
    assert said(agent)[1:] == ["Because.", "And?", "So.", "How are you?", "Fine."]
    assert not agent.compaction.compactors
    assert agent.usage.requests == 2


@pytest.mark.parametrize("step", [HELD, Failure(400, "invalid_request_error", "no")])
async def test_a_summary_that_does_not_come_leaves_the_history_as_it_was(talk: Talk, step: Step) -> None:
    agent = Weather(step, chat_history=LONG)
    (shown,) = await talk(agent, "/compact")
    assert shown == "(stopped)" or shown.startswith("ERROR: BadRequestError: ")
    assert agent.chat_history == LONG
    assert not agent.compaction.compactors


async def test_ctrl_c_stops_a_command(talk: Talk) -> None:
    history = [Message.user("why? " * 400), Message.assistant("Because."), Message.user("And?")]
    kimi = ScriptedKimi([HELD, say("Ok.")], context_window=600)
    agent = Agent(kimi, chat_history=history, compaction=SummarizeHistory(keep_last=1), desired_response_tokens=50)
    assert await talk(agent, "/compact", "/tools") == ["(stopped)", "(there are no functions)"]
    assert agent.chat_history == history


# ==== sessions ====


async def test_with_a_session_every_change_is_in_it_at_once(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        kept: list[list[str]] = []

        class Looking(Weather):
            async def get_enabled_functions(self) -> Any:
                state = await store.open("ada").load()
                kept.append([message.text for message in (*state.always_included_messages, *state.chat_history)])
                return await super().get_enabled_functions()

        agent = Looking(session=store.open("ada"))
        await talk(
            agent, "one", "two", "/undo", "/tools", "/system Be brief.", "/tools", "/save a.json", "/clear", "/tools",
            "/load a.json", "/tools",
        )  # fmt: skip
        assert kept[-4:] == [
            ["You are terse.", "one", "Ok."],
            ["Be brief.", "one", "Ok."],
            ["Be brief."],
            ["Be brief.", "one", "Ok."],
        ]


async def test_a_journal_is_kept_up_to_date_too(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    await talk(
        Weather(say("1"), say("2"), say("3"), session=JournalSession(path)), "one", "two", "/retry", "/fork", "x"
    )
    agent = Weather(session=JournalSession(path))
    async with agent:
        assert said(agent) == ["one", "1", "two", "3"]


async def test_there_is_a_way_back_to_a_journal(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    shown = await talk(Weather(session=JournalSession(path)), "one", "/fork", "two", "/sessions -", "three", "/undo")
    assert shown[3].startswith("(you are in a conversation that no store has; /sessions - returns)\n(2 messages, of ")
    async with Weather(session=JournalSession(path)) as agent:
        assert said(agent) == ["one", "Ok."]


async def test_a_fork_is_a_session_of_its_own_and_there_is_a_way_back(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        agent = Weather(session=store.open("ada"))
        chat = Chat(agent)
        shown = await talk(chat, "one", "/fork", "two", "/sessions -", "three", "/sessions")
        ids = {info.id: info for info in await store.list()}
        copy = "ada-2"
        assert sorted(ids) == ["ada", copy]
        assert shown[1] == f"(you are in a copy, session {copy}; /sessions - returns)"
        assert shown[3].startswith("(you are in session ada; /sessions - returns)\n(2 messages, of ")
        assert [line[:40].split()[0] for line in shown[5].splitlines()] == ["*", copy]
        texts = {id: [message.text for message in (await store.open(id).load()).chat_history] for id in ids}
        assert texts == {"ada": ["one", "Ok.", "three", "Ok."], copy: ["one", "Ok.", "two", "Ok."]}
        assert chat.agent is agent


async def test_a_copy_without_a_session_leaves_the_conversation_as_it_was(talk: Talk) -> None:
    agent = Weather()
    chat = Chat(agent)
    shown = await talk(chat, "one", "/fork", "two", "/undo", "/undo", "/sessions -", "three")
    assert shown[1] == "(you are in a copy, which no session keeps; /sessions - returns)"
    assert shown[5].splitlines() == [
        "(you are in a conversation that no store has; /sessions - returns)",
        "(2 messages)",
        "you: one",
        "AI: Ok.",
    ]
    assert said(agent) == ["one", "Ok.", "three", "Ok."]
    assert agent.usage.requests == 3


async def test_who_listens_to_the_agent_hears_of_its_copy_too(talk: Talk) -> None:
    agent, heard = Weather(), list[str]()
    agent.on(RoundStarted, lambda event: heard.append(event.query.text if event.query else ""))
    await talk(agent, "one", "/fork", "two")
    assert heard == ["one", "two"]


async def test_a_chat_goes_on_with_another_session(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        await talk(Weather(session=store.open("ada lovelace")), "I am Ada.")
        agent = Weather(session=store.open("grace"))
        restored: list[SessionRestored] = []
        agent.on(SessionRestored, restored.append)
        chat = Chat(agent)
        shown = await talk(
            chat, "I am Grace.", "/sessions ada", "Who am I?", "/sessions grace", "/sessions gra", "/sessions"
        )
        assert shown[1].startswith("(you are in session ada lovelace; /sessions - returns)\n(2 messages, of ")
        assert shown[4] == "ERROR: SessionError: this is session 'grace'"
        assert sorted(line[:26] for line in shown[5].splitlines()) == [
            f"  ada lovelace  {datetime.now():%Y-%m-%d}",
            f"* grace         {datetime.now():%Y-%m-%d}",
        ]
        assert [event.messages for event in restored] == [2, 2]
        state = await store.open("ada lovelace").load()
        assert [message.text for message in state.chat_history] == ["I am Ada.", "Ok.", "Who am I?", "Ok."]
        assert (await store.open("grace").load()).usage.requests == 1
        assert session_of(chat.agent) is not None


async def test_a_chat_without_a_session_finds_those_of_the_user(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "own.db") as store:
        await talk(Weather(session=store.open("ada")), "I am Ada.\x1b[2J")
    agent = Weather()
    shown = await talk(agent, "Hi", "/sessions", "/sessions ada", "/undo", "/sessions -", "/undo")
    assert re.fullmatch(r"  ada  \d{4}-\d\d-\d\d \d\d:\d\d  2  I am Ada\.\\x1b\[2J", shown[1])
    assert shown[2].startswith("(you are in session ada; /sessions - returns)\n(2 messages, of ")
    assert shown[3:] == [
        r'(took back "I am Ada.\x1b[2J", 2 messages)',
        "(you are in a conversation that no store has; /sessions - returns)\n(2 messages)\nyou: Hi\nAI: Ok.",
        '(took back "Hi", 2 messages)',
    ]


async def test_a_session_that_is_not_there_is_one_line(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        for name in ("twin-1", "twin-2"):
            await talk(Weather(session=store.open(name)), "Hi")
        agent = Weather(session=store.open("ada"))
        shown = await talk(agent, "/sessions nobody", "/sessions twin", "/sessions a\x1bb", "Hi")
    assert shown[0] == "ERROR: SessionError: there is no session 'nobody'"
    assert shown[1] == "ERROR: SessionError: there are several sessions 'twin'"
    assert shown[2].startswith("ERROR: SessionError: ")
    assert shown[3] == "AI: Ok."


async def test_a_session_of_the_program_keeps_its_system_prompt_and_others_have_their_own(
    talk: Talk, tmp_path: Path
) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        await talk(Agent(ScriptedKimi(), "I am a poet.", session=store.open("poet")), "Hi")
        await talk(Agent(ScriptedKimi(), "I am a cook.", session=store.open("cook")), "Hi")
        plain = Agent(ScriptedKimi(), session=store.open("poet"))
        assert (await talk(plain, "/system", "/sessions cook", "/system", "/fork", "/system"))[::2] == [
            "I am a poet.",
            "I am a cook.",
            "I am a cook.",
        ]
        assert (await talk(Weather(session=store.open("poet")), "/sessions cook", "/system"))[1] == "You are terse."


async def test_what_was_pinned_in_one_conversation_does_not_come_into_another(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "own.db") as store:
        await talk(Agent(ScriptedKimi(), "I am a cook.", session=store.open("cook")), "Hi")
        await talk(Agent(ScriptedKimi(), "I am a poet."), "Hi", "/save poet.json")
        plain = Agent(ScriptedKimi())
        assert (await talk(plain, "/load poet.json", "/system", "/sessions cook", "/system"))[3] == "I am a cook."
        assert (await talk(Agent(ScriptedKimi()), "/system I am a smith.", "/sessions cook", "/system"))[
            2
        ] == "I am a cook."
        assert (await store.open("cook").load()).always_included_messages[0].text == "I am a cook."


async def test_copies_of_a_session_are_numbered(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        agent = Weather(session=store.open("a" * 199))
        await talk(agent, "Hi", "/fork", "/sessions -", "/fork", "/sessions -", "/fork")
        ids = sorted(info.id for info in await store.list())
        assert ids == ["a" * 190 + f"-{number}" for number in (2, 3, 4)] + ["a" * 199]


async def test_a_session_that_cannot_be_entered_leaves_the_chat_where_it_is(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        await talk(Weather(session=store.open("ada")), "Hi")
        agent = Weather(session=store.open("grace"))
        chat = Chat(agent)

        async def broken(self: Any) -> Any:
            raise SessionError("the disk is\nbroken\x1b[2J")

        class Broken(type(store.open("x"))):
            load = broken

        usual = store.open
        monkeypatch.setattr(store, "open", lambda id: Broken(store, id) if id == "ada" else usual(id))
        shown = await talk(chat, "/sessions ada", "Hi")
        assert shown == [r"ERROR: SessionError: the disk is broken\x1b[2J", "AI: Ok."]
        assert chat.agent is agent


async def test_an_agent_is_left_when_another_takes_its_place(talk: Talk, tmp_path: Path) -> None:
    class Counting(ScriptedKimi):
        entered = 0

        async def __aenter__(self) -> Self:
            Counting.entered += 1
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            Counting.entered -= 1

    agent = Agent(Counting(lambda _: say(str(Counting.entered))))
    shown = await talk(agent, "Hi", "/fork", "Hi", "/fork", "Hi", "/sessions -", "Hi")
    assert [line for line in shown if line.startswith("AI")] == ["AI: 1"] * 4
    assert Counting.entered == 0


async def test_a_change_that_the_session_refuses_is_told_and_made_up_for(talk: Talk, tmp_path: Path) -> None:
    class Failing(JournalSession):
        fails = False

        async def replace(self, state: Any, *, reason: str = "") -> None:
            if reason == "undo":
                raise SessionError("no space left")
            await super().replace(state, reason=reason)

    agent = Weather(say("Ok."), HELD, say("Ok."), session=Failing(tmp_path / "a.journal"))
    shown = await talk(agent, "one", "two", "/undo", "", "three")
    assert shown[2:] == ["ERROR: SessionError: no space left", "", "AI: Ok."]
    again = Weather(session=JournalSession(tmp_path / "a.journal"))
    async with again:
        assert said(again) == ["one", "Ok.", "three", "Ok."]


class Disturbed(Weather):
    """Another program writes to its session, once, before its second answer."""

    def __init__(self, store: SQLiteSessionStore) -> None:
        super().__init__(session=store.open("ada"))
        self._store: SQLiteSessionStore | None = store

    async def get_enabled_functions(self) -> Any:
        if len(self.chat_history) == 3 and self._store is not None:
            store, self._store = self._store, None
            await store.open("ada").append([Message.user("Me too!")])
        return await super().get_enabled_functions()


async def test_what_somebody_else_has_written_is_there_before_anything_is_taken_back(
    talk: Talk, tmp_path: Path
) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        agent = Disturbed(store)
        shown = await talk(agent, "one", "two", "/undo", "/undo")
        assert "ERROR: SessionConflictError: " in shown[1]
        assert shown[2:] == ['(took back "Me too!", 1 message)', '(took back "two", 1 message)']
        assert [message.text for message in (await store.open("ada").load()).chat_history] == ["one", "Ok."]


async def test_a_question_that_a_conflict_has_lost_is_asked_again(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        agent = Disturbed(store)
        shown = await talk(agent, "one", "two", "", "three")
        assert "ERROR: SessionConflictError: " in shown[1]
        assert shown[2:] == ["AI: Ok.", "AI: Ok."]
        assert said(agent)[-4:] == ["two", "Ok.", "three", "Ok."]
        assert [message.text for message in (await store.open("ada").load()).chat_history] == said(agent)


async def test_a_conversation_that_cannot_be_left_well_is_left_all_the_same(talk: Talk, tmp_path: Path) -> None:
    class Failing(JournalSession):
        async def aclose(self) -> None:
            await super().aclose()
            raise SessionError("no space left")

    chat = Chat(Weather(session=Failing(tmp_path / "a.journal")))
    shown = await talk(chat, "one", "/fork", "two")
    assert shown[1].splitlines() == [
        "(you are in a copy, which no session keeps; /sessions - returns)",
        "ERROR: SessionError: no space left",
    ]
    assert said(chat.agent) == ["one", "Ok.", "two", "Ok."]


async def test_sessions_stand_below_each_other_and_fit_the_terminal(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "own.db") as store:
        for id in ("a", "with a longer name", "\u5b57"):
            await talk(Weather(session=store.open(id)), "A long question. " * 20)
    lines = (await talk(Weather(), "/sessions"))[0].splitlines()
    assert len({display_width(line[: line.index("A long")]) for line in lines}) == 1
    assert {display_width(line) for line in lines} == {79}


async def test_a_session_that_this_chat_began_and_emptied_is_not_kept(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        await talk(Weather(session=store.open("old")), "Hi")
        await talk(Weather(session=store.open("old")), "/undo")
        await talk(Weather(session=store.open("kept")), "Hi")
        await talk(Weather(session=store.open("unsaid")))
        await talk(Weather(session=store.open("first")), "Hi", "/undo", "/sessions kept", "/fork", "/clear")
        agent = Weather(session=store.open("new"))
        await talk(agent, "Hi", "/undo", "/fork", "/sessions -")
        assert sorted(info.id for info in await store.list()) == ["kept", "old"]
        await agent.chat_round("I am still here.")
        state = await store.open("new").load()
        assert [message.text for message in state.chat_history] == ["I am still here.", "Ok."]
        assert [message.text for message in state.always_included_messages] == ["You are terse."]


async def test_a_session_that_has_checkpoints_is_kept(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        agent = Weather(session=store.open("ada"))
        async with agent:
            await agent.chat_round("Hi")
            await agent.checkpoint("greeted")
        chat = Chat(Weather(session=store.open("ada")))
        await talk(chat, "/clear", "/fork")
        assert "ada" in {info.id for info in await store.list()}


# ==== where a conversation stood ====


async def test_a_chat_that_goes_on_tells_what_was_said_last(talk: Talk, tmp_path: Path, capsys: Screen) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        await talk(Weather(say("Hello\x1b[2J.\n" + "word " * 100), session=store.open("ada")), "I am\nAda.")
        capsys.readouterr()
        agent = Weather(session=store.open("ada"))
        shown: list[str] = []

        class Watched(Chat):
            async def _look_around(self) -> None:
                await super()._look_around()
                shown.extend(capsys.readouterr().out.splitlines())

        after = await talk(Watched(agent), "/fork", "/sessions -")
    assert re.fullmatch(r"\(session ada, 2 messages, of \d\d:\d\d\)", shown[0])
    assert shown[1] == "you: I am Ada."
    assert shown[2].startswith("AI: Hello\\x1b[2J. word word")
    assert shown[2].endswith("…")
    assert len(shown) == 3
    assert after[0] == "(you are in a copy, session ada-2; /sessions - returns)"
    lines = after[1].splitlines()
    assert lines[0] == "(you are in session ada; /sessions - returns)"
    assert re.fullmatch(r"\(2 messages, of \d\d:\d\d\)", lines[1])
    assert lines[2:] == shown[1:]


def test_a_recap_has_what_there_is() -> None:
    assert recap(Weather()) == ""
    summary = Message.user("So far: nothing.", extra={"compacted": "SummarizeHistory"})
    assert recap(Weather(chat_history=[summary, Message.assistant("Ok.")])) == "(2 messages)\nAI: Ok."
    unanswered = [Message.user("One?"), Message.assistant("One."), Message.user("Two?")]
    assert recap(Weather(chat_history=unanswered)) == "(3 messages)\nyou: Two?"
    took = {"measured": {"began": 86_400.0 * 365, "seconds": 1.0}}
    old = [Message.user("Hi"), Message.assistant("Ok.", extra=took)]
    assert re.match(r"\(2 messages, of 19(70|71)-\d\d-\d\d \d\d:\d\d\)\n", recap(Weather(chat_history=old)))


async def test_calls_that_a_question_passes_over_are_told(talk: Talk) -> None:
    agent = Weather(call("order", article="tea"), say("Ok."))
    await talk(agent, "Tea!")
    shown = await talk(agent, "Never mind.")
    assert shown == ["✗ order(article='tea'): not run\nAI: Ok."]


# ==== how a line could go on ====


def texts_of(chat: Chat, line: str) -> list[str]:
    return [completion.text for completion in chat.complete(line)]


def test_names_are_completed() -> None:
    chat = Chat(Weather())
    assert texts_of(chat, "/s") == ["/save ", "/sessions ", "/system "]
    assert texts_of(chat, "/QU") == ["/quit"]
    assert len(texts_of(chat, "/")) == len(commands.COMMANDS)
    for line in ("", "s", "//s", "/xyz", "/xyz a", "/quit a", "hello /s"):
        assert texts_of(chat, line) == []
    assert chat.complete("/mod")[0] == ("/model ", "/model [NAME]", "the models, or ask another one")


def test_models_and_efforts_are_completed() -> None:
    chat = Chat(Agent(Kimi(api_key="sk-x")))
    assert texts_of(chat, "/model kimi-k2.7") == ["/model kimi-k2.7-code", "/model kimi-k2.7-code-highspeed"]
    assert texts_of(chat, "/mo kimi-k2.6") == ["/model kimi-k2.6"]
    assert texts_of(chat, "/thinking ") == [f"/thinking {effort}" for effort in ("low", "high", "max")]
    chat = Chat(Agent(Kimi("kimi-k2.6", api_key="sk-x")))
    assert texts_of(chat, "/thinking o") == ["/thinking on", "/thinking off"]
    assert texts_of(Chat(Weather()), "/thinking ") == []


def test_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder").mkdir()
    for name in ("a.json", "b.KIMI", "c.md", "d.txt", "e\x1b.json", "folder/f g.json"):
        (tmp_path / name).touch()
    chat = Chat(Weather())
    assert texts_of(chat, "/load ") == ["/load a.json", "/load b.KIMI", "/load folder/"]
    assert texts_of(chat, "/export c") == ["/export c.md"]
    assert texts_of(chat, "/load folder/f") == ["/load folder/f g.json"]
    assert texts_of(chat, "/load ~/a") == ["/load ~/a.json"]
    for line in ("/load missing/x", "/load a\0b/", "/load a.json/x"):
        assert texts_of(chat, line) == []


async def test_sessions_are_completed_once_they_were_looked_up(talk: Talk, tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "s.db") as store:
        await talk(Weather(session=store.open("ada")), "Hi")
        await talk(Weather(session=store.open("turned\u202earound")), "Hi")
        chat = Chat(Weather(session=store.open("grace")))
        await talk(chat)
        assert sorted(texts_of(chat, "/sessions ")) == ["/sessions ada", "/sessions grace"]
        assert chat.complete("/sessions a")[0].help == "Hi"


# ==== the status line ====


async def test_the_status_line_has_what_is_known() -> None:
    used = TokenUsage(input_other=2716, input_cache_read=9629, output=100)
    agent = Agent(ScriptedKimi([Reply("Ok.", usage=used)], context_window=1_048_576))
    assert status_line(agent) == "kimi-k3"
    await agent.chat_round("Hi")
    assert status_line(agent) == "kimi-k3 · 12,452 of 1,048,576 tokens (1 %) · 78 % cached · $0.0125"
    agent.chat_history.clear()
    assert status_line(agent) == "kimi-k3 · 78 % cached · $0.0125"


def test_a_history_that_does_not_fit_fills_the_window() -> None:
    agent = Agent(ScriptedKimi(context_window=1_000), chat_history=[Message.user("why? " * 2_000)])
    assert status_line(agent) == "kimi-k3 · 1,000 of 1,000 tokens (100 %)"


async def test_the_status_line_leaves_out_a_cost_that_nobody_knows_and_names_the_effort() -> None:
    agent = Agent(ScriptedKimi([say("Ok.")], model="nobody\x1b[2J-knows"))
    await agent.chat_round("Hi")
    assert re.fullmatch(r"nobody\\x1b\[2J-knows · \d+ of 262,144 tokens \(<1 %\) · 0 % cached", status_line(agent))
    assert status_line(Agent(Kimi(api_key="sk-x").with_thinking("low"))) == "kimi-k3 (low)"


async def test_the_status_line_is_that_of_the_agent_that_the_chat_has_now(talk: Talk) -> None:
    chat = Chat(Weather(say("Ok."), say("Ok.")))
    before = chat.options.status()
    await talk(chat, "Hi", "/fork")
    assert chat.options.status() == status_line(chat.agent) != before


# ==== whatever is typed ====

LINES = st.sampled_from(
    [
        "Hi", "Weather?", "Tea!", "", "/clear", "/undo", "/retry", "/save a.json", "/load a.json", "/sessions",
        "/sessions -", "/sessions one", "/fork", "/model x", "/thinking", "/tools", "/system Be brief.", "/usage",
        "/compact", "/export a.md", "/export a.html", "/s", "y", "stop it",
    ]
)  # fmt: skip


@given(lines=st.lists(LINES, max_size=12), keeps=st.sampled_from(["nothing", "sqlite", "journal"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_typed_the_history_can_be_sent(
    lines: list[str], keeps: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("any"))
        patch.setenv("KIMI_AGENT_SESSIONS", "own.db")
        types(patch, *lines)
        asyncio.run(anything_goes(keeps))


def moods() -> Callable[[Any], Step]:
    """A model that answers, calls, asks for approval and fails, in turn."""
    steps = [say("Ok.", reasoning="Hm."), call("get_weather", city="Oslo"), say("Rain."), call("order", article="tea")]
    turn = iter(range(1_000))

    def answer(request: Any) -> Step:
        number = next(turn) % 6
        return steps[number] if number < 4 else HELD if number == 4 else Failure(400, "invalid_request_error", "no")

    return answer


async def anything_goes(keeps: str) -> None:
    async with SQLiteSessionStore("s.db") as store:
        sessions = {"sqlite": store.open("one"), "journal": JournalSession("a.journal")}
        agent = Weather(session=sessions.get(keeps))
        agent.provider = ScriptedKimi(moods())

        class Checked(Chat):
            async def _does(self, command: commands.Typed) -> bool:
                asks = await super()._does(command)
                assert problems(self.agent.chat_history) == [], command
                return asks

        chat = Checked(agent)
        await chat.run()
        assert problems(chat.agent.chat_history) == []
        assert problems(agent.chat_history) == []
        for kept in [session_of(chat.agent), session_of(agent)]:
            if kept is not None:
                state = await store.open(kept.id).load()
                assert problems(state.chat_history) == []
        here = session_of(chat.agent)
        if here is not None and here._store is store:
            assert (await store.open(here.id).load()).chat_history == tuple(chat.agent.chat_history)

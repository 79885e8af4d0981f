"""A conversation in the terminal: what is shown, and what Ctrl-C, Ctrl-D and errors do to it."""

import asyncio
import io
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kimi_agent.agent import Agent
from kimi_agent.errors import KimiAgentError
from kimi_agent.history import problems
from kimi_agent.message import Message
from kimi_agent.terminal.chat.chat import chat_in_terminal, chat_in_terminal_async
from kimi_agent.terminal.screen import interrupts, telling
from kimi_agent.testing import Call, Delivery, Failure, Reply, ScriptedKimi, call, say
from kimi_agent.testing.script import Step
from kimi_agent.tools.function import ai_function

Output = pytest.CaptureFixture[str]
Type = Callable[..., None]


class Weather(Agent):
    """An agent with one tool that works, one that fails and one that waits."""

    def __init__(self, *script: Step, **options: Any) -> None:
        super().__init__(ScriptedKimi(script), "You are terse.", **options)
        self.waiting = asyncio.Event()

    @ai_function()
    def get_weather(self, city: str) -> dict[str, Any]:
        """Current weather of a city."""
        return {"city": city, "degrees": 21}

    @ai_function()
    def fail(self) -> str:
        """Always fails."""
        raise RuntimeError("no such luck\x1b[2J")

    @ai_function()
    async def wait(self) -> str:
        """Waits for ever."""
        self.waiting.set()
        await asyncio.Event().wait()
        return "never"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Set what the user types, line by line, then Ctrl-D. The screen shows it, as a terminal does."""

    def set_lines(*lines: str) -> None:
        left: Iterator[str] = iter(lines)

        def read(prompt: str) -> str:
            print(prompt, end="")
            line = next(left, None)
            if line is None:
                raise EOFError
            print(line)
            return line

        monkeypatch.setattr("builtins.input", read)

    return set_lines


def roles(agent: Agent) -> list[str]:
    return [message.role for message in agent.chat_history]


# ==== what is shown ====


@pytest.mark.parametrize("stream", [True, False])
def test_a_chat_is_questions_and_answers_until_ctrl_d(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Hello?", "  And now?  ")
    agent = Weather(say("Hello."), say("Two\nlines."))
    chat_in_terminal(agent, stream=stream)
    assert capsys.readouterr().out == "USER: Hello?\nAI: Hello.\nUSER:   And now?  \nAI: Two\nlines.\nUSER: \n"
    assert [message.text for message in agent.chat_history] == ["Hello?", "Hello.", "And now?", "Two\nlines."]


def test_piped_input_is_shown_as_if_it_were_typed(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hel\x07lo?\nlast line without an end"))
    chat_in_terminal(Weather(say("Hello."), say("Bye.")))
    expected = "USER: Hel\\x07lo?\nAI: Hello.\nUSER: last line without an end\nAI: Bye.\nUSER: \n"
    assert capsys.readouterr().out == expected


def test_on_a_terminal_calls_are_told(typed: Type, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "is_watched", lambda stream: True)
    typed("Go")
    chat_in_terminal(Weather(call("get_weather", city="Oslo" + 300 * "o"), call("fail"), say("Well.")))
    took, _, failed = capsys.readouterr().out.split("\n")[2:5]
    assert re.fullmatch(r"\[get_weather\(city='Oslo+… took \d+\.\d s\]", took)
    assert len(took) < 240
    assert re.fullmatch(r"\[fail\(\) failed after 0\.0 s: .*no such luck\\x1b\[2J.*\]", failed)


WEATHER = (call("get_weather", city="Tokyo"), say("It is 21 degrees."))


@pytest.mark.parametrize("stream", [True, False])
def test_calls_are_named_while_the_model_thinks(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Weather?")
    chat_in_terminal(Weather(*WEATHER), stream=stream)
    shown = "USER: Weather?\nAI: Thinking... [get_weather]\nAI: It is 21 degrees.\nUSER: \n"
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("stream", [True, False])
def test_arguments_and_returns_are_shown_on_request(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Weather?")
    chat_in_terminal(Weather(*WEATHER), stream=stream, show_function_args=True)
    assert "AI: Thinking... [get_weather(city='Tokyo')]\nAI: It" in capsys.readouterr().out
    typed("Weather?")
    chat_in_terminal(Weather(*WEATHER), stream=stream, show_function_returns=True)
    lines = capsys.readouterr().out.split("\n")
    assert lines[1] == "AI: Thinking... [get_weather]"
    assert lines[2].startswith('FUNC: {"city":')


@pytest.mark.parametrize("stream", [True, False])
def test_verbose_shows_what_was_said_called_and_returned(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Weather?")
    chat_in_terminal(Weather(*WEATHER), stream=stream, verbose=True)
    lines = capsys.readouterr().out.split("\n")
    assert lines[:3] == ["USER: Weather?", "USER: Weather?", "AI: Thinking... [get_weather(city='Tokyo')]"]
    assert lines[3].startswith("FUNC: ")
    assert lines[4:] == ["AI: It is 21 degrees.", "USER: ", ""]


@pytest.mark.parametrize("stream", [True, False])
def test_text_before_a_call_has_a_line_of_its_own(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Weather?")
    first = Reply("Let me look.", tool_calls=[call("get_weather", city="Oslo"), call("get_weather", city="Bergen")])
    chat_in_terminal(Weather(first, say("Done.")), stream=stream)
    shown = capsys.readouterr().out.split("\n")
    assert shown[1:4] == ["AI: Let me look.", "AI: Thinking... [get_weather; get_weather]", "AI: Done."]


def test_reasoning_is_not_shown(typed: Type, capsys: Output) -> None:
    typed("Hi", "Hi")
    chat_in_terminal(Weather(say("Hello.", reasoning="A greeting.")), rounds=1)
    chat_in_terminal(Weather(say("Hello.", reasoning="A greeting.")), rounds=1, stream=False, verbose=True)
    assert "greeting" not in capsys.readouterr().out


@pytest.mark.parametrize("stream", [True, False])
def test_lines_are_as_wide_as_asked(typed: Type, capsys: Output, stream: bool) -> None:
    typed("How are you doing today?")
    chat_in_terminal(Weather(say("I am doing fine 谢谢你的关心")), width=16, echo=True, stream=stream)
    assert capsys.readouterr().out.split("\n") == [
        "USER: How are you doing today?",
        "USER: How are",
        "      you doing",
        "      today?",
        "AI: I am doing",
        "    fine 谢谢你",
        "    的关心",
        "USER: ",
        "",
    ]


# ==== who speaks, and how long ====


def test_the_model_may_speak_first(typed: Type, capsys: Output) -> None:
    typed("Oh.")
    agent = Weather(say("Welcome."), say("Indeed."))
    chat_in_terminal(agent, ai_first=True)
    assert capsys.readouterr().out == "AI: Welcome.\nUSER: Oh.\nAI: Indeed.\nUSER: \n"
    assert roles(agent) == ["assistant", "user", "assistant"]


def test_the_chat_ends_after_so_many_rounds(typed: Type, capsys: Output) -> None:
    typed("one", "two", "three")
    chat_in_terminal(Weather(say("1"), say("2")), rounds=2)
    assert capsys.readouterr().out == "USER: one\nAI: 1\nUSER: two\nAI: 2\n"


def test_a_first_turn_of_the_model_is_a_round(typed: Type, capsys: Output) -> None:
    typed("one", "two")
    chat_in_terminal(Weather(say("Welcome."), say("1")), rounds=2, ai_first=True)
    assert capsys.readouterr().out == "AI: Welcome.\nUSER: one\nAI: 1\n"


def test_the_stopword_ends_the_chat_and_is_not_sent(typed: Type, capsys: Output) -> None:
    typed("don't !stop", " !stop ", "more")
    agent = Weather(say("I won't."))
    chat_in_terminal(agent, stopword="!stop")
    assert capsys.readouterr().out == "USER: don't !stop\nAI: I won't.\nUSER:  !stop \n"
    assert roles(agent) == ["user", "assistant"]


def test_echo_prints_what_was_said(typed: Type, capsys: Output) -> None:
    typed(" Hello? ")
    chat_in_terminal(Weather(say("Hello.")), echo=True, rounds=1)
    assert capsys.readouterr().out == "USER:  Hello? \nUSER: Hello?\nAI: Hello.\n"


def test_enter_alone_says_nothing(typed: Type, capsys: Output) -> None:
    typed("", "  ", "Hi")
    chat_in_terminal(Weather(say("Hello.")), rounds=1)
    assert capsys.readouterr().out == "USER: \nUSER:   \nUSER: Hi\nAI: Hello.\n"


# ==== errors ====


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_of_the_provider_is_one_line_and_the_chat_goes_on(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Hi", "Again")
    busy = Failure(400, "invalid_request_error", "too\nbusy\x1b[2J")
    agent = Weather(busy, say("Hello."))
    chat_in_terminal(agent, stream=stream)
    lines = capsys.readouterr().out.split("\n")
    error = r"ERROR: BadRequestError: too busy\x1b[2J (400 invalid_request_error) (Enter tries again)"
    assert lines == ["USER: Hi", error, "USER: Again", "AI: Hello.", "USER: ", ""]
    assert roles(agent) == ["user", "user", "assistant"]


class Shop(Agent):
    @ai_function(approval=True)
    async def order(self, article: str) -> str:
        """Order something."""
        return f"{article} is ordered"


@pytest.mark.parametrize("stream", [True, False])
def test_the_user_is_asked_for_an_approval(typed: Type, capsys: Output, stream: bool) -> None:
    agent = Shop(
        ScriptedKimi([call("order", article="tea\x1b[2J"), say("Done."), call("order", article="rum"), say("Ok.")])
    )
    typed("Tea!", " Yes ", "Rum!", "too early")
    chat_in_terminal(agent, stream=stream)
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:5] == [
        "AI: Thinking... [order]",
        r"order(article='tea\x1b[2J')",
        "Run order? [y]es, [a]lways, [N]o, or what to do instead:  Yes ",
        "AI: Done.",
    ]
    results = [message.text for message in agent.chat_history if message.role == "tool"]
    assert results[0] == "tea\x1b[2J is ordered"
    assert results[1].endswith("The user says: too early")


def test_what_is_approved_for_always_is_asked_once_and_no_means_no(typed: Type, capsys: Output) -> None:
    agent = Shop(ScriptedKimi([*[call("order", article="tea"), say("Done.")] * 3]))
    typed("Tea!", "n", "Tea!", "a", "Tea!")
    chat_in_terminal(agent)
    assert capsys.readouterr().out.count("Run order?") == 2
    results = [message.text for message in agent.chat_history if message.role == "tool"]
    assert ["did not approve" in text for text in results] == [True, False, False]


def test_who_leaves_instead_of_approving_finds_the_call_waiting(typed: Type, capsys: Output) -> None:
    agent = Shop(ScriptedKimi([call("order", article="tea")]))
    typed("Tea!")
    chat_in_terminal(agent)
    assert [known.name for known in agent.waiting_calls] == ["order"]
    assert "ERROR" not in capsys.readouterr().out


def test_after_the_last_round_nobody_is_told_to_try_again(typed: Type, capsys: Output) -> None:
    typed("Hi")
    chat_in_terminal(Weather(Failure(400, "invalid_request_error", "no")), rounds=1)
    assert capsys.readouterr().out == "USER: Hi\nERROR: BadRequestError: no (400 invalid_request_error)\n"


def test_after_an_error_enter_alone_asks_again_without_saying_it_twice(typed: Type, capsys: Output) -> None:
    typed("Hi", "", "", "Bye")
    agent = Weather(Failure(400, "invalid_request_error", "no"), say("Hello."), say("Bye."))
    chat_in_terminal(agent)
    lines = capsys.readouterr().out.split("\n")
    assert lines[2:] == ["USER: ", "AI: Hello.", "USER: ", "USER: Bye", "AI: Bye.", "USER: ", ""]
    assert roles(agent) == ["user", "assistant", "user", "assistant"]


def test_an_answer_that_breaks_off_shows_what_came(typed: Type, capsys: Output) -> None:
    typed("Hi")
    cut = Reply("It was a dark and stormy night.", chunk_size=10, delivery=Delivery(finish=False, done=False))
    agent = Weather(cut)
    chat_in_terminal(agent, width=20)
    lines = capsys.readouterr().out.split("\n")
    assert lines[1:3] == ["AI: It was a dark", "    and stormy"]
    assert lines[4].startswith("ERROR: StreamInterruptedError: ")
    assert roles(agent) == ["user"]


@pytest.mark.parametrize("stream", [True, False])
def test_the_error_of_a_tool_is_told_to_the_model_and_no_traceback_is_printed(
    typed: Type, capsys: Output, stream: bool
) -> None:
    typed("Try", "Try")
    agent = Weather(call("fail"), say("It failed."), call("fail"), say("Again."))
    chat_in_terminal(agent, rounds=1, stream=stream)
    shown = capsys.readouterr()
    assert shown.out == "USER: Try\nAI: Thinking... [fail]\nAI: It failed.\n"
    assert shown.err == ""
    chat_in_terminal(agent, rounds=1, stream=stream, verbose=True)
    assert capsys.readouterr().out.split("\n")[3].endswith("RuntimeError: no such luck\\x1b[2J")


@pytest.mark.parametrize("stream", [True, False])
def test_control_sequences_are_never_executed(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Hi \x1b[0m")
    evil = Reply(
        "\x1b]0;text\x07", tool_calls=[call("evil\x1b[1m", key="\x9b2J"), Call("x", '{"\x1b[3m')], chunk_size=1
    )
    chat_in_terminal(Weather(evil, say("\u202eok"), say("")), stream=stream, verbose=True, rounds=1)
    shown = capsys.readouterr().out.partition("\n")[2]  # the first line is what the terminal itself shows
    assert "AI: \\x1b]0;text\\x07\n" in shown
    assert "\\u202eok" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")


@pytest.mark.parametrize("stream", [True, False])
def test_malformed_arguments_are_shown_raw_and_the_model_may_retry(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Weather?")
    agent = Weather(Call("get_weather", '{"city": "Tok'), *WEATHER)
    chat_in_terminal(agent, stream=stream, verbose=True)
    shown = capsys.readouterr().out
    assert 'AI: Thinking... [get_weather({"city": "Tok)]\nFUNC: Error: ' in shown
    assert shown.endswith("AI: It is 21 degrees.\nUSER: \n")


def test_what_is_no_error_of_the_package_ends_the_chat(typed: Type) -> None:
    class Broken(Weather):
        async def add_to_history(self, message: Message) -> None:
            raise ZeroDivisionError

    typed("Hi")
    with pytest.raises(ZeroDivisionError):
        chat_in_terminal(Broken())


def test_input_that_cannot_be_read_is_an_error_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(prompt: str) -> str:
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("builtins.input", closed)
    with pytest.raises(ValueError, match="closed file"):
        chat_in_terminal(Weather())


async def test_in_a_running_loop_the_error_names_the_other_function() -> None:
    with pytest.raises(KimiAgentError, match="await chat_in_terminal_async"):
        chat_in_terminal(Weather())


# ==== Ctrl-C ====


async def pressed_before_the_third_write(number: int) -> None:
    """Ctrl-C in the middle of an answer that then never goes on."""
    if number == 2:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()


@pytest.mark.parametrize("stream", [True, False])
def test_ctrl_c_stops_the_answer_and_not_the_chat(typed: Type, capsys: Output, stream: bool) -> None:
    typed("Tell me", "Bye", "")
    held = Reply("Once upon a time", delivery=Delivery(gate=pressed_before_the_third_write))
    agent = Weather(held, say("Bye."))
    chat_in_terminal(agent, stream=stream)
    shown = capsys.readouterr().out
    assert shown.endswith("(stopped; Enter asks again, Ctrl-C leaves)\nUSER: Bye\nAI: Bye.\nUSER: \nUSER: \n")
    assert [message.text for message in agent.chat_history] == ["Tell me", "Bye", "Bye."]


@pytest.mark.parametrize("stream", [True, False])
def test_ctrl_c_stops_a_tool_and_the_history_stays_valid(typed: Type, capsys: Output, stream: bool) -> None:
    class Impatient(Weather):
        @ai_function()
        async def wait(self) -> str:
            """Waits until somebody presses Ctrl-C, and then for ever."""
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
            return "never"

    typed("Wait", "")
    agent = Impatient(Reply(tool_calls=[call("get_weather", city="Oslo"), call("wait")]), say("I stopped."))
    chat_in_terminal(agent, stream=stream)
    shown = capsys.readouterr().out
    assert shown.endswith(
        "[get_weather; wait]\n(stopped; Enter asks again, Ctrl-C leaves)\nUSER: \nAI: I stopped.\nUSER: \n"
    )
    assert roles(agent) == ["user", "assistant", "tool", "tool", "assistant"]
    assert problems(agent.chat_history) == []
    assert agent.chat_history[3].is_tool_call_error


def test_the_handler_of_ctrl_c_is_back_after_the_chat(typed: Type) -> None:
    async def handler_inside(agent: Agent) -> Any:
        await chat_in_terminal_async(agent)
        return signal.getsignal(signal.SIGINT)

    def handler(*_: object) -> None: ...

    typed()
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert asyncio.run(handler_inside(Weather())) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_a_program_whose_loop_is_blocked(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blocking(Weather):
        async def get_enabled_functions(self) -> Any:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second Ctrl-C was not heard")

    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    typed("Hi")
    with pytest.raises(KeyboardInterrupt):
        chat_in_terminal(Blocking(), stream=False)


def test_a_chat_in_another_thread_leaves_ctrl_c_alone(typed: Type, capsys: Output) -> None:
    typed("Hi")
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=chat_in_terminal, args=[Weather(say("Hello."))])
    thread.start()
    thread.join()
    assert capsys.readouterr().out == "USER: Hi\nAI: Hello.\nUSER: \n"
    assert signal.getsignal(signal.SIGINT) is before


# ==== in a running loop ====


async def test_a_cancelled_chat_closes_its_round(typed: Type) -> None:
    typed("Wait")
    agent = Weather(call("wait"))
    chat = asyncio.create_task(chat_in_terminal_async(agent))
    await agent.waiting.wait()
    chat.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chat
    assert roles(agent) == ["user", "assistant", "tool"]
    assert problems(agent.chat_history) == []


async def test_the_loop_stays_alive_while_the_user_thinks(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    asked, may_answer = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def read(prompt: str) -> str:
        loop.call_soon_threadsafe(asked.set)
        may_answer.wait()
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    chat = asyncio.create_task(chat_in_terminal_async(Weather()))
    await asked.wait()
    may_answer.set()
    await chat
    assert capsys.readouterr().out == "\n"

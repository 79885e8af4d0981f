"""Messages as text."""

from collections.abc import Callable
from functools import partial

import pytest

from kimi_agent import Agent
from kimi_agent.message import ImageURLPart, MediaURL, Message, Role, TextPart, ThinkPart, ToolCall, UnknownPart
from kimi_agent.terminal.formatters import (
    all_message_contents,
    assistant_message_contents,
    assistant_message_contents_thinking,
    assistant_message_thinking,
)
from kimi_agent.testing import ScriptedKimi, say
from kimi_agent.testing import call as call_

TOKYO = ToolCall.from_function("get_weather", city="Tokyo", days=2)
CLOCK = ToolCall.from_function("get_time")


def call(arguments: str) -> ToolCall:
    return ToolCall(id="c", function=ToolCall.FunctionBody(name="get_weather", arguments=arguments))


@pytest.mark.parametrize("message", [Message.user("hi"), Message.system("hi"), Message.tool("hi", "c")])
def test_only_assistant_messages_are_shown_unless_all_are(message: Message) -> None:
    assert all_message_contents(message) == "hi"
    assert assistant_message_contents(message) is None
    assert assistant_message_contents_thinking(message) is None
    assert assistant_message_thinking(message) is None


def test_the_contents_of_an_assistant_message_are_its_text() -> None:
    assert assistant_message_contents(Message.assistant("hi")) == "hi"
    assert assistant_message_contents(Message.assistant(tool_calls=[CLOCK])) == ""


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_only_assistants_call(role: Role) -> None:
    assert assistant_message_thinking(Message(role=role, content="hi", tool_calls=[CLOCK])) is None


def test_reasoning_has_paragraphs_of_its_own() -> None:
    message = Message.assistant([ThinkPart(think="hm"), "yes", TextPart(text="!"), ThinkPart(think="ok"), "bye"])
    assert assistant_message_contents(message, color=False) == "hm\nyes!\nok\nbye"
    assert assistant_message_contents(message, show_reasoning=False) == "yes!bye"


def test_reasoning_is_grey_and_empty_reasoning_is_nothing() -> None:
    assert assistant_message_contents(Message.assistant([ThinkPart(think="hm"), "yes"])) == "\x1b[90mhm\x1b[0m\nyes"
    assert assistant_message_contents(Message.assistant([ThinkPart(think=""), "yes"])) == "yes"


def test_with_colour_control_characters_of_the_model_are_visible() -> None:
    call = ToolCall.from_function("\x1b[2J")
    message = Message.assistant([ThinkPart(think="\x1b[0m"), "\x1b]0;x"], tool_calls=[call])
    shown = assistant_message_contents_thinking(message)
    assert shown == "\x1b[90m\\x1b[0m\x1b[0m\n\\x1b]0;x\nThinking... [\\x1b[2J]"


def test_without_colour_the_text_stays_as_it_is() -> None:
    assert assistant_message_contents(Message.assistant("\x1b"), color=False) == "\x1b"


def test_calls_are_named() -> None:
    message = Message.assistant(tool_calls=[TOKYO, CLOCK])
    assert assistant_message_thinking(message) == "Thinking... [get_weather; get_time]"
    assert assistant_message_thinking(Message.assistant("hi")) is None


def test_calls_are_shown_with_their_arguments() -> None:
    message = Message.assistant(tool_calls=[TOKYO, CLOCK])
    shown = assistant_message_thinking(message, show_args=True)
    assert shown == "Thinking... [get_weather(city='Tokyo', days=2); get_time()]"


@pytest.mark.parametrize(
    "arguments",
    ['{"city": "Tok', "[1, 2]", "nonsense", "{" * 5000, '{"a": ' + "9" * 5000 + "}", '"text"', "1"],
)
def test_malformed_arguments_are_shown_as_they_are(arguments: str) -> None:
    message = Message.assistant(tool_calls=[call(arguments)])
    assert assistant_message_thinking(message, show_args=True) == f"Thinking... [get_weather({arguments})]"


def test_calls_stand_on_a_line_below_the_text() -> None:
    message = Message.assistant("Let me look.", tool_calls=[TOKYO])
    assert assistant_message_contents_thinking(message) == "Let me look.\nThinking... [get_weather]"
    assert assistant_message_contents_thinking(Message.assistant("hi")) == "hi"
    alone = assistant_message_contents_thinking(Message.assistant(tool_calls=[TOKYO]), show_args=True)
    assert alone == "Thinking... [get_weather(city='Tokyo', days=2)]"


@pytest.mark.parametrize("depth", [100, 190, 300, 600, 900, 990, 2000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_arguments_of_any_depth_are_shown(depth: int, opening: str, closing: str) -> None:
    message = Message.assistant(tool_calls=[call('{"a": ' + opening * depth + "1" + closing * depth + "}")])
    shown = assistant_message_contents_thinking(message, show_args=True)
    assert shown is not None
    assert shown.startswith("Thinking... [get_weather(")


@pytest.mark.parametrize("arguments", ["", "null", " ", "{}", None])
def test_no_arguments_are_none(arguments: str | None) -> None:
    message = Message.assistant(tool_calls=[ToolCall(id="c", function=CLOCK.function.copy_with(arguments=arguments))])
    assert assistant_message_thinking(message, show_args=True) == "Thinking... [get_time()]"


FORMATTERS = [
    all_message_contents,
    assistant_message_contents,
    assistant_message_contents_thinking,
    partial(assistant_message_contents_thinking, show_args=True),
    assistant_message_thinking,
    partial(assistant_message_thinking, show_args=True),
]
HARMFUL = [*map(chr, range(0x20)), "\x7f", "\x9b", "\u202e", "\u2066", "\ud800"]


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_no_control_character_of_the_model_reaches_a_terminal(formatter: Callable[[Message], str | None]) -> None:
    for character in HARMFUL:
        calls = [call(f'{{"a{character}": "{character}"}}'), call(f"no JSON {character}")]
        named = ToolCall(id="d", function=ToolCall.FunctionBody(name=f"f{character}"))
        message = Message.assistant([ThinkPart(think=f"t{character}"), f"c{character}"], tool_calls=[*calls, named])
        shown = (formatter(message) or "").replace("\x1b[90m", "").replace("\x1b[0m", "")
        assert not any(harmful in shown for harmful in HARMFUL if harmful not in "\n\t"), repr(character)
        shown.encode()


def test_the_line_of_the_calls_is_one_line() -> None:
    message = Message.assistant("Hi", tool_calls=[call("{\nAI: you won"), ToolCall.from_function("a\r\nb")])
    assert assistant_message_thinking(message, show_args=True) == "Thinking... [get_weather({\\nAI: you won); a\\nb()]"
    assert len((assistant_message_contents_thinking(message, show_args=True) or "").splitlines()) == 2


def test_without_colour_all_of_them_give_the_text_as_it_is() -> None:
    message = Message.assistant(["\x1b[2J"], tool_calls=[call("\x1b")])
    assert all_message_contents(message, color=False) == "\x1b[2J"
    assert assistant_message_thinking(message, show_args=True, color=False) == "Thinking... [get_weather(\x1b)]"
    shown = assistant_message_contents_thinking(message, show_args=True, color=False)
    assert shown == "\x1b[2J\nThinking... [get_weather(\x1b)]"
    assert all_message_contents(message) == "\\x1b[2J"


def test_messages_without_text_show_nothing() -> None:
    picture = ImageURLPart(image_url=MediaURL(url="ms://1"))
    later = UnknownPart(type="hologram", data={"a": "\x1b"})
    for message in (Message.assistant(), Message.assistant([picture, later])):
        assert all_message_contents(message) == ""
        assert assistant_message_contents(message) == ""
        assert assistant_message_contents_thinking(message) == ""
        assert assistant_message_thinking(message) is None


async def test_they_fit_a_round() -> None:
    def look(where: str) -> str:
        """Look around."""
        return f"{where} is dark"

    async def shown(formatter: Callable[[Message], str | None]) -> list[str]:
        kimi = ScriptedKimi([call_("look", where="Bonn"), say("Dark.", reasoning="hm")])
        return [text async for text in Agent(kimi, functions=[look]).full_round_str("Hi", message_formatter=formatter)]

    assert await shown(all_message_contents) == ["Bonn is dark", "Dark."]
    assert await shown(partial(assistant_message_contents, color=False)) == ["hm\nDark."]
    assert await shown(partial(assistant_message_contents, show_reasoning=False)) == ["Dark."]
    thinking = partial(assistant_message_contents_thinking, show_args=True, show_reasoning=False)
    assert await shown(thinking) == ["Thinking... [look(where='Bonn')]", "Dark."]
    assert await shown(assistant_message_thinking) == ["Thinking... [look]"]

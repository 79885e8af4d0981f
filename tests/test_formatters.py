"""Messages as text."""

import pytest

from kimi_agent.message import Message, TextPart, ThinkPart, ToolCall
from kimi_agent.terminal.formatters import (
    all_message_contents,
    assistant_message_contents,
    assistant_message_contents_thinking,
    assistant_message_thinking,
)

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


@pytest.mark.parametrize("arguments", ['{"city": "Tok', "[1, 2]", "nonsense", "{" * 5000])
def test_malformed_arguments_are_shown_as_they_are(arguments: str) -> None:
    message = Message.assistant(tool_calls=[call(arguments)])
    assert assistant_message_thinking(message, show_args=True) == f"Thinking... [get_weather({arguments})]"


def test_calls_stand_on_a_line_below_the_text() -> None:
    message = Message.assistant("Let me look.", tool_calls=[TOKYO])
    assert assistant_message_contents_thinking(message) == "Let me look.\nThinking... [get_weather]"
    assert assistant_message_contents_thinking(Message.assistant("hi")) == "hi"
    alone = assistant_message_contents_thinking(Message.assistant(tool_calls=[TOKYO]), show_args=True)
    assert alone == "Thinking... [get_weather(city='Tokyo', days=2)]"

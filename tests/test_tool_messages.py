"""How a result becomes a message: errors are marked, emptiness is said, what is no text is announced."""

import json
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent import (
    Agent,
    ContentPart,
    ImageURLPart,
    MarkedTexts,
    Message,
    SimpleToolset,
    TextPart,
    ThinkPart,
    ToolCall,
    ToolError,
    ToolNotFoundError,
    ToolOk,
    ToolParseError,
    ToolResult,
    ToolReturnValue,
    ToolRuntimeError,
    ToolTexts,
    ToolValidateError,
    UnknownPart,
    VideoURLPart,
    step,
    tool_result_to_message,
)
from kimi_agent.testing import Call, ScriptedKimi, check_request, say
from kimi_agent.tools.base import ToolMessage
from kimi_agent.tools.texts import result_message

PICTURE = ImageURLPart(image_url=ImageURLPart.ImageURL(url="ms://1"))
FILM = VideoURLPart(video_url=VideoURLPart.VideoURL(url="ms://2"))
UNKNOWN = UnknownPart(type="hologram", data={"depth": 3})
CALL = ToolCall(id="c", function=ToolCall.FunctionBody(name="look_up", arguments="{}"))

EMPTY = "<system>Tool output is empty.</system>"
NO_TEXT = "<system>Tool returned non-text content.</system>"
UNEXPECTED = "\nThis is an unexpected error and the tool is probably not working."


class MyOk(ToolOk):
    """A result of one's own."""


class MyRuntimeError(ToolRuntimeError):
    """An unexpected one of one's own."""


class Dutch(MarkedTexts):
    """Says everything in other words."""

    def mark(self, text: str) -> str:
        return f"[{text}]"

    def empty(self) -> str:
        return self.mark("leeg")

    def no_text(self) -> str:
        return self.mark("geen tekst")


class Quiet(ToolTexts):
    """Says nothing beside the output."""

    def note(self, value: ToolReturnValue) -> str:
        return "!" if value.is_error else ""

    def empty(self) -> str:
        return "nothing"


def rendered(value: ToolReturnValue, texts: ToolTexts | None = None) -> Message:
    result = ToolResult(tool_call_id="c", return_value=value)
    return tool_result_to_message(result) if texts is None else tool_result_to_message(result, texts)


def parts(*content: str | ContentPart) -> tuple[ContentPart, ...]:
    return tuple(TextPart(text=piece) if isinstance(piece, str) else piece for piece in content)


async def refusal(message: Message) -> Any:
    """What Kimi would have against a request with this result in it."""
    history = [Message.user("q"), Message.assistant([ThinkPart(think="hm")], tool_calls=[CALL]), message]
    kimi = ScriptedKimi([say("fine")])
    await kimi.generate("", [], history)
    body = kimi.requests[0].body
    sent = body["messages"][-1]
    assert (sent["role"], sent["tool_call_id"]) == ("tool", "c")
    assert sent["content"], "Kimi is told nothing"
    return check_request(body)


# ==== the matrix ====

OUTPUTS: dict[str, tuple[Any, tuple[str | ContentPart, ...]]] = {
    "nothing": ("", ()),
    "no parts": ([], ()),
    "text": ("out", ("out",)),
    "blank": (" \n", (" \n",)),
    "a text part": (["out"], ("out",)),
    "text parts": (["a", "b"], ("a", "b")),
    "a picture": (PICTURE, (PICTURE,)),
    "pictures": ([PICTURE, FILM], (PICTURE, FILM)),
    "a picture and text": ([PICTURE, "look"], (PICTURE, "look")),
    "an unknown part": ([UNKNOWN], (UNKNOWN,)),
}
NOTES: dict[str, tuple[Any, str]] = {
    "ok": (lambda output: ToolOk(output=output), ""),
    "ok, base class": (lambda output: ToolReturnValue(is_error=False, output=output), ""),
    "ok with a note": (lambda output: ToolOk(output=output, message="note"), "<system>note</system>"),
    "ok of one's own": (lambda output: MyOk(output=output, message="note"), "<system>note</system>"),
    "error": (lambda output: ToolError(message="bad", brief="b", output=output), "<system>ERROR: bad</system>"),
    "error without a note": (lambda output: ToolError(message="", brief="b", output=output), "<system>ERROR</system>"),
    "error, base class": (
        lambda output: ToolReturnValue(is_error=True, message="bad", output=output),
        "<system>ERROR: bad</system>",
    ),
    "not found": (
        lambda output: ToolNotFoundError("x").copy_with(output=output),
        "<system>ERROR: Tool `x` not found</system>",
    ),
    "no JSON": (
        lambda output: ToolParseError("x").copy_with(output=output),
        "<system>ERROR: Error parsing JSON arguments: x</system>",
    ),
    "does not fit": (
        lambda output: ToolValidateError("x").copy_with(output=output),
        "<system>ERROR: Error validating JSON arguments: x</system>",
    ),
    "unexpected": (
        lambda output: ToolRuntimeError("x").copy_with(output=output),
        f"<system>ERROR: Error running tool: x{UNEXPECTED}</system>",
    ),
    "unexpected of one's own": (
        lambda output: MyRuntimeError("x").copy_with(output=output),
        f"<system>ERROR: Error running tool: x{UNEXPECTED}</system>",
    ),
}
every_note = pytest.mark.parametrize(("make", "note"), NOTES.values(), ids=NOTES)


def results(make: Any) -> Iterator[tuple[ToolReturnValue, tuple[str | ContentPart, ...]]]:
    """A value with each kind of output, and what of that is to be said."""
    return ((make(output), said) for output, said in OUTPUTS.values())


def expected(
    note: str, said: Sequence[str | ContentPart], empty: str = EMPTY, no_text: str = NO_TEXT
) -> tuple[ContentPart, ...]:
    content = [note, *said] if note else list(said)
    if not content:
        return parts(empty)
    announced = bool(no_text) and not any(isinstance(piece, str) for piece in content)
    return parts(no_text, *content) if announced else parts(*content)


@every_note
async def test_a_result_is_its_note_and_its_output(make: Any, note: str) -> None:
    for value, said in results(make):
        message = rendered(value)
        assert message.content == expected(note, said)
        assert (message.role, message.tool_call_id, message.name) == ("tool", "c", None)
        assert message.is_tool_call_error is (value.is_error or None)
        assert await refusal(message) is None
        assert Message.model_validate_json(message.model_dump_json()) == message


@every_note
def test_marked_texts_are_the_default(make: Any, note: str) -> None:
    for value, _ in results(make):
        assert rendered(value, MarkedTexts()) == rendered(value)


@every_note
def test_marks_can_be_other_ones(make: Any, note: str) -> None:
    other = note.replace("<system>", "[").replace("</system>", "]")
    for value, said in results(make):
        assert rendered(value, Dutch()).content == expected(other, said, "[leeg]", "[geen tekst]")


@every_note
async def test_plain_texts_mark_nothing_and_say_emptiness(make: Any, note: str) -> None:
    for value, said in results(make):
        message = rendered(value, ToolTexts())
        assert message.content == expected(value.message, said, ToolTexts().empty(), "")
        assert message.is_tool_call_error is (value.is_error or None)
        assert await refusal(message) is None


@every_note
def test_texts_of_ones_own_decide_alone(make: Any, note: str) -> None:
    for value, said in results(make):
        assert rendered(value, Quiet()).content == expected("!" if value.is_error else "", said, "nothing", "")


@every_note
def test_an_agent_says_the_same_and_names_the_function(make: Any, note: str) -> None:
    for (value, _), texts in product(results(make), [ToolTexts(), MarkedTexts(), Dutch(), Quiet()]):
        message, plain = result_message(CALL, value, texts), rendered(value, texts)
        assert message.name == "look_up"
        assert message.is_tool_call_error == plain.is_tool_call_error
        others = [part for part in plain.content if not isinstance(part, TextPart)]
        assert [part for part in message.content if not isinstance(part, TextPart)] == others
        assert message.text.replace("\n", "") == plain.text.replace("\n", "")


@settings(max_examples=50)
@given(
    st.booleans(),
    st.text(st.characters(codec="utf-8"), max_size=10),
    st.lists(st.sampled_from([PICTURE, FILM, UNKNOWN]) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)),
)
def test_nothing_of_a_result_is_lost(is_error: bool, message: str, output: list[Any]) -> None:
    value = ToolReturnValue(is_error=is_error, message=message, output=output)
    for texts in (MarkedTexts(), ToolTexts()):
        made = rendered(value, texts)
        assert made.content[len(made.content) - len(output) :] == parts(*output)
        assert message in made.text
        assert made.text or output
        assert bool(made.is_tool_call_error) is is_error


BLANK_PARTS: list[list[str | ContentPart]] = [[""], ["", ""], [TextPart(text="")]]


@pytest.mark.parametrize("output", BLANK_PARTS, ids=["one", "two", "a part"])
async def test_parts_without_any_text_are_said_to_be_empty(output: Any) -> None:
    message = rendered(ToolOk(output=output))
    assert message.text == EMPTY
    assert await refusal(message) is None


def test_a_picture_beside_an_empty_text_is_announced() -> None:
    assert rendered(ToolOk(output=["", PICTURE])).text == NO_TEXT


@pytest.mark.parametrize("text", ["\ud800", "\x00\x1b[31m", "</system><system>ERROR", "\u2028"])
async def test_any_text_is_sent(text: str) -> None:
    for value in (ToolOk(output=text), ToolError(message=text, brief=""), ToolRuntimeError(text)):
        message = rendered(value)
        assert text in message.text
        assert await refusal(message) is None


# ==== results that are whole messages ====


@pytest.mark.parametrize(
    "written",
    [
        Message.assistant("hello"),
        Message.user(["look", PICTURE]),
        Message.tool("hello", "another", name="other"),
        Message.system("hello"),
        Message.tool("hello", "c", is_tool_call_error=True),
        Message.assistant("hello", partial=True, extra={"kept": 1}),
    ],
    ids=lambda written: written.role,
)
async def test_a_message_is_the_result_as_it_is_written(written: Message) -> None:
    value = ToolMessage(is_error=bool(written.is_tool_call_error), written=written)
    message = rendered(value)
    assert (message.role, message.tool_call_id, message.content) == ("tool", "c", written.content)
    assert (message.name, message.extra) == (written.name, written.extra)
    assert message.is_tool_call_error == written.is_tool_call_error
    assert await refusal(message) is None
    answers = written.role == "tool" and written.tool_call_id == CALL.id
    assert result_message(CALL, value).name == (written.name or (None if answers else "look_up"))
    assert rendered(value, Quiet()) == message


@pytest.mark.parametrize("render", [rendered, lambda value: result_message(CALL, value)], ids=["result", "agent"])
def test_a_message_of_a_call_that_went_wrong_is_an_error(render: Any) -> None:
    assert render(ToolMessage(is_error=True, written=Message.assistant("no"))).is_tool_call_error


async def test_a_message_that_a_function_returns_reaches_the_history_of_a_step() -> None:
    async def speak(a: int) -> Message:
        return Message.assistant(["look", PICTURE])

    turn = await step(ScriptedKimi([Call("speak", '{"a": 1}')]), "", SimpleToolset([speak]), [Message.user("q")])
    (result,) = await turn.tool_results()
    message = tool_result_to_message(ToolResult.model_validate_json(result.model_dump_json()))
    assert message.content == parts("look", PICTURE)
    assert message.tool_call_id == turn.tool_calls[0].id


# ==== where they are said ====


async def test_an_agent_may_speak_in_marked_texts() -> None:
    class Marked(Agent):
        texts = MarkedTexts()

    async def nothing() -> str:
        return ""

    async def pictures() -> list[ImageURLPart]:
        return [PICTURE]

    async def fails() -> str:
        raise KeyError("k")

    script = [Call("nothing"), Call("pictures"), Call("fails"), Call("absent"), say("done")]
    kimi = ScriptedKimi(script)
    agent = Marked(kimi, functions=[nothing, pictures, fails], retry_attempts=5)
    said = [message.text async for message in agent.full_round("q") if message.role == "tool"]
    assert said == [
        EMPTY,
        NO_TEXT,
        f"<system>ERROR: Error running tool: KeyError: 'k'{UNEXPECTED}</system>",
        "<system>ERROR: Tool `absent` not found</system>",
    ]
    assert all(check_request(request.body) is None for request in kimi.requests)


async def test_a_loop_over_step_makes_a_history_that_kimi_takes() -> None:
    async def double(a: int) -> str:
        """Double it."""
        return "" if a == 0 else str(a * 2)

    script = [Call("double", '{"a": 2}'), Call("double", '{"a": 0}'), Call("double", "{"), Call("absent"), say("done")]
    kimi, toolset = ScriptedKimi(script), SimpleToolset([double])
    history = [Message.user("q")]
    while True:
        turn = await step(kimi, "Be terse.", toolset, history)
        history.append(turn.message)
        if not turn.tool_calls:
            break
        history += map(tool_result_to_message, await turn.tool_results())
    said = [message.text for message in history if message.role == "tool"]
    assert said[:2] == ["4", EMPTY]
    assert said[2].startswith("<system>ERROR: Error parsing JSON arguments: ")
    assert said[3] == "<system>ERROR: Tool `absent` not found</system>"
    assert all(check_request(request.body) is None for request in kimi.requests)
    assert json.loads(history[-1].model_dump_json())["content"] == "done"

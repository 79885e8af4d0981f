"""What a pipeline does, in words and by example."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

from ..errors import text_of
from ..message import AudioURLPart, ContentPart, ImageURLPart, Message, TextPart, ThinkPart, ToolCall, VideoURLPart
from .steps import Case, PipelineStep

__all__ = ["explained"]

Run = Callable[[Sequence[Message]], Any]


def explained(
    steps: Sequence[PipelineStep[Any]], run: Run, example: Sequence[Message] | None, *, all_cases: bool
) -> str:
    """The steps in words, and what they make of examples.

    Args:
        steps: of the pipeline.
        run: the pipeline.
        example: the only example; `None` for those that the steps choose.
        all_cases: every example that there is.
    """
    shown = {"your example": example} if example is not None else _chosen(steps, all_cases)
    left_out = [] if example is not None else [case for case in _examples() if case not in shown]
    paragraphs = [_heading(len(steps)), *(_worked(case, messages, run) for case, messages in shown.items())]
    if left_out:
        paragraphs.append(f"Not shown: {', '.join(left_out)}. To see them: explain(all_cases=True)")
    numbered = [f"{number}. {step.explain()}" for number, step in enumerate(steps, 1)]
    paragraphs[0] = "\n".join([paragraphs[0], *numbered])
    return "\n\n".join(paragraphs)


def _heading(number: int) -> str:
    if not number:
        return "A prompt pipeline without steps: it gives a list of the same messages."
    return f"A prompt pipeline of {number} step{'' if number == 1 else 's'}"


def _chosen(steps: Iterable[PipelineStep[Any]], all_cases: bool) -> dict[str, Sequence[Message]]:
    wanted: set[str] = {"a conversation", *(case for step in steps for case in step.cases())}
    return {case: messages for case, messages in _examples().items() if all_cases or case in wanted}


def _worked(case: str, messages: Sequence[Message], run: Run) -> str:
    return "\n".join([f"Example: {case}", *_lines_of(messages), "becomes", *_outcome(messages, run)])


def _outcome(messages: Sequence[Message], run: Run) -> Iterator[str]:
    """What the pipeline gives, or raises. What it warns of is in the words of its steps."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = run(messages)
    except Exception as error:
        return iter([f"  an error, {type(error).__name__}: {text_of(error)}"])
    return _lines_of(result)


def _lines_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (f"  |{line}" for line in value.split("\n"))
    elif isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        yield from (f"  {_line_of(item)}" for item in items)
        if not items:
            yield "  nothing"
    else:
        yield f"  {value!r}"


def _line_of(item: Any) -> str:
    if not isinstance(item, Message):
        return repr(item)
    said = [_said(part) for part in item.content] or ([] if item.tool_calls else ["nothing"])
    calls = [f"call of {call.name}({call.arguments}) as {call.id!r}" for call in item.tool_calls or ()]
    answers = f" for {item.tool_call_id!r}" if item.tool_call_id else ""
    return f"{item.role + ':':<10} {' + '.join(said + calls)}{answers}"


_NAMES: Final[Mapping[type[ContentPart], str]] = {
    ImageURLPart: "a picture",
    AudioURLPart: "a sound",
    VideoURLPart: "a film",
}


def _said(part: ContentPart) -> str:
    if isinstance(part, TextPart):
        return repr(part.text)
    if isinstance(part, ThinkPart):
        return f"reasoning {part.think!r}"
    return _NAMES.get(type(part), f"a part of type {part.type!r}")


# ==== examples ====


def _calling(*numbers: int) -> Message:
    return Message.assistant(
        "I look.",
        tool_calls=[ToolCall.from_function("square", call_id_=f"call_{number}", x=number) for number in numbers],
    )


def _square(number: int) -> Message:
    return Message.tool(str(number**2), f"call_{number}", name="square")


@cache
def _examples() -> Mapping[Case, tuple[Message, ...]]:
    hello, question = Message.user("Hello!"), Message.user("What is 3 squared?")
    system, hi, answer = Message.system("You are brief."), Message.assistant("Hi."), Message.assistant("9.")
    pixel = ImageURLPart.ImageURL(url="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=")
    return {
        "a conversation": (system, hello, hi, question),
        "several system messages in a row": (system, Message.system("You are friendly."), hello),
        "several user messages in a row": (hello, question),
        "several answers in a row": (hello, hi, Message.assistant("How are you?"), question),
        "a function call": (question, _calling(3), _square(3), answer, hello),
        "two calls at once": (question, _calling(3, 4), _square(3), _square(4)),
        "a result whose call is gone": (_square(3), answer, hello),
        "an answer that is to be continued": (question, Message.assistant("It is", partial=True)),
        "a picture": (Message.user(["What is this? ", ImageURLPart(image_url=pixel)]),),
        "a message without text": (Message.user(""), _calling(3).copy_with(content=()), _square(3)),
    }

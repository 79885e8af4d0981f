"""What a pipeline does, in words and by example, as text that can go to a terminal.

It is made line by line. What a terminal would act upon is written as its escape, as `repr` does it, and what is long is
shortened, so that no text can look like a line that it is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeAlias, cast

from ..errors import text_of
from ..message import AudioURLPart, ContentPart, ImageURLPart, Message, TextPart, ThinkPart, ToolCall, VideoURLPart
from .steps import Case, PipelineStep

__all__ = ["explained"]

Run: TypeAlias = Callable[[Sequence[Message]], Any]
Clock: TypeAlias = Callable[[], float]


def explained(
    steps: Sequence[PipelineStep[Any]],
    run: Run,
    example: Sequence[Message] | None,
    all_cases: bool = False,
    clock: Clock | None = None,
) -> str:
    """The steps in words, and what they make of examples.

    Args:
        steps: of the pipeline.
        run: the pipeline.
        example: the only example; `None` for those that the steps choose.
        all_cases: every example that there is.
        clock: in seconds, to say how long each example took.
    """
    shown = {"your example": example} if example is not None else _chosen(steps, all_cases)
    left_out = [] if example is not None else [case for case in _examples() if case not in shown]
    numbered = [f"{number}. {_sentence(step)}" for number, step in enumerate(steps, 1)]
    paragraphs = [[_heading(len(steps)), *numbered]]
    paragraphs += [_worked(case, messages, run, clock) for case, messages in shown.items()]
    if left_out:
        paragraphs.append([f"Not shown: {', '.join(left_out)}. To see them: explain(all_cases=True)"])
    return "\n\n".join(["\n".join(map(_plain, lines)) for lines in paragraphs])


# ==== text for a terminal ====

_LONG: Final = 2_000
"""How many characters of a value in a line are shown; the middle of a longer one is left out."""
_LONGEST: Final = 20_000
"""How many characters of a line, and of a whole prompt, are shown."""
_MANY: Final = 100
"""How many messages or entries are shown."""


def _plain(line: str) -> str:
    """One line for one line: what cannot be printed as it is becomes an escape."""
    return line if line.isprintable() else "".join([c if c.isprintable() else repr(c)[1:-1] for c in line])


def _short(text: str, longest: int = _LONG) -> str:
    left_out = len(text) - longest
    half = longest // 2
    return text if left_out <= 0 else f"{text[:half]} [... {left_out:,} characters ...] {text[-half:]}"


def _shown(value: object) -> str:
    """Its `repr`, whatever that is or does."""
    if isinstance(value, str):
        return repr(_short(value))
    try:
        return _short(repr(value))
    except Exception as error:
        return f"something of type {type(value).__name__}, whose repr raises {type(error).__name__}"


def _heading(number: int) -> str:
    if not number:
        return "A prompt pipeline without steps: it gives a list of the same messages."
    return f"A prompt pipeline of {number} step{'' if number == 1 else 's'}"


def _sentence(step: PipelineStep[Any]) -> str:
    said: object = step.explain()
    return _short(said, _LONGEST) if isinstance(said, str) else PipelineStep.explain(step)


def _chosen(steps: Iterable[PipelineStep[Any]], all_cases: bool) -> dict[str, Sequence[Message]]:
    wanted: set[str] = {"a conversation", *(case for step in steps for case in step.cases() or ())}
    return {case: messages for case, messages in _examples().items() if all_cases or case in wanted}


# ==== an example, worked ====


def _worked(case: str, messages: Sequence[Message], run: Run, clock: Clock | None) -> list[str]:
    began = clock() if clock else 0
    outcome = _outcome(messages, run)
    took = f", in {(clock() - began) * 1000:.2f} ms" if clock else ""
    return [f"Example: {case}", *_lines_of(messages), f"becomes{took}", *outcome]


def _outcome(messages: Sequence[Message], run: Run) -> Iterator[str]:
    """Lines of what the pipeline gives, or raises. What it warns of is in the words of its steps."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = run(messages)
    except Exception as error:
        said = [f"{type(error).__name__}: {_short(text_of(error))}", *getattr(error, "__notes__", ())]
        return iter([f"  an error, {', '.join(said)}"])
    return _lines_of(result)


def _lines_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (f"  |{line}" for line in _short(value, _LONGEST).split("\n"))
    elif isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        left_out = len(items) - _MANY
        half = _MANY // 2 if left_out > 0 else len(items)
        yield from (f"  {_line_of(item)}" for item in items[:half])
        if left_out > 0:
            yield f"  [... {left_out:,} more ...]"
            yield from (f"  {_line_of(item)}" for item in items[-half:])
        if not items:
            yield "  nothing"
    else:
        yield f"  {_shown(value)}"


def _line_of(item: Any) -> str:
    if not isinstance(item, Message):
        return _shown(item)
    said = [_said(part) for part in item.content] or ([] if item.tool_calls else ["nothing"])
    calls = [f"call of {call.name}({_short(call.arguments)}) as {call.id!r}" for call in item.tool_calls or ()]
    answers = f" for {item.tool_call_id!r}" if item.tool_call_id else ""
    return _short(f"{item.role + ':':<10} {' + '.join(said + calls)}{answers}", _LONGEST)


_NAMES: Final[Mapping[type[ContentPart], str]] = {
    ImageURLPart: "a picture",
    AudioURLPart: "a sound",
    VideoURLPart: "a film",
}


def _said(part: ContentPart) -> str:
    if isinstance(part, TextPart):
        return _shown(part.text)
    if isinstance(part, ThinkPart):
        return f"reasoning {_shown(part.think)}"
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

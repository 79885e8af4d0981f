"""The steps of a prompt pipeline: what each of them makes of a list of messages.

A step never changes the messages that it gets, and passes on the very objects where it has nothing to do.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby, islice
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar, cast

from ..errors import PromptError
from ..history import calls_of
from ..message import Content, ContentPart, Message, Role, TextPart, ThinkPart, ToolCall
from ..tools.base import Tool
from .filters import Filter, called, each, name_of, noted, place_of

__all__ = ["Case", "PipelineStep"]

Case: TypeAlias = Literal[
    "a conversation",
    "several system messages in a row",
    "several user messages in a row",
    "several answers in a row",
    "a function call",
    "two calls at once",
    "a result whose call is gone",
    "an answer that is to be continued",
    "a picture",
    "a message without text",
]
"""What `explain` has a worked example of."""

StepOut = TypeVar("StepOut", covariant=True)


class PipelineStep(ABC, Generic[StepOut]):
    """A step of a pipeline. Subclass it for one of your own, and add it with `PromptPipeline.then`."""

    is_terminal: ClassVar[bool] = False
    """Whether it gives something other than a list of messages, so that no step can follow."""

    @abstractmethod
    def execute(self, messages: list[Message], functions: list[Tool]) -> StepOut:
        """What becomes of the messages. The lists are the step's own, the messages are not: build others.

        Args:
            messages: as the step before left them.
            functions: what the model may call.
        """

    def measure(self, messages: list[Message], functions: list[Tool]) -> StepOut:
        """The same for `for_measurement`, where a message stands alone and must not be left out for that."""
        return self.execute(messages, functions)

    def explain(self) -> str:
        """What it does, as a sentence."""
        return f"Run {type(self).__name__}"

    def cases(self) -> Collection[Case]:
        """The examples that show what it does, beside a plain conversation."""
        return ()


# ==== content ====


def _is_plain(part: ContentPart) -> bool:
    return type(part) is TextPart and not part.extra and not part.__pydantic_extra__


def together(pieces: Iterable[ContentPart | str]) -> tuple[ContentPart, ...]:
    """The pieces as content, with neighbouring texts as one. Whatever is no plain text stays the object it is."""
    parts = [TextPart(text=piece) if isinstance(piece, str) else piece for piece in pieces]
    content: list[ContentPart] = []
    for plain, run in groupby(parts, _is_plain):
        if not plain:
            content += run
        elif text := "".join([part.text for part in cast("Iterator[TextPart]", run)]):
            content.append(TextPart(text=text))
    return tuple(content)


def _says_anything(message: Message) -> bool:
    """Whether there is more in it than reasoning."""
    return any(_is_said(part) for part in message.content)


def _is_said(part: ContentPart) -> bool:
    return not isinstance(part, ThinkPart) and not (isinstance(part, TextPart) and not part.text)


def _between(prefix: str | None, message: Message, suffix: str | None) -> Message:
    """The message with text around what is said in it: no text comes before reasoning that comes first."""
    if not (prefix or suffix):
        return message
    parts = message.content
    said = [index for index, part in enumerate(parts) if not isinstance(part, ThinkPart)]
    start, end = (said[0], said[-1] + 1) if said else (len(parts), len(parts))
    return message.copy_with(
        content=together((*parts[:start], prefix or "", *parts[start:end], suffix or "", *parts[end:]))
    )


def results_of(where: Filter) -> tuple[Case, ...]:
    """The example with results, for a step that is about results."""
    return ("a function call",) if where.may_be("tool") else ()


# ==== steps from messages to messages ====

Messages: TypeAlias = list[Message]


@dataclass(frozen=True)
class TranslateRole(PipelineStep[Messages]):
    where: Filter
    to: Role
    warn: str | None

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        translated = self.measure(messages, functions)
        if self.warn and any(new is not old for new, old in zip(translated, messages, strict=True)):
            warnings.warn(self.warn, UserWarning, stacklevel=_CALLER)
        return translated

    def measure(self, messages: Messages, functions: list[Tool]) -> Messages:
        return list(each(self._translated, messages))

    def _translated(self, message: Message) -> Message:
        return message.copy_with(role=self.to) if self.where(message) and message.role != self.to else message

    def explain(self) -> str:
        warning = f", and warn: {self.warn!r}" if self.warn else ""
        return f"Give each {self.where.words()} the role {self.to}{warning}"

    def cases(self) -> Collection[Case]:
        return results_of(self.where)


_CALLER: Final = 4
"""Who called the pipeline, seen from the step: `PromptPipeline._run`, and what of it is public, lie between."""


@dataclass(frozen=True)
class Wrap(PipelineStep[Messages]):
    where: Filter
    prefix: str | None
    suffix: str | None

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        return list(each(self._wrapped, messages))

    def _wrapped(self, message: Message) -> Message:
        return _between(self.prefix, message, self.suffix) if self.where(message) else message

    def explain(self) -> str:
        marks = [f"{mark!r} {place}" for mark, place in ((self.prefix, "before"), (self.suffix, "behind")) if mark]
        return f"Put {' and '.join(marks) or 'nothing around'} the content of each {self.where.words()}"

    def cases(self) -> Collection[Case]:
        return results_of(self.where)


Joiner: TypeAlias = Callable[[list[Message]], Content]


@dataclass(frozen=True)
class MergeConsecutive(PipelineStep[Messages]):
    where: Filter
    sep: str | None
    joiner: Joiner | None
    out_role: Role

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        merged: Messages = []
        matches = list(each(self.where, messages))
        for matching, run in groupby(range(len(messages)), matches.__getitem__):
            places = list(run)
            group = messages[places[0] : places[-1] + 1]
            merged += [self._merged(group, places[0])] if matching and len(group) > 1 else group
        return merged

    def _merged(self, group: Messages, index: int) -> Message:
        """One message with the content and the calls of all. It answers no call, and has a name if they agree on it."""
        first, last = group[0], group[-1]
        with noted(place_of(index, first)):
            content = _content(self.joiner, group) if self.joiner else together(_joined(group, self.sep or ""))
        return first.copy_with(
            role=self.out_role,
            content=content,
            tool_calls=[call for message in group for call in message.tool_calls or ()],
            tool_call_id=None,
            name=first.name if all(message.name == first.name for message in group) else None,
            partial=last.partial,
            is_tool_call_error=any(message.is_tool_call_error for message in group) or None,
            extra={key: value for message in group for key, value in message.extra.items()},
        )

    def explain(self) -> str:
        how = f"with {self.sep!r} between them" if self.joiner is None else f"as {name_of(self.joiner)} joins them"
        return f"Merge {self.where.words(plural=True)} in a row into one {self.out_role} message, {how}"

    def cases(self) -> Collection[Case]:
        return [case for role, case in _IN_A_ROW.items() if self.where.roles is None or self.where.may_be(role)]


_IN_A_ROW: Final[Mapping[Role, Case]] = {
    "system": "several system messages in a row",
    "user": "several user messages in a row",
    "assistant": "several answers in a row",
    "tool": "two calls at once",
}


def _joined(group: Iterable[Message], sep: str) -> Iterator[ContentPart | str]:
    """What is in the messages, with the separator between those that say anything."""
    begun = False
    for message in group:
        says = _says_anything(message)
        if begun and says:
            yield sep
        begun = begun or says
        yield from message.content


def _content(joiner: Joiner, group: Sequence[Message]) -> Content:
    """What the joiner makes of the messages.

    Raises:
        PromptError: that is no content.
    """
    given = called(joiner, list(group))
    if given is None or isinstance(given, str | ContentPart):
        return given
    for piece in given if isinstance(given, list | tuple) else (given,):
        if not isinstance(piece, str | ContentPart):
            raise PromptError(
                f"{name_of(joiner)} gives something of type {type(piece).__name__}; "
                "it has to give text, parts, a list of both, or None"
            )
    return given


@dataclass(frozen=True)
class FunctionCallFmt(PipelineStep[Messages]):
    func: Callable[[ToolCall], str | None]
    prefix: str
    sep: str
    suffix: str

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        return list(each(self._with_calls, messages))

    def _with_calls(self, message: Message) -> Message:
        written = (called(self.func, call, gives=str | None) for call in message.tool_calls or ())
        texts = [text for text in written if text is not None]
        if not texts:
            return message
        prefix = self.prefix if _says_anything(message) else self.prefix.lstrip()
        return _between(None, message, f"{prefix}{self.sep.join(texts)}{self.suffix}")

    def explain(self) -> str:
        marks = {"before": self.prefix, "between": self.sep, "behind": self.suffix}
        around = [f"{mark!r} {place} them" for place, mark in marks.items() if mark]
        extra = f", with {' and '.join(around)}" if around else ""
        return f"Append what {name_of(self.func)} makes of each call to the content of its message{extra}"

    def cases(self) -> Collection[Case]:
        return ("a function call", *(("two calls at once",) if self.sep else ()))


@dataclass(frozen=True)
class Remove(PipelineStep[Messages]):
    where: Filter

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        return [message for message, goes in zip(messages, each(self.where, messages), strict=True) if not goes]

    def explain(self) -> str:
        return f"Leave out each {self.where.words()}"

    def cases(self) -> Collection[Case]:
        return results_of(self.where)


@dataclass(frozen=True)
class EnsureStart(PipelineStep[Messages]):
    where: Filter

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        start = next((index for index, found in enumerate(each(self.where, messages)) if found), len(messages))
        return messages[start:]

    def measure(self, messages: Messages, functions: list[Tool]) -> Messages:
        return messages

    def explain(self) -> str:
        return f"Leave out what stands before the first {self.where.words()}"

    def cases(self) -> Collection[Case]:
        return ("a result whose call is gone",)


@dataclass(frozen=True)
class EnsureBoundFunctionCalls(PipelineStep[Messages]):
    id_translator: Callable[[str], str] | None

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        waiting: Counter[str] = Counter()  # how many calls without a result have an id
        bound = each(partial(self._bound, waiting), messages, count())
        return [message for message in bound if message is not None]

    def _bound(self, waiting: Counter[str], message: Message, index: int) -> Message | None:
        """The message, bound to the call that it answers; `None` when the call is gone."""
        if message.role != "tool":
            _nothing_waits(waiting, index, message)
            waiting.update(call.id for call in calls_of(message))
            return self._translated(message)
        call_id = message.tool_call_id or _only(waiting, index)
        if call_id is None:
            return message
        return self._translated(message, call_id) if _taken(waiting, call_id) else None

    def measure(self, messages: Messages, functions: list[Tool]) -> Messages:
        return list(each(self._translated, messages, [message.tool_call_id for message in messages]))

    def _translated(self, message: Message, call_id: str | None = None) -> Message:
        """The message with ids as the model wants them; a result answers `call_id`."""
        changes: dict[str, Any] = {}
        if call_id and (new := self._id(call_id)) != message.tool_call_id:
            changes["tool_call_id"] = new
        if message.tool_calls and self.id_translator:
            changes["tool_calls"] = [call.copy_with(id=self._id(call.id)) for call in message.tool_calls]
        return message.copy_with(**changes) if changes else message

    def _id(self, call_id: str) -> str:
        return called(self.id_translator, call_id, gives=str) if self.id_translator else call_id

    def explain(self) -> str:
        ids = f", with ids as {name_of(self.id_translator)} translates them" if self.id_translator else ""
        return f"Bind each result to its call, and leave out results whose call is gone{ids}"

    def cases(self) -> Collection[Case]:
        return ("a function call", "a result whose call is gone")


def _taken(waiting: Counter[str], call_id: str) -> bool:
    """Whether a call with the id waits; then it has its result now."""
    if call_id not in waiting:
        return False
    waiting[call_id] -= 1
    if not waiting[call_id]:
        del waiting[call_id]
    return True


def _nothing_waits(waiting: Counter[str], index: int, message: Message) -> None:
    if waiting:
        raise PromptError(
            f"message {index} is {'an' if message.role == 'assistant' else 'a'} {message.role} message, "
            f"but {_calls(waiting)} before it {'has' if waiting.total() == 1 else 'have'} no result; "
            "put the results before it, or leave the calls out"
        )


def _only(waiting: Counter[str], index: int) -> str | None:
    """The id of the call that a result without an id answers; `None` when no call waits."""
    if len(waiting) > 1:
        raise PromptError(
            f"message {index} is a result without a tool_call_id, and {_calls(waiting)} wait for one; say in "
            "tool_call_id which of them it answers, and let merge_consecutive, which leaves no id, come after this step"
        )
    return next(iter(waiting), None)


_NAMED: Final = 5


def _calls(waiting: Counter[str]) -> str:
    """The calls that wait, by their ids, of which the first few say enough."""
    ids = [*map(repr, islice(waiting.elements(), _NAMED))]
    more = waiting.total() - len(ids)
    return f"the call{'' if waiting.total() == 1 else 's'} {', '.join(ids)}{f' and {more} more' if more else ''}"

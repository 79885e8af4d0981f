"""The steps of a prompt pipeline: what each of them makes of a list of messages.

A step never changes the messages that it gets, and passes on the very objects where it has nothing to do.
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar, cast

from ..errors import PromptError
from ..history import calls_of
from ..message import Content, ContentPart, Message, Role, TextPart, ToolCall
from ..tools.base import Tool
from .filters import Filter, name_of

__all__ = ["ApplyContext", "Case", "PipelineStep"]

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

T = TypeVar("T")
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


@dataclass(frozen=True, slots=True)
class ApplyContext:
    """Where a message stands while a function is applied to it.

    Args:
        msg: the message.
        is_last: whether it is the last of all messages.
        idx: its index in `messages`.
        messages: all messages, as they reach this step.
        functions: what the model may call.
        is_last_of_type: whether it is the last one with its role.
    """

    msg: Message
    is_last: bool
    idx: int
    messages: Sequence[Message]
    functions: Sequence[Tool]
    is_last_of_type: bool


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


def _between(prefix: str | None, message: Message, suffix: str | None) -> Message:
    if not (prefix or suffix):
        return message
    return message.copy_with(content=together((prefix or "", *message.content, suffix or "")))


def _calls_of(where: Filter) -> tuple[Case, ...]:
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
        return [message.copy_with(role=self.to) if self._changes(message) else message for message in messages]

    def _changes(self, message: Message) -> bool:
        return self.where(message) and message.role != self.to

    def explain(self) -> str:
        warning = f", and warn: {self.warn!r}" if self.warn else ""
        return f"Give each {self.where.words()} the role {self.to}{warning}"

    def cases(self) -> Collection[Case]:
        return _calls_of(self.where)


_CALLER: Final = 4
"""Who called the pipeline, seen from the step: `PromptPipeline._run`, and what of it is public, lie between."""


@dataclass(frozen=True)
class Wrap(PipelineStep[Messages]):
    where: Filter
    prefix: str | None
    suffix: str | None

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        return [_between(self.prefix, message, self.suffix) if self.where(message) else message for message in messages]

    def explain(self) -> str:
        marks = [f"{mark!r} {place}" for mark, place in ((self.prefix, "before"), (self.suffix, "behind")) if mark]
        return f"Put {' and '.join(marks) or 'nothing around'} the content of each {self.where.words()}"

    def cases(self) -> Collection[Case]:
        return _calls_of(self.where)


Joiner: TypeAlias = Callable[[list[Message]], Content]


@dataclass(frozen=True)
class MergeConsecutive(PipelineStep[Messages]):
    where: Filter
    sep: str | None
    joiner: Joiner | None
    out_role: Role

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        merged: Messages = []
        for matches, run in groupby(messages, self.where):
            group = list(run)
            merged += [self._merged(group)] if matches and len(group) > 1 else group
        return merged

    def _merged(self, group: Messages) -> Message:
        """One message with the content and the calls of all. It answers no call, and has a name if they agree on it."""
        first, last = group[0], group[-1]
        return first.copy_with(
            role=self.out_role,
            content=self.joiner(list(group)) if self.joiner else together(_joined(group, self.sep or "")),
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
    for index, message in enumerate(group):
        if index:
            yield sep
        yield from message.content


@dataclass(frozen=True)
class FunctionCallFmt(PipelineStep[Messages]):
    func: Callable[[ToolCall], str | None]
    prefix: str
    sep: str
    suffix: str

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        return [self._with_calls(message) if message.tool_calls else message for message in messages]

    def _with_calls(self, message: Message) -> Message:
        texts = [text for call in message.tool_calls or () if (text := self.func(call)) is not None]
        return _between(None, message, f"{self.prefix}{self.sep.join(texts)}{self.suffix}") if texts else message

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
        return [message for message in messages if not self.where(message)]

    def explain(self) -> str:
        return f"Leave out each {self.where.words()}"

    def cases(self) -> Collection[Case]:
        return _calls_of(self.where)


@dataclass(frozen=True)
class EnsureStart(PipelineStep[Messages]):
    where: Filter

    def execute(self, messages: Messages, functions: list[Tool]) -> Messages:
        start = next((index for index, message in enumerate(messages) if self.where(message)), len(messages))
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
        bound: Messages = []
        waiting: list[str] = []  # the ids of calls without a result, first to first among equal ones
        for index, message in enumerate(messages):
            if message.role != "tool":
                self._nothing_waits(waiting, index, message)
                waiting = [call.id for call in calls_of(message)]
                bound.append(self._translated(message))
            elif (call_id := message.tool_call_id or self._only(waiting, index)) is None:
                bound.append(message)
            elif call_id in waiting:
                waiting.remove(call_id)
                bound.append(self._translated(message, call_id))
        return bound

    def measure(self, messages: Messages, functions: list[Tool]) -> Messages:
        return [self._translated(message, message.tool_call_id) for message in messages]

    @staticmethod
    def _nothing_waits(waiting: Sequence[str], index: int, message: Message) -> None:
        if waiting:
            raise PromptError(
                f"message {index} is a {message.role} message, but {_calls(waiting)} before it "
                f"{'has' if len(waiting) == 1 else 'have'} no result; put the results before it, or leave the calls out"
            )

    @staticmethod
    def _only(waiting: Sequence[str], index: int) -> str | None:
        """The call that a result without an id answers; `None` when no call waits."""
        if len(waiting) > 1:
            raise PromptError(
                f"message {index} is a result without a tool_call_id, and {_calls(waiting)} wait for one; "
                "say in tool_call_id which of them it answers"
            )
        return waiting[0] if waiting else None

    def _translated(self, message: Message, call_id: str | None = None) -> Message:
        """The message with ids as the model wants them; a result answers `call_id`."""
        translate = self.id_translator or str
        changes: dict[str, Any] = {}
        if call_id and (new := translate(call_id)) != message.tool_call_id:
            changes["tool_call_id"] = new
        if message.tool_calls and self.id_translator:
            changes["tool_calls"] = [call.copy_with(id=translate(call.id)) for call in message.tool_calls]
        return message.copy_with(**changes) if changes else message

    def explain(self) -> str:
        ids = f", with ids as {name_of(self.id_translator)} translates them" if self.id_translator else ""
        return f"Bind each result to its call, and leave out results whose call is gone{ids}"

    def cases(self) -> Collection[Case]:
        return ("a function call", "a result whose call is gone")


def _calls(ids: Sequence[str]) -> str:
    return f"the call{'' if len(ids) == 1 else 's'} {', '.join(map(repr, ids))}"


# ==== steps that may give anything ====


@dataclass(frozen=True)
class Apply(PipelineStep[list[Any]]):
    where: Filter
    func: Callable[..., Any]
    wants_context: bool

    @classmethod
    def of(cls, where: Filter, func: Callable[..., Any]) -> Apply:
        """The step for a function of a message, or of a message and its context."""
        return cls(where, func, _wants_context(func))

    def execute(self, messages: Messages, functions: list[Tool]) -> list[Any]:
        given = self._given(messages, functions)
        results = [self.func(*given(index)) if self.where(msg) else msg for index, msg in enumerate(messages)]
        return [result for result in results if result is not None]

    def _given(self, messages: Messages, functions: list[Tool]) -> Callable[[int], tuple[Any, ...]]:
        """What the function is called with for the message at an index."""
        if not self.wants_context:
            return lambda index: (messages[index],)
        last = {message.role: index for index, message in enumerate(messages)}
        everything, offered = tuple(messages), tuple(functions)

        def with_context(index: int) -> tuple[Any, ...]:
            message = everything[index]
            is_last = index == len(everything) - 1
            return message, ApplyContext(message, is_last, index, everything, offered, last[message.role] == index)

        return with_context

    def explain(self) -> str:
        return f"Put what {name_of(self.func)} makes of it in the place of each {self.where.words()}"

    def cases(self) -> Collection[Case]:
        return _calls_of(self.where)


def _wants_context(func: Callable[..., Any]) -> bool:
    """Whether it has to be called with a context: it needs a second argument, or calls it `ctx`.

    Raises:
        TypeError: it cannot be called with a message, nor with a message and a context.
    """
    try:
        signature = inspect.signature(func)
    except ValueError:  # some builtins do not say what they take
        return False
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [name for name, parameter in signature.parameters.items() if parameter.kind in by_position]
    if positional[1:2] == ["ctx"] and _takes(signature, 2):
        return True
    if _takes(signature, 1):
        return False
    if _takes(signature, 2):
        return True
    raise TypeError(
        f"{name_of(func)} takes {signature}; it is called with a message, or with a message and its context"
    )


def _takes(signature: inspect.Signature, number: int) -> bool:
    try:
        signature.bind(*[None] * number)
    except TypeError:
        return False
    return True


@dataclass(frozen=True)
class MacroApply(PipelineStep[T]):
    func: Callable[[list[Message], list[Tool]], T]

    def execute(self, messages: Messages, functions: list[Tool]) -> T:
        return self.func(messages, functions)

    def explain(self) -> str:
        return f"Put what {name_of(self.func)} makes of all messages in their place"

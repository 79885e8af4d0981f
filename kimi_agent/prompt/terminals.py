"""The steps that need not give messages: functions of the caller, and what ends a prompt pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Final, TypeVar

from ..message import Message, Role
from ..tools.base import Tool
from .filters import Filter, called, each, name_of, signature_of, takes
from .steps import Case, PipelineStep, results_of

__all__ = ["Apply", "ApplyContext", "ConversationDict", "ConversationFmt", "MacroApply"]

T = TypeVar("T")


# ==== functions of the caller ====


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


@dataclass(frozen=True)
class Apply(PipelineStep[list[Any]]):
    where: Filter
    func: Callable[..., Any]
    wants_context: bool

    @classmethod
    def of(cls, where: Filter, func: Callable[..., Any]) -> Apply:
        """The step for a function of a message, or of a message and its context."""
        return cls(where, func, _wants_context(func))

    def execute(self, messages: list[Message], functions: list[Tool]) -> list[Any]:
        contexts = _contexts(messages, functions) if self.wants_context else repeat(())
        return [result for result in each(self._applied, messages, contexts) if result is not None]

    def _applied(self, message: Message, context: Iterable[ApplyContext]) -> Any:
        return called(self.func, message, *context) if self.where(message) else message

    def explain(self) -> str:
        return f"Put what {name_of(self.func)} makes of it in the place of each {self.where.words()}"

    def cases(self) -> Collection[Case]:
        return results_of(self.where)


def _contexts(messages: Sequence[Message], functions: Sequence[Tool]) -> Iterator[tuple[ApplyContext]]:
    everything, offered = tuple(messages), tuple(functions)
    last = {message.role: index for index, message in enumerate(everything)}
    for index, message in enumerate(everything):
        is_last = index == len(everything) - 1
        yield (ApplyContext(message, is_last, index, everything, offered, last[message.role] == index),)


def _wants_context(func: Callable[..., Any]) -> bool:
    """Whether it has a second parameter that takes a context.

    Raises:
        TypeError: it cannot be called with a message, nor with a message and a context.
    """
    if _names_two(func) and takes(func, 2):
        return True
    if takes(func, 1):
        return False
    raise TypeError(
        f"func: {name_of(func)} takes {signature_of(func)}; "
        "it is called with a message, or with a message and its context"
    )


def _names_two(func: Callable[..., Any]) -> bool:
    says = signature_of(func)
    kinds = [parameter.kind for parameter in says.parameters.values()] if says else []
    return len([kind for kind in kinds if kind in _BY_POSITION]) >= 2


_BY_POSITION: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class MacroApply(PipelineStep[T]):
    func: Callable[[list[Message], list[Tool]], T]

    def execute(self, messages: list[Message], functions: list[Tool]) -> T:
        return called(self.func, messages, functions)

    def explain(self) -> str:
        return f"Put what {name_of(self.func)} makes of all messages in their place"


# ==== the end of a pipeline ====


@dataclass(frozen=True)
class ConversationFmt(PipelineStep[str]):
    is_terminal: ClassVar[bool] = True

    marks: Mapping[Role, tuple[str, str]]
    """What stands before and behind the text of a message."""
    prefix: str
    sep: str
    suffix: str
    generation_suffix: str
    assistant_suffix_if_last: str | None

    def execute(self, messages: list[Message], functions: list[Tool]) -> str:
        texts = [self._text(message) for message in messages]
        if messages and messages[-1].role == "assistant" and self.assistant_suffix_if_last is not None:
            texts[-1] = f"{self.marks['assistant'][0]}{messages[-1].text}{self.assistant_suffix_if_last}"
        elif self.generation_suffix:
            texts.append(self.generation_suffix)
        return f"{self.prefix}{self.sep.join(texts)}{self.suffix}"

    def _text(self, message: Message) -> str:
        before, behind = self.marks[message.role]
        return f"{before}{message.text}{behind}"

    def explain(self) -> str:
        return "; ".join(["Write everything as one text", *self._details()])

    def _details(self) -> Iterator[str]:
        for role, (before, behind) in self.marks.items():
            if before or behind:
                yield f"{role} messages between {before!r} and {behind!r}"
        if self.sep:
            yield f"{self.sep!r} between messages"
        if self.prefix or self.suffix:
            yield f"all of it between {self.prefix!r} and {self.suffix!r}"
        if self.generation_suffix:
            yield f"{self.generation_suffix!r} where the answer begins"
        if self.assistant_suffix_if_last is not None:
            yield f"an answer at the very end gets {self.assistant_suffix_if_last!r} instead of what would follow it"

    def cases(self) -> Collection[Case]:
        own_results: tuple[Case, ...] = ("a function call",) if self.marks["tool"] != self.marks["user"] else ()
        begun: tuple[Case, ...] = (
            () if self.assistant_suffix_if_last is None else ("an answer that is to be continued",)
        )
        return own_results + begun


@dataclass(frozen=True)
class ConversationDict(PipelineStep[list[dict[str, Any]]]):
    is_terminal: ClassVar[bool] = True

    roles: Mapping[Role, str]
    content_transform: Callable[[Message], Any] | None
    additional_keys: Callable[[Message], Mapping[str, Any]] | None

    def execute(self, messages: list[Message], functions: list[Tool]) -> list[dict[str, Any]]:
        return list(each(self._entry, messages))

    def _entry(self, message: Message) -> dict[str, Any]:
        content = called(self.content_transform, message) if self.content_transform else message.text
        entry = {"role": self.roles[message.role], "content": content}
        return {**entry, **called(self.additional_keys, message, gives=Mapping)} if self.additional_keys else entry

    def explain(self) -> str:
        return "; ".join(["Write each message as a dictionary with a role and a content", *self._details()])

    def _details(self) -> Iterator[str]:
        for role, name in self.roles.items():
            if role != name:
                yield f"the role {role} is called {name!r}"
        if self.content_transform:
            yield f"its content is what {name_of(self.content_transform)} gives"
        if self.additional_keys:
            yield f"with the keys that {name_of(self.additional_keys)} gives"

    def cases(self) -> Collection[Case]:
        return ("a function call",) if self.additional_keys or self.roles["tool"] != "tool" else ()

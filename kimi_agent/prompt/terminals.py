"""The steps that end a prompt pipeline: what they give is no list of messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..message import Message, Role
from ..tools.base import Tool
from .filters import name_of
from .steps import Case, PipelineStep

__all__ = ["ConversationDict", "ConversationFmt"]


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
        return [self._entry(message) for message in messages]

    def _entry(self, message: Message) -> dict[str, Any]:
        content = self.content_transform(message) if self.content_transform else message.text
        entry = {"role": self.roles[message.role], "content": content}
        return {**entry, **self.additional_keys(message)} if self.additional_keys else entry

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

"""gpt-oss, which writes in OpenAI's harmony format."""

from __future__ import annotations

import re
from typing import ClassVar, Final, NamedTuple

from .base import BaseParser
from .calls import Found, Malformed, checked
from .marks import Machine, Mode, beginning

__all__ = ["HarmonyParser"]

_MESSAGE: Final = "<|message|>"
_CHANNEL: Final = "<|channel|>"
_HEADS: Final[dict[str, Mode]] = dict.fromkeys(("<|start|>", _CHANNEL), Mode.HEADER)
_ENDS: Final[dict[str, Mode]] = dict.fromkeys(("<|return|>", "<|call|>", "<|end|>"), Mode.END)
_HEAD: Final = re.compile(
    r"""(?:<\|start\|>)?\s*(?:assistant)?
    (?:\s*to=(?P<before>[^\s<]+))?
    (?:\s*<\|channel\|>\s*(?P<channel>analysis|commentary|final)(?:\s+to=(?P<behind>[^\s<]+))?){0,2}
    \s*(?:<\|constrain\|>\s*[^\s<]+|json|code|text)?\s*""",
    re.VERBOSE,
)
_CHANNEL_BEGINS: Final = "|".join(rf"{word}\b|{beginning(word)}\Z" for word in ("analysis", "commentary", "final"))
_BEGINS: Final = (
    rf"(?:<\|start\|>\s*(?:assistant\b|{beginning('assistant')}\Z)?)?\s*"
    r"(?:to=[^\s<]*|to?\Z)?\s*"
    rf"(?:<\|channel\|>\s*(?:(?:{_CHANNEL_BEGINS})(?:\s+[^\s<]*){{0,2}})?)?\s*"
    r"(?:<(?s:.*))?"
)


class _Head(NamedTuple):
    channel: str
    recipient: str


class HarmonyParser(BaseParser):
    """Reads gpt-oss: messages with a channel each, and calls to a recipient.

        <|channel|>analysis<|message|>REASONING<|end|><|start|>assistant<|channel|>final<|message|>TEXT<|return|>
        <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{JSON}<|call|>

    What the commentary channel says to nobody, to the user or to the assistant is for the user. The head of a message
    may name its channel twice, and after `<|constrain|>` have any word, as gpt-oss does at times. A call of a built-in
    tool is one if it is JSON (`browser.search`); code for `python` is none: it is text and a problem. A host must not
    leave out special tokens, as most do unless asked.
    """

    TRIMS = False
    BEGINS = re.compile(_BEGINS)
    CLOSES = ("<|call|>",)
    stop = ("<|call|>", "<|return|>")
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"to=": Mode.HEADER, **_HEADS},
        Mode.REASONING: {**_HEADS, **_ENDS},
        Mode.TEXT: {**_HEADS, **_ENDS},
        Mode.GAP: {**_HEADS, **_ENDS},
        Mode.HEADER: {_MESSAGE: Mode.CALL, _CHANNEL: Mode.HEADER, **dict.fromkeys(("<|start|>", *_ENDS), Mode.GAP)},
        Mode.CALL: dict.fromkeys(_ENDS, Mode.GAP),
        Mode.END: {**_HEADS, **_ENDS},
    }

    def __init__(self) -> None:
        super().__init__()

    def after(self, mark: str) -> Mode:
        """A head leads to a call, if it has a recipient, else to what its channel says; what is none leads nowhere."""
        after = super().after(mark)
        if self._mode is not Mode.HEADER or after is Mode.GAP:
            return after
        head = _head("".join(self._held))
        if head is None or mark == _CHANNEL:
            return Mode.HEADER if head else Mode.GAP
        if head.recipient:
            return Mode.CALL
        return Mode.REASONING if head.channel == "analysis" else Mode.TEXT

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """One call, to the recipient in the head."""
        written, mark, arguments = raw.partition(_MESSAGE)
        head = _head(written)
        if not mark or head is None:
            raise Malformed("the head of a message does not end")
        return [checked(head.recipient.removeprefix("functions."), arguments, closed=closed)], ""


def _head(text: str) -> _Head | None:
    """The head of a message. Many spaces mean one, and cost as much."""
    head = _HEAD.fullmatch(" ".join(text.split()))
    if head is None:
        return None
    recipient = head["before"] or head["behind"] or ""
    return _Head(head["channel"] or "", "" if recipient in ("assistant", "user") else recipient)

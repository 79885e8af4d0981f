"""gpt-oss, which writes in OpenAI's harmony format."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from .base import BaseParser, Found, Machine, Malformed, Mode, checked

__all__ = ["HarmonyParser"]

_MESSAGE: Final = "<|message|>"
_HEADS: Final[dict[str, Mode]] = dict.fromkeys(("<|start|>", "<|channel|>"), Mode.HEADER)
_ENDS: Final[dict[str, Mode]] = dict.fromkeys(("<|return|>", "<|call|>"), Mode.END)
_HEAD: Final = re.compile(
    r"""(?:<\|start\|>)?\s*(?:assistant)?
    (?:\s*to=(?P<before>[^\s<]+))?
    (?:\s*<\|channel\|>\s*(?P<channel>analysis|commentary|final))?
    (?:\s*to=(?P<behind>[^\s<]+))?
    \s*(?:<\|constrain\|>)?\s*(?:json|code|text)?\s*""",
    re.VERBOSE,
)


class HarmonyParser(BaseParser):
    """Reads gpt-oss: messages with a channel each, and calls to a recipient.

        <|channel|>analysis<|message|>REASONING<|end|><|start|>assistant<|channel|>final<|message|>TEXT<|return|>
        <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{JSON}<|call|>

    What the commentary channel says to nobody is for the user. A host must not leave out special tokens, as most do
    unless asked.
    """

    TRIMS = False
    stop = ("<|call|>", "<|return|>")
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"to=": Mode.HEADER, **_HEADS},
        Mode.REASONING: {"<|end|>": Mode.GAP, **_HEADS, **_ENDS},
        Mode.TEXT: {"<|end|>": Mode.GAP, **_HEADS, **_ENDS},
        Mode.GAP: {"<|end|>": Mode.GAP, **_HEADS, **_ENDS},
        Mode.HEADER: {_MESSAGE: Mode.CALL},
        Mode.CALL: {"<|call|>": Mode.GAP, "<|end|>": Mode.GAP, "<|return|>": Mode.GAP},
        Mode.END: dict(_ENDS),
    }

    def __init__(self) -> None:
        super().__init__()

    def after(self, mark: str) -> Mode:
        """A head leads to a call, if it has a recipient, else to what its channel says; what is none leads nowhere."""
        if mark != _MESSAGE or self._mode is not Mode.HEADER:
            return super().after(mark)
        head = _head("".join(self._held))
        if head is None:
            return Mode.GAP
        if not (head["before"] or head["behind"]):
            return Mode.REASONING if head["channel"] == "analysis" else Mode.TEXT
        return Mode.CALL

    def found(self, raw: str) -> tuple[list[Found], str]:
        """One call, to the recipient in the head."""
        written, mark, arguments = raw.partition(_MESSAGE)
        head = _head(written)
        if not mark or head is None:
            raise Malformed("the head of a message does not end")
        return [checked((head["before"] or head["behind"]).removeprefix("functions."), arguments)], ""


def _head(text: str) -> re.Match[str] | None:
    """The head of a message. Many spaces mean one, and cost as much."""
    return _HEAD.fullmatch(" ".join(text.split()))

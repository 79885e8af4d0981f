"""What a parser of raw text is: text in, frames out. No I/O.

The state machine of a parser is a table: in each mode, which marks count, and which mode each of them leads to. All
else is the same for every model and stands here:

| mode      | what text is there                                                                          |
|-----------|---------------------------------------------------------------------------------------------|
| START     | nothing yet; the first character that is no space decides what begins                       |
| REASONING | reasoning                                                                                   |
| TEXT      | the answer                                                                                  |
| GAP       | between marks: spaces mean nothing, anything else is the answer                             |
| END       | the answer has ended; what comes all the same is text, and so was the mark                  |
| UNSURE    | held back: reasoning if a mark says that it ends, else the answer, which may have calls     |
| HEADER    | held back: the head of a message, in which a call may begin                                 |
| CALL      | held back: a call. STRING is a JSON string in it, where no mark counts; ARGUMENT one of its |
|           | arguments; PLAIN a call whose strings are not looked at                                     |

A call is told when it is whole. One that cannot be read is text, marks included, and a line in `problems`. Where its
JSON has a string that never ends, the first mark in that string that could have closed the call did so, and from then
on strings are not looked at any more: so each character is read twice at most.
"""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, Final, TypeAlias

from ..errors import ToolArgumentsError
from ..events import Append, Reasoning, StreamFrame, ToolCallDelta
from ..message import ContentPart, Message, TextPart, ThinkPart, ToolCall, parse_arguments

__all__ = ["BaseParser", "Found", "Malformed", "Mode"]


class Mode(Enum):
    """What the text is that a parser reads."""

    START = auto()
    REASONING = auto()
    TEXT = auto()
    GAP = auto()
    END = auto()
    UNSURE = auto()
    HEADER = auto()
    CALL = auto()
    STRING = auto()
    ARGUMENT = auto()
    PLAIN = auto()


Machine: TypeAlias = Mapping[Mode, Mapping[str, Mode]]
"""By mode, the marks that count in it, and where each of them leads. No mark of a mode begins with another one."""

SAID: Final = (Mode.REASONING, Mode.TEXT)
SPACES: Final = (Mode.START, Mode.GAP, Mode.END)
_NO_SPACE: Final = re.compile(r"\S").search
WHOLE: Final = (Mode.CALL, Mode.PLAIN)
HELD: Final = (Mode.HEADER, Mode.CALL, Mode.STRING, Mode.ARGUMENT, Mode.PLAIN)


class Malformed(ValueError):
    """A call that cannot be read. Without a text it is none and nobody is told: nothing but its form spoke for it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A call in a text.

    Args:
        name: of the function.
        arguments: the JSON of an object.
        id: if the model wrote one that is worth keeping.
    """

    name: str
    arguments: str
    id: str | None = None


class BaseParser(ABC):
    """Reads one answer of a model that writes its reasoning and its calls as text.

        parser = Qwen3Parser()
        for piece in pieces:
            frames = parser.feed(piece)
        frames = parser.close()

    However the text is cut, the frames say the same. `parse` reads a text that is there as a whole. A parser is for one
    answer.

    Args:
        thinking: whether the answer begins with reasoning without saying so, because the mark that opens it stood in
            the prompt. `None` finds out: what comes is held back until it is known to be one or the other, which may be
            at its end.
    """

    MACHINE: ClassVar[Machine]
    QUOTES: ClassVar[bool] = True
    """Whether calls are JSON, in whose strings marks are text."""
    TRIMS: ClassVar[bool] = True
    """Whether spaces beside a mark belong to it."""
    THOUGHT_ENDS: ClassVar[Collection[str]] = ("</think>",)
    """The marks that say of what came before them that it was reasoning."""
    BEGINS: ClassVar[str] = ""
    """The first characters that a call may have; any for `""`."""
    stop: ClassVar[tuple[str, ...]] = ()
    """What ends an answer, for hosts that want to be told."""
    _machine: ClassVar[Machine]
    _scanners: ClassVar[Mapping[Mode, _Scanner]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "MACHINE" in cls.__dict__:
            cls._machine = _with_strings(cls.MACHINE) if cls.QUOTES else cls.MACHINE
            cls._scanners = {mode: _Scanner(cls._machine.get(mode, ())) for mode in Mode}

    def __init__(self, *, thinking: bool | None = False) -> None:
        self.calls: list[ToolCall] = []
        """The calls so far."""
        self.problems: list[str] = []
        """What looked like a call and could not be read, in words. It is in the text."""
        self.calls_before = 0
        """How many calls the conversation has before this answer; they are counted on in the ids."""
        self._first = {True: Mode.REASONING, False: Mode.TEXT, None: Mode.UNSURE}[thinking]
        self._mode, self._home = Mode.START, Mode.TEXT
        self._buffer, self._position = "", 0
        self._frames: list[StreamFrame] = []
        self._held: list[str] = []
        """What is held back, and its length."""
        self._size = 0
        self._doubt: int | None = None
        """Where in a call a mark stood in a string that would have closed it."""
        self._trusting = True
        self._blank: list[str] = []
        """Spaces that belong to a mark, if one comes next."""
        self._fresh = self._reasoned = self._sniffed = self._closed = False

    # ---- in and out ----

    def feed(self, text: str) -> list[StreamFrame]:
        """The frames that are sure now: `Append`, `Reasoning`, and a `ToolCallDelta` for each whole call.

        Raises:
            ValueError: the parser is closed.
        """
        if self._closed:
            raise ValueError("the parser is closed; each answer needs a new one")
        self._buffer = self._buffer[self._position :] + text
        self._position = 0
        self._advance()
        return self._taken()

    def close(self) -> list[StreamFrame]:
        """The last frames: what was held back. Marks that are missing at the end are taken as there."""
        if not self._closed:
            self._closed = True
            self._advance()
            while not self._settled():
                self._advance()
        return self._taken()

    def parse(self, text: str) -> Message:
        """A whole answer as a message.

        Raises:
            ValueError: the parser has read another answer.
        """
        frames = self.feed(text) + self.close()
        thoughts = [frame.text for frame in frames if isinstance(frame, Reasoning)]
        said = "".join([frame.text for frame in frames if isinstance(frame, Append)])
        parts: list[ContentPart] = [ThinkPart(think="".join(thoughts))] if thoughts else []
        return Message(
            role="assistant", content=[*parts, *([TextPart(text=said)] if said else [])], tool_calls=self.calls
        )

    def expect_no_reasoning(self) -> None:
        """Say that the host gave the reasoning apart: the text is the answer. After its beginning this does nothing."""
        self._first = Mode.TEXT

    def _taken(self) -> list[StreamFrame]:
        frames, self._frames = self._frames, []
        return frames

    # ---- what a model does its own way ----

    @abstractmethod
    def found(self, raw: str) -> tuple[list[Found], str]:
        """The calls in a piece of text, and what stands behind them.

        Args:
            raw: from the mark that opened it up to the one that closed it, without that one.

        Raises:
            Malformed: it cannot be read.
        """

    def call_id(self, name: str, number: int) -> str:
        """The id of a call that has none of its own; `number` counts the calls of the conversation, from 0."""
        return f"{name}_{number}"

    def after(self, mark: str) -> Mode:
        """Where a mark leads."""
        return self._machine[self._mode][mark]

    # ---- the machine ----

    def _advance(self) -> None:
        """Read as much of the buffer as is sure."""
        while True:
            scanner = self._scanners[self._mode]
            limit = self._limit(scanner)
            mark = scanner.find(self._buffer, self._position, limit)
            if mark is not None:
                end = mark.start()
            else:
                end = limit - (0 if self._closed else scanner.kept(self._buffer, self._position))
            if end > self._position:
                data = self._buffer[self._position : end]
                if self._decides(data):
                    continue
                self._position = end
                self._take(data)
            if mark is None:
                return
            self._position = mark.end()
            self._turn(mark.group())

    def _limit(self, scanner: _Scanner) -> int:
        """Up to where to look. Where the first character that is no space decides, no further than a mark is long."""
        size = len(self._buffer)
        if self._mode not in SPACES:
            return size
        first = _NO_SPACE(self._buffer, self._position)
        return size if first is None else min(size, first.start() + scanner.longest)

    def _decides(self, data: str) -> bool:
        """Whether the text itself leads to another mode, in which it is to be read again."""
        mode = self._mode
        if mode in SPACES:
            if data.isspace():
                return False
            if mode is Mode.START and self._first is Mode.REASONING:
                self._fresh = self.TRIMS
            self._leave(self._first if mode is Mode.START else self._home if mode is Mode.END else Mode.TEXT)
            return True
        if mode in WHOLE and self.BEGINS and not self._sniffed and (rest := data.lstrip()):
            self._sniffed = True
            if rest[0] not in self.BEGINS:
                self._fail("", Malformed(f"it does not begin with {' or '.join(self.BEGINS)}"))
                return True
        return False

    def _leave(self, mode: Mode) -> None:
        """Go on in another mode, with the spaces that were held back, and the mark of an end that was none."""
        held, self._held, self._mode = "".join(self._held), [], mode
        if held:
            self._take(held)

    def _take(self, data: str) -> None:
        if self._mode in SAID:
            self._say(data)
        else:
            self._hold(data)

    def _hold(self, data: str) -> None:
        self._held.append(data)
        self._size += len(data)

    def _turn(self, mark: str) -> None:
        before, after = self._mode, self.after(mark)
        if before is Mode.UNSURE:
            self._decide(mark, after)
        elif before in HELD:
            self._go_on(mark, after)
        elif after in HELD or after is Mode.UNSURE:
            self._begin(mark, after)
        elif after is Mode.END:
            self._home = before if before in SAID else Mode.TEXT if before is Mode.GAP else self._home
            self._mode = after
            self._hold(mark)
        else:
            self._held.clear()
            self._part()
            self._mode = after

    def _begin(self, mark: str, after: Mode) -> None:
        self._home = self._mode if self._mode in SAID else Mode.TEXT
        self._size, self._doubt, self._sniffed = sum(map(len, self._held)), None, mark in self.BEGINS
        self._hold(mark)
        self._mode = after if after is not Mode.CALL or self._trusting else Mode.PLAIN

    def _go_on(self, mark: str, after: Mode) -> None:
        """A mark inside of what is held back, or at its end."""
        if self._mode is Mode.HEADER and after not in HELD:
            self._end_head(mark, after)
            return
        again = self._mode in WHOLE and after is Mode.CALL
        if after not in HELD or again:
            self._end_call("" if again else mark, mark, after)
            return
        if self._mode is Mode.STRING and after is Mode.STRING and self._doubt is None and mark[0] != "\\":
            self._doubt = self._size
        self._mode = after
        self._hold(mark)

    def _end_head(self, mark: str, after: Mode) -> None:
        """The head of a message that is no call, or no head at all."""
        if after is Mode.GAP:
            self._fail(mark, Malformed("it is no head of a message"))
            return
        self._held, self._mode = [], self._home
        self._part()
        self._mode = after

    def _end_call(self, closing: str, mark: str, after: Mode) -> None:
        if not self._finish(closing, mark):
            return
        self._mode = after
        if after is Mode.CALL:
            self._mode = Mode.GAP
            self._begin(mark, after)

    def _decide(self, mark: str, after: Mode) -> None:
        """What was held back is reasoning, or it is read again as the answer."""
        held, self._held = "".join(self._held), []
        if mark in self.THOUGHT_ENDS:
            self._mode = Mode.REASONING
            self._fresh = self.TRIMS and not self._reasoned
            self._say(held)
            self._part()
            self._mode = after
        else:
            self._read_again(held + mark)

    def _read_again(self, held: str) -> None:
        self._buffer, self._position = held + self._buffer[self._position :], 0
        self._mode = Mode.TEXT

    def _settled(self) -> bool:
        """Whether nothing is held back any more at the end of the text."""
        mode = self._mode
        if mode is Mode.UNSURE:
            held, self._held = "".join(self._held), []
            if self._reasoned:
                self._part()
            self._read_again(held)
            return False
        if mode in HELD:
            self._finish("", "")
            return False
        if mode is Mode.START:
            self._leave(Mode.TEXT)
        if mode is not Mode.END and self._blank and not self._fresh:
            self._emit("".join(self._blank))
        return True

    # ---- calls ----

    def _finish(self, closing: str, mark: str) -> bool:
        """Tell the calls in what was held back. `False` if it has to be read again from its doubtful mark on."""
        raw = "".join(self._held)
        try:
            calls, rest = self.found(raw.lstrip())
        except Malformed as error:
            if self._doubt is not None:
                self._buffer, self._position = raw[self._doubt :] + mark + self._buffer[self._position :], 0
                self._held, self._size = [raw[: self._doubt]], self._doubt
                self._doubt, self._trusting, self._mode = None, False, Mode.PLAIN
                return False
            self._fail(closing, error)
            return True
        self._held, self._mode = [], self._home
        self._part()
        for call in calls:
            self._tell(call)
        if rest:
            self._mode = Mode.TEXT
            self._say(rest)
        return True

    def _tell(self, call: Found) -> None:
        number = len(self.calls)
        call_id = call.id or self.call_id(call.name, self.calls_before + number)
        body = ToolCall.FunctionBody(name=call.name, arguments=call.arguments)
        self.calls.append(ToolCall(id=call_id, function=body))
        self._frames.append(ToolCallDelta(number, call_id, call.name, call.arguments))

    def _fail(self, closing: str, error: Malformed) -> None:
        raw, self._held = "".join(self._held), []
        if str(error):
            self.problems.append(f"no call could be read out of {reprlib.repr(raw)}: {error}")
        self._mode, self._fresh = self._home, False
        self._say(raw + closing)

    # ---- text ----

    def _say(self, text: str) -> None:
        """Reasoning or text. Spaces at its end wait for what comes next: before a mark they are the mark's."""
        if not self.TRIMS:
            self._emit(text)
            return
        if self._fresh:
            text = text.lstrip()
            if not text:
                return
            self._fresh = False
        kept = text.rstrip()
        if kept:
            self._emit("".join(self._blank) + kept)
            self._blank = []
        if len(kept) < len(text):
            self._blank.append(text[len(kept) :])

    def _emit(self, text: str) -> None:
        if not text:
            return
        if self._mode is Mode.REASONING:
            self._reasoned = True
            self._frames.append(Reasoning(text))
        else:
            self._frames.append(Append(text))

    def _part(self) -> None:
        """A mark ends what was said. Reasoning about nothing is told, too."""
        self._blank = []
        self._fresh = self.TRIMS
        if self._mode is Mode.REASONING and not self._reasoned:
            self._reasoned = True
            self._frames.append(Reasoning(""))


class _Scanner:
    """Finds the marks of one mode."""

    def __init__(self, marks: Collection[str]) -> None:
        self.find = re.compile("|".join(map(re.escape, marks)) or "(?!)").search
        self._beginnings = frozenset(mark[:size] for mark in marks for size in range(1, len(mark)))
        self.longest = max(map(len, marks), default=1)

    def kept(self, text: str, start: int) -> int:
        """How many characters at the end of the text may be the beginning of a mark."""
        for size in range(min(self.longest - 1, len(text) - start), 0, -1):
            if text[-size:] in self._beginnings:
                return size
        return 0


def _with_strings(machine: Machine) -> Machine:
    """The machine, in whose calls strings are seen."""
    call = machine.get(Mode.CALL, {})
    closing = dict.fromkeys(call, Mode.STRING)
    string = {'"': Mode.CALL, '\\"': Mode.STRING, "\\\\": Mode.STRING, **closing}
    return {**machine, Mode.CALL: {'"': Mode.STRING, **call}, Mode.STRING: string, Mode.PLAIN: call}


def checked(name: str, arguments: str, id: str | None = None) -> Found:
    """A call, if it is one.

    Raises:
        Malformed: there is no name, or the arguments are no JSON object.
    """
    name, arguments = name.strip(), arguments.strip()
    if not name or any(map(str.isspace, name)):
        raise Malformed(f"{reprlib.repr(name)} is no name of a function")
    try:
        parse_arguments(arguments)
    except ToolArgumentsError as error:
        raise Malformed(str(error)) from None
    return Found(name, arguments or "{}", id)

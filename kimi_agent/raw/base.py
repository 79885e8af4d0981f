"""What a parser of raw text is: text in, frames out. No I/O.

The state machine of a parser is a table: in each mode, which marks count, and which mode each of them leads to. All
else is the same for every model and stands here:

| mode      | what text is there                                                                          |
|-----------|---------------------------------------------------------------------------------------------|
| START     | nothing yet; the first character that is no space decides what begins                       |
| REASONING | reasoning                                                                                   |
| TEXT      | the answer                                                                                  |
| GAP       | between marks: spaces mean nothing, anything else is the answer                             |
| SECTION   | calls are to come; what comes in their place is text, and so was the mark                   |
| END       | the message has ended; what comes all the same is text, and so was the mark                 |
| UNSURE    | the answer, and its calls, unless a mark says that it was reasoning                         |
| HEADER    | held back: the head of a message, in which a call may begin                                 |
| CALL      | held back: a call. STRING is a JSON string in it, where no mark counts; ARGUMENT one of its |
|           | arguments; PLAIN a call whose strings are not looked at                                     |

A call is told when it is whole. One that cannot be read is text, marks included, and a line in `problems`; so is one
that the end of the text cut off. What does not even begin like a call is text at once. Where the JSON of a call has a
string that never ends, the first mark in that string that could have closed the call did so, and from then on strings
are not looked at any more: so each character is read twice at most.

UNSURE is no mode of its own: the text is read as the answer, and what is found is not told. The mark that ends
reasoning takes it back, wherever it stands but in the data of a call that can be read. At the end of the text it holds.
"""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from ..events import Append, Reasoning, StreamFrame, ToolCallDelta
from ..message import ContentPart, Message, TextPart, ThinkPart, ToolCall
from .calls import Found, Malformed
from .marks import DATA, HELD, PENDING, SAID, SPACES, WHOLE, Machine, Mode, Scanner, scanners
from .writer import Kept, Writer

__all__ = ["BaseParser", "Found", "Malformed", "Mode"]

_NO_SPACE: Final = re.compile(r"\S").search
_LOOKED_AT: Final = 200
"""How many characters of a call may show that it is none, before it is whole."""


@dataclass(slots=True)
class _Attempt:
    """What is read as the answer and may turn out to be reasoning.

    Args:
        text: the answer, from its beginning on.
        kept: what the writer goes on with.
        frames: how many frames were there before it.
        problems: how many problems.
        ids: those of the calls before it.
    """

    text: list[str]
    kept: Kept
    frames: int
    problems: int
    ids: set[str]


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
            at its end. The first mark that ends reasoning decides, unless it stands in an argument of a call; so an
            answer that speaks of that mark is taken for reasoning up to there.
    """

    MACHINE: ClassVar[Machine]
    QUOTES: ClassVar[bool] = True
    """Whether calls are JSON, in whose strings marks are text."""
    TRIMS: ClassVar[bool] = True
    """Whether spaces beside a mark belong to it."""
    BEGINS: ClassVar[re.Pattern[str]] = re.compile(r"(?s:.*)")
    """A call with its mark as far as it may have come: matches the part of a text up to which it may be one."""
    CLOSES: ClassVar[Collection[str]] = ()
    """The marks that close a call, not those that end it because something else comes."""
    ANSWERS: ClassVar[Collection[str]] = ()
    """The marks that say of what came before them that it was the answer."""
    QUIET: ClassVar[Collection[str]] = ()
    """The marks of calls that are ordinary text as well: no call behind them is no problem."""
    stop: ClassVar[tuple[str, ...]] = ()
    """What ends an answer, for hosts that want to be told."""
    _sure: ClassVar[Mapping[Mode, Scanner]]
    _unsure: ClassVar[Mapping[Mode, Scanner]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "MACHINE" in cls.__dict__:
            cls._sure, cls._unsure = scanners(cls.MACHINE, quotes=cls.QUOTES)

    def __init__(self, *, thinking: bool | None = False) -> None:
        self.calls: list[ToolCall] = []
        """The calls that were told so far."""
        self.problems: list[str] = []
        """What looked like a call and could not be read, in words. It is in the text."""
        self.calls_before: int = 0
        """How many calls the conversation has before this answer; they are counted on in the ids."""
        self.ids_before: Collection[str] = frozenset()
        """The ids of those calls, as a set; none of them is given to a call again."""
        self._first = {True: Mode.REASONING, False: Mode.TEXT, None: Mode.UNSURE}[thinking]
        self._mode, self._home = Mode.START, Mode.TEXT
        self._buffer, self._position = "", 0
        self._out = Writer(self.TRIMS)
        self._ids: set[str] = set()
        self._number = 0
        self._held: list[str] = []
        """What is held back, and its length."""
        self._size = 0
        self._mark = ""
        self._head: str | None = None
        """The mark that opened it, and it with what follows, as long as that may show that it is none."""
        self._doubt: int | None = None
        """Where in a call a mark stood in a string that would have closed it."""
        self._trusting = True
        self._attempt: _Attempt | None = None
        self._closed = False

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
        if self._attempt is not None:
            self._attempt.text.append(text)
        self._advance()
        return self._taken()

    def close(self) -> list[StreamFrame]:
        """The last frames: what was held back."""
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
        """The frames that nothing takes back."""
        sure = self._out.frames
        if self._attempt is None:
            taken, self._out.frames = sure, []
        else:
            taken = sure[: self._attempt.frames]
            del sure[: self._attempt.frames]
            self._attempt.frames = 0
        for frame in taken:
            if isinstance(frame, ToolCallDelta):
                body = ToolCall.FunctionBody(name=frame.name or "", arguments=frame.arguments)
                self.calls.append(ToolCall(id=frame.id or "", function=body))
        return taken

    # ---- what a model does its own way ----

    @abstractmethod
    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """The calls in a piece of text, and what stands behind them, which is said as if no call were there.

        Args:
            raw: from the mark that opened it up to the one that closed it, without that one.
            closed: whether one of `CLOSES` did. If not, the text may have been cut off anywhere.

        Raises:
            Malformed: it cannot be read.
        """

    def call_id(self, name: str, number: int) -> str:
        """The id of a call that has none of its own; `number` counts the calls of the conversation, from 0."""
        return f"{name}_{number}"

    def after(self, mark: str) -> Mode:
        """Where a mark leads. GAP says of the head of a message that it is none."""
        return self._scanner.marks[mark]

    # ---- the machine ----

    @property
    def _scanner(self) -> Scanner:
        return (self._sure if self._attempt is None else self._unsure)[self._mode]

    def _advance(self) -> None:
        """Read as much of the buffer as is sure."""
        while True:
            scanner = self._scanner
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
            if self._is_no_call(mark.group()):
                continue
            self._position = mark.end()
            self._turn(mark.group())

    def _limit(self, scanner: Scanner) -> int:
        """Up to where to look. Where the first character that is no space decides, no further than a mark is long."""
        size = len(self._buffer)
        if self._mode not in SPACES:
            return size
        first = _NO_SPACE(self._buffer, self._position)
        return size if first is None else min(size, first.start() + scanner.longest)

    def _decides(self, data: str) -> bool:
        """Whether the text itself leads to another mode, in which it is to be read again."""
        if self._mode not in SPACES:
            return self._is_no_call(data)
        if data.isspace():
            return False
        if self._mode is Mode.START:
            self._leave_start()
        else:
            self._leave(self._home if self._mode in PENDING else Mode.TEXT)
        return True

    def _leave_start(self) -> None:
        first = self._first
        if first is Mode.UNSURE:
            self._try_answer("".join(self._held))
            first = Mode.TEXT
        elif first is Mode.REASONING:
            self._out.begin()
        self._leave(first)

    def _leave(self, mode: Mode) -> None:
        """Go on in another mode, with what was held back: spaces, and marks that turned out to be text."""
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
        if self._attempt is not None and self._mode not in DATA:
            if mark in self.MACHINE.get(Mode.UNSURE, ()):
                self._take_back(self._attempt, mark)
                return
            if mark in self.ANSWERS:
                self._attempt = None
        before, after = self._mode, self.after(mark)
        if before in HELD:
            self._go_on(mark, after)
        elif after is Mode.UNSURE:
            self._try_call(mark)
        elif after in HELD:
            self._begin(mark, after)
        elif after in PENDING:
            self._await(mark, after)
        else:
            self._confirm()
            self._held.clear()
            self._mode = after

    def _await(self, mark: str, after: Mode) -> None:
        """A mark that is one if nothing follows that speaks against it."""
        if self._mode in SAID:
            self._home = self._mode
        elif self._mode is Mode.GAP or (self._mode, after) == (Mode.END, Mode.SECTION):
            self._confirm()
            self._home = Mode.TEXT
        self._hold(mark)
        self._mode = after

    def _confirm(self) -> None:
        """What was said has ended, and the marks that were held back are in their place."""
        if self._mode in PENDING:
            self._mode = self._home
            self._held = [text for text in self._held if text.isspace()]
        self._part()
        self._mode = Mode.GAP

    def _begin(self, mark: str, after: Mode) -> None:
        if self._mode in PENDING:
            self._confirm()
        self._home = self._mode if self._mode in SAID else Mode.TEXT
        self._size, self._doubt = sum(map(len, self._held)), None
        self._mark = self._head = mark
        self._hold(mark)
        self._mode = self._trusted(after)

    def _trusted(self, mode: Mode) -> Mode:
        return Mode.PLAIN if mode in (Mode.CALL, Mode.ARGUMENT) and not self._trusting else mode

    def _go_on(self, mark: str, after: Mode) -> None:
        """A mark inside of what is held back, or at its end."""
        if self._mode is Mode.HEADER and after not in HELD:
            self._end_head(mark, after)
        elif self._mode in WHOLE and (after not in HELD or after is Mode.CALL):
            self._end_call(mark, after)
        else:
            if self._doubt is None and self._scanner.marks[mark] is self._mode in DATA and mark[0] != "\\":
                self._doubt = self._size
            self._mode = self._trusted(after)
            self._hold(mark)

    def _end_head(self, mark: str, after: Mode) -> None:
        """The head of a message that is no call, or no head at all; then the mark is read again."""
        if after is Mode.GAP:
            raw = "".join(self._held)
            self._fail(raw, raw, "it is no head of a message")
            self._position -= len(mark)
        else:
            self._held, self._mode = [], self._home
            self._part()
            self._mode = after

    def _end_call(self, mark: str, after: Mode) -> None:
        """A call ends, and where the mark is that of another one, that begins."""
        if not self._finish(mark, "" if after is Mode.CALL else mark):
            return
        self._mode = after
        if after is Mode.CALL:
            self._mode = Mode.GAP
            self._begin(mark, after)

    def _settled(self) -> bool:
        """Whether nothing is held back any more at the end of the text."""
        if self._mode in HELD:
            self._finish("", "")
            return False
        if self._mode is Mode.END:
            self._confirm()
        elif self._mode in SPACES and self._mode is not Mode.GAP:
            self._leave(self._home)
        self._out.end(reasoning=self._mode is Mode.REASONING)
        self._attempt = None
        return True

    # ---- reasoning or not ----

    def _try_answer(self, before: str = "") -> None:
        """Read what comes as the answer, as long as nothing speaks against it."""
        text = [before, self._buffer[self._position :]]
        self._attempt = _Attempt(text, self._out.attempt(), len(self._out.frames), len(self.problems), {*self._ids})

    def _try_call(self, mark: str) -> None:
        """A call in reasoning that has not ended: the model forgot to end it, or only thinks of a call."""
        self._position -= len(mark)
        self._try_answer()
        self._mode = Mode.TEXT

    def _take_back(self, attempt: _Attempt, mark: str) -> None:
        """What was read as the answer was reasoning."""
        text = "".join(attempt.text)
        thought = text[: len(text) - len(self._buffer) + self._position - len(mark)]
        self._out.take_back(attempt.frames, attempt.kept)
        del self.problems[attempt.problems :]
        self._attempt, self._held, self._ids = None, [], attempt.ids
        self._trusting, self._mode = True, Mode.REASONING
        self._out.begin()
        self._say(thought)
        self._part()
        self._mode = self.MACHINE[Mode.UNSURE][mark]

    # ---- calls ----

    def _is_no_call(self, text: str) -> bool:
        """Whether what comes next shows that what is held back is no call. Then it is text, and what follows its mark
        is read again.
        """
        if self._mode not in HELD or self._head is None:
            return False
        head = (self._head + text)[:_LOOKED_AT]
        fits = self.BEGINS.match(head)
        end = fits.end() if fits else 0
        if end == len(head):
            self._head = head if end < _LOOKED_AT else None
            return False
        behind = self._head[len(self._mark) :]
        self._buffer, self._position = behind + self._buffer[self._position :], 0
        self._fail("".join(self._held).removesuffix(behind), head[: end + 1], "it does not begin like one")
        return True

    def _finish(self, mark: str, closing: str) -> bool:
        """Tell the calls in what was held back. `False` if it has to be read again from its doubtful mark on."""
        raw = "".join(self._held)
        try:
            calls, rest = self.found(raw.lstrip(), mark in self.CLOSES)
        except Malformed as error:
            if self._doubt is not None:
                self._buffer, self._position = raw[self._doubt :] + mark + self._buffer[self._position :], 0
                self._held = [raw[: self._doubt]]
                self._doubt, self._head, self._trusting, self._mode = None, None, False, Mode.PLAIN
                return False
            self._fail(raw + closing, raw, f"{error}" if mark else f"{error}; it may have been cut off")
            return True
        self._held, self._mode = [], self._home
        self._part()
        for call in calls:
            self._tell(call)
        self._say(rest)
        return True

    def _fail(self, text: str, shown: str, reason: str) -> None:
        """What was held back is text."""
        if self._mark not in self.QUIET:
            self.problems.append(f"no call could be read out of {reprlib.repr(shown)}: {reason}")
        self._held, self._mode = [], self._home
        self._out.go_on()
        self._say(text)

    def _tell(self, call: Found) -> None:
        index = len(self._ids)
        call_id = call.id if call.id and self._is_new(call.id) else self._numbered(call.name)
        self._ids.add(call_id)
        self._out.frames.append(ToolCallDelta(index, call_id, call.name, call.arguments))

    def _is_new(self, call_id: str) -> bool:
        return call_id not in self._ids and call_id not in self.ids_before

    def _numbered(self, name: str) -> str:
        """The next id that no call has."""
        first = max(self._number, self.calls_before + len(self._ids))
        numbers = range(first, first + len(self._ids) + len(self.ids_before) + 1)
        ids = ((number, self.call_id(name, number)) for number in numbers)
        otherwise = first, f"{self.call_id(name, first)}_{first}"
        self._number, call_id = next((one for one in ids if self._is_new(one[1])), otherwise)
        return call_id

    # ---- text ----

    def _say(self, text: str) -> None:
        self._out.say(text, reasoning=self._mode is Mode.REASONING)

    def _part(self) -> None:
        """A mark ends what was said."""
        self._out.part(reasoning=self._mode is Mode.REASONING)

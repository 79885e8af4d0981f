"""Text on its way to a terminal.

What leaves the four `format_*` and `print_*` functions can be written to a terminal: control sequences in it are made
visible, never executed, and its lines have at most `width` columns. A stream comes out as its whole text would, however
it is cut into tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from functools import lru_cache
from typing import Final

__all__ = ["display_width", "format_stream", "format_width", "on_one_line", "print_stream", "print_width", "visible"]


# ==== control characters ====

_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without \t and \n, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these reorder what stands beside them
    "\ud800-\udfff]"  # lone surrogates cannot be written to a terminal at all
)


def visible(text: str) -> str:
    r"""`text` with every control character written as its escape, such as `\x1b`, so that a terminal shows it.

    Newlines and tabs stay, `\r\n` is a newline, and marks that change the direction of writing count as control
    characters.
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def on_one_line(text: str, most: int | None = None) -> str:
    """A text of anybody, made visible, on one line of at most so many characters."""
    line = " ".join(visible(text).split())
    return line if most is None or len(line) <= most else f"{line[: most - 1]}…"


# ==== columns ====

_JOINER: Final = "\u200d"
_EMOJI_STYLE: Final = "\ufe0f"
_TAB_STOP: Final = 8


def display_width(text: str) -> int:
    """How many columns a terminal needs for one line of text.

    East Asian wide characters and emoji need two, marks on other characters none; a tab reaches to the next multiple of
    eight. Control characters count nothing: make them `visible` first.
    """
    column = 0
    for character in _characters(text):
        column += _columns(character, column)
    return column


def _characters(text: str) -> Iterator[str]:
    """The characters as a reader sees them: each with its marks, an emoji sequence in one piece."""
    character = ""
    for code_point in text:
        if _joins(character, code_point):
            character += code_point
        else:
            if character:
                yield character
            character = code_point
    if character:
        yield character


def _joins(character: str, code_point: str) -> bool:
    """Whether the code point belongs to the character before it."""
    if character in ("", "\n", "\t") or code_point.isascii():
        return False
    if _own_columns(code_point) == 0:
        return True
    if character[-1] == _JOINER:
        return _is_symbol(character[0]) and _is_symbol(code_point)
    if _is_skin_tone(code_point):
        return _is_symbol(character[0])
    return len(character) == 1 and _is_flag_letter(character) and _is_flag_letter(code_point)


def _columns(character: str, column: int = 0) -> int:
    """The columns of a whole character that stands at `column`."""
    if character == "\t":
        return _TAB_STOP - column % _TAB_STOP
    if len(character) > 1 and (_EMOJI_STYLE in character or _is_flag_letter(character[1])):
        return 2
    return _own_columns(character[0])


@lru_cache(4096)
def _own_columns(code_point: str) -> int:
    category = unicodedata.category(code_point)
    if category in ("Mn", "Me", "Cc", "Cs") or (category == "Cf" and code_point not in _VISIBLE_FORMATS):
        return 0
    if "\u1160" <= code_point <= "\u11ff" or "\ud7b0" <= code_point <= "\ud7fb":  # the rest of a Korean syllable
        return 0
    wide = unicodedata.east_asian_width(code_point) in "WF" or _is_new_emoji(code_point, category)
    return 2 if wide else 1


_VISIBLE_FORMATS: Final = "\u00ad\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"


def _is_new_emoji(code_point: str, category: str) -> bool:
    """Emoji that are younger than this Python are unknown to it, and models write them."""
    return category == "Cn" and "\U0001f300" <= code_point <= "\U0001faff"


def _is_symbol(code_point: str) -> bool:
    return unicodedata.category(code_point) in ("So", "Sm", "Sk", "Po", "Cn") and not code_point.isascii()


def _is_skin_tone(code_point: str) -> bool:
    return "\U0001f3fb" <= code_point <= "\U0001f3ff"


def _is_flag_letter(code_point: str) -> bool:
    return "\U0001f1e6" <= code_point <= "\U0001f1ff"


# ==== lines ====

_BLANKS: Final = " \t\u3000"


def _may_break(before: str, after: str) -> bool:
    """Whether a line may end between two characters that no blank separates.

    Chinese and Japanese have no blanks between words: there a line may end anywhere, unless it would begin with a
    closing mark or end with an opening one.
    """
    if not (_is_han_or_kana(before) or _is_han_or_kana(after)):
        return False
    opening, closing = ("Ps", "Pi"), ("Pe", "Pf", "Po", "Lm")
    return unicodedata.category(before[0]) not in opening and unicodedata.category(after[0]) not in closing


def _is_han_or_kana(character: str) -> bool:
    code_point = character[0]
    if code_point < "\u2e80" or "\uac00" <= code_point <= "\ud7ff":  # Korean has blanks
        return False
    return _own_columns(code_point) == 2 and unicodedata.category(code_point)[0] in "LNP"


class Layout:
    """Breaks text into lines of at most `width` columns. Feed it the text in any pieces, then close it.

    Words stay whole unless they are longer than a line. Newlines stay, blanks at the end of a line go. Without a width
    the text stays as it is, apart from what `visible` does to it.
    """

    def __init__(self, width: int | None, prefix: str) -> None:
        indent = display_width(prefix)
        self._width = max(width, indent + 1) if width else None
        self._room = self._width - indent if self._width else 0
        self._prefix: str | None = prefix
        self._indent = indent
        self._column = indent
        self._margin = ""  # what the line in progress begins with, until something is written on it
        self._gap = ""
        self._word: list[str] = []
        self._word_columns = 0
        self._character = ""  # the last one: what comes next may belong to it
        self._return = ""  # a carriage return: whether it is a newline depends on what comes next

    @property
    def started(self) -> bool:
        """Whether anything was fed."""
        return self._prefix is None

    def feed(self, text: str) -> str:
        """More text in, and out what can be written already."""
        if not text:
            return ""
        text = self._return + text
        self._return = "\r" if text.endswith("\r") else ""
        return self._begin() + self._lay(visible(text.removesuffix("\r")))

    def close(self) -> str:
        """What is left to write."""
        rest = self._begin() + self._lay(visible(self._return))
        rest += self._take(self._character) + self._end_word()
        self._return = self._character = ""
        return rest

    def _begin(self) -> str:
        prefix, self._prefix = self._prefix or "", None
        return prefix

    def _lay(self, text: str) -> str:
        if self._width is None:
            return text
        written: list[str] = []
        for code_point in text:
            if _joins(self._character, code_point):
                self._character += code_point
            else:
                written.append(self._take(self._character))
                self._character = code_point
        return "".join(written)

    def _take(self, character: str) -> str:
        """One whole character more."""
        if not character:
            return ""
        if character == "\n":
            return self._end_word() + self._new_line()
        if character in _BLANKS:
            ended = self._end_word()
            self._gap += character
            return ended
        ended = self._end_word() if self._word and _may_break(self._word[-1], character) else ""
        self._word.append(character)
        self._word_columns += _columns(character)
        return ended + self._spill()

    def _spill(self) -> str:
        """A word longer than a line: the line of it that is full."""
        if self._word_columns <= self._room or len(self._word) == 1:
            return ""
        last = self._word.pop()
        row = self._on_new_line("".join(self._word), self._word_columns - _columns(last))
        self._word, self._word_columns = [last], _columns(last)
        return row

    def _end_word(self) -> str:
        if not self._word:
            return ""
        word, columns = "".join(self._word), self._word_columns
        self._word, self._word_columns = [], 0
        gap = self._gap_columns()
        if self._width is None or self._column + gap + columns <= self._width:
            return self._write(self._gap + word, gap + columns)
        return self._on_new_line(word, columns)

    def _gap_columns(self) -> int:
        column = self._column
        for blank in self._gap:
            column += _columns(blank, column)
        return column - self._column

    def _on_new_line(self, text: str, columns: int) -> str:
        started = self._column > self._indent
        return (self._new_line() if started else "") + self._write(text, columns)

    def _new_line(self) -> str:
        self._gap = ""
        self._margin = " " * self._indent
        self._column = self._indent
        return "\n"

    def _write(self, text: str, columns: int) -> str:
        written = self._margin + text
        self._gap = self._margin = ""
        self._column += columns
        return written


def format_width(msg: str, width: int | None = None, prefix: str = "") -> str:
    """The text in lines of at most `width` columns, made `visible`.

    Args:
        msg: the text. Its newlines stay.
        width: in columns; `None` for lines of any length.
        prefix: goes before the text as it is. With a width, the lines after the first are indented by its width.
    """
    layout = Layout(width, prefix)
    return layout.feed(msg) + layout.close()


async def format_stream(stream: AsyncIterable[str], width: int | None = None, prefix: str = "") -> AsyncIterator[str]:
    """The tokens of a stream as pieces which together are what `format_width` makes of the whole text.

    A word comes when it has ended, because only then is it known where it goes. The prefix comes with the first token:
    a stream without text, as of an answer that only calls functions, gives nothing.

    Args:
        stream: a `MessageStream`, or any stream of text.
        width: in columns; `None` for lines of any length.
        prefix: goes before the text as it is. With a width, the lines after the first are indented by its width.
    """
    layout = Layout(width, prefix)
    try:
        async for token in stream:
            if piece := layout.feed(token):
                yield piece
    except Exception:
        if layout.started:
            yield layout.close()
        raise
    if layout.started and (rest := layout.close()):
        yield rest


def print_width(msg: str, width: int | None = None, prefix: str = "") -> None:
    """Print what `format_width` makes of the same arguments, and a newline."""
    print(format_width(msg, width, prefix))


async def print_stream(stream: AsyncIterable[str], width: int | None = None, prefix: str = "") -> None:
    """Print what `format_stream` makes of the same arguments, piece by piece, and a newline.

    The newline also comes when the stream fails or is given up in the middle of a line.
    """
    begun = False
    try:
        async for piece in format_stream(stream, width, prefix):
            begun = True
            print(piece, end="", flush=True)
    finally:
        if begun:
            print(flush=True)

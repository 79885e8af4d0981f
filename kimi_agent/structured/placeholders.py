"""Text with `{placeholders}`, and what stands in their places in another text. No I/O.

The words around a placeholder are found whatever their case, width, white space and decoration (`*`, `_`, backticks),
in the template as in the other text. Everything here takes time that grows with the text and no faster, whatever stands
in it: a model wrote it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, Self, TypeAlias

__all__ = ["Pattern", "Text", "without_doubled_braces"]

_BRACES: Final = re.compile(r"\{\{|\}\}|\{[^{}]*+\}|[{}]")
_DOUBLED: Final = ("{{", "}}")
_DECORATION: Final = "*_`"
_CLOSING: Final = tuple(")]}>】」》")
_HALF_WIDTH: Final = {chr(0xFF01 + number): chr(0x21 + number) for number in range(94)}
"""What `：` and `（` are beside Latin letters. A text in Chinese has them where its template has the others."""
_IN_WORDS: Final = tuple("-–'’.,/&+")
"""Signs that stand within words and numbers, too: without white space around them they part nothing."""

Span: TypeAlias = tuple[int, int]
Forms: TypeAlias = tuple[str, ...]
"""What may stand in the place of some words, best first."""


def without_doubled_braces(template: str) -> str:
    """A template as it is shown: `{{` and `}}` are single braces, placeholders stay."""
    return _BRACES.sub(lambda brace: brace[0][0] if brace[0] in _DOUBLED else brace[0], template)


# ==== the text that is looked at ====


class Text:
    """A text that patterns are looked for in. It is folded once, however many of them are tried."""

    def __init__(self, raw: str) -> None:
        self.raw = raw

    @property
    def folded(self) -> str:
        """Without case, width, decoration and needless white space."""
        return self._folding[0]

    def original(self, span: Span) -> str:
        """What stood there before it was folded."""
        places, (start, end) = self._folding[1], span
        first = places[start - 1] + 1 if start else 0
        last = places[end] if end < len(places) else len(self.raw)
        return _without_halves(self.raw[first:last].strip(), self.raw[:first] + self.raw[last:])

    @cached_property
    def _folding(self) -> tuple[str, array[int]]:
        folded, places = _fold(self.raw)
        margin = len(folded) - len(folded.lstrip(" "))
        return folded.strip(" "), places[margin:]


def _fold(text: str) -> tuple[str, array[int]]:
    """The folded text, and where each of its characters was."""
    chars: list[str] = []
    places = array("Q")
    for place, char in enumerate(text):
        folded = _folded_char(char, chars[-1] if chars else "")
        chars += folded
        places.extend([place] * len(folded))
    return "".join(chars), places


def _folded_char(char: str, before: str) -> str:
    if char.isspace():
        return "" if before == " " else " "
    return "" if char in _DECORATION else _HALF_WIDTH.get(char, char).casefold()


# ==== decoration ====


def _mark_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip(_DECORATION))]


def _mark_behind(text: str) -> str:
    return text[len(text.rstrip(_DECORATION)) :]


def _without_halves(value: str, outside: str) -> str:
    """Without a mark at an end whose other half stands outside: in `**Author: X**` the `X**` is `X`."""
    if _is_half(mark := _mark_before(value), value, outside):
        value = value.removeprefix(mark)
    if _is_half(mark := _mark_behind(value), value, outside):
        value = value.removesuffix(mark)
    return value.strip()


def _is_half(mark: str, value: str, outside: str) -> bool:
    return mark != "" and value.count(mark) % 2 == 1 and outside.count(mark) % 2 == 1


def _unwrapped(value: str) -> str:
    """Without the decoration around the whole of it."""
    if not value.startswith(tuple(_DECORATION)):
        return value
    mark = value[: len(value) - len(value.lstrip(value[0]))]
    inner = value[len(mark) : -len(mark)]
    return inner.strip() if inner and value.endswith(mark) and mark not in inner else value


# ==== the pattern ====


@dataclass(frozen=True)
class Pattern:
    """A text with placeholders.

    What stands between two of them is looked for from the left; from the right where a bracket is the last of the text,
    so that in `Dune (a novel) (1965)` the year is the last one.

    Args:
        names: of the placeholders.
        words: what stands before, between and behind them; one more than names.
        exact: whether the words are to be found as they are.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]
    exact: bool = False

    @classmethod
    def read(cls, template: str, *, exact: bool = False) -> Self:
        """The pattern that is written so. A brace that is none of a placeholder is doubled.

        Raises:
            ValueError: a brace stands alone, a name is no identifier, or nothing stands between two placeholders.
        """
        names: list[str] = []
        words = [""]
        end = 0
        for brace in _BRACES.finditer(template):
            words[-1] += template[end : brace.start()]
            end = brace.end()
            if brace[0] in _DOUBLED:
                words[-1] += brace[0][0]
            else:
                names.append(_name_in(brace[0]))
                words.append("")
        words[-1] += template[end:]
        pattern = cls(tuple(names), tuple(words), exact)
        _refuse_neighbours(pattern)
        return pattern

    @property
    def is_whole(self) -> bool:
        """Whether it is one placeholder and nothing else."""
        return len(self.names) == 1 and not self.has_words

    @property
    def is_open(self) -> bool:
        """Whether a placeholder is the end of it."""
        return bool(self.names) and not self._folded_words[-1].strip()

    @cached_property
    def has_words(self) -> bool:
        """Whether anything stands around the placeholders."""
        return any(words.strip() for words in self._folded_words)

    def values_in(self, text: Text) -> dict[str, str] | None:
        """What stands in the places of the placeholders; `None` when the text is another one."""
        if self.exact:
            return self._named(text.raw, lambda span: text.raw[slice(*span)])
        if self.is_whole:
            return self._named("", lambda _: text.raw.strip())
        return self._named(text.folded, text.original)

    def _named(self, text: str, value_at: Callable[[Span], str]) -> dict[str, str] | None:
        if (spans := self._spans(text)) is None:
            return None
        values = [value_at(span) for span in spans]
        return {
            name: _unwrapped(value) if is_decorated else value
            for name, value, is_decorated in zip(self.names, values, self._are_decorated, strict=True)
        }

    def _spans(self, text: str) -> list[Span] | None:
        """Where the placeholders are."""
        if not self.names:
            return [] if text == self._folded_words[0].strip() else None
        before, *between, behind = self._forms
        first = next((words for words in before if text.startswith(words)), None)
        last = next((words for words in behind if text.endswith(words)), None)
        if first is None or last is None or len(first) + len(last) > len(text):
            return None
        seek = _sought_from_right if last.endswith(_CLOSING) else _sought_from_left
        edges = seek(text, between, (len(first), len(text) - len(last)))
        return None if edges is None else list(zip(edges[::2], edges[1::2], strict=True))

    @cached_property
    def _folded_words(self) -> tuple[str, ...]:
        return self.words if self.exact else tuple(_fold(words)[0] for words in self.words)

    @cached_property
    def _forms(self) -> tuple[Forms, ...]:
        if self.exact:
            return tuple((words,) for words in self.words)
        first, *between, last = self._folded_words
        return tuple(_forms(words) for words in (first.lstrip(), *between, last.rstrip()))

    @cached_property
    def _are_decorated(self) -> tuple[bool, ...]:
        """Of each placeholder, whether decoration is all around it."""
        around = pairwise(self.words)
        return tuple(not self.exact and bool(_mark_behind(one) and _mark_before(other)) for one, other in around)


def _name_in(braces: str) -> str:
    name = braces[1:-1]
    if len(braces) == 1:
        raise ValueError(f"a single {braces!r} stands for nothing; a brace that is text is doubled: {braces * 2!r}")
    if not name.isidentifier():
        raise ValueError(f"the placeholder {braces} is no name; braces that are text are doubled: {{{braces}}}")
    return name


def _refuse_neighbours(pattern: Pattern) -> None:
    for (name, other), words in zip(pairwise(pattern.names), pattern._folded_words[1:-1], strict=True):
        if not words:
            raise ValueError(f"nothing stands between {{{name}}} and {{{other}}}, so nobody can tell them apart")


# ==== where the words are ====


def _forms(words: str) -> Forms:
    """Words as they are, and without the white space at their ends where a sign is enough to tell where they are."""
    core = words.strip()
    if not core or core in _IN_WORDS:
        return (words,)
    left = " " if words[0] == " " and core[0].isalnum() else ""
    right = " " if words[-1] == " " and core[-1].isalnum() else ""
    return (words, left + core + right)


def _sought_from_left(text: str, between: Sequence[Forms], span: Span) -> list[int] | None:
    """Where the values begin and end that have these words between them."""
    edges, end = [span[0]], span[1]
    for forms in between:
        place, words = max(((text.find(words, edges[-1], end), words) for words in forms), key=_is_found)
        if place < 0:
            return None
        edges += [place, place + len(words)]
    return [*edges, end]


def _sought_from_right(text: str, between: Sequence[Forms], span: Span) -> list[int] | None:
    edges, start = [span[1]], span[0]
    for forms in reversed(between):
        place, words = max(((text.rfind(words, start, edges[-1]), words) for words in forms), key=_is_found)
        if place < 0:
            return None
        edges += [place + len(words), place]
    return [*edges, start][::-1]


def _is_found(found: tuple[int, str]) -> bool:
    return found[0] >= 0

"""What a message of the user offers to somebody who looks for arguments: words, names, numbers, arithmetic. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

__all__ = ["ARITHMETIC", "Question", "meaningful_words"]


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBER: Final = r"\d+(?:\.\d+)?"
SIGNED_NUMBER: Final = re.compile(rf"(?<![\w.)-])-?{NUMBER}|(?<![^\W\d]){NUMBER}")
OPERATORS: Final = {
    "plus": "+",
    "minus": "-",
    "times": "*",
    "multiplied by": "*",
    "divided by": "/",
    "x": "*",
    "×": "*",
    "·": "*",
    "÷": "/",
    "−": "-",
}
"""How people write operators, and how a calculator wants them."""
OPERATOR: Final = rf"(?:\*\*|//|[-+*/%^]|{'|'.join(OPERATORS)})"
EXPRESSION: Final = re.compile(rf"[(\s]*-?{NUMBER}[)\s]*(?:{OPERATOR}[(\s]*-?{NUMBER}[)\s]*)+", re.IGNORECASE)
COUNTED: Final = re.compile(rf"(?<![\w.])(-?{NUMBER})\s+([^\W\d]\w*)")
DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
QUOTED: Final = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|「([^」]+)」|`([^`]+)`|(?<!\w)'([^']+)'(?!\w)")
_CAPITAL = r"[A-ZÀ-ÖØ-ÞΑ-ΩА-Я][\w’'-]*"
CAPITALISED: Final = re.compile(rf"(?<!\w){_CAPITAL}(?: {_CAPITAL})*")
PREPOSITION: Final = re.compile(r"\b(?:in|for|of|at|about|to|from|on)\s+", re.IGNORECASE)
TAIL: Final = re.compile(r"(?:[\s,]+please)?[\s?!.]*$", re.IGNORECASE)
SENTENCE_START: Final = re.compile(r"(?:^|[.!?:])\s*$")
LIST_FOLLOWS: Final = re.compile(r"\s*(?:,|or\b|and\b|vs\b|[?!.]*$)")
WORD: Final = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")

MEANINGS: Final = {
    "+": {"add", "sum", "plus", "total", "addition"},
    "-": {"subtract", "minus", "difference", "subtraction"},
    "*": {"multiply", "product", "times", "multiplication"},
    "/": {"divide", "quotient", "division"},
}
"""What people call an operator when they name a tool."""
ARITHMETIC: Final = _words_of("arithmetic calc calculate calculator compute equation evaluate expression formula math")
"""What people call a tool that takes arithmetic, and its parameter."""

STOPWORDS: Final = _words_of("""
a an the and or but not no if of in on at to for from by with about into as than then that this these those it
its is are was were be been am do does did can could will would shall should may might must have has had i me my
you your he she we us our they them their who whom whose what which when where why how please tell show give
want need know let get fetch make use call return hello hi hey there here some any all each one very just also
so yes out up s t compare between name
""")
"""Words that say nothing about a subject."""
_NUMERALS = "two three four five six seven eight nine ten eleven twelve"
NUMERALS: Final = {word: str(value) for value, word in enumerate(_NUMERALS.split(), start=2)}
"""Numbers that people write as words; "one" is too often no number."""
QUESTION_WORDS: Final = _words_of("what which who whose where when why how is are do does can")


@dataclass(frozen=True)
class Question:
    """A message of the user and the values in it. `text` is not blank."""

    text: str

    @cached_property
    def words(self) -> frozenset[str]:
        """What the message is about, arithmetic by its name."""
        found = meaningful_words(self.text)
        for expression in self.expressions:
            found |= ARITHMETIC.union(*(names for sign, names in MEANINGS.items() if sign in expression))
        return found

    @cached_property
    def _figures(self) -> str:
        """The text with numbers in digits and without dates."""
        text = DATE.sub("", self.text)
        return re.sub(r"[^\W\d_]+", lambda word: NUMERALS.get(word[0].lower(), word[0]), text)

    @cached_property
    def asks(self) -> bool:
        """Whether it is a question."""
        first = re.match(r"\W*(\w+)", self.text)
        return self.text.endswith(("?", "？")) or (first is not None and first[1].lower() in QUESTION_WORDS)

    @cached_property
    def expressions(self) -> list[str]:
        """Arithmetic, with the operators of a calculator."""
        found = EXPRESSION.findall(self._figures)
        return [_normal(expression) for expression in map(_balanced, found) if expression]

    @cached_property
    def numbers(self) -> list[int | float]:
        """Every number."""
        return [_number(digits) for digits in SIGNED_NUMBER.findall(self._figures)]

    def count_of(self, what: str) -> int | float | None:
        """The number right before a word of `what`: `3` of `day_count` in "for 3 days"."""
        words = meaningful_words(what)
        counted = COUNTED.findall(self._figures)
        return next((_number(digits) for digits, word in counted if meaningful_words(word) & words), None)

    @cached_property
    def names(self) -> list[str]:
        """What is quoted, is a date or looks like a name, in order."""
        quoted = [(match.start(), match.group(match.lastindex or 0)) for match in QUOTED.finditer(self.text)]
        rest = QUOTED.sub(lambda match: " " * len(match.group()), self.text)
        dates = [(match.start(), match.group()) for match in DATE.finditer(rest)]
        return list(dict.fromkeys(name for _, name in sorted([*quoted, *dates, *_proper_names(rest)])))

    @property
    def rest(self) -> str:
        """What comes after the first preposition, or everything."""
        preposition = PREPOSITION.search(self.text)
        start = preposition.end() if preposition else 0
        return TAIL.sub("", self.text[start:])


def _number(digits: str) -> int | float:
    return float(digits) if "." in digits else int(digits)


def meaningful_words(text: str) -> frozenset[str]:
    """The words that mean something, in lower case, without the s of the plural; `getWeather_now` has three."""
    words = (word.lower() for word in WORD.findall(text))
    return frozenset(_singular(word) for word in words if word not in STOPWORDS and not word.isdigit())


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _balanced(expression: str) -> str:
    """Arithmetic without the parentheses of the sentence around it; empty when its own do not match."""
    surplus = expression.count(")") - expression.count("(")
    stripped = expression.strip()
    if surplus > 0 and stripped.endswith(")" * surplus):
        return stripped[:-surplus]
    if surplus < 0 and stripped.startswith("(" * -surplus):
        return stripped[-surplus:]
    return "" if surplus else stripped


def _normal(expression: str) -> str:
    for words, sign in OPERATORS.items():
        expression = re.sub(rf"\s*(?<![^\W\d_]){words}(?![^\W\d_])\s*", f" {sign} ", expression, flags=re.IGNORECASE)
    return expression.strip()


def _proper_names(text: str) -> list[tuple[int, str]]:
    """Capitalised words with their places. The first word of a sentence is one only in a list or if nothing else is."""
    certain: list[tuple[int, str]] = []
    doubtful: list[tuple[int, str]] = []
    for match in CAPITALISED.finditer(text):
        start, name = _without_stopwords(match.start(), match.group())
        if not name:
            continue
        begins = start == match.start() and SENTENCE_START.search(text[:start])
        alone = " " not in name and not LIST_FOLLOWS.match(text, match.end())
        (doubtful if begins and alone else certain).append((start, name))
    return certain or doubtful


def _without_stopwords(start: int, name: str) -> tuple[int, str]:
    """`Is Oslo` is a name with a question word before it."""
    while name:
        first, _, after = name.partition(" ")
        if first.lower().split("'")[0].split("’")[0] not in STOPWORDS:
            return start, re.sub(r"['’]s$", "", name)
        start, name = start + len(first) + 1, after
    return start, ""

"""What is said in a description for keywords of JSON Schema that Kimi's dialect does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from .mfjs import Schema, as_list, as_mapping
from .reshape import MAX_QUOTED, quoted

__all__ = ["noted"]


def _says(sentence: str) -> Callable[[Any], str | None]:
    def note(value: Any) -> str | None:
        text = value if isinstance(value, str) and len(value) <= MAX_QUOTED else quoted(value)
        return sentence.format(text) if text else None

    return note


def _says_if_true(sentence: str) -> Callable[[Any], str | None]:
    return lambda value: sentence if value is True else None


def _says_examples(value: Any) -> str | None:
    examples = [text for item in (as_list(value) or [value]) if (text := quoted(item))]
    line = ", ".join(examples[:5])
    return f"Examples: {line}." if 0 < len(line) <= MAX_QUOTED else None


def _says_needs(value: Any) -> str | None:
    return " ".join(
        f"With {name} also {', '.join(map(str, as_list(rule)))}." if as_list(rule) else f"With {name}: {text}."
        for name, rule in as_mapping(value).items()
        if rule and (text := quoted(rule))
    )


def _says_patterns(value: Any) -> str | None:
    rules = as_mapping(value).items()
    return " ".join(f"Properties that match {name}: {text}." for name, rule in rules if (text := quoted(rule)))


NOTED: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "format": _says("Format: {}."),
    "contentEncoding": _says("Encoded as {}."),
    "contentMediaType": _says("Contains {}."),
    "multipleOf": _says("A multiple of {}."),
    "uniqueItems": _says_if_true("No item twice."),
    "contains": _says("Contains an item like {}."),
    "minContains": _says("At least {} such items."),
    "maxContains": _says("At most {} such items."),
    "minProperties": _says("Number of properties: at least {}."),
    "maxProperties": _says("Number of properties: at most {}."),
    "propertyNames": _says("Names of properties: {}."),
    "patternProperties": _says_patterns,
    "dependentRequired": _says_needs,
    "dependentSchemas": _says_needs,
    "dependencies": _says_needs,
    "not": _says("Not like {}."),
    "if": _says("When like {}:"),
    "then": _says("then like {}."),
    "else": _says("Otherwise like {}."),
    "example": _says_examples,
    "examples": _says_examples,
    "deprecated": _says_if_true("Deprecated."),
    "readOnly": _says_if_true("Read only."),
    "writeOnly": _says_if_true("Write only."),
}
"""What is said in the description for keywords that the dialect does not have, in this order."""


def noted(node: Schema) -> Iterator[str]:
    for keyword, say in NOTED.items():
        if keyword in node and (sentence := say(node[keyword])):
            yield sentence
